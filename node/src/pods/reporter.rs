//! Brings a Pod's status to the API, and removes the object when its node part is over. Latest wins: while
//! the API is slow or away, older reports are skipped. Level-triggered: what the API shows is compared with what was there after the
//! last write, and written again where it is another for long, whoever did that: somebody else, a write of before whose answer was
//! lost and which came late, or a server that was put back to an earlier day. Owns nothing of what is reported.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::conditions::{RESIZE_IN_PROGRESS, RESIZE_PENDING};
use super::shown::Shown;
use super::view::PodView;
use crate::static_pods::manifest::is_static;

/// Least time between two writes of one Pod, and before the first: what changes meanwhile goes out together. What others wait
/// for ([`Gist`]) goes out at once.
const SPACING: Duration = Duration::from_millis(20);

/// A write that took long is given so many times as long before the next: statuses of thousands of containers are megabytes each.
const REST: u32 = 4;

/// How long what may take.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// First pause after a write that failed, doubled up to the longest.
    retry_first: Duration,
    retry_longest: Duration,
    /// Then a write has failed, whatever came of it. API servers themselves give up after as much.
    answer: Duration,
    /// What somebody else wrote is let be for so long: who overwrite each other must not do so as fast as they can. Upstream's node
    /// compares as often.
    settled: Duration,
    /// The same of what is of before the last write: a watch lags by seconds on a machine with too much to do, and further writes
    /// would make that worse. A server that was put back to an earlier day shows such things for good.
    lag: Duration,
}

const PACE: Pace = Pace {
    retry_first: Duration::from_millis(200),
    retry_longest: Duration::from_secs(10),
    answer: Duration::from_secs(60),
    settled: Duration::from_secs(10),
    lag: Duration::from_secs(120),
};

/// What the API shall hold of a Pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub status: Option<Arc<PodStatus>>,
    /// The containers are gone: delete the object (its deletion was asked for).
    pub remove: bool,
    /// The object, as the API showed it last; without one there is nobody to tell.
    pub object: Option<Shown>,
}

/// Of a report, what others wait for: a Pod that starts within the spacing is told once, as Running.
#[derive(PartialEq)]
struct Gist {
    waits: bool,
    ready: bool,
    remove: bool,
}

impl Gist {
    fn of(report: &Report) -> Self {
        let status = report.status.as_ref();
        let phase = status.and_then(|s| s.phase.as_deref());
        let mut conditions = status.iter().flat_map(|s| s.conditions.iter().flatten());
        Gist {
            waits: phase.is_none_or(|phase| phase == "Pending"),
            ready: conditions.any(|c| c.type_ == "Ready" && c.status == "True"),
            remove: report.remove,
        }
    }
}

/// Writes each new report until the sender or the agent ends, or the Pod is gone.
pub async fn run(
    client: Client,
    pod: Arc<Pod>,
    reports: watch::Receiver<Report>,
    shutdown: CancellationToken,
) {
    let Some(view) = PodView::new(&pod) else { return };
    let writer = Writer {
        api: Api::namespaced(client, view.namespace()),
        name: view.name().to_owned(),
        is_static: is_static(&pod),
        pace: PACE,
        written: None,
    };
    // The Pod as it came is not kept as long as it runs.
    drop(pod);
    writer.follow(reports, &shutdown).await;
}

/// Waits for another report, for `limit` at most; false when there will be none.
async fn news(reports: &mut watch::Receiver<Report>, limit: Option<Duration>) -> bool {
    let changed = reports.changed();
    match limit {
        Some(limit) => !matches!(tokio::time::timeout(limit, changed).await, Ok(Err(_))),
        None => changed.await.is_ok(),
    }
}

/// Why a write is tried again.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("the API server did not answer within {0:?}")]
    NoAnswer(Duration),
}

enum Progress {
    Written,
    /// The object is not there any more, or is another of the same name.
    Gone,
}

/// Writes one Pod's status.
struct Writer {
    api: Api<Pod>,
    name: String,
    is_static: bool,
    pace: Pace,
    written: Option<Written>,
}

/// The last write that was answered.
struct Written {
    status: Arc<PodStatus>,
    /// The object as it was then.
    object: Shown,
    at: Instant,
}

impl Writer {
    /// A write that is under way when the agent ends comes to its end.
    async fn follow(mut self, mut reports: watch::Receiver<Report>, shutdown: &CancellationToken) {
        let mut told = Gist::of(&Report::default());
        let (mut pause, mut again, mut spacing) = (self.pace.retry_first, None, SPACING);
        while let Some(true) = shutdown.run_until_cancelled(news(&mut reports, again)).await {
            let others_wait = reports.wait_for(|report| Gist::of(report) != told);
            let spaced = tokio::time::timeout(spacing, others_wait);
            // What is there then is written; that the sender has ended is seen after it.
            if shutdown.run_until_cancelled(spaced).await.is_none() {
                return;
            }
            let report = reports.borrow_and_update().clone();
            told = Gist::of(&report);
            let begun = Instant::now();
            // A box of its own: it is large, and mostly there is nothing to write.
            again = match Box::pin(self.bring(&report)).await {
                // Another mirror is going to be told.
                Ok(Progress::Gone) if self.is_static => None,
                Ok(Progress::Gone) => return,
                Ok(Progress::Written) => {
                    pause = self.pace.retry_first;
                    self.compare_in(&report)
                }
                Err(error) => {
                    tracing::debug!(%error, pod = self.name, "the status was not written");
                    let now = pause;
                    pause = (pause * 2).min(self.pace.retry_longest);
                    Some(now)
                }
            };
            spacing = SPACING.max(begun.elapsed() * REST).min(self.pace.retry_longest);
        }
    }

    /// Brings the API to what is reported. A request on a connection whose other end has vanished may never be answered.
    async fn bring(&mut self, report: &Report) -> Result<Progress, WriteError> {
        let limit = self.pace.answer;
        match tokio::time::timeout(limit, self.write(report)).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(WriteError::NoAnswer(limit)),
        }
    }

    async fn write(&mut self, report: &Report) -> Result<Progress, kube::Error> {
        let (Some(object), Some(status)) = (&report.object, &report.status) else {
            return Ok(Progress::Written);
        };
        if self.is_due(object, status) {
            let patch = Patch::Strategic(body(&object.uid, status));
            let done = self
                .api
                .patch_status(&self.name, &PatchParams::default(), &patch)
                .await;
            match done {
                Ok(pod) => self.note(&pod, status),
                Err(error) => return unless_gone(&self.api, &self.name, &object.uid, error).await,
            }
        }
        if !report.remove {
            return Ok(Progress::Written);
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(object.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.api.delete(&self.name, &params).await {
            Ok(_) => Ok(Progress::Written),
            Err(error) => unless_gone(&self.api, &self.name, &object.uid, error).await,
        }
    }

    fn note(&mut self, answer: &Pod, status: &Arc<PodStatus>) {
        self.written = Shown::of(answer).map(|object| Written {
            status: status.clone(),
            object,
            at: Instant::now(),
        });
    }

    fn is_due(&self, object: &Shown, status: &Arc<PodStatus>) -> bool {
        let same = |last: &&Written| last.object.uid == object.uid && last.status == *status;
        let Some(last) = self.written.as_ref().filter(same) else {
            return true;
        };
        let is_lost = self.patience(last, object).is_some_and(|rest| rest.is_zero());
        if is_lost {
            tracing::debug!(pod = self.name, "the API shows another status than was written");
        }
        is_lost
    }

    /// When to look at what the API shows again, where it does not show what was written.
    fn compare_in(&self, report: &Report) -> Option<Duration> {
        self.patience(self.written.as_ref()?, report.object.as_ref()?)
    }

    /// How long what the API shows is still let be; none where it shows what was written.
    fn patience(&self, last: &Written, shown: &Shown) -> Option<Duration> {
        let limit = match shown.is_before(&last.object) {
            true => self.pace.lag,
            false => self.pace.settled,
        };
        let rest = || limit.saturating_sub(last.at.elapsed());
        shown.differs(&last.object).then(rest)
    }
}

/// A conflict may mean that another Pod has the name, or only that writes met: the object itself tells.
async fn unless_gone(
    api: &Api<Pod>,
    name: &str,
    uid: &str,
    error: kube::Error,
) -> Result<Progress, kube::Error> {
    let code = match &error {
        kube::Error::Api(status) => status.code,
        _ => return Err(error),
    };
    let is_gone = match code {
        404 => true,
        409 => api
            .get_opt(name)
            .await?
            .is_none_or(|p| p.metadata.uid.as_deref() != Some(uid)),
        _ => false,
    };
    if is_gone { Ok(Progress::Gone) } else { Err(error) }
}

/// The strategic merge patch of a status: what is absent is removed, others' conditions stay.
fn body(uid: &str, status: &PodStatus) -> Value {
    let mut patch = json!(status);
    for name in ["reason", "message", "podIP"] {
        let absent = patch.get(name).is_none();
        if absent {
            patch[name] = Value::Null;
        }
    }
    // Addresses merge by address: those of before would stay.
    for (name, items) in [
        ("podIPs", json!(status.pod_ips)),
        ("hostIPs", json!(status.host_ips)),
    ] {
        let items = items.as_array().filter(|items| !items.is_empty());
        let replace = [json!({"$patch": "replace"})].into_iter();
        patch[name] = items.map_or(Value::Null, |items| {
            replace.chain(items.iter().cloned()).collect()
        });
    }
    let all = status.conditions.as_deref().unwrap_or_default();
    let over = [RESIZE_PENDING, RESIZE_IN_PROGRESS].into_iter();
    let over = over.filter(|kind| all.iter().all(|c| c.type_ != *kind));
    let gone = over.map(|kind| json!({"$patch": "delete", "type": kind}));
    patch["conditions"] = all.iter().map(condition).chain(gone).collect();
    json!({"metadata": {"uid": uid}, "status": patch})
}

/// Merging keeps what a condition no longer says, unless told otherwise.
fn condition(condition: &PodCondition) -> Value {
    let mut value = json!(condition);
    for name in ["reason", "message"] {
        if value.get(name).is_none() {
            value[name] = Value::Null;
        }
    }
    value["lastProbeTime"] = Value::Null;
    value
}

#[cfg(test)]
#[path = "reporter_tests.rs"]
mod tests;
