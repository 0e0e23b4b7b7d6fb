//! What is known of one request, and the event it becomes.
use super::policy::{Level, Ruling, Stage};
use super::told::{Annotations, Told};
use crate::auth::Identity;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The object that a request is about.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ObjectRef {
    #[serde(rename = "apiGroup", skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(rename = "apiVersion")]
    pub version: String,
    pub resource: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subresource: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(rename = "resourceVersion", skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// Who asks for what.
#[derive(Clone, Debug)]
pub struct Subject {
    pub user: Identity,
    /// Whom the user impersonates.
    pub acting_as: Option<Identity>,
    /// The verb of the right by which he does, where that is to some requests only (KEP-5284).
    pub constraint: Option<&'static str>,
    pub verb: &'static str,
    /// Path and query.
    pub uri: String,
    /// None for a path that is no resource.
    pub object: Option<ObjectRef>,
}

impl Subject {
    pub fn path(&self) -> &str {
        self.uri.split('?').next().unwrap_or_default()
    }
}

/// One request, from its beginning.
#[derive(Clone, Debug)]
pub struct Trail {
    pub id: String,
    pub received: Timestamp,
    pub agent: String,
    /// Whom it came through, by what they say; the peer itself last.
    pub from: Vec<IpAddr>,
    /// Once it is known.
    pub subject: Option<Subject>,
    pub ruling: Option<Ruling>,
    /// The body, at the levels that want it.
    pub request: Option<Value>,
    /// Gathers once the policy wants an event.
    pub told: Told,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub code: u16,
    /// The `Status` of a failure.
    pub status: Option<Value>,
    /// The object answered with, at the level that wants it.
    pub response: Option<Value>,
}

impl Trail {
    /// Whether the policy wants at least this level.
    pub fn wants(&self, level: Level) -> bool {
        self.ruling.as_ref().is_some_and(|ruling| ruling.level >= level)
    }

    /// The event of a stage; none when the policy does not want it.
    pub fn event<'t>(&'t self, stage: Stage, outcome: Option<&'t Outcome>) -> Option<Event<'t>> {
        let (subject, ruling) = (self.subject.as_ref()?, self.ruling.as_ref()?);
        if ruling.level == Level::None || ruling.omitted.contains(&stage) {
            return None;
        }
        let omits = ruling.omit_managed_fields;
        let response = outcome.and_then(|outcome| outcome.response.as_ref());
        Some(Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: ruling.level.word(),
            audit_id: &self.id,
            stage: stage.word(),
            request_uri: &subject.uri,
            verb: subject.verb,
            user: User::of(&subject.user),
            impersonated_user: subject.acting_as.as_ref().map(User::of),
            authentication_metadata: subject.constraint.map(Authentication::by),
            source_ips: &self.from,
            user_agent: &self.agent,
            object_ref: subject.object.as_ref(),
            response_status: outcome.map(Outcome::shown),
            // A patch is no object: what it says of owners is what was asked for.
            request_object: self
                .request
                .as_ref()
                .map(|sent| shown(sent, omits && subject.verb != "patch")),
            response_object: response.map(|sent| shown(sent, omits)),
            request_received_timestamp: micros(self.received),
            stage_timestamp: micros(Timestamp::now()),
            annotations: self.told.annotations(),
        })
    }

    /// Completes what the request is about by what was learnt of it, and what was sent by what it was understood as.
    pub fn complete(&mut self) {
        let verb = self.subject.as_ref().map_or("", |subject| subject.verb);
        // Of a patch or a deletion what was sent is no object, whatever is written because of it.
        if !matches!(verb, "patch" | "delete" | "deletecollection") {
            self.request = self.told.take_sent();
        }
        if let Some(about) = self.subject.as_mut().and_then(|subject| subject.object.as_mut()) {
            self.told.complete(about);
        }
    }
}

/// What was sent, with or without who owns its fields.
fn shown(sent: &Value, omits: bool) -> Value {
    let mut sent = sent.clone();
    if omits {
        drop_owners(&mut sent);
    }
    sent
}

/// Takes `managedFields` out of an object, of a list's items and of a Table's rows.
fn drop_owners(value: &mut Value) {
    forget_owners(value);
    let items = value.get_mut("items").and_then(Value::as_array_mut);
    items.into_iter().flatten().for_each(forget_owners);
    let rows = value.get_mut("rows").and_then(Value::as_array_mut);
    let objects = rows.into_iter().flatten().filter_map(|row| row.get_mut("object"));
    objects.for_each(forget_owners);
}

fn forget_owners(object: &mut Value) {
    let meta = object.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(meta) = meta {
        meta.remove("managedFields");
    }
}

/// A line of the log.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event<'t> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: &'t str,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: &'t str,
    verb: &'static str,
    user: User<'t>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<User<'t>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication_metadata: Option<Authentication>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "<[IpAddr]>::is_empty")]
    source_ips: &'t [IpAddr],
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'t str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<&'t ObjectRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<Shown<'t>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: Option<Value>,
    request_received_timestamp: String,
    stage_timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Annotations>,
}

impl Event<'_> {
    pub fn line(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(LINE);
        // Texts and JSON values always serialise.
        let _ = serde_json::to_writer(&mut line, self);
        line
    }
}

/// Bytes of most events.
const LINE: usize = 1024;

/// `authentication.k8s.io/v1.UserInfo`, as [`Identity::user_info`] has it.
#[derive(Debug, Serialize)]
struct User<'t> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: &'t BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'t [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'t str,
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'t str,
}

impl User<'_> {
    fn of(who: &Identity) -> User<'_> {
        User {
            extra: &who.extra,
            groups: &who.groups,
            uid: &who.uid,
            username: &who.user,
        }
    }
}

/// `AuthenticationMetadata` of an event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Authentication {
    impersonation_constraint: &'static str,
}

impl Authentication {
    fn by(impersonation_constraint: &'static str) -> Self {
        Authentication {
            impersonation_constraint,
        }
    }
}

/// How a request ended, as an event shows it.
#[derive(Debug, Serialize)]
struct Shown<'t> {
    metadata: Empty,
    code: u16,
    #[serde(flatten)]
    said: BTreeMap<&'static str, &'t Value>,
}

#[derive(Debug, Serialize)]
struct Empty {}

impl Outcome {
    fn shown(&self) -> Shown<'_> {
        let told = ["status", "message", "reason", "details"];
        let said = told
            .into_iter()
            .filter_map(|key| Some((key, self.status.as_ref()?.get(key)?)));
        Shown {
            metadata: Empty {},
            code: self.code,
            said: said.collect(),
        }
    }
}

/// RFC 3339 with microseconds (`metav1.MicroTime`).
fn micros(time: Timestamp) -> String {
    format!("{time:.6}")
}

#[cfg(test)]
mod tests {
    use super::super::policy::Policy;
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_says_who_what_and_how_it_ended() {
        let subject = Subject {
            user: Identity::new("bob", []),
            acting_as: None,
            constraint: None,
            verb: "get",
            uri: "/api/v1/namespaces/n/pods/p".to_owned(),
            object: Some(ObjectRef {
                version: "v1".to_owned(),
                resource: "pods".to_owned(),
                namespace: Some("n".to_owned()),
                name: Some("p".to_owned()),
                ..ObjectRef::default()
            }),
        };
        let trail = Trail {
            id: "an-id".to_owned(),
            received: Timestamp::UNIX_EPOCH,
            agent: "kubectl".to_owned(),
            from: vec![[127, 0, 0, 1].into()],
            ruling: Some(Policy::metadata().unwrap().rule(&subject)),
            subject: Some(subject),
            request: None,
            told: Told::default(),
        };
        assert!(trail.event(Stage::RequestReceived, None).is_none());
        let outcome = Outcome {
            code: 403,
            status: Some(json!({"reason": "Forbidden", "status": "Failure", "kind": "Status"})),
            response: None,
        };
        let event = trail.event(Stage::ResponseComplete, Some(&outcome)).unwrap();
        let event = serde_json::to_value(event).unwrap();
        assert_eq!(event["auditID"], "an-id");
        assert_eq!(
            event["objectRef"],
            json!({"resource": "pods", "namespace": "n", "name": "p", "apiVersion": "v1"})
        );
        assert_eq!(
            event["responseStatus"],
            json!({"metadata": {}, "code": 403, "status": "Failure", "reason": "Forbidden"})
        );
        assert_eq!(event["requestReceivedTimestamp"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(event["sourceIPs"], json!(["127.0.0.1"]));
    }

    #[test]
    fn owners_are_dropped_wherever_objects_are() {
        let owned = json!({"metadata": {"name": "a", "managedFields": [{}]}});
        let bare = json!({"metadata": {"name": "a"}});
        for (value, want) in [
            (owned.clone(), bare.clone()),
            (
                json!({"items": [owned], "metadata": {}}),
                json!({"items": [bare], "metadata": {}}),
            ),
            (
                json!({"rows": [{"object": owned}, {"object": null}]}),
                json!({"rows": [{"object": bare}, {"object": null}]}),
            ),
            (json!({"data": {}}), json!({"data": {}})),
            (json!([{"op": "add"}]), json!([{"op": "add"}])),
            (json!(5), json!(5)),
            (
                json!({"metadata": null, "items": {}, "rows": 1}),
                json!({"metadata": null, "items": {}, "rows": 1}),
            ),
        ] {
            let mut value = value;
            drop_owners(&mut value);
            assert_eq!(value, want);
        }
    }
}
