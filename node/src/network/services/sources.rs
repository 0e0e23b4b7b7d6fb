//! Whose address a Service's endpoint sees: the client's, wherever the answer comes back this way all the same.

use ipnet::Ipv4Net;

use crate::network::ipam;
use crate::network::nft::{Batch, ChainKind, Existing, Expression, Hook, Verdict, matches};

/// The hook's priority (nft(8)): translation of sources.
const SOURCE: i32 = 100;

pub const ENDPOINTS: &str = "endpoints";
/// Pairs of an endpoint's address with itself.
pub const HAIRPINS: &str = "hairpins";
/// Endpoints on this node that are led to from outside without another node in between.
pub const KEEP_SOURCES: &str = "keep-sources";

/// The chain that rewrites sources where the answer would not come back this way: a Pod that meets itself, and whoever is no Pod.
/// Links to Pods have no address that could be masqueraded with: this node's Pods see its gateway.
pub fn hide_sources(batch: &mut Batch, existing: &Existing, pods: Ipv4Net) {
    let chain = "services-return";
    batch.base_chain(existing, chain, ChainKind::Nat, Hook::Postrouting, SOURCE);
    let itself = Expression::Member {
        set: HAIRPINS.into(),
        id: None,
        key: 0,
    };
    let gateway = || matches::source_becomes(ipam::gateway(pods));
    let hairpin = [
        matches::destination_rewritten(),
        vec![matches::source_to(0), matches::destination_to(1), itself],
        gateway(),
    ];
    batch.rule(chain, hairpin.concat());
    let keeping = Expression::Member {
        set: KEEP_SOURCES.into(),
        id: None,
        key: 0,
    };
    let accept = Expression::Verdict(Verdict::Accept);
    let kept = [
        matches::destination_rewritten(),
        matches::from_somebody_else(),
        matches::service_key(),
        vec![keeping, accept],
    ];
    batch.rule(chain, kept.concat());
    let endpoint = Expression::Member {
        set: ENDPOINTS.into(),
        id: None,
        key: 0,
    };
    let stranger = [
        matches::destination_rewritten(),
        matches::within(matches::source_to, pods, false),
        matches::service_key(),
        vec![endpoint],
    ]
    .concat();
    let to_a_pod = matches::within(matches::destination_to, pods, true);
    batch.rule(chain, [stranger.clone(), to_a_pod, gateway()].concat());
    batch.rule(chain, stranger.into_iter().chain([Expression::Masquerade]));
}
