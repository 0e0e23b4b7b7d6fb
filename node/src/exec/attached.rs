//! A running container's own streams, as one client uses them.

use std::io;
use std::path::Path;
use std::time::Duration;

use amphipod_shim_api::stdio::LogStream;
use amphipod_shim_api::{TaskClient, attach};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::{OpenOptions, Sender};

use super::{Controls, Doors, ExecError, Execs, Target};

/// A shim that has anything to say of it says it in milliseconds.
const TAKEN_IN_LIMIT: Duration = Duration::from_secs(2);

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
    /// Listens to a container: to all that it says after this has returned.
    pub async fn attach(&self, target: &Target, stdin_once: bool) -> Result<Attached, AttachError> {
        let doors = Doors::of(&self.run_dir, &target.id);
        let client = self.tasks.of(&target.address);
        let output = match listen(&doors.socket).await {
            // A shim may have it only when it is asked to; what says that there is none is how it was found.
            Err(absent) => match client.open_socket(&target.id).await {
                Ok(()) => listen(&doors.socket).await,
                Err(_) => Err(absent),
            },
            heard => heard,
        };
        let output = output.map_err(AttachError::Closed)?;
        Ok(Attached {
            client,
            id: target.id.clone(),
            output,
            doors,
            stdin_once,
        })
    }
}

/// Connects, and waits until the shim says that it has taken us in ([`amphipod_shim_api::watchers`]): what the container
/// answers to a word written sooner could be told to nobody. One that began before an upgrade may say nothing.
async fn listen(socket: &Path) -> io::Result<UnixStream> {
    let output = UnixStream::connect(socket).await?;
    match tokio::time::timeout(TAKEN_IN_LIMIT, output.readable()).await {
        Ok(readable) => readable?,
        Err(_) => tracing::debug!(?socket, "not told that it listens to a container"),
    }
    Ok(output)
}

impl Attached {
    /// The end to write into; `None` for a container that reads nothing.
    pub fn stdin(&self) -> Option<Sender> {
        OpenOptions::new().open_sender(&self.doors.stdin).ok()
    }

    /// What the container says next; `None` when it has ended.
    pub async fn next(&mut self) -> Result<Option<(LogStream, Vec<u8>)>, AttachError> {
        loop {
            match attach::next(&mut self.output).await {
                Ok(Some((_, nothing))) if nothing.is_empty() => {}
                next => return next.map_err(AttachError::Broken),
            }
        }
    }

    /// What works on the container while its output is listened to.
    pub fn controls(&self) -> ContainerControls {
        ContainerControls {
            client: self.client.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use amphipod_shim_api::watchers::Watchers;

    /// What is said right after is heard, and nothing else.
    #[tokio::test]
    async fn who_listens_has_been_taken_in() {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("sock");
        let watchers = Watchers::listen(&socket).unwrap();
        let mut attached = Attached {
            client: TaskClient::new(amphipod_shim_api::ShimAddress {
                address: String::new(),
                version: 3,
            }),
            id: "c".into(),
            output: listen(&socket).await.unwrap(),
            doors: Doors::of(home.path(), "c"),
            stdin_once: false,
        };
        watchers.tell_now(LogStream::Stderr, b"at once");
        watchers.close();
        let heard = attached.next().await.unwrap();
        assert_eq!(heard, Some((LogStream::Stderr, b"at once".to_vec())));
        assert_eq!(attached.next().await.unwrap(), None);
    }
}
