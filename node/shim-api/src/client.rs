//! The agent's side of the Task API: typed calls, each with a limit, over one connection made again when lost.
//!
//! Owns the calls and their limits. Refuses to know what is decided from the answers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp as WireTime;
use containerd_shim_protos::protobuf::{Message, MessageField};
use tokio::sync::Mutex;
use tokio::time::timeout;
use ttrpc::r#async::Client;

use crate::annotations;
use crate::error::TaskError;
use crate::network::NetworkRules;
use crate::service::{TASK_V2, TASK_V3};
use crate::start::ShimAddress;
use crate::stats::TaskStats;

/// Create mounts the root filesystem and may compile a module: minutes on a slow disk, never hours.
const CREATE_LIMIT: Duration = Duration::from_secs(120);
/// Start and Exec wait for an `execve` inside the container, Delete for the kernel to free a cgroup.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Everything else answers from memory.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Wait has no limit of its own: the caller drops it.
const NO_LIMIT: Duration = Duration::ZERO;

/// How much longer the library would wait.
const SLACK: Duration = Duration::from_secs(1);

/// One mount of a container's root filesystem, in containerd's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootfsMount {
    /// `overlay`, `bind`, …
    pub kind: String,
    pub source: String,
    /// fstab-style options: `lowerdir=…`, `rbind`, `ro`.
    pub options: Vec<String>,
}

/// What Create needs.
#[derive(Debug, Clone, Default)]
pub struct CreateTask {
    pub id: String,
    /// Directory with `config.json`.
    pub bundle: PathBuf,
    pub rootfs: Vec<RootfsMount>,
    pub terminal: bool,
    /// Addresses as in [`crate::stdio`]; empty for none.
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
}

/// What Exec needs.
#[derive(Debug, Clone, Default)]
pub struct ExecTask {
    pub id: String,
    pub exec_id: String,
    pub terminal: bool,
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    /// The OCI `process` object as JSON.
    pub process: serde_json::Value,
}

/// A container's first process (`"id".into()`) or one exec'd into it (`("id", "exec").into()`).
#[derive(Debug, Clone, Copy)]
pub struct Process<'a> {
    pub container: &'a str,
    /// Empty for the first process.
    pub exec: &'a str,
}

impl<'a> From<&'a str> for Process<'a> {
    fn from(container: &'a str) -> Self {
        Self { container, exec: "" }
    }
}

impl<'a> From<&'a String> for Process<'a> {
    fn from(container: &'a String) -> Self {
        Self { container, exec: "" }
    }
}

impl<'a> From<(&'a str, &'a str)> for Process<'a> {
    fn from((container, exec): (&'a str, &'a str)) -> Self {
        Self { container, exec }
    }
}

/// The states of `containerd.v1.types.Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskStatus {
    Unknown,
    Created,
    Running,
    Stopped,
    Paused,
    Pausing,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, or 128 plus the signal that ended it.
    pub status: u32,
    pub at: jiff::Timestamp,
}

/// What State answers.
#[derive(Debug, Clone)]
pub struct TaskState {
    pub status: TaskStatus,
    /// 0 where the runtime has no process of its own for the container.
    pub pid: u32,
    pub bundle: PathBuf,
    /// Set once stopped.
    pub exit: Option<Exit>,
}

/// A shim found by its address. Calls may be made at the same time; a lost connection is made again at the next call. A cheap
/// handle.
#[derive(Clone)]
pub struct TaskClient(pub(crate) Arc<Shim>);

pub(crate) struct Shim {
    address: ShimAddress,
    connection: Mutex<Option<Arc<Client>>>,
}

impl std::fmt::Debug for TaskClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskClient")
            .field("address", &self.0.address)
            .finish_non_exhaustive()
    }
}

impl TaskClient {
    /// A client that connects at its first call.
    pub fn new(address: ShimAddress) -> Self {
        Self(Arc::new(Shim {
            address,
            connection: Mutex::new(None),
        }))
    }

    /// A client whose shim is known to be there: [`TaskError::Disconnected`] when nobody listens.
    pub async fn connect(address: ShimAddress) -> Result<Self, TaskError> {
        let client = Self::new(address);
        client.connection().await?;
        Ok(client)
    }

    pub fn address(&self) -> &ShimAddress {
        &self.0.address
    }

    /// Prepares a container without starting it; answers the pid of its waiting first process.
    pub async fn create(&self, task: &CreateTask) -> Result<u32, TaskError> {
        let rootfs = task.rootfs.iter().map(|m| api::Mount {
            type_: m.kind.clone(),
            source: m.source.clone(),
            options: m.options.clone(),
            ..Default::default()
        });
        let request = api::CreateTaskRequest {
            id: task.id.clone(),
            bundle: task.bundle.to_string_lossy().into_owned(),
            rootfs: rootfs.collect(),
            terminal: task.terminal,
            stdin: task.stdin.clone(),
            stdout: task.stdout.clone(),
            stderr: task.stderr.clone(),
            ..Default::default()
        };
        let answer: api::CreateTaskResponse = self.call("Create", &request, CREATE_LIMIT).await?;
        Ok(answer.pid)
    }

    /// Lets a created process run; answers its pid.
    pub async fn start<'a>(&self, process: impl Into<Process<'a>>) -> Result<u32, TaskError> {
        let p = process.into();
        let request = api::StartRequest {
            id: p.container.into(),
            exec_id: p.exec.into(),
            ..Default::default()
        };
        let answer: api::StartResponse = self.call("Start", &request, START_LIMIT).await?;
        Ok(answer.pid)
    }

    pub async fn state<'a>(&self, process: impl Into<Process<'a>>) -> Result<TaskState, TaskError> {
        let p = process.into();
        let request = api::StateRequest {
            id: p.container.into(),
            exec_id: p.exec.into(),
            ..Default::default()
        };
        let answer: api::StateResponse = self.call("State", &request, CALL_LIMIT).await?;
        let status = status(answer.status.enum_value_or_default());
        let exit = (status == TaskStatus::Stopped).then(|| exit(answer.exit_status, &answer.exited_at));
        Ok(TaskState {
            status,
            pid: answer.pid,
            bundle: answer.bundle.into(),
            exit,
        })
    }

    /// Waits, without limit, until the process has ended. [`TaskError::Disconnected`] when the shim went away first.
    pub async fn wait<'a>(&self, process: impl Into<Process<'a>>) -> Result<Exit, TaskError> {
        let p = process.into();
        let request = api::WaitRequest {
            id: p.container.into(),
            exec_id: p.exec.into(),
            ..Default::default()
        };
        let answer: api::WaitResponse = self.call("Wait", &request, NO_LIMIT).await?;
        Ok(exit(answer.exit_status, &answer.exited_at))
    }

    /// Sends a signal to the process, or to everything in the container.
    pub async fn kill<'a>(
        &self,
        process: impl Into<Process<'a>>,
        signal: u32,
        all: bool,
    ) -> Result<(), TaskError> {
        let p = process.into();
        let request = api::KillRequest {
            id: p.container.into(),
            exec_id: p.exec.into(),
            signal,
            all,
            ..Default::default()
        };
        self.call::<_, api::Empty>("Kill", &request, CALL_LIMIT)
            .await
            .map(drop)
    }

    /// Removes a stopped (or never started) process and everything the shim holds for it.
    pub async fn delete<'a>(&self, process: impl Into<Process<'a>>) -> Result<Exit, TaskError> {
        let p = process.into();
        let request = api::DeleteRequest {
            id: p.container.into(),
            exec_id: p.exec.into(),
            ..Default::default()
        };
        let answer: api::DeleteResponse = self.call("Delete", &request, START_LIMIT).await?;
        Ok(exit(answer.exit_status, &answer.exited_at))
    }

    pub async fn stats(&self, id: &str) -> Result<TaskStats, TaskError> {
        let request = api::StatsRequest {
            id: id.into(),
            ..Default::default()
        };
        let answer: api::StatsResponse = self.call("Stats", &request, CALL_LIMIT).await?;
        TaskStats::from_any(&answer.stats)
    }

    pub async fn pids(&self, id: &str) -> Result<Vec<u32>, TaskError> {
        let request = api::PidsRequest {
            id: id.into(),
            ..Default::default()
        };
        let answer: api::PidsResponse = self.call("Pids", &request, CALL_LIMIT).await?;
        Ok(answer.processes.iter().map(|p| p.pid).collect())
    }

    /// The pid of the shim itself.
    pub async fn shim_pid(&self, id: &str) -> Result<u32, TaskError> {
        let request = api::ConnectRequest {
            id: id.into(),
            ..Default::default()
        };
        let answer: api::ConnectResponse = self.call("Connect", &request, CALL_LIMIT).await?;
        Ok(answer.shim_pid)
    }

    /// Asks the shim to exit if it has no containers left. A connection that ends instead of an answer is success.
    pub async fn shutdown(&self, id: &str) -> Result<(), TaskError> {
        let request = api::ShutdownRequest {
            id: id.into(),
            ..Default::default()
        };
        match self.call::<_, api::Empty>("Shutdown", &request, CALL_LIMIT).await {
            Ok(_) | Err(TaskError::Disconnected(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Prepares another process in a running container; [`TaskClient::start`] lets it run.
    pub async fn exec(&self, exec: &ExecTask) -> Result<(), TaskError> {
        let value =
            serde_json::to_vec(&exec.process).map_err(|e| TaskError::internal("encode the process", e))?;
        let spec = Any {
            type_url: PROCESS_TYPE.into(),
            value,
            ..Default::default()
        };
        let request = api::ExecProcessRequest {
            id: exec.id.clone(),
            exec_id: exec.exec_id.clone(),
            terminal: exec.terminal,
            stdin: exec.stdin.clone(),
            stdout: exec.stdout.clone(),
            stderr: exec.stderr.clone(),
            spec: MessageField::some(spec),
            ..Default::default()
        };
        self.call::<_, api::Empty>("Exec", &request, START_LIMIT)
            .await
            .map(drop)
    }

    /// Ends the process's standard input.
    pub async fn close_stdin<'a>(&self, process: impl Into<Process<'a>>) -> Result<(), TaskError> {
        let p = process.into();
        let request = api::CloseIORequest {
            id: p.container.into(),
            exec_id: p.exec.into(),
            stdin: true,
            ..Default::default()
        };
        self.call::<_, api::Empty>("CloseIO", &request, CALL_LIMIT)
            .await
            .map(drop)
    }

    pub async fn resize_pty<'a>(
        &self,
        process: impl Into<Process<'a>>,
        width: u32,
        height: u32,
    ) -> Result<(), TaskError> {
        let p = process.into();
        let request = api::ResizePtyRequest {
            id: p.container.into(),
            exec_id: p.exec.into(),
            width,
            height,
            ..Default::default()
        };
        self.call::<_, api::Empty>("ResizePty", &request, CALL_LIMIT)
            .await
            .map(drop)
    }

    /// Changes the limits of a running container.
    pub async fn update(
        &self,
        id: &str,
        resources: &oci_spec::runtime::LinuxResources,
    ) -> Result<(), TaskError> {
        self.update_noting(id, resources, HashMap::new()).await
    }

    /// As [`TaskClient::update`], with annotations that mean something to its shim.
    pub async fn update_noting(
        &self,
        id: &str,
        resources: &oci_spec::runtime::LinuxResources,
        annotations: HashMap<String, String>,
    ) -> Result<(), TaskError> {
        let value =
            serde_json::to_vec(resources).map_err(|e| TaskError::internal("encode the resources", e))?;
        let any = Any {
            type_url: RESOURCES_TYPE.into(),
            value,
            ..Default::default()
        };
        let request = api::UpdateTaskRequest {
            id: id.into(),
            resources: MessageField::some(any),
            annotations,
            ..Default::default()
        };
        self.call::<_, api::Empty>("Update", &request, CALL_LIMIT)
            .await
            .map(drop)
    }

    /// Tells what its Pod has as a whole by annotations ([`annotations::SANDBOX_MEMORY`] and its like); its own resources stay.
    pub async fn bound(&self, id: &str, annotations: HashMap<String, String>) -> Result<(), TaskError> {
        let request = api::UpdateTaskRequest {
            id: id.into(),
            annotations,
            ..Default::default()
        };
        self.call::<_, api::Empty>("Update", &request, CALL_LIMIT)
            .await
            .map(drop)
    }

    /// Gives a Wasm container other rules for its network; its resources stay.
    pub async fn narrow(&self, id: &str, rules: &NetworkRules) -> Result<(), TaskError> {
        let rules = serde_json::to_string(rules).map_err(|e| TaskError::internal("encode the rules", e))?;
        let request = api::UpdateTaskRequest {
            id: id.into(),
            annotations: [(annotations::WASM_NETWORK.to_owned(), rules)].into(),
            ..Default::default()
        };
        self.call::<_, api::Empty>("Update", &request, CALL_LIMIT)
            .await
            .map(drop)
    }

    /// Has a container that listens at its socket ([`annotations::ATTACH`]) only when it is asked to do so from now on.
    pub async fn open_socket(&self, id: &str) -> Result<(), TaskError> {
        let request = api::UpdateTaskRequest {
            id: id.into(),
            annotations: [(annotations::ATTACH.to_owned(), String::new())].into(),
            ..Default::default()
        };
        self.call::<_, api::Empty>("Update", &request, CALL_LIMIT)
            .await
            .map(drop)
    }

    pub async fn pause(&self, id: &str) -> Result<(), TaskError> {
        let request = api::PauseRequest {
            id: id.into(),
            ..Default::default()
        };
        self.call::<_, api::Empty>("Pause", &request, CALL_LIMIT)
            .await
            .map(drop)
    }

    pub async fn resume(&self, id: &str) -> Result<(), TaskError> {
        let request = api::ResumeRequest {
            id: id.into(),
            ..Default::default()
        };
        self.call::<_, api::Empty>("Resume", &request, CALL_LIMIT)
            .await
            .map(drop)
    }

    async fn connection(&self) -> Result<Arc<Client>, TaskError> {
        let mut held = self.0.connection.lock().await;
        if let Some(client) = held.as_ref() {
            return Ok(client.clone());
        }
        let client = Arc::new(Client::connect(&self.0.address.address).await?);
        *held = Some(client.clone());
        Ok(client)
    }

    /// Another call may have made a new one already; that stays.
    async fn drop_connection(&self, lost: &Arc<Client>) {
        let mut held = self.0.connection.lock().await;
        held.take_if(|client| Arc::ptr_eq(client, lost));
    }

    /// A shim that is stuck may leave a call in the middle of being sent, or nobody to connect to: `limit` is for all of it.
    async fn call<Q: Message, A: Message>(
        &self,
        method: &str,
        request: &Q,
        limit: Duration,
    ) -> Result<A, TaskError> {
        let asked = self.ask(method, request, limit);
        match limit {
            NO_LIMIT => asked.await,
            limit => timeout(limit, asked).await.unwrap_or_else(|_| {
                Err(TaskError::Timeout(format!(
                    "{method}: no answer within {limit:?}"
                )))
            }),
        }
    }

    async fn ask<Q: Message, A: Message>(
        &self,
        method: &str,
        request: &Q,
        limit: Duration,
    ) -> Result<A, TaskError> {
        // The library takes its own limit for the end of the connection: ours is over before.
        let given_up = match limit {
            NO_LIMIT => NO_LIMIT,
            limit => limit + SLACK,
        };
        let payload = request
            .write_to_bytes()
            .map_err(|e| TaskError::internal("encode the request", e))?;
        let rpc = ttrpc::Request {
            service: if self.0.address.version >= 3 {
                TASK_V3
            } else {
                TASK_V2
            }
            .into(),
            method: method.into(),
            payload,
            timeout_nano: i64::try_from(given_up.as_nanos()).unwrap_or(i64::MAX),
            ..Default::default()
        };
        let client = self.connection().await?;
        match client.request(rpc).await.map_err(TaskError::from) {
            Ok(answer) => {
                A::parse_from_bytes(&answer.payload).map_err(|e| TaskError::internal("decode the answer", e))
            }
            Err(error) => {
                if matches!(error, TaskError::Disconnected(_)) {
                    self.drop_connection(&client).await;
                }
                Err(error)
            }
        }
    }
}

/// containerd's type URL of an OCI process (`typeurl` of runtime-spec 1).
pub const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// containerd's type URL of OCI Linux resources.
pub const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

fn status(wire: api::Status) -> TaskStatus {
    match wire {
        api::Status::UNKNOWN => TaskStatus::Unknown,
        api::Status::CREATED => TaskStatus::Created,
        api::Status::RUNNING => TaskStatus::Running,
        api::Status::STOPPED => TaskStatus::Stopped,
        api::Status::PAUSED => TaskStatus::Paused,
        api::Status::PAUSING => TaskStatus::Pausing,
    }
}

fn exit(status: u32, at: &WireTime) -> Exit {
    let at = jiff::Timestamp::new(at.seconds, at.nanos).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    Exit { status, at }
}

impl Exit {
    /// The time as the Task API carries it.
    pub fn wire_time(&self) -> WireTime {
        WireTime {
            seconds: self.at.as_second(),
            nanos: self.at.subsec_nanosecond(),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As one that is stopped: the kernel takes in who comes, and that is all.
    #[tokio::test]
    async fn a_shim_that_says_nothing_is_not_one_that_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("s");
        let _silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let client = TaskClient::new(ShimAddress {
            address: format!("unix://{}", path.display()),
            version: 3,
        });
        let request = api::KillRequest::default();
        let limit = Duration::from_millis(10);
        let answer = client.call::<_, api::Empty>("Kill", &request, limit).await;
        assert!(matches!(answer, Err(TaskError::Timeout(_))), "{answer:?}");
    }
}
