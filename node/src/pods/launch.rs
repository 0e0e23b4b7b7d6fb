//! The last steps of a start: the shim, the task, its first instruction. What fails here has counted as an attempt.

use std::path::{Path, PathBuf};

use amphipod_shim_api::stdio::{Sinks, StdioUri};
use amphipod_shim_api::{CreateTask, RootfsMount, TaskClient, TaskError};
use jiff::Timestamp;
use tokio::time::Instant;

use super::cgroup::{self, PodCgroupError};
use super::context::Context;
use super::failure::{FailureKind, StartFailure};
use super::log_links;
use super::record::{Exit, Record, RuntimeKind, State};
use super::runtime;
use super::start::release;
use super::stuck;
use super::tasks::let_shim_go;
use super::view::PodView;
use crate::images::{Image, ImageKind, Images};

/// Exit code and reason of a task that could not be started, as containerd gives them.
const START_ERROR_CODE: i32 = 128;
const START_ERROR: &str = "StartError";
/// Shims started for one task, at most: losing the race with a shim's end twice is bad luck, more is a fault.
const CREATE_TRIES: usize = 3;

/// A bundle on disk with its record.
pub struct Prepared {
    pub record: Record,
    pub dir: PathBuf,
    pub rootfs: Vec<RootfsMount>,
    pub program: Program,
    /// The namespace whose containers share its shim, if they do.
    pub shared_by: Option<String>,
    pub terminal: bool,
    /// Something may be written to it (`stdin`).
    pub stdin: bool,
}

/// What was to run, for those who look into why it does not.
pub struct Program {
    pub image: Image,
    /// Where it may be among the image's files.
    pub places: Vec<PathBuf>,
    /// The runtime handler of the Pod's class.
    pub handler: String,
}

impl Program {
    /// A complaint about a native program, with what to do if it is WebAssembly.
    fn explain(&self, images: &Images, complaint: String) -> String {
        let is_native = self.image.kind == ImageKind::Native;
        match is_native && images.is_wasm(&self.image, &self.places) {
            true => complaint + &runtime::advice(&self.handler),
            false => complaint,
        }
    }
}

/// Makes and starts the task. What fails here has counted as an attempt.
pub async fn launch(ctx: &Context, pod: PodView<'_>, prepared: Prepared) -> Result<Record, StartFailure> {
    let Prepared {
        mut record,
        dir,
        rootfs,
        program,
        shared_by,
        terminal,
        stdin,
    } = prepared;
    let bundle = dir.join("bundle");
    let doors = ctx.doors(&record.id);
    let request = CreateTask {
        id: record.id.clone(),
        bundle: bundle.clone(),
        rootfs,
        terminal,
        stdin: if stdin {
            doors.stdin.display().to_string()
        } else {
            String::new()
        },
        stdout: StdioUri::cri(&record.log_path),
        stderr: StdioUri::cri(&record.log_path),
    };
    let opened = doors.prepare(stdin);
    let ran = match opened {
        Ok(()) => run(ctx, pod, &mut record, &dir, &request, shared_by.as_deref()).await,
        Err(error) => Err(format!("failed to make the container's streams: {error}")),
    };
    match ran {
        Ok(()) => {
            log_links::make(&ctx.options.layout, &record);
            Ok(record)
        }
        Err(message) => {
            let message = program.explain(&ctx.images, message);
            let shim = ctx.shim(record.runtime);
            if let Err(error) = shim.delete(&record.id, &bundle).await {
                tracing::debug!(%error, id = record.id, "the shim had nothing to clean up");
            }
            let_shim_go(ctx, &record).await;
            release(ctx, &record.id);
            Err(failed_attempt(pod, record, &dir, message).await)
        }
    }
}

async fn run(
    ctx: &Context,
    pod: PodView<'_>,
    record: &mut Record,
    dir: &Path,
    request: &CreateTask,
    shared_by: Option<&str>,
) -> Result<(), String> {
    let native = record.runtime == RuntimeKind::Native;
    let unlimited = |e: PodCgroupError| format!("failed to limit the cgroup of the Pod: {e}");
    if native {
        cgroup::prepare(ctx, pod).await.map_err(unlimited)?;
    }
    let task = create(ctx, record, dir, request, shared_by).await?;
    if native && let Err(error) = cgroup::settle(ctx, pod).await {
        give_up(&task, &record.id).await;
        return Err(unlimited(error));
    }
    if let Err(error) = task.start(&record.id).await {
        give_up(&task, &record.id).await;
        return Err(format!(
            "failed to start containerd task {:?}: {error}",
            record.id
        ));
    }
    record.state = State::Running {
        started_at: Timestamp::now(),
    };
    record
        .save(dir)
        .await
        .map_err(|e| format!("failed to save the record of the container: {e}"))
}

/// Makes the task. A shim that served others may end between its answer and our call: then it is started anew.
async fn create(
    ctx: &Context,
    record: &mut Record,
    dir: &Path,
    request: &CreateTask,
    shared_by: Option<&str>,
) -> Result<TaskClient, String> {
    let mut tries = 0;
    loop {
        tries += 1;
        let address = match shared_by.and_then(|namespace| ctx.shims.of(namespace)) {
            Some(known) => known,
            None => {
                let started = ctx.shim(record.runtime).start(&record.id, &request.bundle).await;
                started.map_err(|e| format!("failed to start shim: {e}"))?
            }
        };
        // It may have been written down with the rest.
        if record.address.as_ref() != Some(&address) {
            record.address = Some(address.clone());
            record
                .save(dir)
                .await
                .map_err(|e| format!("failed to save the record of the container: {e}"))?;
        }
        let task = ctx.tasks.of(&address);
        let begun = Instant::now();
        match task.create(request).await {
            Ok(_) => {
                if let Some(namespace) = shared_by {
                    ctx.shims.note(namespace, &address);
                }
                return Ok(task);
            }
            Err(TaskError::Disconnected(_)) if tries < CREATE_TRIES => {
                if let Some(namespace) = shared_by {
                    ctx.shims.forget(namespace);
                }
            }
            Err(e) => {
                let serves = !matches!(e, TaskError::Timeout(_)) || answers(&task, &record.id, begun).await;
                match shared_by {
                    // Others of the namespace may have been told so: it lingers like one that has served.
                    Some(namespace) if serves => ctx.shims.note(namespace, &address),
                    Some(namespace) => ctx.shims.forget(namespace),
                    None => {}
                }
                return Err(format!(
                    "failed to create containerd task: failed to create shim task: {e}"
                ));
            }
        }
    }
}

/// Whether a shim that has not made a task since `begun` answers at least: one that is slow is left to it, one that is stuck is
/// ended, or the next container would meet it again.
async fn answers(task: &TaskClient, id: &str, begun: Instant) -> bool {
    let state = stuck::answer_of(task.address(), begun, || task.state(id), || {}).await;
    !matches!(state, Err(TaskError::Disconnected(_) | TaskError::Timeout(_)))
}

/// Removes a task that was created and did not start.
async fn give_up(task: &TaskClient, id: &String) {
    match task.delete(id).await {
        Ok(_) | Err(TaskError::NotFound(_)) => {}
        Err(error) => tracing::warn!(%error, id, "a task that did not start could not be deleted"),
    }
}

async fn failed_attempt(pod: PodView<'_>, mut record: Record, dir: &Path, message: String) -> StartFailure {
    record.state = State::Exited(Exit {
        started_at: Some(Timestamp::UNIX_EPOCH),
        finished_at: Some(Timestamp::now()),
        exit_code: START_ERROR_CODE,
        reason: START_ERROR.into(),
        message: Some(message.clone()),
    });
    if let Err(error) = record.save(dir).await {
        tracing::warn!(%error, pod = %pod.full_name(), "the record of a failed start was not saved");
    }
    // It said nothing, which is no reason to say that its log is lost: containerd opens logs before tasks.
    if let Err(error) = Sinks::open(&StdioUri::cri(&record.log_path), "") {
        tracing::warn!(%error, pod = %pod.full_name(), "a failed start is left without a log");
    }
    StartFailure {
        reason: "RunContainerError",
        message,
        kind: FailureKind::Attempt(Box::new(record)),
    }
}
