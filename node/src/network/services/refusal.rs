//! What no endpoint answers is refused: nobody waits for a Service that has none.

use super::program::{Change, DESTINATION};
use crate::network::nft::{Batch, ChainKind, Expression, Hook, Verdict, matches};

/// The hooks' priorities (nft(8)): right behind the translation of destinations, filtering.
const TRANSLATED: i32 = DESTINATION + 1;
const FILTER: i32 = 0;

pub const REFUSE: &str = "refuse-services";
/// Node ports, and addresses with ports, of Services without endpoints.
pub const REFUSED: &str = "refused-node-ports";
pub const REFUSED_ADDRESSES: &str = "refused-addresses";

/// What still goes to a Service, or to where Services have their addresses, found no endpoint: it is refused, as are such node ports.
pub fn refuse(batch: &mut Batch, change: &Change<'_>) {
    let existing = change.existing;
    batch.chain(REFUSE);
    let refused = Expression::Member {
        set: REFUSED_ADDRESSES.into(),
        id: None,
        key: 0,
    };
    let nobodys = change.ruleset.ranges.iter();
    let nobodys = nobodys.map(|range| matches::within(matches::destination_to, *range, true));
    // Whoever makes a Service may name any address as its own: connections that there are, and this host's services, stay.
    let unanswered = [
        matches::beginning(),
        matches::to_somebody_else(),
        matches::service_key(),
        vec![refused],
    ]
    .concat();
    for nowhere in nobodys.chain([unanswered]) {
        answer(batch, REFUSE, nowhere);
    }
    // Before routing: a packet sent back by the interface it came in by would cost the sender a redirect, and
    // the kernel's limit for messages to one host would then hold the refusal back.
    for (name, hook) in [("refuse-others", Hook::Prerouting), ("refuse-own", Hook::Output)] {
        batch.base_chain(existing, name, ChainKind::Filter, hook, TRANSLATED);
        batch.rule(name, [Expression::Verdict(Verdict::Jump(REFUSE.into()))]);
    }
    batch.base_chain(
        existing,
        "refuse-arriving",
        ChainKind::Filter,
        Hook::Input,
        FILTER,
    );
    let refused = Expression::Member {
        set: REFUSED.into(),
        id: None,
        key: 1,
    };
    let arriving = [matches::to_this_host(), matches::port_key(1), vec![refused]];
    answer(batch, "refuse-arriving", arriving.concat());
}

/// Refuses what these expressions match. TCP by a reset: a socket that is still sending passes by what ICMP says, and hears it when it
/// sends again, after a second; and the kernel says it to everybody once a second only.
fn answer(batch: &mut Batch, chain: &str, matched: Vec<Expression>) {
    let tcp = [matched.clone(), matches::of_tcp(), vec![Expression::Reset]];
    batch.rule(chain, tcp.concat());
    batch.rule(chain, matched.into_iter().chain([Expression::Reject]));
}
