//! How a node becomes a member of its cluster, and stays one. A node that was one before starts its work whether the API
//! server answers or not: what files of its own want runs meanwhile. Owns the memory of the range of Pod addresses.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

use super::{RegisterError, Registration, lease};
use crate::events::{Severity, node_reference};
use crate::garbage;
use crate::options::NodeOptions;
use crate::pods::context::Context;

/// Time the API server has to answer a node that could do without it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Registers the node, and says its range of Pod addresses and whether it is a member already.
pub async fn join(
    options: &NodeOptions,
    registration: &Registration,
) -> Result<(IpNet, bool), RegisterError> {
    let known = options.pod_cidr.or_else(|| remembered(options));
    let Some(known) = known else {
        registration.register().await?;
        return Ok((given(options, registration).await?, true));
    };
    match tokio::time::timeout(PATIENCE, registration.register()).await {
        Ok(registered) => registered?,
        Err(_) => {
            tracing::warn!("the API server does not answer; static Pods run without it until it does");
            return Ok((known, false));
        }
    };
    let cidr = match options.pod_cidr {
        Some(cidr) => cidr,
        None => given(options, registration).await?,
    };
    Ok((cidr, true))
}

async fn given(options: &NodeOptions, registration: &Registration) -> Result<IpNet, RegisterError> {
    let cidr = registration.pod_cidr().await?;
    if let Err(error) = fs::write(memory(options), cidr.to_string()) {
        tracing::warn!(%error, "the range of Pod addresses is not remembered: the next start waits for the API server");
    }
    Ok(cidr)
}

fn remembered(options: &NodeOptions) -> Option<IpNet> {
    fs::read_to_string(memory(options)).ok()?.trim().parse().ok()
}

/// `DATA/node/pod-cidr`.
fn memory(options: &NodeOptions) -> PathBuf {
    options.layout.data().join("pod-cidr")
}

/// Keeps the node a member until the agent ends; `member` is its object, if it is one already.
pub async fn stay(ctx: Arc<Context>, registration: Arc<Registration>, member: Option<Node>) {
    let shutdown = ctx.shutdown.clone();
    let node = match member {
        Some(node) => Some(node),
        None => shutdown.run_until_cancelled(enter(&registration)).await,
    };
    let Some(node) = node else { return };
    let starting = "Starting kubelet.".to_owned();
    ctx.recorder
        .event(node_reference(&node), Severity::Normal, "Starting", starting);
    let client = ctx.options.client.clone();
    tokio::join!(
        lease::run(client, ctx.options.node_name.clone(), shutdown.clone()),
        registration.run(shutdown),
        garbage::run(ctx, node),
    );
}

async fn enter(registration: &Registration) -> Node {
    loop {
        let entered = async {
            registration.register().await?;
            registration.report().await
        };
        match entered.await {
            Ok(node) => return node,
            Err(error) => tracing::warn!(%error, "the node is no member of its cluster yet; trying on"),
        }
    }
}
