//! What is demanded of an object before it is stored: upstream's admission plugins, webhooks, and the addresses of
//! Services.
//!
//! Two phases around validation, as upstream's: [`Admission::mutate`] completes what the client sent, before
//! [`crate::kinds::Kind::prepare_create`]; [`Admission::validate`] judges the result and changes nothing. Between them
//! [`Admission::allocate`] chooses addresses. Refuses to know HTTP: it answers with a [`Denial`].
mod api_access;
mod chain;
mod claim_status;
mod claims;
mod classes;
mod devices;
mod equivalent;
mod expressions;
mod families;
#[cfg(test)]
pub(crate) mod fixtures;
mod ingress;
mod limits;
mod measures;
mod mountable;
mod namespace;
mod nodes;
mod options;
mod pod_security;
mod pods;
mod policy;
mod priority;
mod quota;
mod resize;
mod rounds;
mod runtime_class;
pub mod services;
mod shown;
pub mod storage;
mod tolerations;
mod topology;
mod versions;
mod webhooks;

pub use claims::Claims;
pub use options::Options;
pub use pod_security::{Level as PodSecurityLevel, UnknownLevel};
pub use services::ServiceAddresses;

use crate::auth::{Authorizer, Identity};
use crate::kinds::{FieldErrors, Kind, Registry};
use crate::measures::Exposition;
use crate::store::{ReadError, Store};
use measures::Measures;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Why an object may not be stored.
#[derive(Debug)]
pub enum Denial {
    NoNamespace(String),
    Terminating(String),
    Forbidden(String),
    /// Forbidden as long as something that the cluster makes by itself is not there.
    NotYet(String),
    Invalid(FieldErrors),
    /// Refused by a ValidatingAdmissionPolicy, for the reason it gives; `Invalid` when it gives none.
    Policy {
        message: String,
        reason: String,
    },
    /// MutatingAdmissionPolicies could not do their work: forbidden, whatever the reason, which is that of the first.
    Mutation {
        messages: Vec<String>,
        reason: &'static str,
    },
    /// A webhook's own words.
    Refused {
        code: u16,
        reason: String,
        message: String,
        details: Option<Value>,
    },
    /// Not the object's fault.
    Failed(String),
}

impl From<ReadError> for Denial {
    fn from(error: ReadError) -> Self {
        Denial::Failed(error.to_string())
    }
}

/// What is being done to the object.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    Create,
    Update {
        old: &'a Value,
    },
    Delete {
        old: &'a Value,
    },
    /// A connection to the object; the review's object is what is asked of it, `PodExecOptions` and the like, of this kind.
    Connect {
        kind: &'a Kind,
    },
    /// Something is posted for the object; the review's object is that, `Eviction` and the like, of this kind.
    Post {
        kind: &'a Kind,
    },
}

impl<'a> Action<'a> {
    /// As rules of webhooks and policies name it.
    pub fn word(self) -> &'static str {
        match self {
            Action::Create | Action::Post { .. } => "CREATE",
            Action::Update { .. } => "UPDATE",
            Action::Delete { .. } => "DELETE",
            Action::Connect { .. } => "CONNECT",
        }
    }

    /// The object before the change; null when there was none.
    pub fn old(self) -> &'a Value {
        match self {
            Action::Create | Action::Connect { .. } | Action::Post { .. } => &Value::Null,
            Action::Update { old } | Action::Delete { old } => old,
        }
    }

    /// Whether what is shown is not the object, but what is asked of it: of a kind of its own, by which it is not to be
    /// completed.
    pub fn asks(self) -> bool {
        matches!(self, Action::Connect { .. } | Action::Post { .. })
    }
}

/// A change on its way to the store.
#[derive(Clone, Copy, Debug)]
pub struct Review<'a> {
    /// Of the request, as authorizers know it.
    pub verb: &'a str,
    pub kind: &'a Kind,
    pub namespace: Option<&'a str>,
    pub name: &'a str,
    pub subresource: Option<&'a str>,
    pub action: Action<'a>,
    /// Nothing will be stored: what has effects of its own must not happen.
    pub dry_run: bool,
    /// What else the request says beside the object.
    pub options: Options<'a>,
    pub who: &'a Identity,
    /// Answers what expressions ask about rights; without, nobody has any.
    pub authorizer: Option<&'a Authorizer>,
}

impl<'a> Review<'a> {
    /// The namespace that the request is about: a Namespace is in itself, as upstream has it.
    pub fn about(&self) -> Option<&'a str> {
        match equivalent::is_namespace(self.kind) {
            true => Some(self.name).filter(|name| !name.is_empty()),
            false => self.namespace,
        }
    }

    /// Group, plural and subresource, for rules that concern one kind.
    pub fn resource(&self) -> (&str, &str, Option<&str>) {
        (
            self.kind.group.as_str(),
            self.kind.plural.as_str(),
            self.subresource,
        )
    }

    /// Whether it is about a question.
    fn asks(&self) -> bool {
        QUESTIONS.contains(&(self.kind.group.as_str(), self.kind.plural.as_str()))
    }
}

/// What admission has to say beside yes or no.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// For the client, as `Warning` headers.
    pub warnings: Vec<String>,
    /// For the audit log.
    pub audit: Vec<(String, String)>,
    /// What webhooks changed, for the audit log where it shows bodies too.
    pub patches: Vec<(String, String)>,
    /// How long webhooks were waited for.
    pub waited: Duration,
}

/// A resource as [`Objects`] is asked for it: group, version and plural.
pub type ResourceName<'a> = (&'a str, &'a str, &'a str);

/// Questions, which are answered and not stored. Expressions are not to judge them: upstream's policies pass them over.
const QUESTIONS: [(&str, &str); 6] = [
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

const SERVICES: (&str, &str, Option<&str>) = ("", "services", None);

/// Reads objects as they are now, for rules that look at others.
pub trait Objects: Send + Sync {
    fn get(&self, resource: ResourceName<'_>, namespace: Option<&str>, name: &str) -> Option<Arc<Value>>;
    /// All objects, or those of a namespace.
    fn list(&self, resource: ResourceName<'_>, namespace: Option<&str>) -> Vec<Arc<Value>>;
    /// The named one, or all, as they lie in the store, in whatever version that is.
    fn stored(
        &self,
        resource: ResourceName<'_>,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Vec<Arc<Value>> {
        match name {
            Some(name) => self.get(resource, namespace, name).into_iter().collect(),
            None => self.list(resource, namespace),
        }
    }
    /// Whether there are any.
    fn any(&self, resource: ResourceName<'_>) -> bool {
        !self.list(resource, None).is_empty()
    }
    /// The kinds that can be asked for.
    fn kinds(&self) -> Arc<Registry> {
        Registry::builtin().clone()
    }
}

/// The rules, in order.
pub struct Admission {
    objects: Arc<dyn Objects>,
    services: ServiceAddresses,
    /// The level of namespaces without labels.
    pod_security: PodSecurityLevel,
    turns: quota::Turns,
    policies: policy::Policies,
    webhooks: webhooks::Webhooks,
    measures: Measures,
}

impl Admission {
    pub fn new(
        objects: Arc<dyn Objects>,
        services: ServiceAddresses,
        pod_security: PodSecurityLevel,
    ) -> Self {
        Admission {
            objects,
            services,
            pod_security,
            turns: quota::Turns::default(),
            policies: policy::Policies::default(),
            webhooks: webhooks::Webhooks::default(),
            measures: Measures::default(),
        }
    }

    /// Tells how long it takes.
    pub(crate) fn measured(&self, out: &mut Exposition) {
        self.measures.write(out);
    }

    /// Whether a policy or a webhook may be shown the object before it is stored.
    pub fn shows(&self) -> bool {
        let objects = self.objects.as_ref();
        policy::any(objects) || webhooks::any(objects)
    }

    /// Whether [`Admission::allocate`] has something to choose.
    pub fn allocates(&self, review: &Review<'_>) -> bool {
        review.resource() == SERVICES
    }

    /// Chooses the addresses of a Service. The claims belong to the same transaction as the object.
    pub async fn allocate(
        &self,
        store: &dyn Store,
        review: &Review<'_>,
        object: &mut Value,
    ) -> Result<Claims, Denial> {
        match self.allocates(review) {
            true => self.services.admit(store, review, object).await,
            false => Ok(Claims::default()),
        }
    }

    /// The field of the object that asks for what only some namespaces may have: see [`Admission::misplaced`].
    pub fn asks_of_namespace(&self, review: &Review<'_>, object: &Value) -> Option<String> {
        devices::asking(review, object)
    }

    /// What is wrong with a field of [`Admission::asks_of_namespace`] in the review's namespace as it is now.
    pub fn misplaced(&self, review: &Review<'_>, field: &str) -> FieldErrors {
        devices::judge(self.objects.as_ref(), review.namespace.unwrap_or_default(), field)
    }

    /// What of the object only those may write who have a right to that, too.
    pub fn unauthorized(&self, review: &Review<'_>, object: &Value) -> FieldErrors {
        match (review.resource(), review.action) {
            (claim_status::RESOURCE, Action::Update { old }) => claim_status::judge(review, object, old),
            _ => FieldErrors::new(),
        }
    }

    /// What the removal of `object` gives back.
    pub async fn releases(&self, store: &dyn Store, kind: &Kind, object: &Value) -> Result<Claims, Denial> {
        match (kind.group.as_str(), kind.plural.as_str()) {
            ("", "services") => services::released(store, services::keys(object)).await,
            _ => Ok(Claims::default()),
        }
    }
}
