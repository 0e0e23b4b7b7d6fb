//! Events as upstream's recorder writes them (core/v1): the same event again raises its count. Losing one under
//! load is allowed; waiting for the API is not. Nobody waits for events: they are written when what they tell of has got on.

mod correlate;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::correlate::Correlator;
use crate::pods::view::PodView;

/// Events waiting for the API; more are dropped, as upstream drops them.
const QUEUE: usize = 1000;
/// Events remembered for aggregation; upstream's cache holds as many.
const REMEMBERED: usize = 4096;
/// A message is cut here; the API refuses more than 1024 bytes of note.
const MESSAGE_LIMIT: usize = 1024;
/// How long after it happened an event is written: a Pod that starts has the processors, and the API server's disk, for itself
/// until it runs, as long as a status may wait for the next one.
const REST: Duration = Duration::from_millis(20);
/// What too many alike but for their words are told as.
const COMBINED: &str = "(combined from similar events): ";
/// Who reports, of what upstream has two programs for.
const KUBELET: &str = "kubelet";
const PROXY: &str = "kube-proxy";

/// `type` of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    Normal,
    Warning,
}

impl Severity {
    fn text(self) -> &'static str {
        match self {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        }
    }
}

/// Something that happened to an object.
struct Happening {
    object: ObjectReference,
    severity: Severity,
    reason: &'static str,
    message: String,
    /// What it tells anew, where the message says more every time.
    topic: Option<String>,
    annotations: BTreeMap<String, String>,
    component: &'static str,
    /// What was being done.
    action: Option<&'static str>,
    at: jiff::Timestamp,
    /// When it is to be written.
    due: Instant,
}

impl Happening {
    fn now(object: ObjectReference, severity: Severity, reason: &'static str, message: String) -> Self {
        Self {
            object,
            severity,
            reason,
            message,
            topic: None,
            annotations: BTreeMap::new(),
            component: KUBELET,
            action: None,
            at: jiff::Timestamp::now(),
            due: Instant::now() + REST,
        }
    }
}

/// A cheap handle; clones write to the same queue.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Happening>,
}

impl Recorder {
    /// Starts the task that writes events until `shutdown`.
    pub fn start(client: Client, node_name: &str, shutdown: CancellationToken) -> Recorder {
        let (queue, events) = mpsc::channel(QUEUE);
        let writer = Writer {
            client,
            host: node_name.to_owned(),
            known: HashMap::new(),
            correlator: Correlator::new(),
        };
        tokio::spawn(writer.run(events, shutdown));
        Recorder { queue }
    }

    pub fn event(&self, object: ObjectReference, severity: Severity, reason: &'static str, message: String) {
        self.put(Happening::now(object, severity, reason, message));
    }

    /// An event of a Service on this node, while `action` was being done. Its uid is not told, as upstream does not.
    pub fn service(
        &self,
        (namespace, name): (&str, &str),
        reason: &'static str,
        action: &'static str,
        message: String,
    ) {
        let object = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            ..ObjectReference::default()
        };
        self.put(Happening {
            component: PROXY,
            action: Some(action),
            ..Happening::now(object, Severity::Warning, reason, message)
        });
    }

    fn put(&self, happening: Happening) {
        if let Err(error) = self.queue.try_send(happening) {
            tracing::debug!(%error, "an event was dropped");
        }
    }

    /// An event of a container, with its field path.
    pub fn container(
        &self,
        pod: PodView<'_>,
        name: &str,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        let field_path = Some(pod.field_path(name));
        self.event(
            ObjectReference {
                field_path,
                ..pod_reference(pod)
            },
            severity,
            reason,
            message,
        );
    }

    /// How far the pull of a container's image has come: one event whose message is replaced.
    pub fn progress(&self, pod: PodView<'_>, name: &str, topic: String, message: String) {
        let object = ObjectReference {
            field_path: Some(pod.field_path(name)),
            ..pod_reference(pod)
        };
        self.put(Happening {
            topic: Some(topic),
            ..Happening::now(object, Severity::Normal, "Pulling", message)
        });
    }

    pub fn pod(&self, pod: PodView<'_>, severity: Severity, reason: &'static str, message: String) {
        self.event(pod_reference(pod), severity, reason, message);
    }

    /// An event that says more to programs than to people.
    pub fn annotated(
        &self,
        pod: PodView<'_>,
        severity: Severity,
        reason: &'static str,
        message: String,
        annotations: BTreeMap<String, String>,
    ) {
        self.put(Happening {
            annotations,
            ..Happening::now(pod_reference(pod), severity, reason, message)
        });
    }
}

fn pod_reference(pod: PodView<'_>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(pod.name().to_owned()),
        namespace: Some(pod.namespace().to_owned()),
        uid: Some(pod.uid().to_owned()),
        resource_version: pod.pod.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// Reference to a Node.
pub fn node_reference(node: &Node) -> ObjectReference {
    node_reference_of(node.metadata.name.as_deref().unwrap_or_default())
}

/// Reference to the Node of this name as upstream's kubelet makes it: the uid is the name.
pub fn node_reference_of(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".into()),
        uid: Some(name.to_owned()),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

/// What makes two events the same.
type Key = (Source, String, Severity, &'static str, String);

/// The component, and the object's kind, namespace, name and uid.
type Source = (&'static str, [String; 4]);

struct Known {
    name: String,
    count: i32,
}

struct Writer {
    client: Client,
    host: String,
    known: HashMap<Key, Known>,
    correlator: Correlator<(Source, Severity), &'static str>,
}

impl Writer {
    async fn run(mut self, mut events: mpsc::Receiver<Happening>, shutdown: CancellationToken) {
        while let Some(Some(event)) = shutdown.run_until_cancelled(events.recv()).await {
            let Some(event) = self.correlated(event) else {
                continue;
            };
            // One that is there when the agent ends is written at once.
            shutdown
                .run_until_cancelled(tokio::time::sleep_until(event.due))
                .await;
            let message = cut(&event.message);
            if let Err(error) = self.write(event, message).await {
                tracing::debug!(%error, "an event was not written");
            }
        }
    }

    /// What is to be written of it. The course of a pull is one event anyway.
    fn correlated(&mut self, mut event: Happening) -> Option<Happening> {
        if event.topic.is_some() {
            return Some(event);
        }
        let (of, now) = ((source(&event), event.severity), Instant::now());
        if self.correlator.combines(&of, event.reason, &event.message, now) {
            event.message.insert_str(0, COMBINED);
            event.topic = Some(COMBINED.to_owned());
        }
        self.correlator.lets(of, now).then_some(event)
    }

    async fn write(&mut self, event: Happening, message: String) -> Result<(), kube::Error> {
        let namespace = event.object.namespace.clone().unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let now = event.at;
        let key = key(&event, &message);
        if let Some(known) = self.known.get_mut(&key) {
            let patch = json!({"count": known.count + 1, "lastTimestamp": Time(now), "message": &message});
            match api
                .patch(&known.name, &PatchParams::default(), &Patch::Merge(patch))
                .await
            {
                Ok(_) => {
                    known.count += 1;
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let object = self.object(event, &namespace, message, now);
        let name = object.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &object).await?;
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(key, Known { name, count: 1 });
        Ok(())
    }

    fn object(&self, event: Happening, namespace: &str, message: String, now: jiff::Timestamp) -> Event {
        let name = event.object.name.as_deref().unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(namespace.to_owned()),
                annotations: Some(event.annotations).filter(|all| !all.is_empty()),
                ..ObjectMeta::default()
            },
            involved_object: event.object,
            reason: Some(event.reason.to_owned()),
            message: Some(message),
            type_: Some(event.severity.text().to_owned()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource {
                component: Some(event.component.into()),
                host: Some(self.host.clone()),
            }),
            reporting_component: Some(event.component.into()),
            action: event.action.map(str::to_owned),
            reporting_instance: Some(self.host.clone()),
            ..Event::default()
        }
    }
}

fn key(event: &Happening, message: &str) -> Key {
    let is_combined = event.topic.as_deref() == Some(COMBINED);
    let path = event.object.field_path.clone().filter(|_| !is_combined);
    let same = event.topic.as_deref().unwrap_or(message).to_owned();
    (
        source(event),
        path.unwrap_or_default(),
        event.severity,
        event.reason,
        same,
    )
}

/// Who tells of what. Not every object is told with its uid.
fn source(event: &Happening) -> Source {
    let object = &event.object;
    let parts = [&object.kind, &object.namespace, &object.name, &object.uid];
    (
        event.component,
        parts.map(|part| part.clone().unwrap_or_default()),
    )
}

/// Cuts a message at a character within the limit.
fn cut(message: &str) -> String {
    let mut end = message.len().min(MESSAGE_LIMIT);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    use http::{Request, Response};
    use http_body_util::BodyExt;
    use kube::client::Body;
    use serde_json::Value;

    #[tokio::test]
    async fn an_event_lets_a_start_go_first_and_tells_when_it_happened() {
        let (written, mut writes) = mpsc::channel(2);
        let answer = move |request: Request<Body>| {
            let written = written.clone();
            async move {
                let bytes = request.into_body().collect().await?.to_bytes();
                let event: Value = serde_json::from_slice(&bytes).unwrap();
                let answer = Response::new(Body::from(bytes.to_vec()));
                written.send((Instant::now(), event)).await.unwrap();
                Ok::<_, kube::Error>(answer)
            }
        };
        let client = Client::new(tower::service_fn(answer), "default");
        let (begun, before) = (Instant::now(), jiff::Timestamp::now());
        let recorder = Recorder::start(client, "n", CancellationToken::new());
        recorder.event(node_reference_of("n"), Severity::Normal, "One", "1".into());
        let after = jiff::Timestamp::now();
        recorder.event(node_reference_of("n"), Severity::Normal, "Other", "2".into());
        let (at, first) = writes.recv().await.unwrap();
        assert!(at >= begun + REST, "{:?}", at - begun);
        let told: Time = serde_json::from_value(first["firstTimestamp"].clone()).unwrap();
        let seconds = told.0.as_second();
        assert!(
            (before.as_second()..=after.as_second()).contains(&seconds),
            "{first}"
        );
        let (_, second) = writes.recv().await.unwrap();
        assert_eq!(
            (&first["reason"], &second["reason"]),
            (&json!("One"), &json!("Other"))
        );
    }

    #[tokio::test]
    async fn what_programs_read_is_in_annotations() {
        let answer = |_: Request<Body>| async { Ok::<_, kube::Error>(Response::new(Body::empty())) };
        let writer = Writer {
            client: Client::new(tower::service_fn(answer), "default"),
            host: "n".into(),
            known: HashMap::new(),
            correlator: Correlator::new(),
        };
        let of = |annotations: Option<BTreeMap<String, String>>| {
            let event = Happening::now(node_reference_of("n"), Severity::Warning, "R", "m".into());
            let event = Happening {
                annotations: annotations.unwrap_or_default(),
                ..event
            };
            writer
                .object(event, "default", "m".into(), jiff::Timestamp::now())
                .metadata
                .annotations
        };
        let some: BTreeMap<_, _> = [("starved_resource".to_owned(), "memory".to_owned())].into();
        assert_eq!(of(Some(some.clone())), Some(some));
        assert_eq!(of(None), None);
    }

    #[tokio::test]
    async fn a_pod_of_many_containers_is_told_of_in_few_events() {
        let answer = |_: Request<Body>| async { Ok::<_, kube::Error>(Response::new(Body::empty())) };
        let mut writer = Writer {
            client: Client::new(tower::service_fn(answer), "default"),
            host: "n".into(),
            known: HashMap::new(),
            correlator: Correlator::new(),
        };
        let event = |i: usize| {
            let mut object = node_reference_of("n");
            object.field_path = Some(format!("spec.containers{{c{i}}}"));
            Happening::now(object, Severity::Warning, "Failed", format!("image of c{i}"))
        };
        let told: Vec<Happening> = (0..1000).filter_map(|i| writer.correlated(event(i))).collect();
        assert_eq!(told.len(), 25);
        assert_eq!(told[8].message, "image of c8");
        assert_eq!(told[24].message, "(combined from similar events): image of c24");
        let keys: std::collections::HashSet<Key> = told.iter().map(|one| key(one, &one.message)).collect();
        assert_eq!(keys.len(), 10);
        let normal = Happening::now(node_reference_of("n"), Severity::Normal, "Killing", "c".into());
        assert!(
            writer.correlated(normal).is_some(),
            "warnings silence warnings only"
        );
        let other = Happening::now(node_reference_of("m"), Severity::Warning, "Failed", "c".into());
        assert!(writer.correlated(other).is_some());
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        assert_eq!(cut(&"é".repeat(600)).len(), 1024);
        assert_eq!(cut(&format!("a{}", "é".repeat(600))).len(), 1023);
        assert_eq!(cut("short"), "short");
    }
}
