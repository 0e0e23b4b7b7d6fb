//! Role-based access control: a [`Policy`] kept up to date from the cluster's roles and bindings.
//!
//! Guarantees: a decision is made on all roles and bindings of one moment no older than the last change that the
//! watch cache has seen. Only what changed is parsed again.
mod escalation;
mod policy;
mod rule;

pub use escalation::confirm_no_escalation;
pub use policy::{Binding, GROUP, Missing, Policy, RoleRef, aggregate};
pub use rule::{Rule, missing, quoted_list};

use super::reader::{GroupResource, Reader};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

const CLUSTER_ROLES: GroupResource = (GROUP, "clusterroles");
const CLUSTER_BINDINGS: GroupResource = (GROUP, "clusterrolebindings");
const ROLES: GroupResource = (GROUP, "roles");
const BINDINGS: GroupResource = (GROUP, "rolebindings");

/// RBAC over a changing cluster.
pub struct Rbac {
    reader: Arc<dyn Reader>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// What [`Reader::changed`] said of the four resources when this was made.
    seen: [u64; 4],
    parsed: HashMap<Arc<str>, (u64, Parsed)>,
    policy: Arc<Policy>,
}

#[derive(Clone)]
enum Parsed {
    Role {
        namespace: Option<String>,
        name: String,
        rules: Arc<Vec<Rule>>,
    },
    Binding(Arc<Binding>),
}

impl Rbac {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Rbac {
            reader,
            known: Mutex::default(),
        }
    }

    /// The policy of now.
    pub fn policy(&self) -> Arc<Policy> {
        let resources = [CLUSTER_ROLES, CLUSTER_BINDINGS, ROLES, BINDINGS];
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Read before the objects: a change in between is seen at the next request.
        let now = resources.map(|resource| self.reader.changed(resource));
        if known.seen != now {
            known.parsed = resources
                .iter()
                .flat_map(|resource| self.reader.list(*resource))
                .map(|stored| {
                    let parsed = match known.parsed.get(&stored.key) {
                        Some((revision, parsed)) if *revision == stored.revision => parsed.clone(),
                        _ => parse(&serde_json::from_slice(&stored.json).unwrap_or_default()),
                    };
                    (stored.key, (stored.revision, parsed))
                })
                .collect();
            known.policy = Arc::new(arrange(known.parsed.values().map(|(_, parsed)| parsed)));
            known.seen = now;
        }
        known.policy.clone()
    }
}

fn parse(object: &Value) -> Parsed {
    if object["roleRef"].is_object() {
        return Parsed::Binding(Arc::new(Binding::read(object)));
    }
    let text = |key: &str| object["metadata"][key].as_str().map(str::to_owned);
    Parsed::Role {
        namespace: text("namespace"),
        name: text("name").unwrap_or_default(),
        rules: Arc::new(Rule::read_all(object)),
    }
}

fn arrange<'p>(parsed: impl Iterator<Item = &'p Parsed>) -> Policy {
    let mut policy = Policy::default();
    for each in parsed {
        match each {
            Parsed::Role {
                namespace,
                name,
                rules,
            } => drop(
                policy
                    .roles
                    .insert((namespace.clone(), name.clone()), rules.clone()),
            ),
            Parsed::Binding(binding) => match &binding.namespace {
                Some(namespace) => policy
                    .bindings
                    .entry(namespace.clone())
                    .or_default()
                    .push(binding.clone()),
                None => policy.cluster_bindings.push(binding.clone()),
            },
        }
    }
    // The first binding that allows a request is named as the reason: always the same one.
    policy.cluster_bindings.sort_by(|a, b| a.name.cmp(&b.name));
    for bindings in policy.bindings.values_mut() {
        bindings.sort_by(|a, b| a.name.cmp(&b.name));
    }
    policy
}
