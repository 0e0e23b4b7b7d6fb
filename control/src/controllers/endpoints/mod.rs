//! Endpoints of Services: EndpointSlices and, for older clients, the Endpoints object of the same name.
//!
//! Flow: a change of a Service, of a Pod it selects, or of what is written here queues the Service; its reconcile works
//! out the addresses and writes the difference. Services without a selector belong to whoever made them.
//! Slices are named after what they hold, so that acting twice on a stale cache cannot make two of them.
mod backends;
mod handlers;
mod legacy;
pub mod slices;

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Preconditions};
use kube::{Client, Resource, ResourceExt};

use super::context::{Context, Watches};
use crate::toolkit::{
    Kind, ObjectKey, Objects, Outcome, Pod, Queue, Recorder, StepError, Steps, patch, selectors, work,
};
use backends::{Backend, Zones};
pub use handlers::service_index;

/// Services reconciled at once (upstream's default).
const WORKERS: usize = 5;
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        watches: context.watches.clone(),
        events: context.events.recorder("endpoint-slice-controller"),
        queue: Arc::new(Queue::new()),
    });
    handlers::register(&controller);
    let queue = controller.queue.clone();
    let shutdown = context.shutdown.clone();
    work(
        "endpoints",
        queue,
        WORKERS,
        shutdown,
        controller,
        |controller, key| controller.reconcile(key).boxed(),
    )
}

struct Controller {
    client: Client,
    watches: Arc<Watches>,
    events: Recorder,
    queue: Arc<Queue<ObjectKey>>,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, StepError> {
        let Some(service) = self.watches.services.get(&key) else {
            self.remove_all(&key).await?;
            return Ok(Outcome::Done);
        };
        let Some(selector) = backends::selector(&service) else {
            return Ok(Outcome::Done);
        };
        let pods = self.watches.pods.in_namespace(&key.namespace);
        let selected: Vec<Arc<Pod>> = pods
            .into_iter()
            .filter(|pod| selectors::contains_all(&pod.metadata, selector))
            .collect();
        let backends = backends::of_service(&service, &selected, &self.zones(&selected));
        let written = self.write_slices(&service, &backends).await;
        let written = written.and(self.write_legacy(&service, &backends).await);
        match written {
            Err(error) if error.is_namespace_terminating() => Ok(Outcome::Done),
            Err(error) if !error.is_conflict() && !error.is_already_exists() => {
                let message = format!(
                    "Error updating Endpoint Slices for Service {key}: {}",
                    error.message()
                );
                self.events
                    .warning(service.as_ref(), "FailedToUpdateEndpointSlices", message);
                Err(error)
            }
            result => result.map(|()| Outcome::Done),
        }
    }

    /// Zones of the nodes the Pods run on.
    fn zones(&self, pods: &[Arc<Pod>]) -> Zones {
        let mut zones = HashMap::new();
        for name in pods.iter().filter_map(|pod| crate::toolkit::pods::node_name(pod)) {
            let node = self.watches.nodes.get(&ObjectKey::cluster(name));
            if let Some(zone) = node.and_then(|node| node.labels().get(ZONE_LABEL).cloned()) {
                zones.insert(name.to_owned(), zone);
            }
        }
        zones
    }

    async fn write_slices(&self, service: &Service, backends: &[Backend]) -> Result<(), StepError> {
        let existing = self.slices_of(&ObjectKey::of(service));
        let plan = slices::plan(service, backends, &existing);
        let api: Objects<EndpointSlice> = self.api(&service.namespace().unwrap_or_default());
        for slice in plan.create {
            let name = slice.name_any();
            api.create(&slice)
                .await
                .step(|| format!("create EndpointSlice {name}"))?;
        }
        for (old, new) in plan.update {
            change(&api, old.as_ref(), &new).await?;
        }
        for slice in plan.delete {
            delete(&api, slice.as_ref()).await?;
        }
        Ok(())
    }

    async fn write_legacy(&self, service: &Service, backends: &[Backend]) -> Result<(), StepError> {
        let key = ObjectKey::of(service);
        let api: Objects<Endpoints> = self.api(&key.namespace);
        let existing = self.watches.endpoints.get(&key);
        let wanted = legacy::endpoints(service, backends, existing.as_deref());
        match existing {
            Some(existing) => change(&api, existing.as_ref(), &wanted).await,
            None => api
                .create(&wanted)
                .await
                .step(|| format!("create Endpoints {key}"))
                .map(drop),
        }
    }

    /// The Service is gone: so is everything that was for it.
    async fn remove_all(&self, key: &ObjectKey) -> Result<(), StepError> {
        let slices: Objects<EndpointSlice> = self.api(&key.namespace);
        for slice in self.slices_of(key) {
            delete(&slices, slice.as_ref()).await?;
        }
        // Also what somebody wrote by hand, as upstream: it was for this Service.
        if let Some(endpoints) = self.watches.endpoints.get(key) {
            delete(&self.api::<Endpoints>(&key.namespace), endpoints.as_ref()).await?;
        }
        Ok(())
    }

    fn slices_of(&self, service: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        let mut slices = self.watches.slices.indexed(0, &service.to_string());
        slices.retain(|slice| slice.metadata.deletion_timestamp.is_none());
        slices.sort_by_key(|slice| slice.name_any());
        slices
    }

    fn api<K>(&self, namespace: &str) -> Objects<K>
    where
        K: Kind + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Objects::in_namespace(&self.client, namespace)
    }
}

pub async fn change<K: Kind>(api: &Objects<K>, old: &K, new: &K) -> Result<(), StepError> {
    let Some(body) = patch::difference(&patch::to_value(old), &patch::to_value(new)) else {
        return Ok(());
    };
    let name = old.name_any();
    let body = patch::guarded(old.meta(), body);
    api.merge(&name, body)
        .await
        .step(|| format!("update the endpoints in {name}"))
        .map(drop)
}

pub async fn delete<K: Kind>(api: &Objects<K>, object: &K) -> Result<(), StepError> {
    let name = object.name_any();
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: object.uid(),
        resource_version: None,
    });
    api.delete(&name, &params)
        .await
        .step_opt(|| format!("delete the endpoints in {name}"))
        .map(drop)
}
