//! Records Events (core/v1) about objects, as client-go's recorder: fire and forget, off the caller's path, and a little later: what
//! they tell of goes on first.
//!
//! Repeats are counted on one Event instead of making new ones; chatty objects are throttled (see `correlate`).
mod correlate;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::raw::Objects;
use correlate::{Correlator, Verdict};

/// Events waiting to be written; beyond it the newest are dropped (client-go's watch queue holds as many).
const WAITING_LIMIT: usize = 1000;
/// The API refuses longer messages in events.k8s.io, and client-go cuts there too.
const MESSAGE_LIMIT: usize = 1024;

/// How long after it happened an event is written: a Pod that was bound starts meanwhile, and nobody waits for what is told of it.
const REST: Duration = Duration::from_millis(20);

/// One thing that happened to an object.
#[derive(Clone, Debug)]
pub(super) struct Occurrence {
    component: &'static str,
    about: ObjectReference,
    type_: &'static str,
    reason: String,
    message: String,
    at: Timestamp,
    /// When it is to be written.
    due: Instant,
}

/// Where all recorders of a process write.
#[derive(Clone)]
pub struct EventSink(mpsc::Sender<Occurrence>);

impl EventSink {
    /// Starts the task that writes; it ends with `shutdown`.
    pub fn start(client: Client, shutdown: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_LIMIT);
        tokio::spawn(async move {
            shutdown.run_until_cancelled(write_all(client, receiver)).await;
        });
        Self(sender)
    }

    /// A recorder that signs as `component`, say `deployment-controller`.
    pub fn recorder(&self, component: &'static str) -> Recorder {
        Recorder {
            sender: self.0.clone(),
            component,
        }
    }
}

#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Occurrence>,
    component: &'static str,
}

impl Recorder {
    pub fn normal(&self, about: &impl Subject, reason: &str, message: impl Into<String>) {
        self.record(about, "Normal", reason, message.into());
    }

    pub fn warning(&self, about: &impl Subject, reason: &str, message: impl Into<String>) {
        self.record(about, "Warning", reason, message.into());
    }

    fn record(&self, about: &impl Subject, type_: &'static str, reason: &str, mut message: String) {
        message.truncate(message.floor_char_boundary(MESSAGE_LIMIT));
        let occurrence = Occurrence {
            component: self.component,
            about: about.reference(),
            type_,
            reason: reason.into(),
            message,
            at: Timestamp::now(),
            due: Instant::now() + REST,
        };
        if self.sender.try_send(occurrence).is_err() {
            tracing::debug!(
                component = self.component,
                reason,
                "too many events are waiting; one was dropped"
            );
        }
    }
}

/// Something an Event can be about.
pub trait Subject {
    fn reference(&self) -> ObjectReference;
}

impl<K: Resource<DynamicType = ()>> Subject for K {
    fn reference(&self) -> ObjectReference {
        self.object_ref(&())
    }
}

/// A reference already made.
pub struct About(pub ObjectReference);

impl Subject for About {
    fn reference(&self) -> ObjectReference {
        self.0.clone()
    }
}

async fn write_all(client: Client, mut receiver: mpsc::Receiver<Occurrence>) {
    let mut correlator = Correlator::default();
    while let Some(occurrence) = receiver.recv().await {
        tokio::time::sleep_until(occurrence.due).await;
        let now = occurrence.at;
        let verdict = correlator.observe(&occurrence, now);
        if let Err(error) = write(&client, &mut correlator, &occurrence, verdict, now).await {
            tracing::debug!(reason = occurrence.reason, %error, "an event was not written");
        }
    }
}

async fn write(
    client: &Client,
    correlator: &mut Correlator,
    occurrence: &Occurrence,
    verdict: Verdict,
    now: Timestamp,
) -> Result<(), kube::Error> {
    let api: Objects<Event> = Objects::in_namespace(client, namespace_of(&occurrence.about));
    let (name, message) = match verdict {
        Verdict::Drop => return Ok(()),
        Verdict::Create { name, message } => (name, message),
        Verdict::Count { name, count, message } => {
            let patch = json!({"count": count, "lastTimestamp": Time(now), "message": message});
            match api.merge(&name, patch).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => (name, message),
                result => return result.map(drop),
            }
        }
    };
    let event = event(occurrence, name, message, now);
    match api.create(&event).await {
        Ok(_) => Ok(()),
        Err(error) => {
            correlator.forget(occurrence);
            Err(error)
        }
    }
}

/// Events about cluster-scoped objects live in `default`.
fn namespace_of(about: &ObjectReference) -> &str {
    about
        .namespace
        .as_deref()
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or("default")
}

fn event(occurrence: &Occurrence, name: String, message: String, now: Timestamp) -> Event {
    let time = Some(Time(now));
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace_of(&occurrence.about).to_owned()),
            ..Default::default()
        },
        involved_object: occurrence.about.clone(),
        reason: Some(occurrence.reason.clone()),
        message: Some(message),
        source: Some(EventSource {
            component: Some(occurrence.component.to_owned()),
            host: None,
        }),
        reporting_component: Some(occurrence.component.to_owned()),
        reporting_instance: Some(String::new()),
        first_timestamp: time.clone(),
        last_timestamp: time,
        count: Some(1),
        type_: Some(occurrence.type_.to_owned()),
        ..Default::default()
    }
}
