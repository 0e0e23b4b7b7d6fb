//! The container whose processes an ephemeral container is to see (`targetContainerName`), as far as it has any.

use std::path::PathBuf;

use super::context::Context;
use super::failure::StartFailure;
use super::record::Record;
use super::start::Job;
use super::view::PodView;
use crate::bundle::Namespaces;
use crate::events::Severity::Warning;

/// A container by name, and its attempt that runs, if one does.
pub struct Target {
    pub name: String,
    pub running: Option<Record>,
}

/// The Pod's namespaces, and the target's processes where there is one that has them. A debugger beside a Wasm guest is of use
/// without: they share the Pod's network and volumes.
pub async fn namespaces(ctx: &Context, job: &Job, pod: PodView<'_>) -> Result<Namespaces, StartFailure> {
    let mut namespaces = job.namespaces.clone();
    let Some(target) = &job.target else {
        return Ok(namespaces);
    };
    namespaces.pid = processes_of(ctx, target).await?;
    if namespaces.pid.is_none() {
        let name = &target.name;
        let message = format!("Target container {name:?} is a Wasm guest, which has no processes to share");
        let recorder = &ctx.recorder;
        recorder.container(pod, &job.container, Warning, "NoTargetProcesses", message);
    }
    Ok(namespaces)
}

/// The process namespace of a running container; a guest has none. The path leads to it as long as its first process lives;
/// the shim that opens it fails when it is gone.
async fn processes_of(ctx: &Context, target: &Target) -> Result<Option<PathBuf>, StartFailure> {
    let name = &target.name;
    let address = target
        .running
        .as_ref()
        .and_then(|r| Some((r, r.address.clone()?)));
    let Some((record, address)) = address else {
        return Err(StartFailure::config(format!(
            "unable to find target container {name}"
        )));
    };
    if record.is_wasm() {
        return Ok(None);
    }
    let state = ctx.tasks.of(&address).state(&record.id).await;
    let state = state
        .map_err(|e| StartFailure::create(format!("the target container {name:?} does not answer: {e}")))?;
    Ok(Some(PathBuf::from(format!("/proc/{}/ns/pid", state.pid))))
}
