//! A connection of bytes inside a WebSocket: each binary message is a piece of it (KEP-4006).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::time::{MissedTickBehavior, interval};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Bytes of one message, and of what waits in either direction.
const PIECE: usize = 64 << 10;
/// How often a client is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(30);

/// The bytes inside, and what carries them; the first is at its end when the second is.
pub fn open<S: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<S>,
) -> (DuplexStream, impl Future<Output = ()>) {
    let (inside, outside) = tokio::io::duplex(PIECE);
    (inside, carry(socket, outside))
}

async fn carry<S: AsyncRead + AsyncWrite + Unpin>(socket: WebSocketStream<S>, inside: DuplexStream) {
    let (mut sink, mut messages) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(inside);
    let inwards = async {
        while let Some(Ok(message)) = messages.next().await {
            let written = match message {
                Message::Binary(bytes) => writer.write_all(&bytes).await,
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
                Message::Text(_) | Message::Close(_) => break,
            };
            if written.is_err() {
                break;
            }
        }
    };
    let outwards = async {
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            let message = tokio::select! {
                read = reader.read_buf(&mut buffer) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(_) => Message::Binary(buffer.split().freeze()),
                },
                _ = pings.tick() => Message::Ping(Bytes::new()),
            };
            if sink.send(message).await.is_err() {
                return;
            }
        }
        // The client may be gone before it hears of the end.
        let _ = sink.send(Message::Close(None)).await;
    };
    tokio::select! {
        () = inwards => {}
        () = outwards => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::protocol::Role;

    #[tokio::test]
    async fn bytes_go_in_and_out_in_pieces() {
        let (ours, theirs) = tokio::io::duplex(1024);
        let socket = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
        let (mut inside, carrying) = open(socket);
        let carrying = tokio::spawn(carrying);
        let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        for piece in ["pi", "ng"] {
            client
                .send(Message::binary(piece.as_bytes().to_vec()))
                .await
                .unwrap();
        }
        let mut heard = [0; 4];
        inside.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ping");
        inside.write_all(b"pong").await.unwrap();
        let mut said = Vec::new();
        while said.len() < 4 {
            if let Message::Binary(bytes) = client.next().await.unwrap().unwrap() {
                said.extend_from_slice(&bytes);
            }
        }
        assert_eq!(said, b"pong");
        drop(client);
        assert_eq!(inside.read(&mut heard).await.unwrap(), 0);
        carrying.await.unwrap();
    }
}
