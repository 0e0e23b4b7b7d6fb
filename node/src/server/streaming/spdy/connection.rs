//! One connection: reads frames into streams, writes what streams say. A stream nobody reads holds all others back,
//! as it does in the clients' own library: memory stays bounded.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::frame::{self, Decoder, Encoder, Frame, FrameError, HEAD, Head, Reset};

/// Streams open at once; a forwarded connection is two.
const STREAMS: usize = 1024;
/// Frames on their way in either direction.
const QUEUE: usize = 16;
/// How often a silent client is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long a client may leave what was sent to it unread.
const UNREAD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Why a connection has ended before its client closed it.
#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the client broke the protocol: {0}")]
    Frame(#[from] FrameError),
    #[error("the client reads nothing")]
    Unread,
}

/// A stream the client has opened.
#[derive(Debug)]
pub struct Stream {
    pub id: u32,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Ends with the client's half of the stream.
    pub input: mpsc::Receiver<Bytes>,
    pub output: StreamOutput,
    /// Becomes true when the client resets the stream.
    pub reset: watch::Receiver<bool>,
}

/// What the connection keeps of a stream somebody holds.
struct Open {
    /// Taken when the client has ended its half.
    input: Option<mpsc::Sender<Bytes>>,
    reset: watch::Sender<bool>,
}

impl Stream {
    fn new(id: u32, headers: BTreeMap<String, String>, frames: mpsc::Sender<Vec<u8>>) -> (Self, Open) {
        let (sender, input) = mpsc::channel(QUEUE);
        let (resets, reset) = watch::channel(false);
        let stream = Stream {
            id,
            headers,
            input,
            output: StreamOutput { id, frames },
            reset,
        };
        let open = Open {
            input: Some(sender),
            reset: resets,
        };
        (stream, open)
    }

    /// A stream without a connection: what is sent into it, and the frames it says.
    #[cfg(test)]
    pub fn for_test(
        id: u32,
        headers: BTreeMap<String, String>,
    ) -> (Self, mpsc::Sender<Bytes>, mpsc::Receiver<Vec<u8>>) {
        let (frames, said) = mpsc::channel(QUEUE);
        let (mut stream, _) = Self::new(id, headers, frames);
        let (input, receiver) = mpsc::channel(QUEUE);
        stream.input = receiver;
        // Never reset: the sender lives as long as the test.
        let (resets, reset) = watch::channel(false);
        stream.reset = reset;
        std::mem::forget(resets);
        (stream, input, said)
    }
}

/// Our half of a stream.
#[derive(Clone, Debug)]
pub struct StreamOutput {
    id: u32,
    frames: mpsc::Sender<Vec<u8>>,
}

impl StreamOutput {
    /// False when the connection is no more.
    pub async fn send(&self, bytes: &[u8]) -> bool {
        self.frames.send(frame::data(self.id, bytes, false)).await.is_ok()
    }

    /// Says that nothing more comes.
    pub async fn end(&self) -> bool {
        self.frames.send(frame::data(self.id, &[], true)).await.is_ok()
    }

    /// Ends both halves.
    pub async fn reset(&self) -> bool {
        let reset = frame::reset(self.id, Reset::Cancel);
        self.frames.send(reset).await.is_ok()
    }
}

/// Serves a connection until it ends, and hands out the streams its client opens.
pub async fn serve(
    connection: impl AsyncRead + AsyncWrite,
    opened: mpsc::Sender<Stream>,
) -> Result<(), SpdyError> {
    let (reader, writer) = tokio::io::split(connection);
    let (frames, queue) = mpsc::channel(QUEUE);
    let reading = Reading {
        decoder: Decoder::default(),
        encoder: Encoder::default(),
        streams: HashMap::new(),
        newest: 0,
        frames,
        opened,
    };
    tokio::select! {
        read = reading.run(reader) => read,
        written = write(writer, queue) => written,
    }
}

async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Vec<u8>>,
) -> Result<(), SpdyError> {
    let mut pings = interval(PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings.reset();
    // Pings of a server have even numbers.
    let mut ping = 0;
    loop {
        let frame = tokio::select! {
            frame = queue.recv() => match frame {
                Some(frame) => frame,
                None => return Ok(()),
            },
            _ = pings.tick() => {
                ping += 2;
                frame::ping(ping)
            }
        };
        let sending = async {
            writer.write_all(&frame).await?;
            writer.flush().await
        };
        timeout(UNREAD_LIMIT, sending)
            .await
            .map_err(|_| SpdyError::Unread)??;
    }
}

/// The connection's incoming half, and what is known of its streams.
struct Reading {
    decoder: Decoder,
    encoder: Encoder,
    streams: HashMap<u32, Open>,
    /// Numbers only grow.
    newest: u32,
    frames: mpsc::Sender<Vec<u8>>,
    opened: mpsc::Sender<Stream>,
}

impl Reading {
    async fn run(mut self, mut reader: impl AsyncRead + Unpin) -> Result<(), SpdyError> {
        loop {
            let mut head = [0; HEAD];
            match reader.read_exact(&mut head).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            };
            let head = Head::read(head)?;
            let mut payload = vec![0; head.length as usize];
            reader.read_exact(&mut payload).await?;
            let frame = self.decoder.read(head, &payload)?;
            self.take(frame, payload).await;
        }
    }

    async fn take(&mut self, frame: Frame, payload: Vec<u8>) {
        match frame {
            Frame::Open { id, headers, ended } => self.open(id, headers, ended).await,
            Frame::Data { id, ended } => {
                let Some(stream) = self.streams.get_mut(&id) else {
                    return;
                };
                if let Some(input) = stream.input.as_ref().filter(|_| !payload.is_empty()) {
                    // Whoever has let go of the stream wants no more of it.
                    let _ = input.send(payload.into()).await;
                }
                if ended {
                    stream.input = None;
                }
            }
            Frame::Reset { id } => {
                if let Some(stream) = self.streams.remove(&id) {
                    stream.reset.send_replace(true);
                }
            }
            // The answer to one of ours has an even number.
            Frame::Ping { id } if id % 2 == 1 => self.say(frame::ping(id)).await,
            Frame::Ping { .. } | Frame::Other => {}
        }
    }

    async fn open(&mut self, id: u32, headers: BTreeMap<String, String>, ended: bool) {
        if id.is_multiple_of(2) || id <= self.newest {
            return self.say(frame::reset(id, Reset::Protocol)).await;
        }
        self.newest = id;
        self.streams.retain(|_, stream| !stream.reset.is_closed());
        if self.streams.len() >= STREAMS {
            return self.say(frame::reset(id, Reset::Refused)).await;
        }
        let (stream, mut open) = Stream::new(id, headers, self.frames.clone());
        if ended {
            open.input = None;
        }
        self.streams.insert(id, open);
        let reply = self.encoder.reply(id);
        self.say(reply).await;
        if self.opened.send(stream).await.is_err() {
            self.say(frame::reset(id, Reset::Refused)).await;
        }
    }

    async fn say(&self, frame: Vec<u8>) {
        // The writer is gone only when the connection is.
        let _ = self.frames.send(frame).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::tests::open;
    use super::*;
    use tokio::io::DuplexStream;

    fn start() -> (
        DuplexStream,
        mpsc::Receiver<Stream>,
        tokio::task::JoinHandle<Result<(), SpdyError>>,
    ) {
        let (ours, theirs) = tokio::io::duplex(1024);
        let (sender, opened) = mpsc::channel(1);
        (theirs, opened, tokio::spawn(serve(ours, sender)))
    }

    async fn next(client: &mut DuplexStream) -> (u16, Vec<u8>) {
        let mut head = [0; HEAD];
        client.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        let mut payload = vec![0; length];
        client.read_exact(&mut payload).await.unwrap();
        (u16::from_be_bytes([head[2], head[3]]), payload)
    }

    #[tokio::test]
    async fn a_stream_is_opened_used_and_ended() {
        let (mut client, mut opened, serving) = start();
        let mut encoder = Encoder::default();
        client
            .write_all(&open(&mut encoder, 1, &[("a", "b")]))
            .await
            .unwrap();
        assert_eq!(next(&mut client).await.0, 2, "a reply");
        let mut stream = opened.recv().await.unwrap();
        assert_eq!(stream.headers["a"], "b");
        client.write_all(&frame::data(1, b"ping", false)).await.unwrap();
        client.write_all(&frame::data(1, b"", true)).await.unwrap();
        assert_eq!(stream.input.recv().await.unwrap(), "ping");
        assert_eq!(stream.input.recv().await, None);
        assert!(stream.output.send(b"pong").await && stream.output.end().await);
        assert_eq!(next(&mut client).await, (1, b"pong".to_vec()));
        assert_eq!(next(&mut client).await, (1, Vec::new()));
        client.write_all(&frame::ping(5)).await.unwrap();
        assert_eq!(next(&mut client).await, (6, 5u32.to_be_bytes().to_vec()));
        drop(client);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_number_may_not_come_twice() {
        let (mut client, mut opened, _serving) = start();
        let mut encoder = Encoder::default();
        for id in [3, 3] {
            client.write_all(&open(&mut encoder, id, &[])).await.unwrap();
        }
        assert_eq!(next(&mut client).await.0, 2);
        assert_eq!(next(&mut client).await.0, 3, "a reset");
        assert_eq!(opened.recv().await.unwrap().id, 3);
    }

    #[tokio::test]
    async fn nonsense_ends_the_connection() {
        let (mut client, _opened, serving) = start();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let ended = serving.await.unwrap();
        assert!(matches!(ended, Err(SpdyError::Frame(_))), "{ended:?}");
    }
}
