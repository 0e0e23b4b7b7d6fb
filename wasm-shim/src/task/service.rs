//! `containerd.task.v3.Task`: each call translated to a container, and nothing else.
//!
//! An exit status is kept until Delete.

use super::container::{Container, StartError, StdioAddresses};
use super::create::Host;
use super::exec::Exec;
use super::life::{Life, NO_PID};
use super::phase::Phase;
use super::room::Room;
use crate::bundle::{Limits, bounds, network_rules};
use crate::cgroup::NamespaceCgroup;
use crate::guest::Ending;
use crate::guest::terminal::Terminal;
use amphipod_shim_api::api::protobuf::well_known_types::timestamp::Timestamp as WireTime;
use amphipod_shim_api::api::protobuf::{EnumOrUnknown, MessageField};
use amphipod_shim_api::api::{
    self, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PidsRequest, PidsResponse,
    ResizePtyRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse,
    StatsRequest, StatsResponse, Task, TtrpcContext, WaitRequest, WaitResponse,
};
use amphipod_shim_api::events::{Publisher, Story};
use amphipod_shim_api::{Exit, Table, TaskError, annotations};
use async_trait::async_trait;
use jiff::Timestamp;
use oci_spec::runtime::LinuxResources;
use std::path::Path;
use std::sync::Arc;

/// Linux signals end at 64 (`SIGRTMAX`).
const MAX_SIGNAL: u32 = 64;

/// The service of one process.
pub struct Service {
    host: Host,
    cgroup: Arc<NamespaceCgroup>,
    containers: Arc<Table<Container>>,
    publisher: Publisher,
    room: Room,
}

type Reply<T> = Result<T, ttrpc::Error>;

impl Service {
    /// The service at `socket` over the containers of a table.
    pub fn new(
        socket: &Path,
        host: Host,
        cgroup: Arc<NamespaceCgroup>,
        containers: Arc<Table<Container>>,
        publisher: Publisher,
    ) -> Self {
        Self {
            host,
            cgroup,
            containers,
            publisher,
            room: Room::new(socket),
        }
    }

    fn has_room(&self) -> bool {
        self.room.is_left(!self.containers.is_empty())
    }

    /// What a call is about: a container's first guest, or one exec'd into it.
    fn find(&self, id: &str, exec: &str) -> Result<Process, TaskError> {
        let container = self.containers.get(id)?;
        if exec.is_empty() {
            return Ok(Process::Container(container));
        }
        let missing = || TaskError::NotFound(format!("no exec {exec:?} in container {id:?}"));
        container.exec(exec).map(Process::Exec).ok_or_else(missing)
    }

    /// Nobody learns from a container that its process is full: who asks again is given another one.
    async fn make(&self, request: &CreateTaskRequest) -> Result<(), TaskError> {
        if !self.has_room() {
            let full = "this shim has too few descriptors left for another container".to_owned();
            return Err(TaskError::Disconnected(full));
        }
        let reserved = self.containers.reserve(&request.id)?;
        self.cgroup.join_once(request.bundle.as_ref());
        let story = Story::of(&self.publisher, &request.id);
        let container = self.host.create(request, story).await?;
        self.publisher.created(self.publisher.creation(request), NO_PID);
        reserved.fill(container);
        // For those who ask next.
        self.has_room();
        Ok(())
    }

    fn remove(&self, id: &str, exec: &str) -> Result<(Ending, Timestamp), TaskError> {
        let process = self.find(id, exec)?;
        if process.life().phase() == Phase::Created {
            // Whoever waits for it learns that it will never run.
            process.signal(libc::SIGKILL as u8);
        }
        let Phase::Stopped { ending, at } = process.life().phase() else {
            return Err(TaskError::FailedPrecondition(format!(
                "{} is running; kill it first",
                name(id, exec)
            )));
        };
        match process {
            Process::Container(_) => {
                self.containers.remove(id);
                let status = ending.status();
                self.publisher.deleted(id, NO_PID, Exit { status, at });
            }
            Process::Exec(_) => self.containers.get(id)?.remove_exec(exec),
        }
        self.has_room();
        Ok((ending, at))
    }
}

fn name(id: &str, exec: &str) -> String {
    if exec.is_empty() {
        format!("container {id:?}")
    } else {
        format!("exec {exec:?} in container {id:?}")
    }
}

/// What has a life of its own under the Task API.
enum Process {
    Container(Arc<Container>),
    Exec(Arc<Exec>),
}

impl Process {
    fn life(&self) -> &Life {
        match self {
            Self::Container(container) => &container.life,
            Self::Exec(exec) => &exec.life,
        }
    }

    fn addresses(&self) -> &StdioAddresses {
        match self {
            Self::Container(container) => &container.addresses,
            Self::Exec(exec) => &exec.addresses,
        }
    }

    async fn start(&self) -> Result<(), StartError> {
        match self {
            Self::Container(container) => container.start().await,
            Self::Exec(exec) => exec.start().await,
        }
    }

    fn signal(&self, signal: u8) -> bool {
        match self {
            Self::Container(container) => container.signal(signal),
            Self::Exec(exec) => exec.signal(signal),
        }
    }

    fn terminal(&self) -> Option<&Terminal> {
        match self {
            Self::Container(container) => container.terminal.as_ref(),
            Self::Exec(exec) => exec.terminal.as_ref(),
        }
    }

    fn close_stdin(&self) {
        match self {
            Self::Container(container) => container.close_stdin.cancel(),
            Self::Exec(exec) => exec.close_stdin.cancel(),
        }
    }
}

fn start_error(error: StartError) -> TaskError {
    match error {
        StartError::Phase(_) => TaskError::FailedPrecondition(error.to_string()),
        StartError::Listen { .. } | StartError::Pod(_) => TaskError::Internal(error.to_string()),
    }
}

/// A time as the Task API writes it.
pub fn wire_time(at: Timestamp) -> MessageField<WireTime> {
    MessageField::some(WireTime {
        seconds: at.as_second(),
        nanos: at.subsec_nanosecond(),
        ..WireTime::default()
    })
}

fn wire_status(phase: Phase) -> api::Status {
    match phase {
        Phase::Created | Phase::Starting => api::Status::CREATED,
        Phase::Running => api::Status::RUNNING,
        Phase::Stopped { .. } => api::Status::STOPPED,
    }
}

fn unimplemented<T>(call: &str, why: &str) -> Reply<T> {
    Err(TaskError::Unimplemented(format!("{call}: {why}")).into())
}

#[async_trait]
impl Task for Service {
    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> Reply<CreateTaskResponse> {
        self.make(&request).await?;
        Ok(CreateTaskResponse {
            pid: NO_PID,
            ..CreateTaskResponse::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> Reply<StartResponse> {
        let process = self.find(&request.id, &request.exec_id)?;
        process.start().await.map_err(start_error)?;
        Ok(StartResponse {
            pid: NO_PID,
            ..StartResponse::default()
        })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> Reply<StateResponse> {
        let process = self.find(&request.id, &request.exec_id)?;
        let container = self.containers.get(&request.id)?;
        let phase = process.life().phase();
        let addresses = process.addresses().clone();
        let mut response = StateResponse {
            id: request.id,
            exec_id: request.exec_id,
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: NO_PID,
            status: EnumOrUnknown::new(wire_status(phase)),
            stdin: addresses.stdin,
            stdout: addresses.stdout,
            stderr: addresses.stderr,
            ..StateResponse::default()
        };
        if let Phase::Stopped { ending, at } = phase {
            response.exit_status = ending.status();
            response.exited_at = wire_time(at);
        }
        response.terminal = process.terminal().is_some();
        Ok(response)
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Reply<WaitResponse> {
        let (ending, at) = self.find(&request.id, &request.exec_id)?.life().wait().await;
        Ok(WaitResponse {
            exit_status: ending.status(),
            exited_at: wire_time(at),
            ..WaitResponse::default()
        })
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Reply<Empty> {
        let process = self.find(&request.id, &request.exec_id)?;
        let signal = u8::try_from(request.signal)
            .ok()
            .filter(|signal| u32::from(*signal) <= MAX_SIGNAL);
        let Some(signal) = signal else {
            return Err(TaskError::InvalidArgument(format!("{} is not a signal", request.signal)).into());
        };
        if process.signal(signal) {
            Ok(Empty::default())
        } else {
            let name = name(&request.id, &request.exec_id);
            Err(TaskError::NotFound(format!("{name} has ended already")).into())
        }
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Reply<DeleteResponse> {
        let (ending, at) = self.remove(&request.id, &request.exec_id)?;
        Ok(DeleteResponse {
            pid: NO_PID,
            exit_status: ending.status(),
            exited_at: wire_time(at),
            ..DeleteResponse::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Reply<PidsResponse> {
        self.containers.get(&request.id)?;
        Ok(PidsResponse::default())
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Reply<StatsResponse> {
        let stats = self.containers.get(&request.id)?.stats().to_any()?;
        Ok(StatsResponse {
            stats: MessageField::some(stats),
            ..StatsResponse::default()
        })
    }

    /// Who serves, whatever the task: as containerd's own shims answer.
    async fn connect(&self, _: &TtrpcContext, _: ConnectRequest) -> Reply<ConnectResponse> {
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: NO_PID,
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> Reply<Empty> {
        self.containers.ask_to_leave();
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Reply<Empty> {
        let process = self.find(&request.id, &request.exec_id)?;
        if request.stdin {
            process.close_stdin();
        }
        Ok(Empty::default())
    }

    /// Without a terminal there is nothing to resize, and nothing is said about it (as containerd has it).
    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Reply<Empty> {
        let side = |length: u32| u16::try_from(length).unwrap_or(u16::MAX);
        let process = self.find(&request.id, &request.exec_id)?;
        if let Some(terminal) = process.terminal() {
            let resized = terminal.resize(side(request.width), side(request.height));
            resized.map_err(|error| TaskError::internal("resize the terminal", error))?;
        }
        Ok(Empty::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Reply<Empty> {
        let container = self.containers.get(&request.id)?;
        self.host
            .exec(&container, &request)
            .await
            .map_err(TaskError::from)?;
        self.publisher.exec_added(&request.id, &request.exec_id);
        Ok(Empty::default())
    }

    async fn pause(&self, _: &TtrpcContext, _: api::PauseRequest) -> Reply<Empty> {
        unimplemented("Pause", "guests share their process with others of the namespace")
    }

    async fn resume(&self, _: &TtrpcContext, _: api::ResumeRequest) -> Reply<Empty> {
        unimplemented("Resume", "guests cannot be paused")
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: api::CheckpointTaskRequest) -> Reply<Empty> {
        unimplemented("Checkpoint", "guests cannot be checkpointed")
    }

    async fn update(&self, _: &TtrpcContext, request: api::UpdateTaskRequest) -> Reply<Empty> {
        let container = self.containers.get(&request.id)?;
        let rules = network_rules(&request.annotations);
        let rules = rules.map_err(|e| TaskError::InvalidArgument(e.to_string()))?;
        let bounds = bounds(&request.annotations);
        let bounds = bounds.map_err(|e| TaskError::InvalidArgument(e.to_string()))?;
        let asks_for_socket = request.annotations.contains_key(annotations::ATTACH);
        // One that gives other rules, bounds the Pod, or asks for the socket may be about nothing else.
        let is_other = rules.is_some() || bounds.is_some() || asks_for_socket;
        if !is_other || request.resources.is_some() {
            let resources: LinuxResources = serde_json::from_slice(&request.resources.value)
                .map_err(|e| TaskError::InvalidArgument(format!("the resources cannot be read: {e}")))?;
            let resized = container.resize(Limits::of(&resources));
            resized.map_err(|e| TaskError::FailedPrecondition(e.to_string()))?;
        }
        if let Some(bounds) = bounds {
            let bound = container.bound(bounds);
            bound.map_err(|e| TaskError::FailedPrecondition(e.to_string()))?;
        }
        if let Some(rules) = rules {
            container.narrow(rules);
        }
        if asks_for_socket {
            let opened = container.open_socket();
            opened.map_err(|e| TaskError::FailedPrecondition(format!("telling the output: {e}")))?;
        }
        Ok(Empty::default())
    }
}
