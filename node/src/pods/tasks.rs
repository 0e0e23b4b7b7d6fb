//! Tasks at shims: taking them back after a restart of the agent, waiting for their end, stopping them.
//! Knows the Task API only; what an end means is `termination`'s and `plan`'s.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use amphipod_shim_api::{Exit as TaskExit, TaskClient, TaskClients, TaskError, TaskState, TaskStatus};
use futures::future;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cgroup;
use super::context::Context;
use super::hooks::Hook;
use super::kills::{self, Kill};
use super::record::{Exit, Record, State};
use super::resize::less_memory;
use super::sandbox::POD_FILE;
use super::shims;
use super::start::release;
use super::status::{UNKNOWN_EXIT_CODE, UNKNOWN_MESSAGE, UNKNOWN_REASON};
use super::stuck::{self, Next, ToldOnce, Unanswered};
use super::termination;
use super::view::PodView;
use crate::bundle::guest::bounds;
use crate::bundle::resources::limits_of;
use crate::events::Severity::Warning;
use crate::files;
use crate::removal;

const SIGKILL: u32 = 9;
/// SIGKILL is sent again this often until the end is seen: a shim may have been starting the process.
const KILL_AGAIN: Duration = Duration::from_secs(5);
/// What a container gets between the two signals at least, however short its grace period is or whatever used it up;
/// upstream's.
const MIN_GRACE: Duration = Duration::from_secs(2);
/// Attempts to reach a shim whose connection broke, before its containers count as lost.
const RECONNECTS: u32 = 3;
/// Time between them.
const RECONNECT_AFTER: Duration = Duration::from_millis(200);
/// A connection that lasted so long was no failed attempt: others use it too, and may have broken it.
const LASTED: Duration = Duration::from_secs(5);

/// What became of a Pod's recorded tasks while nobody watched, but for those that never ran. Takes as long as the slowest of their
/// shims is waited for.
pub async fn adopt_all(ctx: &Context, pod: &Pod, records: Vec<Record>) -> Vec<Record> {
    let told = ToldOnce::default();
    let adopted = records.into_iter().map(|record| adopt(ctx, pod, record, &told));
    future::join_all(adopted).await.into_iter().flatten().collect()
}

/// The same of one; `None` when it never ran.
async fn adopt(ctx: &Context, pod: &Pod, record: Record, told: &ToldOnce) -> Option<Record> {
    if record.exit().is_some() {
        return Some(record);
    }
    let state = state(ctx, pod, &record, told);
    let Some(state) = ctx.shutdown.run_until_cancelled(state).await else {
        return Some(record);
    };
    match (state.map(|s| (s.status, s.exit)), record.is_running()) {
        (Some((TaskStatus::Stopped, exit)), _) => Some(ended(ctx, pod, record, exit).await),
        (Some((TaskStatus::Running | TaskStatus::Paused | TaskStatus::Pausing, _)), true) => Some(record),
        (Some((TaskStatus::Running, _)), false) => Some(mark_running(ctx, pod, record).await),
        (_, true) => Some(lost(ctx, pod, record).await),
        (_, false) => {
            forget(ctx, pod, &record).await;
            None
        }
    }
}

/// What the shim of an attempt says of it; `None` when its task is nowhere. A shim that does not answer may still run it: it is
/// not lost before that one has ended.
async fn state(ctx: &Context, pod: &Pod, record: &Record, told: &ToldOnce) -> Option<TaskState> {
    let address = record.address.as_ref();
    let client = ctx.tasks.of(address.filter(|_| record.boot_id == ctx.boot_id)?);
    let ask = || client.state(&record.id);
    let tell = || {
        if told.is_due(Instant::now()) {
            tell_untold(ctx, pod);
        }
    };
    let state = stuck::answer_of(client.address(), Instant::now(), ask, tell);
    state.await.ok()
}

/// What runs of the Pod may not be known for long: it is told, and who else waits to learn that need not.
fn tell_untold(ctx: &Context, pod: &Pod) {
    let Some(view) = PodView::new(pod) else { return };
    ctx.allocations.counts(view.uid());
    ctx.recorder
        .pod(view, Warning, "FailedSync", stuck::UNTOLD.to_owned());
}

/// Removes an attempt that was prepared and never ran.
async fn forget(ctx: &Context, pod: &Pod, record: &Record) {
    if let Some(address) = record.address.clone() {
        let deleted = ctx.tasks.of(&address).delete(&record.id).await;
        tracing::debug!(id = record.id, ?deleted, "forgot a task that never ran");
    }
    remove_from_shim(ctx, pod, record).await;
    let_shim_go(ctx, record).await;
    release(ctx, &record.id);
    let Some(view) = PodView::new(pod) else { return };
    let dir = ctx.dirs(view).attempt(&record.container, record.attempt);
    if let Err(error) = removal::remove(&dir) {
        tracing::warn!(%error, path = %dir.display(), "cannot remove an attempt that never ran");
    }
}

/// Removes what a dead or unwanted task left on the host, and what its shim did, if that is dead too.
async fn remove_from_shim(ctx: &Context, pod: &Pod, record: &Record) {
    let Some(view) = PodView::new(pod) else { return };
    let bundle = ctx.dirs(view).bundle(&record.container, record.attempt);
    if let Err(error) = ctx.shim(record.runtime).delete(&record.id, &bundle).await {
        tracing::warn!(%error, id = record.id, "cleaning up after a task failed");
    }
    if let Some(address) = &record.address {
        shims::forget_lost(&ctx.options.run_dir, address).await;
    }
}

/// The agent died between Start and the record of it: the start time is the best known, the creation's.
async fn mark_running(ctx: &Context, pod: &Pod, mut record: Record) -> Record {
    record.state = State::Running {
        started_at: record.created_at,
    };
    save(ctx, pod, &record).await;
    record
}

/// How a running attempt ended.
#[derive(Debug)]
pub enum End {
    Exit(TaskExit),
    /// Its task is nowhere.
    Lost,
}

/// Waits for the end of a running attempt and settles it.
pub async fn wait(ctx: Arc<Context>, pod: Arc<Pod>, record: Record) -> Record {
    let end = end_of(&ctx.tasks, &record).await;
    settle(&ctx, &pod, record, end).await
}

/// Waits for the end of a running attempt. Holds nothing of its Pod: this takes as long as it runs.
pub async fn end_of(tasks: &TaskClients, record: &Record) -> End {
    let Some(address) = record.address.clone() else {
        return End::Lost;
    };
    let client = tasks.of(&address);
    let mut failures = 0;
    loop {
        let since = Instant::now();
        let waited = client.wait(&record.id).await;
        if since.elapsed() > LASTED {
            failures = 0;
        }
        match waited {
            Ok(exit) => return End::Exit(exit),
            Err(TaskError::Disconnected(_)) if failures < RECONNECTS => {
                failures += 1;
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
            Err(error) => {
                tracing::warn!(%error, id = record.id, "a task was lost");
                return End::Lost;
            }
        }
    }
}

/// Records the end, and gives back what the attempt had.
pub async fn settle(ctx: &Context, pod: &Pod, record: Record, end: End) -> Record {
    match end {
        End::Exit(exit) => ended(ctx, pod, record, Some(exit)).await,
        End::Lost => lost(ctx, pod, record).await,
    }
}

/// Records the exit, then lets the shim forget the task.
async fn ended(ctx: &Context, pod: &Pod, mut record: Record, exit: Option<TaskExit>) -> Record {
    let exit = exit.unwrap_or(TaskExit {
        status: UNKNOWN_EXIT_CODE as u32,
        at: Timestamp::now(),
    });
    if let Some(view) = PodView::new(pod) {
        let dir = ctx.dirs(view).attempt(&record.container, record.attempt);
        let container = view.container(&record.container).map(|(c, _)| c);
        record.state = State::Exited(termination::exit(&record, &dir, container.as_deref(), exit));
    }
    save(ctx, pod, &record).await;
    if let Some(address) = record.address.clone() {
        let client = ctx.tasks.of(&address);
        match client.delete(&record.id).await {
            Ok(_) | Err(TaskError::NotFound(_)) => {}
            Err(error) => tracing::warn!(%error, id = record.id, "a stopped task could not be deleted"),
        }
    }
    let_shim_go(ctx, &record).await;
    release(ctx, &record.id);
    record
}

/// Tells the shim of an attempt that is no more that it may go, unless it waits for the next container of its namespace.
/// One that has other containers stays.
pub async fn let_shim_go(ctx: &Context, record: &Record) {
    let Some(address) = &record.address else { return };
    let lingers = ctx
        .shims
        .let_go(&record.pod_namespace, address, ctx.shutdown.clone());
    if !lingers && let Err(error) = stuck::let_go(ctx.tasks.of(address), record.id.clone()).await {
        tracing::debug!(%error, id = record.id, "the shim stays");
    }
}

/// Settles an attempt whose task is nowhere: what is left of it on the host is removed.
async fn lost(ctx: &Context, pod: &Pod, mut record: Record) -> Record {
    remove_from_shim(ctx, pod, &record).await;
    let_shim_go(ctx, &record).await;
    record.state = State::Exited(Exit {
        started_at: record.started_at(),
        finished_at: Some(Timestamp::now()),
        exit_code: UNKNOWN_EXIT_CODE,
        reason: UNKNOWN_REASON.into(),
        message: Some(UNKNOWN_MESSAGE.into()),
    });
    save(ctx, pod, &record).await;
    release(ctx, &record.id);
    record
}

async fn save(ctx: &Context, pod: &Pod, record: &Record) {
    let Some(view) = PodView::new(pod) else { return };
    let dirs = ctx.dirs(view);
    let dir = dirs.attempt(&record.container, record.attempt);
    // An end is not forgotten with the power of the machine, nor is whose it was: else it would run again.
    if record.exit().is_some()
        && let Err(error) = files::sync(&dirs.file(POD_FILE)).await
    {
        tracing::warn!(%error, pod = %view.full_name(), "whose end this is may be lost with the machine's power");
    }
    if let Err(error) = record.save(&dir).await {
        tracing::error!(%error, path = %dir.display(), "the record of a container was not saved");
    }
}

/// Why the limits of a running attempt did not change.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    #[error("failed to resize container {container:?}: its task has no address")]
    NoTask { container: String },
    #[error("failed to resize container {container:?}: {source}")]
    Update { container: String, source: TaskError },
    #[error("attempting to set container {container:?} memory limit ({limit}) below current usage ({used})")]
    InUse {
        container: String,
        limit: u64,
        used: u64,
    },
}

/// Gives a running attempt the container's resources; it is recorded that it has them.
pub async fn resize(
    ctx: &Context,
    pod: &Pod,
    record: &mut Record,
    container: &Container,
) -> Result<(), ResizeError> {
    let name = || container.name.clone();
    let address = record.address.clone();
    let address = address.ok_or_else(|| ResizeError::NoTask { container: name() })?;
    let view = PodView::new(pod);
    let around = view.filter(|_| !record.is_wasm());
    // More goes to the Pod first, less to its containers: no quota may be above that around it.
    if let Some(view) = around {
        limit_around(ctx, view).await;
    }
    let client = ctx.tasks.of(&address);
    let whole = view.and_then(|view| view.spec.resources.as_ref());
    if let Some(limit) = view.and_then(|view| less_memory(view, container, record)) {
        has_room(&client, record, limit).await?;
    }
    // Of what guests have together their shim keeps account.
    let bounds = view.filter(|_| record.is_wasm()).map(|view| bounds(view.spec));
    let limits = limits_of(container, whole);
    let updated = client.update_noting(&record.id, &limits, bounds.unwrap_or_default());
    let updated = updated.await;
    updated.map_err(|source| ResizeError::Update {
        container: name(),
        source,
    })?;
    if let Some(view) = around {
        limit_around(ctx, view).await;
    }
    record.resources = Some(container.resources.clone().unwrap_or_default());
    record.pod_resources = pod.spec.as_ref().and_then(|spec| spec.resources.clone());
    save(ctx, pod, record).await;
    Ok(())
}

/// Tells the shim of a guest what its Pod has as a whole; answers whether it took it.
pub async fn bound(ctx: &Context, record: &Record, bounds: HashMap<String, String>) -> bool {
    let Some(address) = &record.address else {
        return true;
    };
    let told = ctx.tasks.of(address).bound(&record.id, bounds).await;
    let told = told.inspect_err(
        |error| tracing::warn!(%error, id = record.id, "what the guests of a Pod may use together is not set yet"),
    );
    told.is_ok()
}

/// Memory in use is not taken away: on cgroup v2 the kernel would end the container for it.
async fn has_room(client: &TaskClient, record: &Record, limit: u64) -> Result<(), ResizeError> {
    let stats = client.stats(&record.id).await;
    let stats = stats.map_err(|source| ResizeError::Update {
        container: record.container.clone(),
        source,
    })?;
    match stats.memory_usage {
        used if used >= limit => Err(ResizeError::InUse {
            container: record.container.clone(),
            limit,
            used,
        }),
        _ => Ok(()),
    }
}

/// The Pod's own limits while they change: refused as long as another container has yet to give something back.
async fn limit_around(ctx: &Context, pod: PodView<'_>) {
    if let Err(error) = cgroup::apply(ctx, pod).await {
        tracing::info!(%error, pod = %pod.full_name(), "the limits of a Pod that is resized are not all set yet");
    }
}

/// Runs the container's `preStop`, if it is due, waits for its turn, then asks the task to stop and, after `grace`, makes
/// it. Runs until dropped: the end itself is `wait`'s to see.
pub async fn stop(stopping: Stopping, grace: Duration) {
    let record = &stopping.record;
    let Some(address) = record.address.clone() else {
        return;
    };
    let client = stopping.ctx.tasks.of(&address);
    let since = Instant::now();
    let left = || grace.saturating_sub(since.elapsed());
    stopping.pre_stop(grace).await;
    if tokio::time::timeout(left(), stopping.turn.cancelled())
        .await
        .is_err()
    {
        tracing::debug!(
            id = record.id,
            "those that were to end before took all the time there is"
        );
    }
    let least = if grace.is_zero() { grace } else { MIN_GRACE };
    signal(&client, record, record.stop_signal).await;
    tokio::time::sleep(left().max(least)).await;
    stopping.insist(&client).await;
}

/// A container to stop.
pub struct Stopping {
    pub ctx: Arc<Context>,
    pub pod: Arc<Pod>,
    pub record: Record,
    pub ip: Option<IpAddr>,
    /// Its `preStop` has not been run for this stop.
    pub hook_is_due: bool,
    /// Cancelled when the signal may go.
    pub turn: CancellationToken,
    /// Held until the container has ended.
    pub kill: Kill,
}

impl Stopping {
    /// Kills the task again and again. A shim that does not answer is told of, and ended when that lasts: then its tasks are lost,
    /// and so have ended.
    async fn insist(&self, client: &TaskClient) {
        let mut unanswered = Unanswered::default();
        loop {
            let begun = Instant::now();
            let answered = signal(client, &self.record, SIGKILL).await;
            self.tell(answered);
            let pause = match unanswered.note(begun, Instant::now(), answered) {
                Next::Fine => KILL_AGAIN,
                Next::Wait(pause) => pause,
                Next::End(pause) => {
                    stuck::end_shim(client.address().clone()).await;
                    pause
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn tell(&self, answered: bool) {
        if let (Some(message), Some(view)) = (self.kill.note(answered), PodView::new(&self.pod)) {
            self.ctx.recorder.pod(view, Warning, kills::REASON, message);
        }
    }

    /// A hook that fails, or takes all the time there is, is told and changes nothing.
    async fn pre_stop(&self, limit: Duration) {
        let Some(view) = PodView::new(&self.pod).filter(|_| self.hook_is_due) else {
            return;
        };
        let Some((container, _)) = view.container(&self.record.container) else {
            return;
        };
        let handler = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
        let Some(handler) = handler else { return };
        let hook = Hook {
            ctx: &self.ctx,
            pod: view,
            container: &container,
            record: &self.record,
            ip: self.ip,
        };
        if let Err(error) = hook.run(handler, limit).await {
            tracing::debug!(%error, pod = %view.full_name(), "a preStop hook failed");
            if !error.is_told(handler) {
                return;
            }
            let message = "PreStopHook failed".to_owned();
            let recorder = &self.ctx.recorder;
            recorder.container(view, &container.name, Warning, "FailedPreStopHook", message);
        }
    }
}

/// Whether the shim has answered, whatever; one that is gone is not stuck.
async fn signal(client: &TaskClient, record: &Record, signal: u32) -> bool {
    match client.kill(&record.id, signal, signal == SIGKILL).await {
        Ok(()) | Err(TaskError::NotFound(_)) => true,
        Err(error) => {
            tracing::debug!(%error, id = record.id, signal, "a signal was not delivered");
            !matches!(error, TaskError::Timeout(_))
        }
    }
}
