//! Graceful node shutdown (KEP-2000): the node says that it goes, takes no more Pods, and ends those it has within a time it was
//! given, system-critical ones last. Refuses to know how the host's end is noticed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;

use crate::pods::context::Context;
use crate::pods::eviction::Eviction;
use crate::pods::observed::Verdict;
use crate::pressure::rank::{CRITICAL, priority};
use crate::server::PodTable;

/// Time the last words of the Pods have to reach the API server.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Pause between two looks at what still runs: a host that goes down waits for the last of them, and a look at the API is one list.
const PAUSE: Duration = Duration::from_millis(100);
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// How long the Pods have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grace {
    /// All of them together.
    pub total: Duration,
    /// Of it, what is left to system-critical ones.
    pub critical: Duration,
}

/// Ends all Pods of the node.
pub async fn run(ctx: &Arc<Context>, grace: Grace) {
    ctx.state.shut_down();
    let ordinary = grace.total.saturating_sub(grace.critical);
    let mut ended = BTreeSet::new();
    for (is_critical, period) in [(false, ordinary), (true, grace.critical)] {
        let pods: Vec<Arc<Pod>> = living(ctx)
            .into_iter()
            .filter(|pod| (priority(pod) >= CRITICAL) == is_critical)
            .collect();
        ended.extend(pods.iter().filter_map(|pod| pod.metadata.uid.clone()));
        end(ctx, pods, period).await;
    }
    if tokio::time::timeout(LAST_WORDS, told(ctx, &ended)).await.is_err() {
        tracing::warn!("the API server was not told the end of every Pod");
    }
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

fn living(ctx: &Context) -> Vec<Arc<Pod>> {
    ctx.table.pods().into_iter().filter(|pod| !is_over(pod)).collect()
}

/// Ends these Pods and waits until they have, but not longer than they may take.
async fn end(ctx: &Context, pods: Vec<Arc<Pod>>, period: Duration) {
    let uids: BTreeSet<String> = pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
    let grace = i64::try_from(period.as_secs()).unwrap_or(i64::MAX);
    for uid in uids.clone() {
        let verdict = Verdict {
            reason: "Terminated".into(),
            message: MESSAGE.into(),
            grace: Some(grace),
            disruption: Some(MESSAGE.into()),
            ..Verdict::default()
        };
        if ctx.evictions.send(Eviction { uid, verdict }).await.is_err() {
            return;
        }
    }
    let over = async {
        let lives = |pod: &Arc<Pod>| pod.metadata.uid.as_ref().is_some_and(|uid| uids.contains(uid));
        while living(ctx).iter().any(lives) {
            tokio::time::sleep(PAUSE).await;
        }
    };
    // A Pod gets a second at least, and its killing takes a moment.
    let most = period.max(Duration::from_secs(1)) + Duration::from_secs(1);
    if tokio::time::timeout(most, over).await.is_err() {
        tracing::warn!("some Pods did not end within their time");
    }
}

/// Waits until the API holds the end of each of these; whoever calls it has [`LAST_WORDS`] for it.
async fn told(ctx: &Context, ended: &BTreeSet<String>) {
    let api: Api<Pod> = Api::all(ctx.options.client.clone());
    let mine = ListParams::default().fields(&format!("spec.nodeName={}", ctx.options.node_name));
    loop {
        let open = match api.list(&mine).await {
            Ok(pods) => pods.items.iter().any(|pod| {
                let uid = pod.metadata.uid.as_ref();
                uid.is_some_and(|uid| ended.contains(uid)) && !is_over(pod)
            }),
            Err(error) => {
                tracing::debug!(%error, "whether the Pods' end is known cannot be asked");
                true
            }
        };
        if !open {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
