//! EndpointSlices of Services without a selector, from the Endpoints object somebody wrote by hand (upstream's
//! endpointslicemirroring controller, KEP-752): whoever routes to Services reads only slices.
//!
//! Flow: Endpoints, their Service or a slice of theirs changes → what is written is what the Endpoints say. Slices that somebody
//! else made are left alone.
mod plan;

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

use super::context::{Context, MIRRORED};
use super::endpoints::slices::{MANAGED_BY, SERVICE_NAME};
use super::endpoints::{change, delete};
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, Recorder, StepError, Steps, work};
use plan::{MANAGER, MOST, Plan, plan};

/// Endpoints mirrored at once (upstream's default).
const WORKERS: usize = 5;
/// Who writes his own slices says so.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Old leader elections write to Endpoints.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

struct Controller {
    context: Context,
    events: Recorder,
}

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let queue: Arc<Queue<ObjectKey>> = Arc::new(Queue::new());
    let watches = &context.watches;
    let own = queue.clone();
    watches
        .endpoints
        .on_change(move |change| own.add(ObjectKey::of(change.object().as_ref())));
    let served = queue.clone();
    watches
        .services
        .on_change(move |change| served.add(ObjectKey::of(change.object().as_ref())));
    let shown = queue.clone();
    watches
        .slices
        .on_change(move |change| shown.extend(service_of(change.object())));
    let controller = Controller {
        context: context.clone(),
        events: context.events.recorder("endpoint-slice-mirroring-controller"),
    };
    let shutdown = context.shutdown.clone();
    work(
        "mirroring",
        queue,
        WORKERS,
        shutdown,
        controller,
        |controller, key| controller.reconcile(key).boxed(),
    )
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, StepError> {
        let watches = &self.context.watches;
        let existing = watches.slices.indexed(MIRRORED, &key.to_string());
        let service = watches
            .services
            .get(&key)
            .filter(|service| !has_selector(service));
        let endpoints = watches
            .endpoints
            .get(&key)
            .filter(|endpoints| is_mirrored(endpoints));
        let plan = match (&service, &endpoints) {
            (Some(_), Some(endpoints)) => plan(endpoints, &existing),
            _ => Plan {
                delete: existing,
                ..Plan::default()
            },
        };
        if let Some(endpoints) = &endpoints {
            self.tell(endpoints, &plan);
        }
        match self.write(&key, plan).await {
            Err(error) if error.is_namespace_terminating() => Ok(Outcome::Done),
            result => result.map(|()| Outcome::Done),
        }
    }

    /// Says what is not shown.
    fn tell(&self, endpoints: &Endpoints, plan: &Plan) {
        if plan.invalid > 0 {
            let why = format!(
                "Skipped {} invalid IP addresses when mirroring to EndpointSlices",
                plan.invalid
            );
            self.events.warning(endpoints, "InvalidIPAddress", why);
        }
        if plan.skipped > 0 {
            let most =
                format!("A max of {MOST} addresses can be mirrored to EndpointSlices per Endpoints subset.");
            let why = format!("{most} {} addresses were skipped", plan.skipped);
            self.events.warning(endpoints, "TooManyAddressesToMirror", why);
        }
    }

    async fn write(&self, key: &ObjectKey, plan: Plan) -> Result<(), StepError> {
        let api: Objects<EndpointSlice> = Objects::in_namespace(&self.context.client, &key.namespace);
        for slice in plan.create {
            let name = slice.name_any();
            let created = api.create(&slice).await;
            created.step(|| format!("create EndpointSlice {name}"))?;
        }
        for (old, new) in plan.update {
            change(&api, old.as_ref(), &new).await?;
        }
        for slice in plan.delete {
            delete(&api, slice.as_ref()).await?;
        }
        Ok(())
    }
}

fn has_selector(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector.is_empty())
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let skipped = endpoints.labels().get(SKIP).is_some_and(|skip| skip == "true");
    let dying = endpoints.metadata.deletion_timestamp.is_some();
    !skipped && !dying && !endpoints.annotations().contains_key(LEADER)
}

/// The Service a slice of ours belongs to.
fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.labels();
    let ours = labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
    let name = labels.get(SERVICE_NAME).filter(|_| ours)?;
    Some(ObjectKey::new(
        slice.namespace().unwrap_or_default(),
        name.clone(),
    ))
}

/// Files slices of ours under their Service.
pub fn service_index(slice: &EndpointSlice) -> Option<String> {
    service_of(slice).map(|key| key.to_string())
}
