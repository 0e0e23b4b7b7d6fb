//! The scheduler: gives every Pod without a node the best node that can take it.
//!
//! Flow: a Pod waits in the queue → filters drop nodes that cannot take it → scores rank the rest → the choice is assumed
//! in the ledger, so that the next Pod sees it → the binding is written beside the next decision. A Pod that fits nowhere
//! gets an Event and a condition that say why, and is tried again when something that could help changes.
//! It knows only the API; decisions (`select`) are pure.
mod bind;
mod filters;
mod footprint;
mod ledger;
mod message;
mod node_affinity;
mod prebind;
mod queue;
mod score;
mod select;
mod volumes;
mod watch;

use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::toolkit::lock::lock;
use crate::toolkit::{EventSink, Informer, ObjectKey, Pod, Recorder, pods};
use ledger::Ledger;
use queue::{SchedulingQueue, Ticket};
use select::Choice;
use volumes::{Promises, Step, Storage};

/// The name under which Pods ask for this scheduler (`spec.schedulerName`).
const NAME: &str = "default-scheduler";
/// Bindings under way at once; beyond it decisions wait, so that a slow API bounds what is assumed.
const BINDINGS: usize = 100;

/// What the scheduler follows. Somebody else runs these watches, so that others may share them.
#[derive(Clone)]
pub struct Followed {
    pub pods: Arc<Informer<Pod>>,
    pub nodes: Arc<Informer<Node>>,
    pub claims: Arc<Informer<PersistentVolumeClaim>>,
    pub volumes: Arc<Informer<PersistentVolume>>,
    pub classes: Arc<Informer<StorageClass>>,
}

/// Schedules until `shutdown`. Call before the watches run: no change is missed from now on.
pub fn run(client: Client, followed: Followed, shutdown: CancellationToken) -> impl Future<Output = ()> {
    let events = EventSink::start(client.clone(), shutdown.clone());
    let scheduler = Arc::new(Scheduler::new(client, followed, events.recorder(NAME)));
    scheduler.register();
    async move {
        shutdown.run_until_cancelled(scheduler.decide_forever()).await;
    }
}

struct Scheduler {
    client: Client,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    ledger: Mutex<Ledger>,
    queue: SchedulingQueue,
    events: Recorder,
    bindings: Arc<Semaphore>,
    storage: Storage,
    storage_changed: Notify,
    promises: Mutex<Promises>,
}

impl Scheduler {
    fn new(client: Client, followed: Followed, events: Recorder) -> Self {
        let storage = Storage {
            claims: followed.claims,
            volumes: followed.volumes,
            classes: followed.classes,
        };
        Self {
            client,
            pods: followed.pods,
            nodes: followed.nodes,
            storage,
            storage_changed: Notify::new(),
            promises: Mutex::default(),
            ledger: Mutex::new(Ledger::default()),
            queue: SchedulingQueue::new(),
            events,
            bindings: Arc::new(Semaphore::new(BINDINGS)),
        }
    }

    async fn decide_forever(self: &Arc<Self>) {
        // Deciding before the caches are full would overcommit nodes and volumes.
        tokio::join!(
            self.pods.synced(),
            self.nodes.synced(),
            self.storage.claims.synced(),
            self.storage.volumes.synced(),
            self.storage.classes.synced()
        );
        loop {
            let ticket = self.queue.next().await;
            let Ok(permit) = self.bindings.clone().acquire_owned().await else {
                return;
            };
            let Some(pod) = self.pods.get(&ticket.key).filter(|pod| watch::wants_node(pod)) else {
                self.queue.forget(&ticket.key);
                continue;
            };
            let this = self.clone();
            match self.choose(&pod) {
                // The permit bounds both kinds of write.
                Choice::Node { node, steps } => {
                    tokio::spawn(async move { this.bind(ticket, &pod, &node, &steps, permit).await });
                }
                Choice::Unschedulable(why) => {
                    self.queue.unschedulable(&ticket);
                    tokio::spawn(async move {
                        this.report(&pod, "Unschedulable", &why).await;
                        drop(permit);
                    });
                }
            }
        }
    }

    /// Decides, and reserves the room and the volumes on the chosen node before anyone else decides.
    fn choose(&self, pod: &Pod) -> Choice {
        let mut promises = lock(&self.promises);
        let mut ledger = lock(&self.ledger);
        let needs = match self.storage.needs(pod, &self.pods, &promises) {
            Ok(needs) => needs,
            Err(why) => return select::refused(&ledger, &why),
        };
        let choice = select::choose(pod, &needs, &mut ledger, &mut |count| {
            rand::random_range(0..count)
        });
        if let Choice::Node { node, steps } = &choice {
            ledger.place(pod, node);
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            promises.extend(needs.takes(steps).map(|name| (name, uid.clone())));
        }
        choice
    }

    /// What the Pod was promised is bound, or nobody's.
    fn keep_promises(&self, pod: &Pod) {
        let uid = pod.metadata.uid.as_ref();
        lock(&self.promises).retain(|_, to| Some(&*to) != uid);
    }

    async fn bind(
        &self,
        ticket: Ticket,
        pod: &Pod,
        node: &str,
        steps: &[Step],
        mut permit: OwnedSemaphorePermit,
    ) {
        if !steps.is_empty() {
            // Volumes may take minutes; others are not to wait for them.
            drop(permit);
            if let Err(trouble) = self.bind_claims(pod, node, steps).await {
                return self.not_bound(&ticket, pod, node, &trouble).await;
            }
            let Ok(another) = self.bindings.clone().acquire_owned().await else {
                return;
            };
            permit = another;
        }
        let key = ObjectKey::of(pod);
        match bind::bind(&self.client, pod, node).await {
            Ok(()) => {
                self.queue.forget(&key);
                self.events
                    .normal(pod, "Scheduled", format!("Successfully assigned {key} to {node}"));
            }
            Err(error) => self.not_bound(&ticket, pod, node, &error).await,
        }
        drop(permit);
    }

    async fn not_bound(
        &self,
        ticket: &Ticket,
        pod: &Pod,
        node: &str,
        error: &(dyn std::error::Error + Sync),
    ) {
        let key = ObjectKey::of(pod);
        lock(&self.ledger).remove(pod);
        self.keep_promises(pod);
        let same = |now: &Arc<Pod>| now.metadata.uid == pod.metadata.uid;
        let waits = self
            .pods
            .get(&key)
            .is_some_and(|now| same(&now) && pods::node_name(&now).is_none());
        if waits {
            tracing::warn!(pod = %key, node, %error, "the Pod stays unbound; will try again");
            self.report(pod, "SchedulerError", &error.to_string()).await;
            self.queue.failed(ticket);
        } else {
            self.queue.forget(&key);
        }
    }

    /// Tells the person who waits for the Pod: an Event and the PodScheduled condition.
    async fn report(&self, pod: &Pod, reason: &str, message: &str) {
        self.events.warning(pod, "FailedScheduling", message);
        if let Err(error) = bind::write_condition(&self.client, pod, reason, message).await {
            tracing::debug!(pod = %ObjectKey::of(pod), %error, "the Pod's condition was not written");
        }
    }
}
