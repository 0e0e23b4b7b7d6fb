//! The graph of owners and dependents, kept from watches of all resources. Pure: each observation returns the objects
//! that must be looked at.
use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::toolkit::ObjectKey;

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

/// What must be looked at.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Work {
    /// May have lost its owners, or wait for its dependents: decide whether it goes.
    Examine(String),
    /// Is deleted without its dependents: cut them loose.
    Orphan(String),
    /// The first names the second as an owner, which is in another namespace: say so.
    Report(String, String),
}

/// Where an object is on its way out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Life {
    Alive,
    /// Being deleted for other reasons than those below.
    Dying,
    /// Being deleted, waiting until its dependents are.
    Foreground,
    /// Being deleted, waiting until its dependents no longer refer to it.
    Orphaning,
}

impl Life {
    pub fn of(meta: &ObjectMeta) -> Self {
        let waits_for = |name: &str| {
            meta.finalizers
                .iter()
                .flatten()
                .any(|finalizer| finalizer == name)
        };
        match meta.deletion_timestamp {
            None => Self::Alive,
            Some(_) if waits_for(ORPHAN) => Self::Orphaning,
            Some(_) if waits_for(FOREGROUND) => Self::Foreground,
            Some(_) => Self::Dying,
        }
    }
}

/// The place of an object in the API. The version is that of the reference or the watch that told of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    pub api_version: String,
    pub kind: String,
    pub key: ObjectKey,
}

impl Identity {
    pub fn group(&self) -> &str {
        self.api_version.rsplit_once('/').map_or("", |(group, _)| group)
    }

    /// Whether both name the same object, in whatever version.
    fn same_place(&self, other: &Self) -> bool {
        (self.group(), &self.kind, &self.key) == (other.group(), &other.kind, &other.key)
    }
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub identity: Identity,
    pub owners: Vec<OwnerReference>,
    pub dependents: HashSet<String>,
    pub life: Life,
    /// False for owners only known from the references of others.
    pub observed: bool,
}

#[derive(Default)]
pub struct Graph(HashMap<String, Entry>);

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Entry> {
        self.0.get(uid)
    }

    /// The observed objects of one resource.
    pub fn uids_of(&self, group: &str, kind: &str) -> Vec<String> {
        let of_kind =
            |entry: &Entry| entry.observed && entry.identity.group() == group && entry.identity.kind == kind;
        self.0
            .iter()
            .filter(|(_, entry)| of_kind(entry))
            .map(|(uid, _)| uid.clone())
            .collect()
    }

    /// Those dependents of `uid` that keep it from going before them.
    pub fn blocking(&self, uid: &str) -> Vec<&str> {
        let Some(entry) = self.0.get(uid) else {
            return Vec::new();
        };
        let blocks = |owner: &OwnerReference| owner.uid == uid && owner.block_owner_deletion == Some(true);
        let dependents = entry
            .dependents
            .iter()
            .filter_map(|dependent| self.0.get_key_value(dependent));
        dependents
            .filter(|(_, entry)| entry.owners.iter().any(blocks))
            .map(|(uid, _)| uid.as_str())
            .collect()
    }

    /// An object as it is now.
    pub fn observe(&mut self, identity: Identity, meta: &ObjectMeta) -> Vec<Work> {
        let uid = meta.uid.clone().unwrap_or_default();
        let owners = meta.owner_references.clone().unwrap_or_default();
        let life = Life::of(meta);
        // Those who referred to it named something else: they have no such owner.
        let misled = self.misled(&uid, &identity);
        let entry = self.0.entry(uid.clone()).or_insert_with(|| Entry {
            identity: identity.clone(),
            owners: Vec::new(),
            dependents: HashSet::new(),
            life: Life::Alive,
            observed: false,
        });
        let mut work: Vec<Work> = misled.iter().cloned().map(Work::Examine).collect();
        let before = std::mem::replace(&mut entry.life, life);
        let old_owners = std::mem::replace(&mut entry.owners, owners.clone());
        (entry.identity, entry.observed) = (identity, true);
        work.extend(misled.iter().filter_map(|dependent| self.report(dependent, &uid)));
        work.extend(self.relink(&uid, &old_owners, &owners));
        if before != life {
            work.extend(self.on_transition(&uid, life));
        }
        work
    }

    /// Dependents of what is seen for the first time as this, who named something else by its uid.
    fn misled(&self, uid: &str, identity: &Identity) -> Vec<String> {
        let Some(entry) = self.0.get(uid).filter(|entry| !entry.observed) else {
            return Vec::new();
        };
        let names_another = |dependent: &&String| {
            self.0.get(*dependent).is_some_and(|entry| {
                let namespace = &entry.identity.key.namespace;
                let mut owners = entry.owners.iter().filter(|owner| owner.uid == uid);
                owners.any(|owner| !refers_to(owner, namespace, identity))
            })
        };
        entry.dependents.iter().filter(names_another).cloned().collect()
    }

    /// An object that is gone.
    pub fn forget(&mut self, uid: &str) -> Vec<Work> {
        let Some(entry) = self.0.remove(uid) else {
            return Vec::new();
        };
        let mut work: Vec<Work> = entry.dependents.iter().cloned().map(Work::Examine).collect();
        work.extend(self.relink(uid, &entry.owners, &[]));
        work
    }

    fn relink(&mut self, uid: &str, old: &[OwnerReference], new: &[OwnerReference]) -> Vec<Work> {
        let mut work = Vec::new();
        for owner in old.iter().filter(|owner| !new.contains(owner)) {
            let gone = !new.iter().any(|kept| kept.uid == owner.uid);
            if let Some(entry) = self.0.get_mut(&owner.uid) {
                if gone {
                    entry.dependents.remove(uid);
                }
                if entry.life == Life::Foreground {
                    work.push(Work::Examine(owner.uid.clone()));
                }
                if !entry.observed && entry.dependents.is_empty() {
                    self.0.remove(&owner.uid);
                }
            }
        }
        let namespace = self
            .0
            .get(uid)
            .map(|entry| entry.identity.key.namespace.clone())
            .unwrap_or_default();
        for owner in new {
            work.extend(self.link(uid, &namespace, owner));
            if !old.iter().any(|known| known.uid == owner.uid) {
                work.extend(self.report(uid, &owner.uid));
            }
        }
        work
    }

    /// What is to be said when an owner is known to be in another namespace than its dependent.
    fn report(&self, dependent: &str, owner: &str) -> Option<Work> {
        let place = |uid: &str| Some(&self.0.get(uid)?.identity.key.namespace);
        let namespace = place(owner).filter(|namespace| !namespace.is_empty())?;
        let elsewhere = self.0.get(owner)?.observed && place(dependent) != Some(namespace);
        elsewhere.then(|| Work::Report(dependent.to_owned(), owner.to_owned()))
    }

    fn link(&mut self, uid: &str, namespace: &str, owner: &OwnerReference) -> Option<Work> {
        let known = self.0.contains_key(&owner.uid);
        let entry = self.0.entry(owner.uid.clone()).or_insert_with(|| Entry {
            identity: guess(owner, namespace),
            owners: Vec::new(),
            dependents: HashSet::new(),
            life: Life::Alive,
            observed: false,
        });
        entry.dependents.insert(uid.to_owned());
        let claims_another = entry.observed && !refers_to(owner, namespace, &entry.identity);
        if !known {
            // Perhaps it never existed: look.
            Some(Work::Examine(owner.uid.clone()))
        } else {
            claims_another.then(|| Work::Examine(uid.to_owned()))
        }
    }

    fn on_transition(&self, uid: &str, life: Life) -> Vec<Work> {
        match life {
            Life::Alive | Life::Dying => Vec::new(),
            Life::Orphaning => vec![Work::Orphan(uid.to_owned())],
            Life::Foreground => {
                let dependents = self
                    .0
                    .get(uid)
                    .into_iter()
                    .flat_map(|entry| entry.dependents.iter().cloned());
                dependents.chain([uid.to_owned()]).map(Work::Examine).collect()
            }
        }
    }
}

/// Where an owner should be, from a reference; whether its kind is namespaced is settled when it is looked up.
pub fn guess(owner: &OwnerReference, namespace: &str) -> Identity {
    Identity {
        api_version: owner.api_version.clone(),
        kind: owner.kind.clone(),
        key: ObjectKey::new(namespace, owner.name.clone()),
    }
}

/// Whether `owner`, named by an object in `namespace`, is the object at `identity`: of the same kind and name, and in the
/// same namespace or in none.
pub fn refers_to(owner: &OwnerReference, namespace: &str, identity: &Identity) -> bool {
    let named = guess(owner, &identity.key.namespace);
    named.same_place(identity) && (identity.key.namespace.is_empty() || identity.key.namespace == namespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn identity(kind: &str, name: &str) -> Identity {
        Identity {
            api_version: "v1".into(),
            kind: kind.into(),
            key: ObjectKey::new("n", name),
        }
    }

    fn meta(uid: &str, owners: &[&str], details: Value) -> ObjectMeta {
        let owners: Vec<Value> = owners
            .iter()
            .map(|owner| json!({"apiVersion": "v1", "kind": "Owner", "name": owner, "uid": owner, "blockOwnerDeletion": true}))
            .collect();
        let mut base = json!({"uid": uid, "name": uid, "namespace": "n", "ownerReferences": owners});
        json_patch::merge(&mut base, &details);
        serde_json::from_value(base).expect("metadata")
    }

    /// The first who named it was right, and its place was taken from that; another was not.
    #[test]
    fn each_who_named_something_else_is_found_when_the_owner_is_seen() {
        let at = |namespace: &str, name: &str| Identity {
            key: ObjectKey::new(namespace, name),
            ..identity("Pod", name)
        };
        let mut graph = Graph::default();
        graph.observe(at("n", "p"), &meta("p", &["o"], json!({})));
        graph.observe(at("m", "q"), &meta("q", &["o"], json!({"namespace": "m"})));
        let work = graph.observe(identity("Owner", "o"), &meta("o", &[], json!({})));
        let wanted = [Work::Examine("q".into()), Work::Report("q".into(), "o".into())];
        assert_eq!(sorted(work), sorted(wanted.into()));
    }

    fn examine(uids: &[&str]) -> Vec<Work> {
        uids.iter().map(|uid| Work::Examine((*uid).to_owned())).collect()
    }

    fn sorted(mut work: Vec<Work>) -> Vec<Work> {
        work.sort();
        work
    }

    fn dying(finalizer: &str) -> Value {
        json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer]})
    }

    #[test]
    fn an_unknown_owner_is_looked_up() {
        let mut graph = Graph::default();
        assert_eq!(
            graph.observe(identity("Pod", "p"), &meta("p", &["o"], json!({}))),
            examine(&["o"])
        );
        assert_eq!(
            graph.observe(identity("Pod", "q"), &meta("q", &["o"], json!({}))),
            examine(&[])
        );
        assert_eq!(
            graph.observe(identity("Owner", "o"), &meta("o", &[], json!({}))),
            examine(&[])
        );
        assert_eq!(graph.get("o").expect("the owner").dependents.len(), 2);
    }

    #[test]
    fn when_an_owner_goes_its_dependents_are_examined() {
        let mut graph = Graph::default();
        graph.observe(identity("Owner", "o"), &meta("o", &[], json!({})));
        graph.observe(identity("Pod", "p"), &meta("p", &["o"], json!({})));
        graph.observe(identity("Pod", "q"), &meta("q", &["o"], json!({})));
        assert_eq!(sorted(graph.forget("o")), examine(&["p", "q"]));
    }

    #[test]
    fn foreground_deletion_examines_dependents_and_each_one_that_goes_frees_the_owner() {
        let mut graph = Graph::default();
        graph.observe(identity("Owner", "o"), &meta("o", &[], json!({})));
        graph.observe(identity("Pod", "p"), &meta("p", &["o"], json!({})));
        let started = graph.observe(identity("Owner", "o"), &meta("o", &[], dying(FOREGROUND)));
        assert_eq!(sorted(started), examine(&["o", "p"]));
        assert_eq!(graph.blocking("o"), ["p"]);
        assert_eq!(graph.forget("p"), examine(&["o"]));
        assert!(graph.blocking("o").is_empty());
    }

    #[test]
    fn orphaning_is_work_of_its_own() {
        let mut graph = Graph::default();
        graph.observe(identity("Owner", "o"), &meta("o", &[], json!({})));
        let work = graph.observe(identity("Owner", "o"), &meta("o", &[], dying(ORPHAN)));
        assert_eq!(work, [Work::Orphan("o".into())]);
    }

    #[test]
    fn a_reference_to_an_object_by_another_name_is_examined() {
        let mut graph = Graph::default();
        graph.observe(identity("Owner", "other"), &meta("o", &[], json!({})));
        assert_eq!(
            graph.observe(identity("Pod", "p"), &meta("p", &["o"], json!({}))),
            examine(&["p"])
        );
    }

    #[test]
    fn an_owner_in_another_namespace_is_reported_once() {
        let told = |work: &[Work]| work.contains(&Work::Report("p".into(), "o".into()));
        let at = |namespace: &str| Identity {
            key: ObjectKey::new(namespace, "o"),
            ..identity("Owner", "o")
        };
        for (owner, dependent, wanted) in [
            ("n", "", true),
            ("n", "m", true),
            ("n", "n", false),
            ("", "n", false),
        ] {
            let p = Identity {
                key: ObjectKey::new(dependent, "p"),
                ..identity("Pod", "p")
            };
            let named = meta("p", &["o"], json!({}));
            let mut graph = Graph::default();
            graph.observe(at(owner), &meta("o", &[], json!({})));
            let first = graph.observe(p.clone(), &named);
            assert_eq!(told(&first), wanted, "{owner:?} {dependent:?}");
            assert!(!told(&graph.observe(p.clone(), &named)));
            let mut graph = Graph::default();
            graph.observe(p, &named);
            let later = graph.observe(at(owner), &meta("o", &[], json!({})));
            assert_eq!(told(&later), wanted, "{owner:?} {dependent:?}, found later");
        }
    }

    #[test]
    fn a_dropped_reference_unlinks() {
        let mut graph = Graph::default();
        graph.observe(identity("Owner", "o"), &meta("o", &[], json!({})));
        graph.observe(identity("Pod", "p"), &meta("p", &["o"], json!({})));
        graph.observe(identity("Pod", "p"), &meta("p", &[], json!({})));
        assert!(graph.get("o").expect("the owner").dependents.is_empty());
        assert!(graph.forget("o").is_empty());
    }
}
