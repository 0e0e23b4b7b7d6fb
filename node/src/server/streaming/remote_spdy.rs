//! exec and attach over SPDY (`v4.channel.k8s.io`), as `kubectl` before 1.30 speaks them: one stream per kind, named by its
//! `streamType` header, which the client opens before anything begins.

use std::collections::HashMap;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::client::{Channel, Wire};
use super::request::StreamOptions;
use super::spdy::{Stream, serve};

/// How long a client may take to open its streams; upstream's.
const CREATION_LIMIT: Duration = Duration::from_secs(30);

/// Carries streams until everything was said, or the client is gone.
pub async fn carry(connection: impl AsyncRead + AsyncWrite, wire: Wire, options: &StreamOptions) {
    let gone = wire.gone.clone();
    let (sender, opened) = mpsc::channel(1);
    tokio::select! {
        served = serve(connection, sender) => if let Err(error) = served {
            tracing::debug!(%error, "a client of a command has ended");
        },
        () = run(opened, wire, options) => {}
    }
    gone.cancel();
}

async fn run(mut opened: mpsc::Receiver<Stream>, wire: Wire, options: &StreamOptions) {
    let Ok(Some(mut streams)) = timeout(CREATION_LIMIT, all(&mut opened, options)).await else {
        return tracing::debug!("a client did not open the streams it asked for");
    };
    let Wire {
        stdin,
        sizes,
        mut output,
        ..
    } = wire;
    let (input, resize) = (streams.remove("stdin"), streams.remove("resize"));
    let reading = async {
        if let (Some(mut input), Some(stdin)) = (input, stdin) {
            while let Some(bytes) = input.input.recv().await {
                // A process that has ended reads no more.
                let _ = stdin.send(bytes).await;
            }
        }
    };
    let sizing = async {
        let Some(mut resize) = resize else { return };
        while let Some(bytes) = resize.input.recv().await {
            if let Ok(size) = serde_json::from_slice(&bytes) {
                sizes.send_replace(Some(size));
            }
        }
    };
    let writing = async {
        while let Some((channel, bytes)) = output.recv().await {
            let name = match channel {
                Channel::Stdout => "stdout",
                Channel::Stderr => "stderr",
                Channel::Error => "error",
            };
            if let Some(stream) = streams.get(name) {
                stream.output.send(&bytes).await;
            }
        }
        for stream in streams.values() {
            stream.output.end().await;
        }
    };
    let incoming = async {
        tokio::join!(reading, sizing);
        std::future::pending().await
    };
    tokio::select! {
        () = incoming => {}
        () = writing => goodbye(opened).await,
    }
}

/// The client closes the connection once it has read everything.
async fn goodbye(mut opened: mpsc::Receiver<Stream>) {
    // A client that stays is left.
    let _ = timeout(CREATION_LIMIT, async { while opened.recv().await.is_some() {} }).await;
}

/// Every stream the options speak of, by its kind.
async fn all(
    opened: &mut mpsc::Receiver<Stream>,
    options: &StreamOptions,
) -> Option<HashMap<String, Stream>> {
    let wanted = [
        ("error", true),
        ("stdin", options.stdin),
        ("stdout", options.stdout),
        ("stderr", options.stderr),
        ("resize", options.tty),
    ];
    let wanted = || wanted.iter().filter(|(_, is)| *is).map(|(name, _)| *name);
    let mut found = HashMap::new();
    while !wanted().all(|name| found.contains_key(name)) {
        let stream = opened.recv().await?;
        match stream.headers.get("streamtype").cloned() {
            Some(kind) if wanted().any(|name| name == kind) => {
                found.insert(kind, stream);
            }
            _ => {
                stream.output.reset().await;
            }
        }
    }
    Some(found)
}
