//! Why a container was not started, as the API shows it. Owns the mapping of a step to its waiting reason.

use super::record::Record;
use super::unmounted::Unmounted;

/// A start that did not come to a running task.
#[derive(Debug)]
pub struct StartFailure {
    /// `state.waiting.reason`.
    pub reason: &'static str,
    pub message: String,
    pub kind: FailureKind,
}

/// What follows from a failure.
#[derive(Debug)]
pub enum FailureKind {
    /// This image, the container's or one of its volumes: pulls back off.
    Image(String),
    /// What the container shows and no other of its Pod did.
    Volumes(Unmounted),
    /// The configuration or the host: tried again after a while.
    Retry,
    /// The task was made and could not run: it counts as an attempt.
    Attempt(Box<Record>),
    /// The start was given up on request.
    Cancelled,
}

impl StartFailure {
    pub fn image(name: &str, reason: &'static str, message: String) -> Self {
        StartFailure {
            reason,
            message,
            kind: FailureKind::Image(name.to_owned()),
        }
    }

    /// Told of the Pod, not of the container, which is shown as one whose turn has not come.
    pub fn volumes(unmounted: Unmounted) -> Self {
        StartFailure {
            reason: "ContainerCreating",
            message: String::new(),
            kind: FailureKind::Volumes(unmounted),
        }
    }

    /// What the Pod refers to is missing or forbidden.
    pub fn config(error: impl std::fmt::Display) -> Self {
        StartFailure {
            reason: "CreateContainerConfigError",
            message: error.to_string(),
            kind: FailureKind::Retry,
        }
    }

    /// The host could not make what the container needs.
    pub fn create(error: impl std::fmt::Display) -> Self {
        StartFailure {
            reason: "CreateContainerError",
            message: error.to_string(),
            kind: FailureKind::Retry,
        }
    }

    pub fn cancelled() -> Self {
        StartFailure {
            reason: "ContainerCreating",
            message: String::new(),
            kind: FailureKind::Cancelled,
        }
    }
}
