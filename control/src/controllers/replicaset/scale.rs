//! Creates or deletes Pods until there are as many as asked for.
use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};

use super::kind::Replicated;
use super::{Controller, rank};
use crate::controllers::context::BY_OWNER;
use crate::controllers::pod_template;
use crate::toolkit::owners::{controller_reference, controller_uid};
use crate::toolkit::{ObjectKey, Pod, StepError, Steps};

/// Pods created or deleted in one pass (upstream's `BurstReplicas`): keeps one set from starving the others.
const BURST: usize = 500;

/// What kept the number of Pods from changing.
#[derive(Debug)]
pub struct Failure {
    /// `FailedCreate` or `FailedDelete`
    pub reason: &'static str,
    pub error: StepError,
}

impl<K: Replicated> Controller<K> {
    pub(super) async fn scale(&self, key: &ObjectKey, set: &K, active: &[Arc<Pod>]) -> Result<(), Failure> {
        let wanted = usize::try_from(super::status::replicas(set)).unwrap_or(0);
        if active.len() < wanted {
            let missing = (wanted - active.len()).min(BURST);
            let created = self.create(key, set, missing).await;
            return created.map_err(|error| Failure {
                reason: "FailedCreate",
                error,
            });
        }
        let surplus = (active.len() - wanted).min(BURST);
        if surplus == 0 {
            return Ok(());
        }
        let victims = rank::victims(active, &self.related(set), surplus, Timestamp::now());
        self.delete(key, set, &victims).await.map_err(|error| Failure {
            reason: "FailedDelete",
            error,
        })
    }

    /// Creates in batches of 1, 2, 4, …: when the API refuses the first, it is not asked hundreds of times.
    async fn create(&self, key: &ObjectKey, set: &K, count: usize) -> Result<(), StepError> {
        self.expectations.expect_creations(key, count);
        let (mut left, mut batch) = (count, 1);
        while left > 0 {
            let size = batch.min(left);
            let results = join_all((0..size).map(|_| self.create_one(key, set))).await;
            left -= size;
            if let Some(error) = results.into_iter().find_map(Result::err) {
                for _ in 0..left {
                    self.expectations.creation_observed(key);
                }
                return Err(error);
            }
            batch *= 2;
        }
        Ok(())
    }

    async fn create_one(&self, key: &ObjectKey, set: &K) -> Result<(), StepError> {
        let Some(template) = set.template() else {
            return Ok(());
        };
        let pod = pod_template::pod(template, &key.namespace, &key.name, controller_reference(set));
        match self
            .pods(set)
            .create(&pod)
            .await
            .step(|| format!("create a Pod of {key}"))
        {
            Ok(created) => {
                self.events.normal(
                    set,
                    "SuccessfulCreate",
                    format!("Created pod: {}", created.name_any()),
                );
                Ok(())
            }
            Err(error) => {
                self.expectations.creation_observed(key);
                if !error.is_namespace_terminating() {
                    self.events.warning(
                        set,
                        "FailedCreate",
                        format!("Error creating: {}", error.message()),
                    );
                }
                Err(error)
            }
        }
    }

    async fn delete(&self, key: &ObjectKey, set: &K, victims: &[Arc<Pod>]) -> Result<(), StepError> {
        self.expectations
            .expect_deletions(key, victims.iter().filter_map(|pod| pod.uid()));
        let results = join_all(victims.iter().map(|pod| self.delete_one(key, set, pod))).await;
        results.into_iter().collect()
    }

    async fn delete_one(&self, key: &ObjectKey, set: &K, pod: &Pod) -> Result<(), StepError> {
        let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        let this_one = Preconditions {
            uid: pod.uid(),
            resource_version: None,
        };
        let params = DeleteParams::default().preconditions(this_one);
        match self
            .pods(set)
            .delete(&name, &params)
            .await
            .step_opt(|| format!("delete Pod {name} of {key}"))
        {
            Ok(Some(_)) => {
                self.events
                    .normal(set, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            Ok(None) => {
                self.expectations.deletion_observed(key, &uid);
                Ok(())
            }
            Err(error) => {
                self.expectations.deletion_observed(key, &uid);
                self.events.warning(
                    set,
                    "FailedDelete",
                    format!("Error deleting: {}", error.message()),
                );
                Err(error)
            }
        }
    }

    /// Pods of all sets that share this one's owner, this one's included.
    fn related(&self, set: &K) -> Vec<Arc<Pod>> {
        let siblings = match controller_uid(set) {
            Some(owner) => K::cache(&self.watches).indexed(BY_OWNER, &owner),
            None => vec![Arc::new(set.clone())],
        };
        siblings
            .iter()
            .flat_map(|sibling| {
                self.watches
                    .pods
                    .indexed(BY_OWNER, &sibling.uid().unwrap_or_default())
            })
            .collect()
    }
}
