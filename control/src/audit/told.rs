//! What is learnt of a request while it is answered, gathered for its event from wherever that happens.
use super::trail::ObjectRef;
use crate::kinds::view::View;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A handle; its clones gather in one place. The default gathers nothing, for requests without an event.
#[derive(Clone, Debug, Default)]
pub struct Told(Option<Arc<Mutex<Gathered>>>);

#[derive(Debug, Default)]
struct Gathered {
    /// The event shows bodies.
    bodies: bool,
    annotations: Annotations,
    named: Named,
    sent: Option<Value>,
}

/// What the body says of the object that it is.
#[derive(Debug, Default)]
struct Named {
    name: String,
    uid: String,
    version: String,
}

/// `annotations` of an event.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Annotations {
    #[serde(
        rename = "authorization.k8s.io/decision",
        skip_serializing_if = "Option::is_none"
    )]
    decision: Option<&'static str>,
    #[serde(
        rename = "authorization.k8s.io/reason",
        skip_serializing_if = "Option::is_none"
    )]
    reason: Option<String>,
    /// Of admission.
    #[serde(flatten)]
    others: BTreeMap<String, String>,
}

impl Told {
    /// For a request that has an event, which may show bodies.
    pub fn gathering(bodies: bool) -> Self {
        let gathered = Gathered {
            bodies,
            ..Gathered::default()
        };
        Told(Some(Arc::new(Mutex::new(gathered))))
    }

    fn gathered(&self) -> Option<MutexGuard<'_, Gathered>> {
        let gathered = self.0.as_ref()?;
        Some(gathered.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What admission says; the first of two with one key counts, as upstream.
    pub fn add(&self, annotations: impl IntoIterator<Item = (String, String)>) {
        if let Some(mut gathered) = self.gathered() {
            for (key, value) in annotations {
                gathered.annotations.others.entry(key).or_insert(value);
            }
        }
    }

    /// As above of what says as much as a body does.
    pub fn add_bodies(&self, annotations: impl IntoIterator<Item = (String, String)>) {
        if self.gathered().is_some_and(|gathered| gathered.bodies) {
            self.add(annotations);
        }
    }

    /// Whether the user may, and why, in the authorizers' words.
    pub fn decided(&self, allowed: bool, reason: String) {
        if let Some(mut gathered) = self.gathered() {
            gathered.annotations.decision = Some(if allowed { "allow" } else { "forbid" });
            gathered.annotations.reason = Some(reason);
        }
    }

    /// The object that was sent.
    pub fn object(&self, object: &Value) {
        let text = |path: &str| object.text(path).to_owned();
        if let Some(mut gathered) = self.gathered() {
            gathered.named = Named {
                name: text("metadata.name"),
                uid: text("metadata.uid"),
                version: text("metadata.resourceVersion"),
            };
        }
    }

    /// The same as it was understood: read, found to be fit for its kind, and with what it leaves out. What an action makes of
    /// other objects later is not what was sent.
    pub fn sent(&self, object: impl FnOnce() -> Value) {
        if let Some(mut gathered) = self.gathered()
            && gathered.bodies
            && gathered.sent.is_none()
        {
            gathered.sent = Some(object());
        }
    }

    pub(super) fn take_sent(&self) -> Option<Value> {
        self.gathered()?.sent.take()
    }

    /// The name that was made up for it.
    pub fn named(&self, name: &str) {
        if let Some(mut gathered) = self.gathered() {
            name.clone_into(&mut gathered.named.name);
        }
    }

    /// None while nothing has been said.
    pub(super) fn annotations(&self) -> Option<Annotations> {
        let annotations = self.gathered()?.annotations.clone();
        (annotations.decision.is_some() || !annotations.others.is_empty()).then_some(annotations)
    }

    /// Completes what the path says by what the body does.
    pub(super) fn complete(&self, about: &mut ObjectRef) {
        let Some(said) = self
            .gathered()
            .map(|mut gathered| std::mem::take(&mut gathered.named))
        else {
            return;
        };
        let parts = [
            (&mut about.name, said.name),
            (&mut about.uid, said.uid),
            (&mut about.resource_version, said.version),
        ];
        for (part, said) in parts {
            if part.is_none() && !said.is_empty() {
                *part = Some(said);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_body_completes_what_the_path_says() {
        let told = Told::gathering(false);
        told.object(&json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": "7"}}));
        let mut about = ObjectRef {
            name: Some("path".to_owned()),
            ..ObjectRef::default()
        };
        told.complete(&mut about);
        assert_eq!(about.name.as_deref(), Some("path"));
        assert_eq!(about.uid.as_deref(), Some("u"));
        assert_eq!(about.resource_version.as_deref(), Some("7"));
    }

    #[test]
    fn nothing_is_annotated_before_something_is_decided() {
        let told = Told::gathering(false);
        assert!(told.annotations().is_none());
        told.decided(false, String::new());
        assert_eq!(
            serde_json::to_value(told.annotations()).unwrap(),
            json!({"authorization.k8s.io/decision": "forbid", "authorization.k8s.io/reason": ""})
        );
    }

    #[test]
    fn what_was_said_first_is_kept() {
        let told = Told::gathering(false);
        for value in ["first", "second"] {
            told.add([("a/b".to_owned(), value.to_owned())]);
        }
        let annotations = serde_json::to_value(told.annotations()).unwrap();
        assert_eq!(annotations, json!({"a/b": "first"}));
    }

    #[test]
    fn for_nobody_nothing_is_gathered() {
        let told = Told::default();
        told.decided(true, String::new());
        told.add([("a".to_owned(), "b".to_owned())]);
        told.object(&json!({"metadata": {"name": "a"}}));
        let mut about = ObjectRef::default();
        told.complete(&mut about);
        assert!(told.annotations().is_none() && about.name.is_none());
    }
}
