//! CertificateSigningRequests that are over: an hour after they were issued, denied or failed they go, and a day after nobody
//! looked at them or signed them (upstream's csrcleaner controller).
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};

use super::context::Context;
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, StepError, Steps, work};

/// There is no hurry.
const WORKERS: usize = 1;
const OVER: SignedDuration = SignedDuration::from_hours(1);
const WAITING: SignedDuration = SignedDuration::from_hours(24);

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let queue: Arc<Queue<String>> = Arc::new(Queue::new());
    let requests = queue.clone();
    context
        .watches
        .certificates
        .on_change(move |change| requests.add(change.object().name_any()));
    let (context, shutdown) = (context.clone(), context.shutdown.clone());
    work(
        "certificate-cleaner",
        queue,
        WORKERS,
        shutdown,
        context,
        |context, name| reconcile(context, name).boxed(),
    )
}

async fn reconcile(context: &Context, name: String) -> Result<Outcome, StepError> {
    let Some(request) = context.watches.certificates.get(&ObjectKey::cluster(&name)) else {
        return Ok(Outcome::Done);
    };
    let Some(end) = end(&request) else {
        return Ok(Outcome::Done);
    };
    if let Ok(left) = Duration::try_from(end.duration_since(Timestamp::now()))
        && !left.is_zero()
    {
        return Ok(Outcome::After(left));
    }
    let api: Objects<CertificateSigningRequest> = Objects::all(&context.client);
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: request.uid(),
        resource_version: request.resource_version(),
    });
    let deleted = api.delete(&name, &params).await;
    deleted.step_opt(|| format!("delete the CertificateSigningRequest {name}"))?;
    Ok(Outcome::Done)
}

/// When the request goes, as it is now.
fn end(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let status = request.status.as_ref();
    let conditions = status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let issued =
        status.is_some_and(|status| status.certificate.as_ref().is_some_and(|pem| !pem.0.is_empty()));
    if conditions.is_empty() {
        let made = request.metadata.creation_timestamp.as_ref()?;
        return made.0.checked_add(WAITING).ok();
    }
    let of_condition = conditions.iter().filter_map(|condition| {
        let stays = match condition.type_.as_str() {
            "Denied" | "Failed" => OVER,
            "Approved" if issued => OVER,
            "Approved" => WAITING,
            _ => return None,
        };
        condition.last_update_time.as_ref()?.0.checked_add(stays).ok()
    });
    of_condition.min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn how_long_requests_stay() {
        let told =
            |kind: &str| json!({"type": kind, "status": "True", "lastUpdateTime": "2026-01-02T00:00:00Z"});
        let pem = "UEVN";
        for (status, end_of) in [
            (json!({}), Some("2026-01-02T00:00:00Z")),
            (
                json!({"conditions": [told("Approved")]}),
                Some("2026-01-03T00:00:00Z"),
            ),
            (
                json!({"conditions": [told("Approved")], "certificate": pem}),
                Some("2026-01-02T01:00:00Z"),
            ),
            (
                json!({"conditions": [told("Denied")]}),
                Some("2026-01-02T01:00:00Z"),
            ),
            (
                json!({"conditions": [told("Approved"), told("Failed")]}),
                Some("2026-01-02T01:00:00Z"),
            ),
            (json!({"conditions": [told("Other")]}), None),
        ] {
            let request: Value = json!({"metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"request": pem, "signerName": "s"}, "status": status});
            let request = serde_json::from_value(request).expect("a request");
            let expected = end_of.map(|text| text.parse::<Timestamp>().expect("a time"));
            assert_eq!(end(&request), expected, "{status}");
        }
    }
}
