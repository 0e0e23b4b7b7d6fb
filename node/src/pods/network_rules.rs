//! Whom the container about to start may meet, by the NetworkPolicies that select its Pod. Only Wasm guests are narrowed, and
//! only in a network of their Pod's own.

use amphipod_shim_api::network::NetworkRules;

use super::context::Context;
use super::failure::StartFailure;
use super::start::Job;
use super::view::PodView;
use crate::images::ImageKind;
use crate::policy::Peer;
use crate::static_pods::manifest::is_static;

/// The rules of a task that will have this id.
pub(super) async fn network_rules(
    ctx: &Context,
    job: &Job,
    pod: PodView<'_>,
    kind: ImageKind,
    id: &str,
) -> Result<NetworkRules, StartFailure> {
    let Some(peer) = Peer::of(pod.pod).filter(|_| kind == ImageKind::Wasm) else {
        return Ok(NetworkRules::default());
    };
    // Its status may not have them yet.
    let peer = Peer {
        addresses: job.ips.clone(),
        ..peer
    };
    let rules = ctx.narrower.rules(id, &peer, is_static(pod.pod));
    let rules = job.cancel.run_until_cancelled(rules).await;
    let rules = rules.ok_or_else(StartFailure::cancelled)?;
    rules.map_err(StartFailure::create)
}
