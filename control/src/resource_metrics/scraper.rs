//! Asks every node what it and its containers use, through the API server's proxy as any client may.
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use http::Request;
use k8s_openapi::api::core::v1::Node;
use kube::{Client, ResourceExt};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{ResourceMetrics, exposition};
use crate::toolkit::Informer;

/// Time between two looks (metrics-server's `--metric-resolution`).
const INTERVAL: Duration = Duration::from_secs(15);
/// A node that has not answered by then is passed over.
const WITHIN: Duration = Duration::from_secs(10);
/// Nodes asked at once.
const AT_ONCE: usize = 16;

/// Looks at all nodes now and then, until `shutdown`.
pub async fn run(
    client: Client,
    nodes: Arc<Informer<Node>>,
    metrics: Arc<ResourceMetrics>,
    shutdown: CancellationToken,
) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let names: HashSet<String> = nodes.list().iter().map(|node| node.name_any()).collect();
        metrics.keep_only(&names);
        let all = stream::iter(names).for_each_concurrent(AT_ONCE, |name| {
            let (client, metrics) = (client.clone(), metrics.clone());
            async move { look(&client, &metrics, &name).await }
        });
        if shutdown.run_until_cancelled(all).await.is_none() {
            return;
        }
    }
}

async fn look(client: &Client, metrics: &ResourceMetrics, node: &str) {
    let scraped = match timeout(WITHIN, scrape(client, node)).await {
        Ok(scraped) => scraped,
        Err(_) => Err(format!("no answer within {WITHIN:?}")),
    };
    match scraped {
        Ok(scrape) => metrics.note(node, scrape),
        Err(why) => {
            tracing::warn!(node, why, "cannot read what a node uses");
            metrics.forget(node);
        }
    }
}

async fn scrape(client: &Client, node: &str) -> Result<exposition::Scrape, String> {
    let path = format!("/api/v1/nodes/{node}/proxy/metrics/resource");
    let request = Request::get(path).body(Vec::new()).map_err(|e| e.to_string())?;
    let text = client.request_text(request).await.map_err(|e| e.to_string())?;
    exposition::read(&text).map_err(|e| e.to_string())
}
