//! Brings a client's streams and a process's together, until the process has ended or the client is gone.

use amphipod_shim_api::TaskError;
use amphipod_shim_api::client::Exit;
use amphipod_shim_api::stdio::LogStream;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{mpsc, watch};

use super::client::{Channel, Input, Output, Size};
use crate::exec::{AttachError, Attached, Controls, ExecError, Process};

/// One read of a process's output; a pipe holds 64 KiB.
const READ: usize = 32 << 10;

/// Carries a command to its end. When the client goes first, the command is killed.
pub async fn exec(mut process: Process, input: Input, output: &Output) -> Result<Exit, ExecError> {
    let (stdin, stdout, stderr) = (process.stdin.take(), process.stdout.take(), process.stderr.take());
    let to_end = async {
        tokio::join!(
            copy_out(stdout, Channel::Stdout, output),
            copy_out(stderr, Channel::Stderr, output)
        );
        process.wait().await
    };
    tokio::select! {
        exit = to_end => exit,
        () = feed(&process, stdin, input) => Err(left()),
        () = output.gone() => Err(left()),
    }
}

/// Carries a container's own streams until it has ended or the client is gone, which leaves the container alone.
pub async fn attach(
    mut attached: Attached,
    input: Input,
    reads: bool,
    output: &Output,
) -> Result<(), AttachError> {
    let controls = attached.controls();
    let stdin = attached.stdin().filter(|_| reads);
    let feeding = feed(&controls, stdin, input);
    let telling = async {
        while let Some((stream, bytes)) = attached.next().await? {
            let channel = match stream {
                LogStream::Stdout => Channel::Stdout,
                LogStream::Stderr => Channel::Stderr,
            };
            output.send(channel, bytes.into()).await;
        }
        Ok(())
    };
    let told = tokio::select! {
        told = telling => told,
        () = feeding => Ok(()),
        () = output.gone() => Ok(()),
    };
    if reads && let Err(error) = controls.close_stdin().await {
        tracing::debug!(%error, "the input of a container was not closed");
    }
    told
}

fn left() -> ExecError {
    ExecError::Task(TaskError::Disconnected("the client is gone".into()))
}

/// Carries an output to the client until it ends.
async fn copy_out(from: Option<Receiver>, channel: Channel, to: &Output) {
    let Some(mut from) = from else { return };
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ);
        match from.read_buf(&mut buffer).await {
            Ok(0) => return,
            Ok(_) => to.send(channel, buffer.split().freeze()).await,
            Err(error) => return tracing::warn!(%error, "the output of a command cannot be read"),
        }
    }
}

/// Carries what the client says; has no end of its own.
async fn feed(process: &impl Controls, stdin: Option<Sender>, input: Input) {
    tokio::join!(
        copy_in(process, stdin, input.stdin),
        follow_size(process, input.sizes)
    );
    std::future::pending().await
}

async fn copy_in(process: &impl Controls, to: Option<Sender>, mut from: mpsc::Receiver<Bytes>) {
    if let Some(mut to) = to {
        while let Some(bytes) = from.recv().await {
            if let Err(error) = to.write_all(&bytes).await {
                tracing::debug!(%error, "a command takes no more input");
                break;
            }
        }
        drop(to);
        if let Err(error) = process.close_stdin().await {
            tracing::debug!(%error, "the input of a command was not closed");
        }
    }
    while from.recv().await.is_some() {}
}

async fn follow_size(process: &impl Controls, mut sizes: watch::Receiver<Option<Size>>) {
    while sizes.changed().await.is_ok() {
        let size = *sizes.borrow_and_update();
        let Some(size) = size else { continue };
        if let Err(error) = process.resize(size.width, size.height).await {
            tracing::debug!(%error, "a terminal was not resized");
        }
    }
}
