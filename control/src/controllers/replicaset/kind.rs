//! What keeps a number of Pods: ReplicaSets, and the ReplicationControllers they came from, seen as one.
//!
//! The two differ in how they write their selector, in who signs their Events, and in what their status can say; a
//! status is a ReplicaSet's here, whose fields the other's are.
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Resource;

use crate::controllers::context::Watches;
use crate::toolkit::Informer;
use crate::toolkit::Kind;
use crate::toolkit::events::Subject;
use crate::toolkit::selectors::Labels;

pub trait Replicated: Kind + Subject + Resource<Scope = NamespaceResourceScope> {
    /// Who signs Events.
    const COMPONENT: &'static str;
    /// Whether the status says how many Pods are on their way out.
    const COUNTS_DYING: bool;

    fn cache(watches: &Watches) -> &Arc<Informer<Self>>;
    /// Nothing when it would select everything.
    fn selector(&self) -> Option<Labels>;
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// Pods asked for, if it is said.
    fn wanted(&self) -> Option<i32>;
    fn min_ready_seconds(&self) -> Option<i32>;
    fn status(&self) -> Option<ReplicaSetStatus>;
}

impl Replicated for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";
    const COUNTS_DYING: bool = true;

    fn cache(watches: &Watches) -> &Arc<Informer<Self>> {
        &watches.replica_sets
    }

    fn selector(&self) -> Option<Labels> {
        let spec = self.spec.as_ref()?;
        Some(Labels::new(&spec.selector)).filter(|selector| !selector.selects_all())
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn wanted(&self) -> Option<i32> {
        self.spec.as_ref()?.replicas
    }

    fn min_ready_seconds(&self) -> Option<i32> {
        self.spec.as_ref()?.min_ready_seconds
    }

    fn status(&self) -> Option<ReplicaSetStatus> {
        self.status.clone()
    }
}

impl Replicated for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";
    const COUNTS_DYING: bool = false;

    fn cache(watches: &Watches) -> &Arc<Informer<Self>> {
        &watches.replication_controllers
    }

    fn selector(&self) -> Option<Labels> {
        let selector = LabelSelector {
            match_labels: self.spec.as_ref()?.selector.clone(),
            match_expressions: None,
        };
        Some(Labels::new(&selector)).filter(|selector| !selector.selects_all())
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn wanted(&self) -> Option<i32> {
        self.spec.as_ref()?.replicas
    }

    fn min_ready_seconds(&self) -> Option<i32> {
        self.spec.as_ref()?.min_ready_seconds
    }

    fn status(&self) -> Option<ReplicaSetStatus> {
        self.status.clone().map(as_of_a_set)
    }
}

fn as_of_a_set(status: ReplicationControllerStatus) -> ReplicaSetStatus {
    let condition = |condition: ReplicationControllerCondition| ReplicaSetCondition {
        last_transition_time: condition.last_transition_time,
        message: condition.message,
        reason: condition.reason,
        status: condition.status,
        type_: condition.type_,
    };
    let conditions = |all: Vec<_>| all.into_iter().map(condition).collect();
    ReplicaSetStatus {
        available_replicas: status.available_replicas,
        conditions: status.conditions.map(conditions),
        fully_labeled_replicas: status.fully_labeled_replicas,
        observed_generation: status.observed_generation,
        ready_replicas: status.ready_replicas,
        replicas: status.replicas,
        terminating_replicas: None,
    }
}
