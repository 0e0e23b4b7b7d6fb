//! Streams over one WebSocket, by `channel.k8s.io` and its versions 4 and 5: a binary message is a channel's number
//! and bytes of it; in v5 a message on channel 255 ends the channel it names (KEP-4006).

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::client::{Channel, Wire};
use super::request::StreamOptions;
use super::status;
use super::upgrade::Protocol;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Bytes of one message; clients send input in pieces of 32 KiB.
const MESSAGE_LIMIT: usize = 1 << 20;
/// How often a client is asked whether it is still there: one that vanished is found out by the answer of its host.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long a client may leave what it asked for unread (a pager somebody looks at), before its streams are closed.
const UNREAD_LIMIT: Duration = Duration::from_secs(30 * 60);
/// How long a client may take to confirm the end.
const GOODBYE: Duration = Duration::from_secs(5);

/// Why a client's streams are closed before their end.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// The client has closed the connection, or it broke.
    Gone,
    /// The client sent what the protocol does not know.
    Protocol(&'static str),
    /// The client reads nothing.
    Unread,
}

/// A WebSocket whose handshake is done, with limits.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(connection: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_LIMIT))
        .max_frame_size(Some(MESSAGE_LIMIT));
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await
}

/// Carries streams until everything was said, or the client is gone.
pub async fn carry(
    connection: impl AsyncRead + AsyncWrite + Unpin,
    protocol: Protocol,
    wire: Wire,
    options: &StreamOptions,
) {
    carry_within(UNREAD_LIMIT, connection, protocol, wire, options).await;
}

async fn carry_within(
    unread: Duration,
    connection: impl AsyncRead + AsyncWrite + Unpin,
    protocol: Protocol,
    wire: Wire,
    options: &StreamOptions,
) {
    let (mut sink, mut stream) = accept(connection).await.split();
    let Wire {
        stdin,
        sizes,
        output,
        gone,
    } = wire;
    let mut incoming = Incoming {
        stdin,
        sizes,
        protocol,
    };
    let fault = {
        let mut reading = std::pin::pin!(read(&mut stream, &mut incoming));
        tokio::select! {
            written = write(&mut sink, output, (protocol, options), unread) => match written {
                Ok(()) => {
                    let close = sink.send(Message::Close(Some(close(CloseCode::Normal, ""))));
                    let _ = timeout(GOODBYE, async { tokio::join!(close, reading.as_mut()) }).await;
                    Fault::Gone
                }
                Err(fault) => fault,
            },
            fault = reading.as_mut() => fault,
        }
    };
    gone.cancel();
    if let Fault::Protocol(why) = fault {
        let refusal = sink.send(Message::Close(Some(close(CloseCode::Protocol, why))));
        // Whoever breaks the protocol need not hear why.
        let _ = timeout(GOODBYE, refusal).await;
    }
}

fn close(code: CloseCode, reason: &'static str) -> CloseFrame {
    CloseFrame {
        code,
        reason: reason.into(),
    }
}

/// Sends what the session says.
async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    mut output: mpsc::Receiver<(Channel, Bytes)>,
    (protocol, options): (Protocol, &StreamOptions),
    unread: Duration,
) -> Result<(), Fault> {
    // Upstream's first message: nothing, on the first channel that can be written, so that the client knows it is open.
    let first = match (options.stdout, options.stderr) {
        (true, _) => STDOUT,
        (false, true) => STDERR,
        (false, false) => ERROR,
    };
    send(sink, message(first, &[]), unread).await?;
    let mut pings = interval(PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings.reset();
    loop {
        tokio::select! {
            said = output.recv() => match said {
                Some((channel, mut bytes)) => {
                    let number = match channel {
                        Channel::Stdout if options.stdout => STDOUT,
                        Channel::Stderr if options.stderr => STDERR,
                        Channel::Stdout | Channel::Stderr => continue,
                        Channel::Error if protocol == Protocol::V1 => match status::sentence(&bytes) {
                            Some(sentence) => {
                                bytes = sentence.into();
                                ERROR
                            }
                            None => continue,
                        },
                        Channel::Error => ERROR,
                    };
                    send(sink, message(number, &bytes), unread).await?;
                }
                None => return Ok(()),
            },
            _ = pings.tick() => send(sink, Message::Ping(Bytes::new()), unread).await?,
        }
    }
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut framed = Vec::with_capacity(bytes.len() + 1);
    framed.push(channel);
    framed.extend_from_slice(bytes);
    Message::Binary(framed.into())
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    message: Message,
    unread: Duration,
) -> Result<(), Fault> {
    match timeout(unread, sink.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Fault::Gone),
        Err(_) => Err(Fault::Unread),
    }
}

/// Where what the client sends goes.
struct Incoming {
    stdin: Option<mpsc::Sender<Bytes>>,
    sizes: tokio::sync::watch::Sender<Option<super::client::Size>>,
    protocol: Protocol,
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut SplitStream<WebSocketStream<S>>,
    incoming: &mut Incoming,
) -> Fault {
    while let Some(message) = stream.next().await {
        let taken = match message {
            Ok(Message::Binary(bytes)) => incoming.take(bytes).await,
            Ok(Message::Text(_)) => Err(Fault::Protocol("streams are carried by binary messages")),
            Ok(Message::Close(_)) | Err(_) => Err(Fault::Gone),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Ok(()),
        };
        if let Err(fault) = taken {
            return fault;
        }
    }
    Fault::Gone
}

impl Incoming {
    /// Takes one message in. Input is waited for until the process reads it: that holds the client back.
    async fn take(&mut self, mut bytes: Bytes) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Err(Fault::Protocol("a message without a channel number"));
        }
        let channel = bytes.split_to(1)[0];
        match (channel, self.protocol) {
            (STDIN, _) => {
                if let Some(stdin) = self.stdin.as_ref().filter(|_| !bytes.is_empty()) {
                    // A process that has ended reads no more.
                    let _ = stdin.send(bytes).await;
                }
                Ok(())
            }
            (RESIZE, _) => {
                // One that is no size is left out, as upstream does.
                if let Ok(size) = serde_json::from_slice(&bytes) {
                    self.sizes.send_replace(Some(size));
                }
                Ok(())
            }
            (CLOSE, Protocol::V5) if bytes.as_ref() == [STDIN] => {
                self.stdin = None;
                Ok(())
            }
            (CLOSE, Protocol::V5) => Ok(()),
            _ => Err(Fault::Protocol("unknown channel")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::{self, Input, Output, Size};
    use super::*;
    use serde_json::json;
    use tokio::io::DuplexStream;

    type Peer = WebSocketStream<DuplexStream>;

    /// A client's WebSocket, the session it reaches, and the task that carries both.
    async fn open(protocol: Protocol) -> (Peer, (Input, Output), tokio::task::JoinHandle<()>) {
        let (ours, theirs) = tokio::io::duplex(256);
        let options = StreamOptions {
            stdin: true,
            stdout: true,
            stderr: true,
            ..StreamOptions::default()
        };
        let (input, output, wire) = client::pair(&options);
        let carrying = tokio::spawn(async move { carry(ours, protocol, wire, &options).await });
        let mut peer = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        assert_eq!(peer.next().await.unwrap().unwrap(), message(STDOUT, &[]));
        (peer, (input, output), carrying)
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_the_status_last() {
        let (mut peer, (mut input, output), carrying) = open(Protocol::V5).await;
        peer.send(message(STDIN, b"in")).await.unwrap();
        peer.send(message(RESIZE, br#"{"Width":80,"Height":24}"#))
            .await
            .unwrap();
        peer.send(message(RESIZE, b"no size")).await.unwrap();
        peer.send(message(CLOSE, &[STDIN])).await.unwrap();
        assert_eq!(input.stdin.recv().await.unwrap(), "in");
        assert_eq!(input.stdin.recv().await, None, "the input has ended");
        let size = Size {
            width: 80,
            height: 24,
        };
        assert_eq!(*input.sizes.borrow(), Some(size));
        output.send(Channel::Stderr, "out".into()).await;
        assert_eq!(peer.next().await.unwrap().unwrap(), message(STDERR, b"out"));
        output.finish(json!({"status": "Success"})).await;
        let last = peer.next().await.unwrap().unwrap();
        assert_eq!(last, message(ERROR, br#"{"status":"Success"}"#));
        assert!(
            matches!(peer.next().await.unwrap().unwrap(), Message::Close(Some(f)) if f.code == CloseCode::Normal)
        );
        drop(peer);
        carrying.await.unwrap();
    }

    #[tokio::test]
    async fn the_oldest_protocol_ends_with_a_sentence_or_nothing() {
        for (status, said) in [
            (json!({"status": "Success"}), None),
            (
                json!({"status": "Failure", "message": "exit status 3"}),
                Some("exit status 3"),
            ),
        ] {
            let (mut peer, (_input, output), carrying) = open(Protocol::V1).await;
            output.send(Channel::Stdout, "out".into()).await;
            output.finish(status).await;
            assert_eq!(peer.next().await.unwrap().unwrap(), message(STDOUT, b"out"));
            if let Some(said) = said {
                assert_eq!(
                    peer.next().await.unwrap().unwrap(),
                    message(ERROR, said.as_bytes())
                );
            }
            assert!(matches!(
                peer.next().await.unwrap().unwrap(),
                Message::Close(Some(_))
            ));
            drop(peer);
            carrying.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_noticed() {
        let (peer, (_input, output), carrying) = open(Protocol::V4).await;
        drop(peer);
        output.gone().await;
        carrying.await.unwrap();
    }

    #[tokio::test]
    async fn what_the_protocol_does_not_know_ends_it() {
        let bad = [
            (Protocol::V5, message(9, b"x")),
            (Protocol::V4, message(CLOSE, &[STDIN])),
            (Protocol::V5, Message::Text("x".into())),
            (Protocol::V5, Message::Binary(Bytes::new())),
        ];
        for (protocol, bad) in bad {
            let (mut peer, (_input, output), carrying) = open(protocol).await;
            peer.send(bad.clone()).await.unwrap();
            output.gone().await;
            let end = peer.next().await.unwrap().unwrap();
            assert!(
                matches!(&end, Message::Close(Some(f)) if f.code == CloseCode::Protocol),
                "{bad:?}: {end:?}"
            );
            carrying.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_flood_of_sizes_costs_one() {
        let (mut peer, (input, _output), _carrying) = open(Protocol::V5).await;
        for width in 1..=5000 {
            let size = format!(r#"{{"Width":{width},"Height":1}}"#);
            peer.send(message(RESIZE, size.as_bytes())).await.unwrap();
        }
        let mut sizes = input.sizes;
        let last = sizes.wait_for(|size| size.is_some_and(|s| s.width == 5000));
        assert!(last.await.is_ok());
    }

    #[tokio::test]
    async fn a_client_that_never_reads_is_left() {
        let (ours, _theirs) = tokio::io::duplex(256);
        let options = StreamOptions {
            stdout: true,
            ..StreamOptions::default()
        };
        let (_input, output, wire) = client::pair(&options);
        let flood = async {
            loop {
                output.send(Channel::Stdout, vec![0; 4096].into()).await;
            }
        };
        let briefly = Duration::from_millis(20);
        tokio::select! {
            () = flood => {}
            () = carry_within(briefly, ours, Protocol::V5, wire, &options) => {}
        }
        output.gone().await;
    }
}
