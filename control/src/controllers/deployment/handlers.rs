//! From changes of Deployments, ReplicaSets and Pods to the Deployments that must look again.
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::{Resource, ResourceExt};

use super::Controller;
use super::spec::{self, Strategy};
use crate::toolkit::selectors::Labels;
use crate::toolkit::{Change, ObjectKey, Pod, owners, pods};

pub fn register(controller: &Arc<Controller>) {
    let this = controller.clone();
    controller
        .watches
        .deployments
        .on_change(move |change| this.queue.add(ObjectKey::of(change.object().as_ref())));
    let this = controller.clone();
    controller
        .watches
        .replica_sets
        .on_change(move |change| this.set_changed(change));
    let this = controller.clone();
    controller
        .watches
        .pods
        .on_change(move |change| this.pod_changed(change));
}

impl Controller {
    fn set_changed(&self, change: &Change<ReplicaSet>) {
        let set = change.object();
        if let Some(old) = change.old()
            && owners::controller_uid(old.as_ref()) != owners::controller_uid(set.as_ref())
        {
            self.queue.extend(owner_key(old.as_ref(), "Deployment"));
        }
        match owners::controller_of(&set.metadata) {
            Some(_) => self.queue.extend(owner_key(set.as_ref(), "Deployment")),
            None if matches!(change, Change::Deleted(_)) => {}
            None => self.queue_adopters(set),
        }
    }

    fn queue_adopters(&self, set: &ReplicaSet) {
        for deployment in self
            .watches
            .deployments
            .in_namespace(&set.namespace().unwrap_or_default())
        {
            let selector = Labels::new(&spec::of(&deployment).selector);
            if !selector.selects_all() && selector.matches(&set.metadata) {
                self.queue.add(ObjectKey::of(deployment.as_ref()));
            }
        }
    }

    /// Recreate waits for the last old Pod to end, which its ReplicaSet's status does not tell.
    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        let ended = matches!(change, Change::Deleted(_)) || pods::is_terminal(pod);
        if !ended {
            return;
        }
        let set = owner_key(pod.as_ref(), "ReplicaSet").and_then(|key| self.watches.replica_sets.get(&key));
        let Some(key) = set.and_then(|set| owner_key(set.as_ref(), "Deployment")) else {
            return;
        };
        let waits = |key: &ObjectKey| {
            self.watches
                .deployments
                .get(key)
                .is_some_and(|deployment| spec::strategy(&deployment) == Strategy::Recreate)
        };
        if waits(&key) {
            self.queue.add(key);
        }
    }
}

/// The managing object of a certain kind in the apps group.
fn owner_key<K: Resource>(object: &K, kind: &str) -> Option<ObjectKey> {
    let owner = owners::controller_of(object.meta()).filter(|owner| owner.kind == kind)?;
    let group_matches = owner.api_version.starts_with("apps/");
    group_matches.then(|| ObjectKey::new(object.namespace().unwrap_or_default(), owner.name.clone()))
}
