//! A user as the API server sees one, and how a client certificate names it.
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// May do everything (upstream's superuser group).
pub const MASTERS: &str = "system:masters";
/// Everyone whom the server knows.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everyone whom it does not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user who is nobody.
pub const ANONYMOUS: &str = "system:anonymous";
/// Nodes.
pub const NODES: &str = "system:nodes";

/// An authenticated user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: Arc<str>,
    pub groups: Arc<[String]>,
    /// Empty when there is none.
    pub uid: String,
    /// What authenticators know besides.
    pub extra: Arc<BTreeMap<String, Vec<String>>>,
}

/// Which credential somebody was known by.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";
/// The node that a Pod's token was bound to with it (KEP-4193).
const OWN_NODE: &str = "authentication.kubernetes.io/node-name";
const ACCOUNT: &str = "system:serviceaccount:";

/// Namespace and name of the service account that a user name means.
pub fn account_of(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(ACCOUNT)?.split_once(':')?;
    let good = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
    good.then_some((namespace, name))
}

/// The groups of every service account of a namespace.
pub fn account_groups(namespace: &str) -> Vec<String> {
    vec![
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
    ]
}

impl Identity {
    /// A user with these groups, and `system:authenticated` as every known user.
    pub fn new(user: &str, groups: impl IntoIterator<Item = String>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().filter(|g| g != AUTHENTICATED).collect();
        groups.push(AUTHENTICATED.to_owned());
        Identity {
            user: user.into(),
            groups: groups.into(),
            uid: String::new(),
            extra: Arc::default(),
        }
    }

    /// Who could not be told.
    pub fn nobody() -> Self {
        Identity {
            user: "".into(),
            groups: Arc::new([]),
            uid: String::new(),
            extra: Arc::default(),
        }
    }

    /// Who shows nothing, where nothing need be shown.
    pub fn anonymous() -> Self {
        Identity {
            user: ANONYMOUS.into(),
            groups: Arc::new([UNAUTHENTICATED.to_owned()]),
            ..Identity::nobody()
        }
    }

    /// A service account.
    pub fn account(namespace: &str, name: &str) -> Self {
        Identity::new(&format!("{ACCOUNT}{namespace}:{name}"), account_groups(namespace))
    }

    /// `authentication.k8s.io/v1.UserInfo`.
    pub fn user_info(&self) -> Value {
        let mut info = json!({ "username": &*self.user });
        if !self.uid.is_empty() {
            info["uid"] = self.uid.as_str().into();
        }
        if !self.groups.is_empty() {
            info["groups"] = json!(&*self.groups);
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(&*self.extra);
        }
        info
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node that this identity is the agent of.
    pub fn node(&self) -> Option<&str> {
        let name = self.user.strip_prefix("system:node:")?;
        (self.is_in(NODES) && !name.is_empty()).then_some(name)
    }

    /// The node of the Pod whose service account this is.
    pub fn own_node(&self) -> Option<&str> {
        account_of(&self.user)?;
        match self.extra.get(OWN_NODE)?.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// CN is the user, each O is a group (Kubernetes' X.509 client certificate convention). The TLS layer has
    /// verified the chain already.
    pub fn from_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let user = subject.iter_common_name().next()?.as_str().ok()?;
        if user.is_empty() {
            return None;
        }
        let groups = subject
            .iter_organization()
            .filter_map(|o| o.as_str().ok())
            .map(str::to_owned);
        let shown = format!("X509SHA256={}", hex::encode(Sha256::digest(der)));
        let extra = BTreeMap::from([(CREDENTIAL.to_owned(), vec![shown])]);
        Some(Identity {
            extra: Arc::new(extra),
            ..Identity::new(user, groups)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_needs_name_and_group() {
        let node = |user: &str, groups: &[&str]| {
            Identity::new(user, groups.iter().map(ToString::to_string))
                .node()
                .map(str::to_owned)
        };
        assert_eq!(node("system:node:a", &[NODES]).as_deref(), Some("a"));
        assert_eq!(node("system:node:a", &[]), None);
        assert_eq!(node("system:node:", &[NODES]), None);
        assert_eq!(node("bob", &[NODES]), None);
    }

    #[test]
    fn everyone_is_authenticated_once() {
        let me = Identity::new("me", [AUTHENTICATED.to_owned(), MASTERS.to_owned()]);
        assert_eq!(&*me.groups, [MASTERS.to_owned(), AUTHENTICATED.to_owned()]);
    }
}
