//! The Task API over the containers of one group. Translation only: what a call does is in [`crate::container`].

use std::sync::Arc;

use amphipod_shim_api::api::protobuf::{EnumOrUnknown, MessageField};
use amphipod_shim_api::api::{self, Task, TtrpcContext};
use amphipod_shim_api::client::{Exit, TaskStatus};
use amphipod_shim_api::events::{Publisher, Story};
use amphipod_shim_api::{Standing, Table, TaskError};
use async_trait::async_trait;

use crate::container::Container;
use crate::keeper::SharedProcesses;
use crate::planned::Asked;
use crate::reaper::Reaper;
use crate::rootfs_plan::{self, RootfsMount, RootfsPlanError};
use crate::rootless::adapt_layers;
use crate::runc_options;
use crate::spec;
use crate::streams::Addresses;

/// The containers of one group.
pub struct Shim {
    namespace: String,
    reaper: Arc<Reaper>,
    pub containers: Table<Container>,
    shared: SharedProcesses,
    publisher: Publisher,
}

type Answer<T> = ttrpc::Result<T>;

impl Shim {
    pub fn new(namespace: String, reaper: Arc<Reaper>, publisher: Publisher) -> Self {
        Self {
            namespace,
            reaper,
            containers: Table::default(),
            shared: SharedProcesses::default(),
            publisher,
        }
    }

    /// `told` is what containerd is told of it then.
    async fn create_container(&self, asked: Asked, told: Option<api::TaskCreate>) -> Result<u32, TaskError> {
        let reserved = self.containers.reserve(&asked.id)?;
        let story = Arc::new(Story::of(&self.publisher, &asked.id));
        let _making = story.hold();
        let made = Container::create(&self.reaper, &self.shared, asked, Arc::clone(&story)).await;
        let container = made?;
        let pid = container.process("")?.pid();
        self.publisher.created(told, pid);
        reserved.fill(Arc::new(container));
        Ok(pid)
    }

    async fn delete_container(&self, id: &str) -> Result<(u32, Exit), TaskError> {
        let container = self.containers.get(id)?;
        let (pid, exit) = container.delete(&self.reaper).await?;
        self.containers.remove(id);
        self.publisher.deleted(id, pid, exit);
        Ok((pid, exit))
    }
}

/// Calls that make or remove something run to their end even when the caller goes away in between.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, TaskError>> + Send + 'static,
) -> Result<T, TaskError> {
    tokio::spawn(work)
        .await
        .map_err(|e| TaskError::internal("finish the call", e))?
}

fn asked(namespace: &str, request: api::CreateTaskRequest) -> Result<Asked, TaskError> {
    if !(request.checkpoint.is_empty() && request.parent_checkpoint.is_empty()) {
        return Err(TaskError::Unimplemented(
            "a container cannot be made from a checkpoint".into(),
        ));
    }
    let rootfs = rootfs(Standing::of_this_process(), &request.rootfs);
    let options = runc_options::of(request.options.as_ref())?;
    Ok(Asked {
        systemd: options.systemd_cgroup,
        keeps_keyring: options.no_new_keyring,
        no_pivot: options.no_pivot_root,
        id: request.id,
        namespace: namespace.into(),
        bundle: request.bundle.into(),
        rootfs: rootfs.map_err(|e| TaskError::InvalidArgument(e.to_string()))?,
        addresses: Addresses {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
            attach: None,
        },
    })
}

fn rootfs(standing: Standing, mounts: &[api::Mount]) -> Result<Vec<RootfsMount>, RootfsPlanError> {
    let parse = |mount: &api::Mount| {
        let mut options = mount.options.clone();
        if standing.makes_do() {
            adapt_layers(&mount.type_, &mut options);
        }
        rootfs_plan::parse(&mount.type_, &mount.source, &options)
    };
    mounts.iter().map(parse).collect()
}

fn wire_status(status: TaskStatus) -> EnumOrUnknown<api::Status> {
    EnumOrUnknown::new(match status {
        TaskStatus::Unknown => api::Status::UNKNOWN,
        TaskStatus::Created => api::Status::CREATED,
        TaskStatus::Running => api::Status::RUNNING,
        TaskStatus::Stopped => api::Status::STOPPED,
        TaskStatus::Paused => api::Status::PAUSED,
        TaskStatus::Pausing => api::Status::PAUSING,
    })
}

fn json<T: serde::de::DeserializeOwned>(
    what: &str,
    any: &MessageField<api::protobuf::well_known_types::any::Any>,
) -> Result<T, TaskError> {
    let any = any
        .as_ref()
        .ok_or_else(|| TaskError::InvalidArgument(format!("the request has no {what}")))?;
    serde_json::from_slice(&any.value).map_err(|e| TaskError::InvalidArgument(format!("{what}: {e}")))
}

/// Handlers hold the shim by `Arc`, for the calls that outlive their caller.
#[derive(Clone)]
pub struct Service(pub Arc<Shim>);

#[async_trait]
impl Task for Service {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> Answer<api::CreateTaskResponse> {
        let shim = Arc::clone(&self.0);
        let told = shim.publisher.creation(&request);
        let asked = asked(&shim.namespace, request)?;
        let pid = to_the_end(async move { shim.create_container(asked, told).await }).await?;
        Ok(api::CreateTaskResponse {
            pid,
            ..Default::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, request: api::StartRequest) -> Answer<api::StartResponse> {
        let shim = Arc::clone(&self.0);
        let container = shim.containers.get(&request.id)?;
        let start = async move { container.start(&shim.reaper, &request.exec_id).await };
        Ok(api::StartResponse {
            pid: to_the_end(start).await?,
            ..Default::default()
        })
    }

    async fn state(&self, _: &TtrpcContext, request: api::StateRequest) -> Answer<api::StateResponse> {
        let container = self.0.containers.get(&request.id)?;
        let described = container.describe(&request.exec_id)?;
        let mut answer = api::StateResponse {
            id: request.id,
            exec_id: request.exec_id,
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: described.pid,
            status: wire_status(described.status),
            stdin: described.addresses.stdin,
            stdout: described.addresses.stdout,
            stderr: described.addresses.stderr,
            terminal: described.addresses.terminal,
            ..Default::default()
        };
        if let Some(exit) = described.exit {
            answer.exit_status = exit.status;
            answer.exited_at = MessageField::some(exit.wire_time());
        }
        Ok(answer)
    }

    async fn wait(&self, _: &TtrpcContext, request: api::WaitRequest) -> Answer<api::WaitResponse> {
        let exit = self.0.containers.get(&request.id)?.wait(&request.exec_id).await?;
        let exited_at = MessageField::some(exit.wire_time());
        Ok(api::WaitResponse {
            exit_status: exit.status,
            exited_at,
            ..Default::default()
        })
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> Answer<api::Empty> {
        let signal = i32::try_from(request.signal)
            .map_err(|_| TaskError::InvalidArgument(format!("signal {} does not exist", request.signal)))?;
        self.0
            .containers
            .get(&request.id)?
            .kill(&request.exec_id, signal, request.all)?;
        Ok(api::Empty::new())
    }

    async fn delete(&self, _: &TtrpcContext, request: api::DeleteRequest) -> Answer<api::DeleteResponse> {
        let shim = Arc::clone(&self.0);
        let (pid, exit) = if request.exec_id.is_empty() {
            to_the_end(async move { shim.delete_container(&request.id).await }).await?
        } else {
            shim.containers.get(&request.id)?.delete_exec(&request.exec_id)?
        };
        let exited_at = MessageField::some(exit.wire_time());
        Ok(api::DeleteResponse {
            pid,
            exit_status: exit.status,
            exited_at,
            ..Default::default()
        })
    }

    async fn exec(&self, _: &TtrpcContext, request: api::ExecProcessRequest) -> Answer<api::Empty> {
        let container = self.0.containers.get(&request.id)?;
        let mut process: serde_json::Value = json("process", &request.spec)?;
        for text in spec::mend_process(&mut process) {
            tracing::warn!(id = request.id, "{text}");
        }
        let process: oci_spec::runtime::Process = serde_json::from_value(process)
            .map_err(|e| TaskError::InvalidArgument(format!("process: {e}")))?;
        let mut plan = spec::process_plan(&process, &container.spec)
            .map_err(|e| TaskError::InvalidArgument(e.to_string()))?;
        plan.terminal = plan.terminal.or(request.terminal.then_some((0, 0)));
        let addresses = Addresses {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: plan.terminal.is_some(),
            attach: None,
        };
        container.add_exec(&request.exec_id, plan, addresses)?;
        self.0.publisher.exec_added(&request.id, &request.exec_id);
        Ok(api::Empty::new())
    }

    async fn pids(&self, _: &TtrpcContext, request: api::PidsRequest) -> Answer<api::PidsResponse> {
        let container = self.0.containers.get(&request.id)?;
        let execs = container.started_execs();
        let info = |pid| {
            let exec = execs.iter().find(|(started, _)| *started == pid);
            let details = exec.map(|(_, id)| runc_options::process_details(id)).transpose();
            details.map(|info| api::ProcessInfo {
                pid,
                info: info.into(),
                ..Default::default()
            })
        };
        let processes: Result<_, _> = container.pids()?.into_iter().map(info).collect();
        let processes = processes.map_err(|e| TaskError::internal("encode the answer", e))?;
        Ok(api::PidsResponse {
            processes,
            ..Default::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: api::StatsRequest) -> Answer<api::StatsResponse> {
        let stats = self.0.containers.get(&request.id)?.stats()?;
        Ok(api::StatsResponse {
            stats: MessageField::some(stats.to_any()?),
            ..Default::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: api::PauseRequest) -> Answer<api::Empty> {
        self.0.containers.get(&request.id)?.pause().await?;
        self.0.publisher.paused(&request.id);
        Ok(api::Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: api::ResumeRequest) -> Answer<api::Empty> {
        self.0.containers.get(&request.id)?.resume()?;
        self.0.publisher.resumed(&request.id);
        Ok(api::Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: api::UpdateTaskRequest) -> Answer<api::Empty> {
        let container = self.0.containers.get(&request.id)?;
        let resources: oci_spec::runtime::LinuxResources = json("resources", &request.resources)?;
        container.update(&spec::changes(&resources)).await?;
        Ok(api::Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: api::CloseIORequest) -> Answer<api::Empty> {
        let process = self.0.containers.get(&request.id)?.process(&request.exec_id)?;
        if request.stdin {
            process.close_stdin();
        }
        Ok(api::Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: api::ResizePtyRequest) -> Answer<api::Empty> {
        let side = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let process = self.0.containers.get(&request.id)?.process(&request.exec_id)?;
        let resized = process.resize(side(request.width), side(request.height));
        resized.map_err(|e| TaskError::internal("resize the terminal", e))?;
        Ok(api::Empty::new())
    }

    async fn connect(&self, _: &TtrpcContext, request: api::ConnectRequest) -> Answer<api::ConnectResponse> {
        let task_pid = self
            .0
            .containers
            .get(&request.id)
            .and_then(|c| c.process(""))
            .map_or(0, |p| p.pid());
        Ok(api::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: api::ShutdownRequest) -> Answer<api::Empty> {
        self.0.containers.ask_to_leave();
        Ok(api::Empty::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_done_is_refused() {
        let asked = |change: &dyn Fn(&mut api::CreateTaskRequest)| {
            let mut request = api::CreateTaskRequest::new();
            change(&mut request);
            super::asked("n", request).map(|_| ())
        };
        assert_eq!(asked(&|_| {}), Ok(()));
        let refused = asked(&|request| request.checkpoint = "/c".into());
        assert!(matches!(refused, Err(TaskError::Unimplemented(_))), "{refused:?}");
    }

    /// What is added to an overlay counts like all the rest where its options are too long for the kernel.
    #[test]
    fn layers_of_a_user_fit_with_what_he_needs_more() {
        let directory = "/data/node/images/layers";
        let layers = |length: usize| format!("lowerdir={directory}/{}:{directory}/b", "a".repeat(length));
        // The longest that the kernel takes as they are.
        let options = layers(4095 - layers(0).len());
        let mount = api::Mount {
            type_: "overlay".into(),
            options: vec![options],
            ..Default::default()
        };
        let planned = |standing| rootfs(standing, std::slice::from_ref(&mount)).unwrap().remove(0);
        assert_eq!(planned(Standing::Root).base, None);
        let users = planned(Standing::User);
        assert_eq!(users.base.as_deref(), Some(std::path::Path::new(directory)));
        assert!(users.data.ends_with(":b,userxattr") && users.data.len() <= 4095);
    }
}
