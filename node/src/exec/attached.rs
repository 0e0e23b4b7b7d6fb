//! A running container's own streams, as one client uses them.

use std::io;

use amphipod_shim_api::stdio::LogStream;
use amphipod_shim_api::{TaskClient, attach};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::{OpenOptions, Sender};

use super::{Controls, Doors, ExecError, Execs, Target};

/// Why a container cannot be attached to.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("cannot attach to the container: its runtime tells its output to its log only ({0})")]
    Closed(io::Error),
    #[error("the container's output broke off: {0}")]
    Broken(io::Error),
}

/// A container's streams: those of its first process.
#[derive(Debug)]
pub struct Attached {
    client: TaskClient,
    id: String,
    output: UnixStream,
    doors: Doors,
    /// The end of the first client's input is the end of the container's (`stdinOnce`).
    pub stdin_once: bool,
}

impl Execs {
    /// Listens to a container from now on.
    pub async fn attach(&self, target: &Target, stdin_once: bool) -> Result<Attached, AttachError> {
        let doors = Doors::of(&self.run_dir, &target.id);
        let output = UnixStream::connect(&doors.socket)
            .await
            .map_err(AttachError::Closed)?;
        Ok(Attached {
            client: TaskClient::new(target.address.clone()),
            id: target.id.clone(),
            output,
            doors,
            stdin_once,
        })
    }
}

impl Attached {
    /// The end to write into; `None` for a container that reads nothing.
    pub fn stdin(&self) -> Option<Sender> {
        OpenOptions::new().open_sender(&self.doors.stdin).ok()
    }

    /// What the container says next; `None` when it has ended.
    pub async fn next(&mut self) -> Result<Option<(LogStream, Vec<u8>)>, AttachError> {
        attach::next(&mut self.output).await.map_err(AttachError::Broken)
    }

    /// What works on the container while its output is listened to.
    pub fn controls(&self) -> ContainerControls {
        ContainerControls {
            client: TaskClient::new(self.client.address().clone()),
            id: self.id.clone(),
            stdin_once: self.stdin_once,
        }
    }
}

/// The first process of a container.
#[derive(Debug)]
pub struct ContainerControls {
    client: TaskClient,
    id: String,
    stdin_once: bool,
}

impl Controls for ContainerControls {
    async fn resize(&self, width: u16, height: u16) -> Result<(), ExecError> {
        Ok(self
            .client
            .resize_pty(&self.id, width.into(), height.into())
            .await?)
    }

    async fn close_stdin(&self) -> Result<(), ExecError> {
        match self.stdin_once {
            true => Ok(self.client.close_stdin(&self.id).await?),
            false => Ok(()),
        }
    }
}
