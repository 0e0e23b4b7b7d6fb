//! The way of events to containerd: one after the other, each until containerd has it or it was tried often enough.
//!
//! containerd's own shim puts one that failed behind the others; here it holds them up, so that they stay in order. One that
//! containerd will not have at all is dropped.

use std::time::Duration;

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::EventsClient;
use tokio::net::UnixStream;
use tokio::sync::mpsc::{self, Receiver, Sender, WeakSender};
use tokio::task::JoinHandle;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::with_duration;
use ttrpc::{Code, Error};

/// Events that wait at most, as in containerd's own shim; a long absence of containerd loses more.
const QUEUE: usize = 2048;
/// How often an event is tried again, as there.
const RETRIES: u32 = 5;
/// How long containerd may take to take one.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// How long a shim waits for containerd.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The pause before an event's second try; each further one is that much longer than the one before.
    pub pause: Duration,
    /// For all that has not been told yet when the process goes.
    pub end: Duration,
}

impl Patience {
    /// As containerd's own shim has it.
    pub const USUAL: Self = Self {
        pause: Duration::from_secs(1),
        end: Duration::from_secs(5),
    };
}

/// Events on their way, if anybody is told any.
#[derive(Debug, Default)]
pub struct Delivery(Option<Running>);

#[derive(Debug)]
struct Running {
    queue: Sender<Envelope>,
    task: JoinHandle<()>,
    limit: Duration,
}

/// Begins to deliver what comes into a queue, until the delivery is to finish.
pub(super) fn begin(address: &str, patience: Patience) -> (WeakSender<Envelope>, Delivery) {
    let (queue, waiting) = mpsc::channel(QUEUE);
    let containerd = Containerd {
        socket: address.strip_prefix("unix://").unwrap_or(address).to_owned(),
        client: None,
        pause: patience.pause,
    };
    let weak = queue.downgrade();
    let running = Running {
        queue,
        task: tokio::spawn(containerd.tell_all(waiting)),
        limit: patience.end,
    };
    (weak, Delivery(Some(running)))
}

impl Delivery {
    /// Takes no more, and waits a while for those that are there.
    pub async fn finish(self) {
        let Some(running) = self.0 else { return };
        drop(running.queue);
        match tokio::time::timeout(running.limit, running.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "containerd was not told everything"),
            Err(_) => tracing::warn!("containerd was not told everything: it does not answer"),
        }
    }
}

struct Containerd {
    socket: String,
    client: Option<EventsClient>,
    pause: Duration,
}

impl Containerd {
    async fn tell_all(mut self, mut queue: Receiver<Envelope>) {
        while let Some(envelope) = queue.recv().await {
            let request = ForwardRequest {
                envelope: MessageField::some(envelope),
                ..ForwardRequest::default()
            };
            if let Err(error) = self.tell(&request).await {
                tracing::warn!(topic = request.envelope.topic, %error, "containerd was not told");
            }
        }
    }

    async fn tell(&mut self, request: &ForwardRequest) -> Result<(), Error> {
        for pauses in 1..=RETRIES {
            match self.forward(request).await {
                Ok(()) => return Ok(()),
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => tracing::debug!(%error, "containerd was not told yet"),
            }
            tokio::time::sleep(self.pause * pauses).await;
        }
        self.forward(request).await
    }

    /// One try. The connection may have ended since the last event: that is no failure yet.
    async fn forward(&mut self, request: &ForwardRequest) -> Result<(), Error> {
        if let Some(client) = &self.client {
            match send(client, request).await {
                Err(error) if !matches!(error, Error::RpcStatus(_)) => self.client = None,
                answered => return answered,
            }
        }
        let client = connect(&self.socket).await?;
        let sent = send(&client, request).await;
        if matches!(sent, Ok(()) | Err(Error::RpcStatus(_))) {
            self.client = Some(client);
        }
        sent
    }
}

/// Whether the same event would be refused again.
fn is_final(error: &Error) -> bool {
    let Error::RpcStatus(status) = error else {
        return false;
    };
    matches!(
        status.code(),
        Code::INVALID_ARGUMENT
            | Code::NOT_FOUND
            | Code::ALREADY_EXISTS
            | Code::PERMISSION_DENIED
            | Code::FAILED_PRECONDITION
            | Code::OUT_OF_RANGE
            | Code::UNIMPLEMENTED
            | Code::UNAUTHENTICATED
    )
}

/// Where nobody accepts connections this waits no more than where nobody listens.
async fn connect(socket: &str) -> Result<EventsClient, Error> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| Error::Socket(error.to_string()))?;
    Ok(EventsClient::new(Client::new(Socket::from(stream))))
}

async fn send(client: &EventsClient, request: &ForwardRequest) -> Result<(), Error> {
    client.forward(with_duration(CALL_LIMIT), request).await.map(drop)
}
