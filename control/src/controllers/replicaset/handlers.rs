//! From changes of sets and Pods to the sets that must look again.
use std::sync::Arc;

use kube::ResourceExt;

use super::Controller;
use super::kind::Replicated;
use crate::toolkit::{Change, ObjectKey, Pod, owners, pods};

pub fn register<K: Replicated>(controller: &Arc<Controller<K>>) {
    let this = controller.clone();
    K::cache(&controller.watches).on_change(move |change| {
        let set = change.object();
        if let Change::Deleted(_) = change {
            this.expectations.forget(&ObjectKey::of(set.as_ref()));
        }
        this.queue.add(ObjectKey::of(set.as_ref()));
    });
    let this = controller.clone();
    controller
        .watches
        .pods
        .on_change(move |change| this.pod_changed(change));
}

impl<K: Replicated> Controller<K> {
    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        self.observe(change);
        if let Some(old) = change.old()
            && owners::controller_uid(old.as_ref()) != owners::controller_uid(pod.as_ref())
        {
            self.queue_owner(old);
        }
        if owners::controller_of(&pod.metadata).is_some() {
            self.queue_owner(pod);
        } else if !matches!(change, Change::Deleted(_)) {
            self.queue_adopters(pod);
        }
    }

    fn observe(&self, change: &Change<Pod>) {
        let pod = change.object();
        let Some(owner) = self.owner_key(pod) else { return };
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        match change {
            Change::Added(_) if pods::is_dying(pod) => self.expectations.deletion_observed(&owner, uid),
            Change::Added(_) => self.expectations.creation_observed(&owner),
            Change::Updated { .. } if pods::is_dying(pod) => self.expectations.deletion_observed(&owner, uid),
            Change::Updated { .. } => {}
            Change::Deleted(_) => self.expectations.deletion_observed(&owner, uid),
        }
    }

    fn queue_owner(&self, pod: &Pod) {
        if let Some(owner) = self.owner_key(pod) {
            self.queue.add(owner);
        }
    }

    fn owner_key(&self, pod: &Pod) -> Option<ObjectKey> {
        let owner = owners::controller_of(&pod.metadata).filter(|owner| owner.kind == K::kind(&()))?;
        let (group, _) = owner.api_version.split_once('/').unwrap_or_default();
        let group_matches = group == K::group(&());
        group_matches.then(|| ObjectKey::new(pod.namespace().unwrap_or_default(), owner.name.clone()))
    }

    fn queue_adopters(&self, pod: &Pod) {
        for set in K::cache(&self.watches).in_namespace(&pod.namespace().unwrap_or_default()) {
            if set
                .selector()
                .is_some_and(|selector| selector.matches(&pod.metadata))
            {
                self.queue.add(ObjectKey::of(set.as_ref()));
            }
        }
    }
}
