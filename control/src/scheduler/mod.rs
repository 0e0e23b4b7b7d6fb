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
mod queue;
mod score;
mod select;
mod watch;

use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::Node;
use kube::Client;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::toolkit::lock::lock;
use crate::toolkit::{EventSink, Informer, ObjectKey, Pod, Recorder, pods};
use ledger::Ledger;
use queue::{SchedulingQueue, Ticket};
use select::Choice;

/// The name under which Pods ask for this scheduler (`spec.schedulerName`).
const NAME: &str = "default-scheduler";
/// Bindings under way at once; beyond it decisions wait, so that a slow API bounds what is assumed.
const BINDINGS: usize = 100;

/// What the scheduler follows. Somebody else runs these watches, so that others may share them.
#[derive(Clone)]
pub struct Followed {
    pub pods: Arc<Informer<Pod>>,
    pub nodes: Arc<Informer<Node>>,
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
}

impl Scheduler {
    fn new(client: Client, Followed { pods, nodes }: Followed, events: Recorder) -> Self {
        Self {
            client,
            pods,
            nodes,
            ledger: Mutex::new(Ledger::default()),
            queue: SchedulingQueue::new(),
            events,
            bindings: Arc::new(Semaphore::new(BINDINGS)),
        }
    }

    async fn decide_forever(self: &Arc<Self>) {
        // Deciding before both caches are full would overcommit nodes.
        tokio::join!(self.pods.synced(), self.nodes.synced());
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
                Choice::Node(node) => {
                    tokio::spawn(async move {
                        this.bind(ticket, &pod, &node).await;
                        drop(permit);
                    });
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

    /// Decides, and reserves the room on the chosen node before anyone else decides.
    fn choose(&self, pod: &Pod) -> Choice {
        let mut ledger = lock(&self.ledger);
        let choice = select::choose(pod, &mut ledger, &mut |count| rand::random_range(0..count));
        if let Choice::Node(node) = &choice {
            ledger.place(pod, node);
        }
        choice
    }

    async fn bind(&self, ticket: Ticket, pod: &Pod, node: &str) {
        let key = ObjectKey::of(pod);
        match bind::bind(&self.client, pod, node).await {
            Ok(()) => {
                self.queue.forget(&key);
                self.events
                    .normal(pod, "Scheduled", format!("Successfully assigned {key} to {node}"));
            }
            Err(error) => {
                lock(&self.ledger).remove(pod);
                if self
                    .pods
                    .get(&key)
                    .is_some_and(|now| pods::node_name(&now).is_none())
                {
                    tracing::warn!(pod = %key, node, %error, "the Pod stays unbound; will try again");
                    self.report(pod, "SchedulerError", &error.to_string()).await;
                    self.queue.failed(&ticket);
                } else {
                    self.queue.forget(&key);
                }
            }
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
