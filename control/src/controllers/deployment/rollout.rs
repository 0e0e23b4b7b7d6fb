//! A Deployment with its ReplicaSets, as one reconcile sees and changes them.
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

use super::{proportional, revision, spec};

pub struct Rollout {
    /// As the API has it.
    pub deployment: Deployment,
    /// The status being worked out: conditions set along the way are written at the end.
    pub status: DeploymentStatus,
    sets: Vec<Arc<ReplicaSet>>,
    new: Option<usize>,
}

impl Rollout {
    pub fn observe(deployment: &Deployment, sets: Vec<Arc<ReplicaSet>>) -> Self {
        let new = revision::find_new(deployment, &sets);
        let status = deployment.status.clone().unwrap_or_default();
        Self {
            deployment: deployment.clone(),
            status,
            sets,
            new,
        }
    }

    /// The ReplicaSet of the current template.
    pub fn new_set(&self) -> Option<&ReplicaSet> {
        self.new.and_then(|index| self.sets.get(index)).map(Arc::as_ref)
    }

    pub fn old(&self) -> Vec<&ReplicaSet> {
        let others = self
            .sets
            .iter()
            .enumerate()
            .filter(|(index, _)| Some(*index) != self.new);
        others.map(|(_, set)| set.as_ref()).collect()
    }

    pub fn all(&self) -> Vec<&ReplicaSet> {
        self.sets.iter().map(Arc::as_ref).collect()
    }

    pub fn find(&self, name: &str) -> Option<Arc<ReplicaSet>> {
        self.sets
            .iter()
            .find(|set| set.metadata.name.as_deref() == Some(name))
            .cloned()
    }

    /// Takes note of what the API answered to a write.
    pub fn update(&mut self, set: ReplicaSet) {
        if let Some(known) = self
            .sets
            .iter_mut()
            .find(|known| known.metadata.name == set.metadata.name)
        {
            *known = Arc::new(set);
        }
    }

    /// Adds the ReplicaSet of the current template.
    pub fn add_new(&mut self, set: ReplicaSet) {
        self.new = Some(self.sets.len());
        self.sets.push(Arc::new(set));
    }

    /// Whether the Deployment changed in size since its ReplicaSets were last scaled.
    pub fn is_being_scaled(&self) -> bool {
        let desired = spec::replicas(&self.deployment);
        let noted = |set: &&ReplicaSet| proportional::annotated(set, revision::DESIRED_REPLICAS);
        self.all()
            .iter()
            .filter(|set| spec::size(set) > 0)
            .filter_map(noted)
            .any(|noted| noted != desired)
    }
}
