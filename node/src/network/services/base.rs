//! The rules Pods need whatever Services there are: what may come from them, and how they leave the node.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::network::Names;
use crate::network::nft::{
    self, Batch, ChainKind, Existing, Expression, Hook, NftError, Verdict, add_table, apply, matches,
};

/// The hooks' priorities (nft(8)): before connection tracking, translation of sources.
const RAW: i32 = -300;
const SOURCE: i32 = 100;

pub const GUARD: &str = "guard-pods";
pub const PODS_LEAVING: &str = "pods-leaving";

/// Puts the rules there, or puts them there anew.
pub fn install_base(names: &Names, pods: Ipv4Net) -> Result<(), NftError> {
    let table = &names.table();
    let mut batch = add_table(table);
    let existing = &nft::existing(table)?;
    guard(&mut batch, existing, &names.pods_links());
    batch.base_chain(existing, PODS_LEAVING, ChainKind::Nat, Hook::Postrouting, SOURCE);
    let leaving = [
        matches::within(matches::source_to, pods, true),
        matches::within(matches::destination_to, pods, false),
        matches::not_leaving_by(&names.gateway_link()),
    ];
    batch.rule(
        PODS_LEAVING,
        leaving.concat().into_iter().chain([Expression::Masquerade]),
    );
    apply(batch)
}

/// What comes from Pods must come from their own addresses, and for nothing that listens on the host's loopback only,
/// although their links route such addresses for NodePorts.
fn guard(batch: &mut Batch, existing: &Existing, links: &str) {
    batch.base_chain(existing, GUARD, ChainKind::Filter, Hook::Prerouting, RAW);
    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    for forbidden in [
        matches::within(matches::source_to, loopback, true),
        matches::within(matches::destination_to, loopback, true),
        matches::no_way_back(),
    ] {
        let rule = [matches::arriving_by(links), forbidden];
        let drop = [Expression::Verdict(Verdict::Drop)];
        batch.rule(GUARD, rule.concat().into_iter().chain(drop));
    }
}
