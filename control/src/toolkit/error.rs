//! The one error of a reconcile: which step failed and what the API said. The queue retries it.
use kube::core::Status;
use thiserror::Error;

/// A step towards the desired state that the API refused or that did not reach it.
#[derive(Debug, Error)]
#[error("could not {step}: {}", api_message(.source))]
pub struct StepError {
    step: String,
    source: Box<kube::Error>,
}

impl StepError {
    pub fn new(step: impl Into<String>, source: kube::Error) -> Self {
        Self {
            step: step.into(),
            source: Box::new(source),
        }
    }

    /// What the API answered, when it answered at all.
    pub fn status(&self) -> Option<&Status> {
        status_of(&self.source)
    }

    /// What the API said, without the step: what upstream's events quote.
    pub fn message(&self) -> String {
        api_message(&self.source)
    }

    /// The write was based on an old copy: the next try will see a newer one, so nobody need be told.
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(Status::is_conflict)
    }

    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(Status::is_not_found)
    }

    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(Status::is_already_exists)
    }

    /// A create was refused because its namespace is going away (upstream's cause `NamespaceTerminating`).
    pub fn is_namespace_terminating(&self) -> bool {
        self.status()
            .is_some_and(|status| status.code == 403 && names_terminating_namespace(status))
    }
}

fn names_terminating_namespace(status: &Status) -> bool {
    let by_cause = status.details.as_ref().is_some_and(|details| {
        details
            .causes
            .iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
    });
    by_cause || status.message.contains("because it is being terminated")
}

fn status_of(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

fn api_message(error: &kube::Error) -> String {
    match status_of(error) {
        Some(status) if !status.message.is_empty() => status.message.clone(),
        _ => error.to_string(),
    }
}

/// Names the step of a fallible API call.
pub trait Steps<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, StepError>;
    /// As [`Steps::step`], with "there is no such object" as `None`.
    fn step_opt(self, step: impl FnOnce() -> String) -> Result<Option<T>, StepError>;
}

impl<T> Steps<T> for Result<T, kube::Error> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, StepError> {
        self.map_err(|source| StepError::new(step(), source))
    }

    fn step_opt(self, step: impl FnOnce() -> String) -> Result<Option<T>, StepError> {
        match self.step(step) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
