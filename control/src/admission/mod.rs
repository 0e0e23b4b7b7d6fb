//! What the cluster itself demands of an object before it is stored: a living namespace, a service account, addresses
//! of a Service.
//!
//! Owns those rules and the allocation of Service addresses. Refuses to know HTTP: it answers with a [`Denial`].
mod api_access;
mod namespace;
mod pods;
mod services;

pub use services::ServiceAddresses;

use crate::kinds::{FieldErrors, Kind};
use crate::store::{Op, ReadError, Store, Txn};
use serde_json::Value;
use std::sync::Arc;

/// Why an object may not be stored.
#[derive(Debug)]
pub enum Denial {
    NoNamespace(String),
    Terminating(String),
    Forbidden(String),
    Invalid(FieldErrors),
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
    Update { old: &'a Value },
    Delete,
}

/// A change on its way to the store.
#[derive(Clone, Copy, Debug)]
pub struct Review<'a> {
    pub kind: &'a Kind,
    pub namespace: Option<&'a str>,
    pub name: &'a str,
    pub subresource: Option<&'a str>,
    pub action: Action<'a>,
}

/// Reads objects as they are now, for rules that look at others.
pub trait Objects: Send + Sync {
    fn get(&self, plural: &str, namespace: Option<&str>, name: &str) -> Option<Value>;
}

/// Keys beside the object that its transaction takes or gives back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Taken: must be absent.
    pub take: Vec<String>,
    /// Given back: removed, whatever they are.
    pub release: Vec<String>,
}

impl Claims {
    /// Joins the claims to the transaction that writes `owner`, so that both happen or neither.
    pub fn join(self, owner: &str, txn: &mut Txn) {
        for key in self.take {
            txn.compare.push(crate::store::Compare {
                key: key.clone(),
                mod_revision: 0,
            });
            txn.ops.push(Op::Put {
                key,
                value: owner.to_owned().into(),
            });
        }
        txn.ops
            .extend(self.release.into_iter().map(|key| Op::Delete { key }));
    }
}

/// The rules, in order.
pub struct Admission {
    objects: Arc<dyn Objects>,
    services: ServiceAddresses,
}

impl Admission {
    pub fn new(objects: Arc<dyn Objects>, services: ServiceAddresses) -> Self {
        Admission { objects, services }
    }

    /// Judges and completes `object`. The claims belong to the same transaction as the object.
    pub async fn admit(
        &self,
        store: &dyn Store,
        review: &Review<'_>,
        object: &mut Value,
    ) -> Result<Claims, Denial> {
        namespace::check(self.objects.as_ref(), review)?;
        match (
            review.kind.group.as_str(),
            review.kind.plural.as_str(),
            review.subresource,
        ) {
            ("", "pods", None) => {
                pods::admit(self.objects.as_ref(), review, object).map(|()| Claims::default())
            }
            ("", "services", None) => self.services.admit(store, review, object).await,
            _ => Ok(Claims::default()),
        }
    }

    /// What the removal of `object` gives back.
    pub fn releases(&self, kind: &Kind, object: &Value) -> Claims {
        match (kind.group.as_str(), kind.plural.as_str()) {
            ("", "services") => Claims {
                take: Vec::new(),
                release: services::keys(object),
            },
            _ => Claims::default(),
        }
    }
}
