//! Events live for an hour after they last happened or were written (upstream's `--event-ttl`).
//!
//! They are not watched: on a busy cluster they are most of what changes. A sweep now and then is enough.
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Event;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Client, ResourceExt};

use super::context::Context;
use crate::toolkit::{ObjectKey, Objects, StepError, Steps};

const LIFETIME: SignedDuration = SignedDuration::from_hours(1);
/// Time between sweeps: an Event may outlive its hour by as much.
const PERIOD: Duration = Duration::from_secs(5 * 60);
/// Events read at once, so that a sweep needs little memory.
const PAGE: u32 = 500;
/// Deletions under way at once.
const DELETIONS: usize = 8;

/// Returns the future that sweeps.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let (client, shutdown) = (context.client.clone(), context.shutdown.clone());
    Box::pin(async move {
        while shutdown
            .run_until_cancelled(tokio::time::sleep(PERIOD))
            .await
            .is_some()
        {
            if let Some(Err(error)) = shutdown.run_until_cancelled(sweep(&client)).await {
                tracing::debug!(%error, "old events stay until the next sweep");
            }
        }
    })
}

async fn sweep(client: &Client) -> Result<(), StepError> {
    let events: Objects<Event> = Objects::all(client);
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let (items, next) = events.list(&page).await.step(|| "list events".into())?;
        let now = Timestamp::now();
        let expired = items.into_iter().filter(|event| has_expired(event, now));
        stream::iter(expired)
            .for_each_concurrent(DELETIONS, |event| delete(client, event))
            .await;
        match next {
            Some(token) => page = ListParams::default().limit(PAGE).continue_token(&token),
            None => return Ok(()),
        }
    }
}

async fn delete(client: &Client, event: Event) {
    let key = ObjectKey::of(&event);
    let api: Objects<Event> = Objects::in_namespace(client, &key.namespace);
    // One that happened again meanwhile has another version, and stays.
    let unchanged = Preconditions {
        uid: event.uid(),
        resource_version: event.resource_version(),
    };
    let params = DeleteParams::default().preconditions(unchanged);
    if let Err(error) = api.delete(&key.name, &params).await {
        tracing::debug!(event = %key, %error, "an old event stays until the next sweep");
    }
}

fn has_expired(event: &Event, now: Timestamp) -> bool {
    last_seen(event, now).is_some_and(|seen| now.duration_since(seen) > LIFETIME)
}

/// The newest of when it says that it happened, and when this server wrote it. What is said to happen long after now was said by a
/// clock that is wrong.
fn last_seen(event: &Event, now: Timestamp) -> Option<Timestamp> {
    let counted = event.last_timestamp.as_ref().map(|time| time.0);
    let series = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref());
    let said = [counted, series.map(|time| time.0)].into_iter().flatten();
    let metadata = &event.metadata;
    let changed = metadata
        .managed_fields
        .iter()
        .flatten()
        .filter_map(|entry| entry.time.as_ref());
    let written = metadata
        .creation_timestamp
        .iter()
        .chain(changed)
        .map(|time| time.0);
    said.filter(|at| at.duration_since(now) <= LIFETIME)
        .chain(written)
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn an_event_expires_an_hour_after_it_last_happened() {
        let now = "2026-01-01T02:00:00Z".parse().expect("a time");
        let old = "2026-01-01T00:30:00Z";
        let cases: [(Value, bool); 7] = [
            (json!({"metadata": {"creationTimestamp": old}}), true),
            (
                json!({"metadata": {"creationTimestamp": "2026-01-01T01:30:00Z"}}),
                false,
            ),
            (
                json!({"metadata": {"creationTimestamp": old}, "lastTimestamp": "2026-01-01T01:59:00Z"}),
                false,
            ),
            (
                json!({"metadata": {"creationTimestamp": old},
                    "series": {"count": 2, "lastObservedTime": "2026-01-01T01:59:00.000000Z"}}),
                false,
            ),
            (
                json!({"metadata": {"creationTimestamp": old}, "lastTimestamp": "2026-01-01T02:05:00Z"}),
                false,
            ),
            (
                json!({"metadata": {"creationTimestamp": old}, "lastTimestamp": "2099-01-01T00:00:00Z"}),
                true,
            ),
            (
                json!({"metadata": {"creationTimestamp": old,
                    "managedFields": [{"manager": "m", "time": "2026-01-01T01:59:00Z"}]}}),
                false,
            ),
        ];
        for (details, expected) in cases {
            let mut event = json!({"metadata": {}, "involvedObject": {}});
            json_patch::merge(&mut event, &details);
            let event: Event = serde_json::from_value(event).expect("an event");
            assert_eq!(has_expired(&event, now), expected, "{details}");
        }
    }
}
