//! Volumes and claims (upstream's persistentvolume, ephemeral-volume, expand and attachdetach controllers, and the provisioner
//! of the class `local-path`).
//!
//! Flow: a claim or a volume changes → pure `decide` says what is due → the two are bound, a volume is made, grown or given
//! up. Guarantees: a volume is bound to one claim, by uid; what nobody claims any more is deleted only when its policy
//! says so. Refuses to know where volumes are mounted: that is the node's.
mod attach;
mod bind;
mod claim;
mod ephemeral;
mod local_path;
mod volume;

pub use attach::seen as attachments;
pub use local_path::{CLASS, PROVISIONER};

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume};
use kube::ResourceExt;

use super::context::Context;
use crate::toolkit::{Change, ObjectKey, Pod, Queue, Recorder, claims, work};

/// Claims, and volumes, treated at once.
const WORKERS: usize = 4;
/// Who signs the Events.
const COMPONENT: &str = "persistentvolume-controller";

/// The context, and what all of this has in common.
#[derive(Clone)]
struct Binder {
    context: Context,
    events: Recorder,
    claims: Arc<Queue<ObjectKey>>,
    volumes: Arc<Queue<String>>,
}

/// Registers for changes and returns the futures that do the work.
pub fn start(context: &Context) -> [BoxFuture<'static, ()>; 4] {
    let binder = Binder {
        context: context.clone(),
        events: context.events.recorder(COMPONENT),
        claims: Arc::new(Queue::new()),
        volumes: Arc::new(Queue::new()),
    };
    binder.register();
    let shutdown = context.shutdown.clone();
    let (claims, volumes) = (binder.claims.clone(), binder.volumes.clone());
    [
        work(
            "claims",
            claims,
            WORKERS,
            shutdown.clone(),
            binder.clone(),
            |binder, key| binder.reconcile_claim(key).boxed(),
        ),
        work("volumes", volumes, WORKERS, shutdown, binder, |binder, name| {
            binder.reconcile_volume(name).boxed()
        }),
        ephemeral::start(context),
        attach::start(context),
    ]
}

impl Binder {
    fn register(&self) {
        let watches = &self.context.watches;
        let this = self.clone();
        watches.claims.on_change(move |change| {
            let claim = change.object();
            this.claims.add(ObjectKey::of(claim.as_ref()));
            // Its volume may be free now, or bound at last.
            let volumes = this.context.watches.volumes.list();
            let its = volumes.iter().filter(|volume| claims::is_for(volume, claim));
            this.volumes.extend(its.map(|volume| volume.name_any()));
        });
        let this = self.clone();
        watches
            .volumes
            .on_change(move |change| this.volume_changed(change));
        let this = self.clone();
        watches.classes.on_change(move |change| {
            let class = change.object().name_any();
            this.wake(|claim| claims::class_of(claim) == class);
        });
        let this = self.clone();
        watches.pods.on_change(move |change| this.pod_changed(change));
    }

    fn volume_changed(&self, change: &Change<PersistentVolume>) {
        let volume = change.object();
        self.volumes.add(volume.name_any());
        let spec = volume.spec.as_ref();
        match spec.and_then(|spec| spec.claim_ref.as_ref()) {
            Some(claim) => self.claims.add(key_of(claim)),
            None => self.wake(|claim| claims::class_of(claim) == claims::class_of_volume(volume)),
        }
        let name = volume.name_any();
        self.wake(|claim| claims::volume_name(claim) == name);
    }

    /// A Pod that has got its node, or none any more, changes what its claims wait for.
    fn pod_changed(&self, change: &Change<Pod>) {
        if matches!(change, Change::Updated { .. }) {
            return;
        }
        let pod = change.object();
        let namespace = pod.namespace().unwrap_or_default();
        let keys = claims::of_pod(pod).map(|used| ObjectKey::new(namespace.as_str(), used.name));
        self.claims.extend(keys);
    }

    /// Has another look at the unbound claims that these words are about.
    fn wake(&self, concerns: impl Fn(&k8s_openapi::api::core::v1::PersistentVolumeClaim) -> bool) {
        let all = self.context.watches.claims.list();
        let waiting = all
            .iter()
            .filter(|claim| !claims::is_bound(claim) && concerns(claim));
        self.claims
            .extend(waiting.map(|claim| ObjectKey::of(claim.as_ref())));
    }
}

fn key_of(reference: &ObjectReference) -> ObjectKey {
    ObjectKey::new(
        reference.namespace.clone().unwrap_or_default(),
        reference.name.clone().unwrap_or_default(),
    )
}
