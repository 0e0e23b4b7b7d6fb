//! What the parent of a process on its way into a container does for it when asked: write its id maps, run the
//! runtime's hooks, hand its seccomp listener on. The same for the shim and the OCI command line.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;

use crate::hooks::{self, Hook, HookError, Subject};
use crate::id_map::IdMaps;
use crate::init::channel::Ask;
use crate::init::{ContainerPlan, ProcessPlan};
use crate::net_devices::{self, NetDevice, NetDeviceError};
use crate::rootless::{MapError, write_maps};

/// A seccomp agent, as config.json names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listener {
    pub path: PathBuf,
    pub metadata: String,
}

/// Why something asked for was not done.
#[derive(Debug, thiserror::Error)]
pub enum OverseerError {
    #[error("cannot write the id maps of the container's user namespace: {0}")]
    Maps(MapError),
    #[error("the process asked for an id map it has not")]
    NoMaps,
    #[error("cannot hand the seccomp listener to {path:?}: {source}")]
    Listener { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    NetDevice(#[from] NetDeviceError),
}

/// What is known of the process, to answer for it.
#[derive(Debug)]
pub struct Overseer<'a> {
    ids: Option<&'a IdMaps>,
    net_devices: &'a [NetDevice],
    hooks: &'a [Hook],
    subject: &'a Subject,
    listener: Option<&'a Listener>,
    status: &'static str,
}

impl<'a> Overseer<'a> {
    /// For the first process of a container.
    pub fn of(plan: &'a ContainerPlan) -> Self {
        Self {
            ids: plan.ids.as_ref(),
            net_devices: &plan.net_devices,
            hooks: &plan.hooks.runtime,
            subject: &plan.subject,
            listener: plan.process.listener.as_ref(),
            status: "creating",
        }
    }

    /// For a process added to a running container.
    pub fn of_exec(plan: &'a ProcessPlan, subject: &'a Subject) -> Self {
        Self {
            ids: None,
            net_devices: &[],
            hooks: &[],
            subject,
            listener: plan.listener.as_ref(),
            status: "running",
        }
    }

    /// For a process that asks for nothing.
    pub fn of_nothing(subject: &'a Subject) -> Self {
        Self {
            ids: None,
            net_devices: &[],
            hooks: &[],
            subject,
            listener: None,
            status: "running",
        }
    }

    /// Does what is asked; hooks may take their time.
    pub fn answer(&self, ask: Ask, pid: Pid) -> Result<(), OverseerError> {
        match ask {
            Ask::MapIds => {
                let ids = self.ids.ok_or(OverseerError::NoMaps)?;
                write_maps(ids, pid).map_err(OverseerError::Maps)
            }
            Ask::Hooks => self.prepare(pid),
            Ask::Listener(fd) => self.hand_on(&fd, pid),
        }
    }

    /// Gives the container its network devices and runs the hooks of the runtime's namespaces. Takes its time.
    pub fn prepare(&self, pid: Pid) -> Result<(), OverseerError> {
        net_devices::give(self.net_devices, pid)?;
        Ok(hooks::run(
            self.hooks,
            &self.subject.state(self.status, pid.as_raw()),
        )?)
    }

    /// One message with the state and the descriptor (OCI runtime-spec, "The Container Process State").
    fn hand_on(&self, fd: &OwnedFd, pid: Pid) -> Result<(), OverseerError> {
        let listener = self.listener.cloned().unwrap_or_default();
        let state = self.subject.state(self.status, pid.as_raw());
        let sent = serde_json::from_str::<serde_json::Value>(&state)
            .map_err(io::Error::other)
            .and_then(|state| {
                let message = serde_json::json!({
                    "ociVersion": self.subject.version,
                    "fds": ["seccompFd"],
                    "pid": pid.as_raw(),
                    "metadata": listener.metadata,
                    "state": state,
                });
                let socket = UnixStream::connect(&listener.path)?;
                let (text, fds) = (message.to_string(), [fd.as_raw_fd()]);
                let parts = [io::IoSlice::new(text.as_bytes())];
                let rights = [ControlMessage::ScmRights(&fds)];
                sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None)?;
                Ok(())
            });
        sent.map_err(|source| OverseerError::Listener {
            path: listener.path,
            source,
        })
    }
}
