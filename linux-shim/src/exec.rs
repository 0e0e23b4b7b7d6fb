//! A process added to a running container, as the container keeps it: `Asked → Starting → Made`.

use std::sync::Arc;

use amphipod_shim_api::TaskError;

use crate::init::ProcessPlan;
use crate::process::{ContainerProcess, ProcessError};
use crate::streams::Addresses;

/// It is made when it is started.
#[derive(Debug, Clone)]
pub enum Exec {
    Asked(Box<ProcessPlan>, Addresses),
    /// It is being made: by one caller, however many ask for it.
    Starting(Addresses),
    Made(Arc<ContainerProcess>),
}

impl Exec {
    /// Takes what is to be made, which nobody else can then.
    pub fn take(&mut self) -> Result<(Box<ProcessPlan>, Addresses), TaskError> {
        let Self::Asked(plan, addresses) = self else {
            return Err(already_started());
        };
        let taken = (plan.clone(), addresses.clone());
        *self = Self::Starting(taken.1.clone());
        Ok(taken)
    }

    pub fn made(&self) -> Option<Arc<ContainerProcess>> {
        match self {
            Self::Made(process) => Some(Arc::clone(process)),
            Self::Asked(..) | Self::Starting(_) => None,
        }
    }
}

pub fn already_started() -> TaskError {
    TaskError::FailedPrecondition("already started".into())
}

pub fn still_running(exec: &str) -> TaskError {
    TaskError::FailedPrecondition(format!("exec {exec} is still running"))
}

pub fn failed(error: &ProcessError) -> TaskError {
    TaskError::Internal(format!(
        "OCI runtime exec failed: unable to start container process: {error}"
    ))
}
