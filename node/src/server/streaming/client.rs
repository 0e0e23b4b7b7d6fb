//! The client's streams, whatever protocol carries them: two ends of bounded channels. One end is the session's, the
//! other the protocol's.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::request::StreamOptions;

/// Messages on their way in either direction: enough to keep both sides busy, and at most a few MiB.
const QUEUE: usize = 16;

/// Size of a terminal, as clients send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    pub width: u16,
    pub height: u16,
}

/// What goes to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Stdout,
    Stderr,
    /// The final status.
    Error,
}

/// The session's end of what the client says.
#[derive(Debug)]
pub struct Input {
    /// Ends when the client has closed its input.
    pub stdin: mpsc::Receiver<Bytes>,
    /// The newest size wanted; how many came before does not matter.
    pub sizes: watch::Receiver<Option<Size>>,
}

/// The session's end of what the client is told.
#[derive(Debug)]
pub struct Output {
    frames: mpsc::Sender<(Channel, Bytes)>,
    gone: CancellationToken,
}

/// The protocol's end.
#[derive(Debug)]
pub struct Wire {
    /// Taken when the input is closed.
    pub stdin: Option<mpsc::Sender<Bytes>>,
    pub sizes: watch::Sender<Option<Size>>,
    /// Ends when everything, the status last, was said.
    pub output: mpsc::Receiver<(Channel, Bytes)>,
    pub gone: CancellationToken,
}

/// Both ends of one client's streams.
pub fn pair(options: &StreamOptions) -> (Input, Output, Wire) {
    let (stdin_in, stdin) = mpsc::channel(QUEUE);
    let (frames, output) = mpsc::channel(QUEUE);
    let (sizes_in, sizes) = watch::channel(None);
    let gone = CancellationToken::new();
    let told = Output {
        frames,
        gone: gone.clone(),
    };
    let wire = Wire {
        stdin: Some(stdin_in).filter(|_| options.stdin),
        sizes: sizes_in,
        output,
        gone,
    };
    (Input { stdin, sizes }, told, wire)
}

impl Output {
    /// Completes when the connection is no more.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Sends to the client, waiting for one that is slow; one that is gone takes nothing.
    pub async fn send(&self, channel: Channel, bytes: Bytes) {
        if self.frames.send((channel, bytes)).await.is_err() {
            self.gone.cancel();
        }
    }

    /// Says how it ended, and nothing more.
    pub async fn finish(self, status: Value) {
        self.send(Channel::Error, Bytes::from(status.to_string())).await;
    }
}
