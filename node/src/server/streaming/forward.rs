//! `port-forward`: pairs of streams, one of data and one of errors, each pair a connection to a port of the Pod.
//!
//! Refuses to know what carries the streams; the headers are those of `portforward.k8s.io`.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::dial;
use super::spdy::{Stream, StreamOutput, serve};

/// Connections whose second stream has not come.
const HALVES: usize = 256;
/// One read from the Pod.
const READ: usize = 32 << 10;

/// Where forwarded connections go.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The Pod's name, for messages.
    pub pod: String,
    /// The Pod's network namespace; the host's own for a Pod without one.
    pub namespace: Option<PathBuf>,
}

/// Why a stream cannot be part of a connection.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum BadStream {
    #[error("{0:?} header is required")]
    Missing(&'static str),
    #[error("unable to parse {0:?} as a port")]
    Port(String),
    #[error("invalid stream type {0:?}")]
    Kind(String),
    #[error("{0} stream already assigned")]
    Twice(&'static str),
    #[error("too many connections wait for their second stream")]
    TooMany,
}

/// Serves a SPDY connection whose streams are forwarded connections.
pub async fn run(connection: impl AsyncRead + AsyncWrite, to: Destination) {
    let (sender, opened) = mpsc::channel(1);
    tokio::select! {
        served = serve(connection, sender) => if let Err(error) = served {
            tracing::debug!(%error, "port forwarding has ended");
        },
        () = pair_up(opened, Arc::new(to)) => {}
    }
}

/// A connection of which one stream or both are there.
#[derive(Debug, Default)]
struct Half {
    data: Option<Stream>,
    error: Option<Stream>,
}

async fn pair_up(mut opened: mpsc::Receiver<Stream>, to: Arc<Destination>) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut connections = JoinSet::new();
    while let Some(stream) = opened.recv().await {
        while connections.try_join_next().is_some() {}
        let output = stream.output.clone();
        match place(&mut halves, stream) {
            Ok(Some((port, data, error))) => {
                connections.spawn(forward(to.clone(), port, data, error));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, pod = to.pod, "a stream to forward was refused");
                output.reset().await;
            }
        }
    }
}

/// Puts a stream to its other half; a connection is whole with both.
fn place(
    halves: &mut HashMap<String, Half>,
    stream: Stream,
) -> Result<Option<(u16, Stream, Stream)>, BadStream> {
    let header = |name| stream.headers.get(name).cloned().ok_or(BadStream::Missing(name));
    let port = header("port")?;
    let port = port
        .parse::<u16>()
        .ok()
        .filter(|p| *p != 0)
        .ok_or(BadStream::Port(port))?;
    let kind = header("streamtype")?;
    let request = header("requestid").unwrap_or_else(|_| first_of_pair(&kind, stream.id));
    if halves.len() >= HALVES && !halves.contains_key(&request) {
        return Err(BadStream::TooMany);
    }
    let half = halves.entry(request.clone()).or_default();
    let (slot, name) = match kind.as_str() {
        "data" => (&mut half.data, "data"),
        "error" => (&mut half.error, "error"),
        _ => return Err(BadStream::Kind(kind)),
    };
    if slot.replace(stream).is_some() {
        return Err(BadStream::Twice(name));
    }
    match halves.remove(&request) {
        Some(Half {
            data: Some(data),
            error: Some(error),
        }) => Ok(Some((port, data, error))),
        Some(half) => {
            halves.insert(request, half);
            Ok(None)
        }
        None => Ok(None),
    }
}

/// Old clients number no requests, and open the error stream right before that of the data.
fn first_of_pair(kind: &str, id: u32) -> String {
    match kind {
        "data" => id.saturating_sub(2),
        _ => id,
    }
    .to_string()
}

async fn forward(to: Arc<Destination>, port: u16, data: Stream, error: Stream) {
    let Stream {
        input,
        output,
        mut reset,
        ..
    } = data;
    let carried = tokio::select! {
        carried = connect_and_carry(&to, port, input, &output) => carried,
        // The client wants nothing more of it.
        _ = reset.wait_for(|reset| *reset) => return,
    };
    match carried {
        Ok(()) => output.end().await,
        Err(why) => {
            let text = message(&to, port, &why);
            error.output.send(text.as_bytes()).await && output.reset().await
        }
    };
    error.output.end().await;
}

/// What a client is told when its connection could not be made, or broke.
pub(super) fn message(to: &Destination, port: u16, why: &io::Error) -> String {
    format!(
        "error forwarding port {port} to pod {}: cannot connect to localhost:{port} in the Pod: {why}",
        to.pod
    )
}

/// Both directions. The Pod's end is the end of the connection, the client's that of its half.
pub(super) async fn connect_and_carry(
    to: &Destination,
    port: u16,
    mut input: mpsc::Receiver<Bytes>,
    output: &impl Outwards,
) -> io::Result<()> {
    let tcp = dial::connect(to.namespace.clone(), port).await?;
    let (mut reader, mut writer) = tcp.into_split();
    let sending = async {
        while let Some(bytes) = input.recv().await {
            writer.write_all(&bytes).await?;
        }
        writer.shutdown().await
    };
    let receiving = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ);
            let ended = reader.read_buf(&mut buffer).await? == 0;
            if ended || !output.send(&buffer.split()).await {
                return Ok(());
            }
        }
    };
    let mut receiving = std::pin::pin!(receiving);
    tokio::select! {
        received = receiving.as_mut() => return received,
        // A Pod that takes no more may still have something to say.
        _ = sending => {}
    }
    receiving.await
}

/// Where what a Pod sends goes.
pub(super) trait Outwards {
    /// False when nobody takes it any more.
    fn send(&self, bytes: &[u8]) -> impl Future<Output = bool> + Send;
}

impl Outwards for StreamOutput {
    async fn send(&self, bytes: &[u8]) -> bool {
        StreamOutput::send(self, bytes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tokio::net::TcpListener;

    fn stream(id: u32, headers: &[(&str, &str)]) -> (Stream, mpsc::Sender<Bytes>, mpsc::Receiver<Vec<u8>>) {
        let headers: BTreeMap<_, _> = headers
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Stream::for_test(id, headers)
    }

    #[test]
    fn streams_find_their_other_half() {
        let mut halves = HashMap::new();
        let mut put = |id, headers: &[(&str, &str)]| {
            let placed = place(&mut halves, stream(id, headers).0);
            placed.map(|whole| whole.map(|(port, data, error)| (port, data.id, error.id)))
        };
        let of = |kind: &'static str, request: &'static str| {
            [("port", "80"), ("streamtype", kind), ("requestid", request)]
        };
        assert_eq!(put(1, &of("error", "0")), Ok(None));
        assert_eq!(put(3, &of("error", "1")), Ok(None));
        assert_eq!(put(5, &of("data", "0")), Ok(Some((80, 5, 1))));
        assert_eq!(put(7, &of("error", "1")), Err(BadStream::Twice("error")));
        let old = |kind: &'static str| [("port", "81"), ("streamtype", kind)];
        assert_eq!(put(9, &old("error")), Ok(None));
        assert_eq!(put(11, &old("data")), Ok(Some((81, 11, 9))));
        assert_eq!(
            put(13, &[("streamtype", "data")]),
            Err(BadStream::Missing("port"))
        );
        assert_eq!(
            put(15, &[("port", "0"), ("streamtype", "data")]),
            Err(BadStream::Port("0".into()))
        );
        assert_eq!(
            put(17, &[("port", "1"), ("streamtype", "x")]),
            Err(BadStream::Kind("x".into()))
        );
    }

    #[tokio::test]
    async fn a_connection_is_carried_and_a_refused_one_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let to = Arc::new(Destination {
            pod: "p".into(),
            namespace: None,
        });
        let (data, client, mut answers) = stream(3, &[]);
        let (error, _, mut errors) = stream(1, &[]);
        let forwarding = tokio::spawn(forward(to.clone(), port, data, error));
        let (mut pod, _) = listener.accept().await.unwrap();
        client.send("ping".into()).await.unwrap();
        drop(client);
        let mut heard = String::new();
        pod.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "ping", "the client's half has ended");
        pod.write_all(b"pong").await.unwrap();
        drop(pod);
        assert!(answers.recv().await.unwrap().ends_with(b"pong"));
        forwarding.await.unwrap();
        assert_eq!(errors.recv().await.unwrap().len(), 8, "an empty last frame");
        drop(listener);
        let ((data, ..), (error, _, mut errors)) = (stream(7, &[]), stream(5, &[]));
        forward(to, port, data, error).await;
        let told = errors.recv().await.unwrap();
        assert!(
            String::from_utf8_lossy(&told).contains("error forwarding port"),
            "{told:?}"
        );
    }
}
