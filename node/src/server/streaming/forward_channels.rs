//! `port-forward` over plain WebSocket channels (`v4.channel.k8s.io`): two per port asked for, data and errors, each of
//! which begins with the port's number. One connection per port, and no end but the WebSocket's.

use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::forward::{Destination, Outwards, connect_and_carry, message};

/// Ports of one request: channels are numbered by a byte.
pub const PORTS: usize = 127;
/// Messages on their way in either direction.
const QUEUE: usize = 16;

/// Serves a WebSocket until its client leaves, or every connection has ended.
pub async fn run<S>(socket: WebSocketStream<S>, ports: Vec<u16>, to: Destination)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let to = Arc::new(to);
    let (mut sink, mut messages) = socket.split();
    let (said, mut queue) = mpsc::channel(QUEUE);
    let mut inputs = Vec::new();
    let mut connections = JoinSet::new();
    for (number, port) in (0u8..).step_by(2).zip(ports) {
        let (input, receiver) = mpsc::channel(QUEUE);
        inputs.push(input);
        connections.spawn(connection(
            to.clone(),
            port,
            receiver,
            Channel {
                number,
                said: said.clone(),
            },
        ));
    }
    drop(said);
    let reading = async {
        while let Some(Ok(message)) = messages.next().await {
            let Message::Binary(mut bytes) = message else {
                continue;
            };
            if bytes.is_empty() {
                continue;
            }
            let channel = bytes.split_to(1)[0];
            match inputs.get(usize::from(channel / 2)).filter(|_| channel % 2 == 0) {
                // A connection that has ended takes no more.
                Some(input) => drop(input.send(bytes).await),
                None => return,
            }
        }
    };
    let writing = async {
        while let Some(bytes) = queue.recv().await {
            if sink.send(Message::Binary(bytes)).await.is_err() {
                return;
            }
        }
        // The client may be gone before it hears of the end.
        let _ = sink.send(Message::Close(None)).await;
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

async fn connection(to: Arc<Destination>, port: u16, input: mpsc::Receiver<Bytes>, data: Channel) {
    let errors = Channel {
        number: data.number + 1,
        said: data.said.clone(),
    };
    if !(data.send(&port.to_le_bytes()).await && errors.send(&port.to_le_bytes()).await) {
        return;
    }
    if let Err(why) = connect_and_carry(&to, port, input, &data).await {
        errors.send(message(&to, port, &why).as_bytes()).await;
    }
}

/// One channel to the client.
struct Channel {
    number: u8,
    said: mpsc::Sender<Bytes>,
}

impl Outwards for Channel {
    async fn send(&self, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let mut framed = Vec::with_capacity(bytes.len() + 1);
        framed.push(self.number);
        framed.extend_from_slice(bytes);
        self.said.send(framed.into()).await.is_ok()
    }
}
