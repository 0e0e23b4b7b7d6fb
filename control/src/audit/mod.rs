//! The audit log: who asked for what, when, and what became of it (`audit.k8s.io/v1`, as lines of JSON).
//!
//! Flow: the API server begins a [`Trail`] per request, fills in what it learns, and ends it with the answer; the
//! [`Policy`] says how much of it is written; one thread writes. Refuses to know HTTP routing.
mod log;
mod policy;
mod told;
mod trail;

pub use log::{LogError, LogOptions};
pub use policy::{Level, Policy, PolicyError, Stage};
pub use told::Told;
pub use trail::{Event, ObjectRef, Outcome, Subject, Trail};

use log::Log;
use std::sync::Arc;

/// The policy and the log.
#[derive(Clone)]
pub struct Audit {
    policy: Arc<Policy>,
    log: Log,
}

impl Audit {
    pub fn open(policy: Policy, log: LogOptions) -> Result<Self, LogError> {
        Ok(Audit {
            policy: Arc::new(policy),
            log: Log::open(log)?,
        })
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Writes an event; waits while the log is behind, so that nothing goes unrecorded.
    pub async fn write(&self, event: &Event<'_>) {
        self.log.write(event.line()).await;
    }

    /// As above from where nobody can wait; an event that finds the log behind is told on standard error instead.
    pub fn write_now(&self, event: &Event<'_>) {
        self.log.write_now(event.line());
    }
}
