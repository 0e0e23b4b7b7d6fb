//! Looks at one object live and carries out what is decided.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions, PropagationPolicy};
use serde_json::json;

use super::Collector;
use super::decide::{Owner, Verdict, decide};
use super::graph::{Entry, FOREGROUND, Identity, Life, ORPHAN, Work, guess, refers_to};
use crate::toolkit::catalog::{Instances, Served};
use crate::toolkit::lock::lock;
use crate::toolkit::raw::Metadata;
use crate::toolkit::{Outcome, StepError, Steps, patch};

/// A live object and where it was read.
struct Live {
    instances: Instances,
    served: Served,
    object: Metadata,
}

impl Collector {
    pub(super) async fn examine(&self, uid: &str) -> Result<Outcome, StepError> {
        let Some(entry) = self.entry(uid) else {
            return Ok(Outcome::Done);
        };
        if entry.observed && matches!(entry.life, Life::Dying | Life::Orphaning) {
            return Ok(Outcome::Done);
        }
        let Some(served) = self
            .catalog
            .find(&entry.identity.api_version, &entry.identity.kind)
            .await?
        else {
            // A kind nobody serves (yet): its objects can be neither confirmed nor ruled out.
            return Ok(Outcome::Poll);
        };
        let Some(live) = self.read(&served, &entry.identity, uid).await? else {
            self.forget(uid);
            return Ok(Outcome::Done);
        };
        if !entry.observed {
            self.observe(&live.served, &live.object);
            return Ok(Outcome::Done);
        }
        match Life::of(&live.object.metadata) {
            Life::Foreground => self.wait_for_dependents(uid, &live).await,
            Life::Alive => self.judge(uid, &live).await,
            Life::Dying | Life::Orphaning => Ok(Outcome::Done),
        }
    }

    fn entry(&self, uid: &str) -> Option<Entry> {
        lock(&self.graph).get(uid).cloned()
    }

    async fn read(&self, served: &Served, identity: &Identity, uid: &str) -> Result<Option<Live>, StepError> {
        let instances = served.instances(self.client.clone(), &identity.key.namespace);
        let (kind, key) = (&identity.kind, &identity.key);
        let object = instances
            .get_opt(&key.name)
            .await
            .step(|| format!("read {kind} {key}"))?;
        let same = object.filter(|object| object.metadata.uid.as_deref() == Some(uid));
        Ok(same.map(|object| Live {
            instances,
            served: served.clone(),
            object,
        }))
    }

    async fn judge(&self, uid: &str, live: &Live) -> Result<Outcome, StepError> {
        if self.has_owner_nowhere(&live.object).await? {
            return Ok(Outcome::Done);
        }
        let mut owners = Vec::new();
        for owner in live.object.owner_references() {
            match self.state_of(owner, &live.object).await? {
                Some(state) => owners.push((owner.clone(), state)),
                None => return Ok(Outcome::Poll),
            }
        }
        let (has_dependents, circular) = self.dependents_of(uid);
        match decide(&live.object.metadata, &owners, has_dependents, circular) {
            Verdict::Keep => {}
            Verdict::Drop(lost) => live.drop_owners(|owner| lost.contains(&owner.uid)).await?,
            Verdict::Delete(policy) => live.delete(policy).await?,
            Verdict::Unblock => {
                live.unblock_owners().await?;
                live.delete(PropagationPolicy::Foreground).await?;
            }
        }
        Ok(Outcome::Done)
    }

    /// Whether the object is the cluster's and names an owner that is some namespace's, without being able to say which. It
    /// stays, whatever becomes of its owners (upstream's `namespacedOwnerOfClusterScopedObjectErr`).
    async fn has_owner_nowhere(&self, object: &Metadata) -> Result<bool, StepError> {
        if object.namespace().is_some() {
            return Ok(false);
        }
        for owner in object.owner_references() {
            let served = self.catalog.find(&owner.api_version, &owner.kind).await?;
            if served.is_some_and(|served| served.namespaced) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is known of an owner; `None` when its kind is not served and nothing can be known.
    ///
    /// An owner that the graph has observed exists or was deleted a moment ago, and then this object will be examined
    /// again. One that it has not observed is looked up.
    async fn state_of(
        &self,
        owner: &OwnerReference,
        dependent: &Metadata,
    ) -> Result<Option<Owner>, StepError> {
        let namespace = dependent.namespace().unwrap_or_default();
        if let Some(known) = self.entry(&owner.uid).filter(|known| known.observed) {
            return Ok(Some(match known.life {
                _ if !refers_to(owner, &namespace, &known.identity) => Owner::Absent,
                Life::Foreground => Owner::Waiting,
                _ => Owner::Solid,
            }));
        }
        let Some(served) = self.catalog.find(&owner.api_version, &owner.kind).await? else {
            return Ok(None);
        };
        let live = self.read(&served, &guess(owner, &namespace), &owner.uid).await?;
        Ok(Some(match live.map(|live| Life::of(&live.object.metadata)) {
            None => Owner::Absent,
            Some(Life::Foreground) => Owner::Waiting,
            Some(_) => Owner::Solid,
        }))
    }

    /// Whether the object has dependents, and whether one of them waits for its own.
    fn dependents_of(&self, uid: &str) -> (bool, bool) {
        let graph = lock(&self.graph);
        let Some(entry) = graph.get(uid) else {
            return (false, false);
        };
        let waits = |uid: &String| {
            graph
                .get(uid)
                .is_some_and(|dependent| dependent.life == Life::Foreground)
        };
        (!entry.dependents.is_empty(), entry.dependents.iter().any(waits))
    }

    /// Foreground deletion: lets the object go once nothing that blocks it is left.
    async fn wait_for_dependents(&self, uid: &str, live: &Live) -> Result<Outcome, StepError> {
        let blocking: Vec<(String, bool)> = {
            let graph = lock(&self.graph);
            let waits = |uid: &str| {
                graph
                    .get(uid)
                    .is_some_and(|dependent| dependent.life == Life::Foreground)
            };
            graph
                .blocking(uid)
                .into_iter()
                .map(|dependent| (dependent.to_owned(), waits(dependent)))
                .collect()
        };
        if blocking.is_empty() {
            live.drop_finalizer(FOREGROUND).await?;
        }
        self.queue.extend(
            blocking
                .into_iter()
                .filter(|(_, waits)| !waits)
                .map(|(uid, _)| Work::Examine(uid)),
        );
        Ok(Outcome::Done)
    }

    /// Orphaning deletion: takes the references out of all dependents, then lets the object go.
    pub(super) async fn orphan_dependents(&self, uid: &str) -> Result<Outcome, StepError> {
        let Some(entry) = self.entry(uid) else {
            return Ok(Outcome::Done);
        };
        for dependent in &entry.dependents {
            let Some(known) = self.entry(dependent) else {
                continue;
            };
            let Some(served) = self
                .catalog
                .find(&known.identity.api_version, &known.identity.kind)
                .await?
            else {
                continue;
            };
            if let Some(live) = self.read(&served, &known.identity, dependent).await? {
                live.drop_owners(|owner| owner.uid == uid).await?;
            }
        }
        let served = self
            .catalog
            .find(&entry.identity.api_version, &entry.identity.kind)
            .await?;
        let Some(served) = served else {
            return Ok(Outcome::Poll);
        };
        match self.read(&served, &entry.identity, uid).await? {
            Some(live) => live.drop_finalizer(ORPHAN).await?,
            None => self.forget(uid),
        }
        Ok(Outcome::Done)
    }
}

impl Live {
    async fn delete(&self, policy: PropagationPolicy) -> Result<(), StepError> {
        let meta = &self.object.metadata;
        let unchanged = Preconditions {
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
        };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(unchanged),
            ..Default::default()
        };
        self.instances
            .delete(&self.object.name_any(), &params)
            .await
            .step_opt(|| format!("delete {}", self.name()))
            .map(drop)
    }

    async fn drop_owners(&self, lost: impl Fn(&OwnerReference) -> bool) -> Result<(), StepError> {
        let owners = self.object.owner_references();
        let kept: Vec<&OwnerReference> = owners.iter().filter(|owner| !lost(owner)).collect();
        if kept.len() == owners.len() {
            return Ok(());
        }
        self.patch(json!({"metadata": {"ownerReferences": kept}})).await
    }

    async fn unblock_owners(&self) -> Result<(), StepError> {
        let free = |owner: &OwnerReference| OwnerReference {
            block_owner_deletion: Some(false),
            ..owner.clone()
        };
        let owners: Vec<OwnerReference> = self.object.owner_references().iter().map(free).collect();
        self.patch(json!({"metadata": {"ownerReferences": owners}})).await
    }

    async fn drop_finalizer(&self, finalizer: &str) -> Result<(), StepError> {
        let finalizers = self.object.finalizers();
        let kept: Vec<&String> = finalizers.iter().filter(|known| *known != finalizer).collect();
        if kept.len() == finalizers.len() {
            return Ok(());
        }
        self.patch(json!({"metadata": {"finalizers": kept}})).await
    }

    async fn patch(&self, body: serde_json::Value) -> Result<(), StepError> {
        let body = patch::guarded(&self.object.metadata, body);
        let patched = self.instances.merge(&self.object.name_any(), body).await;
        patched
            .step_opt(|| format!("update the owners or finalizers of {}", self.name()))
            .map(drop)
    }

    fn name(&self) -> String {
        format!(
            "{} {}",
            self.served.resource.kind,
            crate::toolkit::ObjectKey::of(&self.object)
        )
    }
}
