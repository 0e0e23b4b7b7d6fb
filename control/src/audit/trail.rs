//! What is known of one request, and the event it becomes.
use super::policy::{Level, Ruling, Stage};
use crate::auth::Identity;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// The object that a request is about.
#[derive(Clone, Debug, Default)]
pub struct ObjectRef {
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: Option<String>,
    pub namespace: Option<String>,
    pub name: Option<String>,
}

/// Who asks for what.
#[derive(Clone, Debug)]
pub struct Subject {
    pub user: Identity,
    /// Whom the user impersonates.
    pub acting_as: Option<Identity>,
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
    pub from: Option<IpAddr>,
    /// Once it is known.
    pub subject: Option<Subject>,
    pub ruling: Option<Ruling>,
    /// The body, at the levels that want it.
    pub request: Option<Value>,
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
    pub fn event(&self, stage: Stage, outcome: Option<&Outcome>) -> Option<Value> {
        let (subject, ruling) = (self.subject.as_ref()?, self.ruling.as_ref()?);
        if ruling.level == Level::None || ruling.omitted.contains(&stage) {
            return None;
        }
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": ruling.level.word(), "auditID": self.id,
            "stage": stage.word(), "requestURI": subject.uri, "verb": subject.verb, "user": subject.user.user_info(),
            "requestReceivedTimestamp": micros(self.received), "stageTimestamp": micros(Timestamp::now()),
        });
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                event[key] = value;
            }
        };
        set(
            "impersonatedUser",
            subject.acting_as.as_ref().map(Identity::user_info),
        );
        set("sourceIPs", self.from.map(|from| json!([from])));
        set(
            "userAgent",
            Some(self.agent.as_str())
                .filter(|a| !a.is_empty())
                .map(Value::from),
        );
        set("objectRef", subject.object.as_ref().map(ObjectRef::show));
        let bare = |value: &Value| {
            let mut value = value.clone();
            if ruling.omit_managed_fields
                && let Some(meta) = value["metadata"].as_object_mut()
            {
                meta.remove("managedFields");
            }
            value
        };
        set("requestObject", self.request.as_ref().map(bare));
        if let Some(outcome) = outcome {
            set("responseStatus", Some(outcome.show()));
            set("responseObject", outcome.response.as_ref().map(bare));
            let decision = if outcome.code == 403 { "forbid" } else { "allow" };
            set(
                "annotations",
                Some(json!({"authorization.k8s.io/decision": decision})),
            );
        }
        Some(event)
    }
}

impl ObjectRef {
    fn show(&self) -> Value {
        let mut shown = Map::new();
        for (key, value) in [
            ("resource", Some(&self.resource)),
            ("namespace", self.namespace.as_ref()),
            ("name", self.name.as_ref()),
            ("apiGroup", Some(&self.group)),
            ("apiVersion", Some(&self.version)),
            ("subresource", self.subresource.as_ref()),
        ] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                shown.insert(key.to_owned(), value.as_str().into());
            }
        }
        shown.into()
    }
}

impl Outcome {
    fn show(&self) -> Value {
        let mut shown = json!({"metadata": {}, "code": self.code});
        for key in ["status", "message", "reason", "details"] {
            if let Some(value) = self.status.as_ref().and_then(|status| status.get(key)) {
                shown[key] = value.clone();
            }
        }
        shown
    }
}

/// RFC 3339 with microseconds (`metav1.MicroTime`).
fn micros(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::super::policy::Policy;
    use super::*;

    #[test]
    fn an_event_says_who_what_and_how_it_ended() {
        let subject = Subject {
            user: Identity::new("bob", []),
            acting_as: None,
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
            from: Some([127, 0, 0, 1].into()),
            ruling: Some(Policy::metadata().unwrap().rule(&subject)),
            subject: Some(subject),
            request: None,
        };
        assert_eq!(trail.event(Stage::RequestReceived, None), None);
        let outcome = Outcome {
            code: 403,
            status: Some(json!({"reason": "Forbidden", "status": "Failure", "kind": "Status"})),
            response: None,
        };
        let event = trail.event(Stage::ResponseComplete, Some(&outcome)).unwrap();
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
}
