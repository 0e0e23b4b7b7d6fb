//! What containerd is told of tasks, as it happens (`ctr events`): by it Docker follows its containers, and the CRI learns that
//! memory ran out.
//!
//! Owns the topics and messages of containerd's runtime v2, and that nobody waits for them: an event is put into a queue, and a
//! containerd that is away ([`delivery`]) costs events and nothing else. That an end is told after its beginning is a
//! [`Story`]'s. A shim that no containerd has started tells nobody, and makes no event.

mod delivery;
mod story;
#[cfg(test)]
mod tests;

pub use delivery::Delivery;
pub use story::{Hold, Story};

use std::sync::Arc;

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskIO, TaskOOM, TaskPaused, TaskResumed,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp as WireTime;
use containerd_shim_protos::protobuf::{self, Message, MessageField};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::topics;
use tokio::sync::mpsc::WeakSender;

use crate::client::Exit;
use delivery::Patience;

/// Where containerd hears of events: in the environment of the shims it starts (its runtime v2).
pub const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";

/// Tells containerd, if there is one.
#[derive(Debug, Clone, Default)]
pub struct Publisher(Option<Arc<Line>>);

#[derive(Debug)]
struct Line {
    /// containerd's, of all the containers of this process.
    namespace: String,
    /// Closed when the process goes, whoever has this.
    queue: WeakSender<Envelope>,
}

impl Publisher {
    /// One to the containerd that the environment names. To be called within an event loop, which delivers the events.
    pub fn of_this_process(namespace: &str) -> (Self, Delivery) {
        match std::env::var(TTRPC_ADDRESS) {
            Ok(address) if !address.is_empty() => Self::to(namespace, &address, Patience::USUAL),
            _ => (Self::default(), Delivery::default()),
        }
    }

    fn to(namespace: &str, address: &str, patience: Patience) -> (Self, Delivery) {
        let (queue, delivery) = delivery::begin(address, patience);
        let namespace = namespace.to_owned();
        (Self(Some(Arc::new(Line { namespace, queue }))), delivery)
    }

    /// Whether anybody is told.
    pub fn is_heard(&self) -> bool {
        self.0.is_some()
    }

    /// What will be told of a task when it has been made; nothing where nobody is told.
    pub fn creation(&self, request: &CreateTaskRequest) -> Option<TaskCreate> {
        self.is_heard().then(|| TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: MessageField::some(TaskIO {
                stdin: request.stdin.clone(),
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
                terminal: request.terminal,
                ..TaskIO::default()
            }),
            checkpoint: request.checkpoint.clone(),
            ..TaskCreate::default()
        })
    }

    /// A task has been made.
    pub fn created(&self, creation: Option<TaskCreate>, pid: u32) {
        if let Some(mut event) = creation {
            event.pid = pid;
            self.tell(topics::TASK_CREATE_EVENT_TOPIC, || event);
        }
    }

    /// A task is no more. Of an exec containerd's own shim does not say it.
    pub fn deleted(&self, container: &str, pid: u32, exit: Exit) {
        self.tell(topics::TASK_DELETE_EVENT_TOPIC, || TaskDelete {
            container_id: container.to_owned(),
            pid,
            exit_status: exit.status,
            exited_at: MessageField::some(exit.wire_time()),
            ..TaskDelete::default()
        });
    }

    /// There is another command to be started in a container.
    pub fn exec_added(&self, container: &str, exec: &str) {
        self.tell(topics::TASK_EXEC_ADDED_EVENT_TOPIC, || TaskExecAdded {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
            ..TaskExecAdded::default()
        });
    }

    pub fn paused(&self, container: &str) {
        self.tell(topics::TASK_PAUSED_EVENT_TOPIC, || TaskPaused {
            container_id: container.to_owned(),
            ..TaskPaused::default()
        });
    }

    pub fn resumed(&self, container: &str) {
        self.tell(topics::TASK_RESUMED_EVENT_TOPIC, || TaskResumed {
            container_id: container.to_owned(),
            ..TaskResumed::default()
        });
    }

    /// Somebody in a container was killed for memory.
    pub fn out_of_memory(&self, container: &str) {
        self.tell(topics::TASK_OOM_EVENT_TOPIC, || TaskOOM {
            container_id: container.to_owned(),
            ..TaskOOM::default()
        });
    }

    fn tell<M: Message>(&self, topic: &'static str, event: impl FnOnce() -> M) {
        let Some(line) = &self.0 else { return };
        match line.envelope(topic, &event()) {
            Ok(envelope) => line.put(topic, envelope),
            Err(error) => tracing::warn!(topic, %error, "an event cannot be encoded"),
        }
    }
}

impl Line {
    fn envelope<M: Message>(&self, topic: &str, event: &M) -> Result<Envelope, protobuf::Error> {
        let now = jiff::Timestamp::now();
        Ok(Envelope {
            timestamp: MessageField::some(WireTime {
                seconds: now.as_second(),
                nanos: now.subsec_nanosecond(),
                ..WireTime::default()
            }),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            // containerd's `typeurl` writes names without a host in front.
            event: MessageField::some(Any {
                type_url: format!("containerd.events.{}", M::NAME),
                value: event.write_to_bytes()?,
                ..Any::default()
            }),
            ..Envelope::default()
        })
    }

    fn put(&self, topic: &str, envelope: Envelope) {
        // Without a queue the process goes: everybody it could be about has been deleted.
        let Some(queue) = self.queue.upgrade() else { return };
        if queue.try_send(envelope).is_err() {
            tracing::warn!(topic, "containerd is not told: too much waits for it");
        }
    }
}
