//! Brings a Pod's status to the API, and removes the object when its node part is over. Latest wins: while
//! the API is slow or away, older reports are skipped. Owns nothing of what is reported.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::conditions::{RESIZE_IN_PROGRESS, RESIZE_PENDING};
use super::context::Context;
use super::view::PodView;
use crate::static_pods::manifest::is_static;

/// First pause after a write that failed, doubled up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// Least time between two writes of one Pod, and before the first: what changes meanwhile goes out together. What others wait
/// for ([`Gist`]) goes out at once.
const SPACING: Duration = Duration::from_millis(20);

/// What the API shall hold of a Pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub status: Option<Arc<PodStatus>>,
    /// The containers are gone: delete the object (its deletion was asked for).
    pub remove: bool,
    /// Uid of the object; without one there is nobody to tell.
    pub object: Option<String>,
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
    ctx: Arc<Context>,
    pod: Arc<Pod>,
    mut reports: watch::Receiver<Report>,
    shutdown: CancellationToken,
) {
    let Some(view) = PodView::new(&pod) else { return };
    let api: Api<Pod> = Api::namespaced(ctx.options.client.clone(), view.namespace());
    let (name, is_static) = (view.name().to_owned(), is_static(&pod));
    // The Pod as it came is not kept as long as it runs.
    drop(pod);
    let mut written: Option<Report> = None;
    let mut pause = RETRY_FIRST;
    let mut told = Gist::of(&Report::default());
    while let Some(Ok(())) = shutdown.run_until_cancelled(reports.changed()).await {
        let news = reports.wait_for(|report| Gist::of(report) != told);
        let spaced = tokio::time::timeout(SPACING, news);
        // What is there then is written; that the sender has ended is seen after it.
        if shutdown.run_until_cancelled(spaced).await.is_none() {
            return;
        }
        loop {
            let report = reports.borrow_and_update().clone();
            told = Gist::of(&report);
            // A box of its own: it is large, and mostly there is nothing to write.
            match Box::pin(write(&api, &name, &report, &mut written)).await {
                // Another mirror is going to be told.
                Ok(Progress::Gone) if is_static => break,
                Ok(Progress::Gone) => return,
                Ok(Progress::Written) => {
                    pause = RETRY_FIRST;
                    break;
                }
                Err(error) => tracing::debug!(%error, pod = name, "the status was not written"),
            }
            let wait = tokio::time::timeout(pause, reports.changed());
            if let None | Some(Ok(Err(_))) = shutdown.run_until_cancelled(wait).await {
                return;
            }
            pause = (pause * 2).min(RETRY_LONGEST);
        }
    }
}

enum Progress {
    Written,
    /// The object is not there any more, or is another of the same name.
    Gone,
}

async fn write(
    api: &Api<Pod>,
    name: &str,
    report: &Report,
    written: &mut Option<Report>,
) -> Result<Progress, kube::Error> {
    let Some(uid) = report.object.as_deref() else {
        return Ok(Progress::Written);
    };
    let said = |old: &Report| old.object == report.object && old.status == report.status;
    if let Some(status) = report
        .status
        .as_ref()
        .filter(|_| !written.as_ref().is_some_and(said))
    {
        let patch = Patch::Strategic(body(uid, status));
        match api.patch_status(name, &PatchParams::default(), &patch).await {
            Ok(_) => *written = Some(report.clone()),
            Err(error) => return unless_gone(api, name, uid, error).await,
        }
    }
    if !report.remove {
        return Ok(Progress::Written);
    }
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(name, &params).await {
        Ok(_) => Ok(Progress::Written),
        Err(error) => unless_gone(api, name, uid, error).await,
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
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_removed() {
        let status = PodStatus {
            phase: Some("Running".into()),
            conditions: Some(vec![PodCondition {
                type_: "Ready".into(),
                status: "True".into(),
                ..Default::default()
            }]),
            ..PodStatus::default()
        };
        let patch = body("u", &status);
        assert_eq!(patch["metadata"]["uid"], "u");
        assert_eq!(patch["status"]["phase"], "Running");
        assert!(patch["status"]["reason"].is_null() && patch["status"].get("reason").is_some());
        assert!(
            patch["status"]["conditions"][0]
                .get("message")
                .is_some_and(Value::is_null)
        );
    }
}
