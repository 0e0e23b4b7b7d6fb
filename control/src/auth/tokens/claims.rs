//! What a service account's token says, and whether it still holds.
use crate::auth::identity::account_of;
use crate::auth::{Identity, Reader};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What is being deleted may still use its token for this long.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);
const EXTRA: &str = "authentication.kubernetes.io/";

/// An object by name and uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub name: String,
    pub uid: String,
}

/// What a token ends with, besides its account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    Nothing,
    Pod {
        pod: Reference,
        /// Only told, not judged.
        node: Option<Reference>,
    },
    Secret(Reference),
    Node(Reference),
}

/// The payload of a token.
#[derive(Clone, Debug)]
pub struct Claims {
    pub issuer: String,
    pub audiences: Vec<String>,
    pub namespace: String,
    pub account: Reference,
    pub bound: Bound,
    pub id: String,
    pub issued: Timestamp,
    pub expires: Timestamp,
    /// When it should have been renewed, for tokens that live on to spare old clients.
    pub warn_after: Option<Timestamp>,
}

impl Reference {
    pub fn new(name: &str, uid: &str) -> Self {
        Reference {
            name: name.to_owned(),
            uid: uid.to_owned(),
        }
    }

    /// An object of the API.
    pub fn of(object: &Value) -> Self {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        Reference::new(text("name"), text("uid"))
    }

    fn read(value: &Value) -> Option<Self> {
        let name = value["name"].as_str()?;
        Some(Reference::new(name, value["uid"].as_str().unwrap_or_default()))
    }

    fn show(&self) -> Value {
        match self.uid.is_empty() {
            true => json!({ "name": self.name }),
            false => json!({"name": self.name, "uid": self.uid}),
        }
    }
}

impl Claims {
    /// The payload as it is signed.
    pub fn show(&self) -> Value {
        let mut own = json!({"namespace": self.namespace, "serviceaccount": self.account.show()});
        match &self.bound {
            Bound::Nothing => {}
            Bound::Pod { pod, node } => {
                own["pod"] = pod.show();
                if let Some(node) = node {
                    own["node"] = node.show();
                }
            }
            Bound::Secret(secret) => own["secret"] = secret.show(),
            Bound::Node(node) => own["node"] = node.show(),
        }
        if let Some(time) = self.warn_after {
            own["warnafter"] = time.as_second().into();
        }
        json!({
            "iss": self.issuer, "aud": self.audiences, "jti": self.id,
            "sub": format!("system:serviceaccount:{}:{}", self.namespace, self.account.name),
            "iat": self.issued.as_second(), "nbf": self.issued.as_second(), "exp": self.expires.as_second(),
            "kubernetes.io": own,
        })
    }

    pub fn read(payload: &Value) -> Option<Self> {
        let time = |value: &Value| Timestamp::from_second(value.as_i64()?).ok();
        let own = &payload["kubernetes.io"];
        let (pod, secret, node) = (
            Reference::read(&own["pod"]),
            Reference::read(&own["secret"]),
            Reference::read(&own["node"]),
        );
        let bound = match (pod, secret, node) {
            (Some(pod), _, node) => Bound::Pod { pod, node },
            (None, Some(secret), _) => Bound::Secret(secret),
            (None, None, Some(node)) => Bound::Node(node),
            (None, None, None) => Bound::Nothing,
        };
        let claims = Claims {
            issuer: payload["iss"].as_str()?.to_owned(),
            audiences: audiences(&payload["aud"]),
            namespace: own["namespace"].as_str()?.to_owned(),
            account: Reference::read(&own["serviceaccount"])?,
            bound,
            id: payload["jti"].as_str().unwrap_or_default().to_owned(),
            issued: time(&payload["nbf"])?,
            expires: time(&payload["exp"])?,
            warn_after: time(&own["warnafter"]),
        };
        let named = account_of(payload["sub"].as_str()?)?;
        (named == (&claims.namespace, &claims.account.name)).then_some(claims)
    }

    pub(super) fn check_time(&self, now: Timestamp) -> Result<(), String> {
        if now >= self.expires {
            return Err("service account token has expired".to_owned());
        }
        // Clocks of API servers may differ a little.
        if now < self.issued - LEEWAY {
            return Err("service account token is not valid yet".to_owned());
        }
        Ok(())
    }

    /// Everything the token depends on must be there still, and be the same.
    pub(super) fn check_references(&self, reader: &dyn Reader, now: Timestamp) -> Result<(), String> {
        let namespace = Some(self.namespace.as_str());
        let (name, uid) = (&self.account.name, &self.account.uid);
        let account = reader
            .get(("", "serviceaccounts"), namespace, name)
            .ok_or_else(|| format!("serviceaccounts {name:?} not found"))?;
        let is = Reference::of(&account).uid;
        if is != *uid {
            return Err(format!("service account UID ({is}) does not match claim ({uid})"));
        }
        if is_gone(&account, now) {
            return Err(format!(
                "service account {}/{name} has been deleted",
                self.namespace
            ));
        }
        match &self.bound {
            Bound::Nothing => Ok(()),
            Bound::Pod { pod, .. } => same(reader, ("", "pods"), namespace, pod, "pod", now),
            Bound::Secret(secret) => same(reader, ("", "secrets"), namespace, secret, "secret", now),
            Bound::Node(node) => same(reader, ("", "nodes"), None, node, "node", now),
        }
    }

    /// The account, with what is known of where its token is from.
    pub fn identity(&self) -> Identity {
        let mut extra = BTreeMap::new();
        let mut tell = |key: &str, value: &str| {
            if !value.is_empty() {
                extra.insert(format!("{EXTRA}{key}"), vec![value.to_owned()]);
            }
        };
        if !self.id.is_empty() {
            tell("credential-id", &format!("JTI={}", self.id));
        }
        let (pod, node) = match &self.bound {
            Bound::Pod { pod, node } => (Some(pod), node.as_ref()),
            Bound::Node(node) => (None, Some(node)),
            Bound::Nothing | Bound::Secret(_) => (None, None),
        };
        for (what, reference) in [("pod", pod), ("node", node)] {
            if let Some(reference) = reference {
                tell(&format!("{what}-name"), &reference.name);
                tell(&format!("{what}-uid"), &reference.uid);
            }
        }
        Identity {
            uid: self.account.uid.clone(),
            extra: extra.into(),
            ..Identity::account(&self.namespace, &self.account.name)
        }
    }
}

/// One text or several.
fn audiences(value: &Value) -> Vec<String> {
    match value {
        Value::String(one) => vec![one.clone()],
        several => {
            let several = several.as_array().into_iter().flatten();
            several.filter_map(|v| v.as_str().map(str::to_owned)).collect()
        }
    }
}

fn same(
    reader: &dyn Reader,
    resource: crate::auth::GroupResource,
    namespace: Option<&str>,
    claim: &Reference,
    word: &str,
    now: Timestamp,
) -> Result<(), String> {
    let ended = || "service account token has been invalidated".to_owned();
    let object = reader.get(resource, namespace, &claim.name).ok_or_else(ended)?;
    let (is, said) = (Reference::of(&object).uid, &claim.uid);
    if is != *said {
        return Err(format!(
            "{word} UID ({is}) does not match service account {word} ref claim ({said})"
        ));
    }
    match is_gone(&object, now) {
        true => Err(ended()),
        false => Ok(()),
    }
}

/// Whether the object should be gone by now, although something holds it.
fn is_gone(object: &Value, now: Timestamp) -> bool {
    let end = object["metadata"]["deletionTimestamp"].as_str();
    let end = end.and_then(|end| end.parse::<Timestamp>().ok());
    end.is_some_and(|end| end + LEEWAY < now)
}
