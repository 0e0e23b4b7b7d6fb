//! The ranges that ServiceCIDRs open, and in which order their addresses are given away (KEP-1880, KEP-3070).
use super::Denial;
use crate::kinds::view::View;
use crate::store::{Range, Revision, Store};
use ipnet::IpNet;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

const KEYS: &str = "/registry/servicecidrs/";
/// The ServiceCIDR of the range that the cluster was started with.
pub const DEFAULT: &str = "kubernetes";
/// The condition of a ServiceCIDR that can be used.
pub const READY: &str = "Ready";

/// Shorter prefixes than this open nothing to Services of IPv6, as upstream.
const SHORTEST_V6: u8 = 64;
/// A range's lower part is a sixteenth of it within these bounds, and nothing of a range that is no larger than the first.
const LOWER: RangeInclusive<u128> = 16..=256;
const LOWER_SHARE: u128 = 16;

/// A range that addresses may be taken from.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    pub net: IpNet,
    /// The ServiceCIDR that says so, and as of when: who takes an address makes sure that it still says it.
    pub source: (String, Revision),
}

/// What is open now to addresses of a family, the cluster's own range first: nodes know the way there.
pub(super) async fn opened(store: &dyn Store, v4: bool) -> Result<Vec<Opened>, Denial> {
    let found = store.range(Range::prefix(KEYS)).await?;
    let mut all = Vec::new();
    for kv in found.items {
        let range: Value = serde_json::from_slice(&kv.value).map_err(|e| Denial::Failed(e.to_string()))?;
        let nets =
            nets(&range).filter(|net| is_ready(&range) && net.addr().is_ipv4() == v4 && is_usable(net));
        all.extend(nets.map(|net| Opened {
            net,
            source: (kv.key.to_string(), kv.mod_revision),
        }));
    }
    all.sort_by_key(|opened| opened.source.0.strip_prefix(KEYS) != Some(DEFAULT));
    Ok(all)
}

fn nets(range: &Value) -> impl Iterator<Item = IpNet> + '_ {
    let cidrs = range.list("spec.cidrs").iter();
    cidrs.filter_map(|cidr| cidr.as_str()?.parse().ok())
}

/// One that nobody has spoken of yet is: at the start there are Services before there are controllers.
fn is_ready(range: &Value) -> bool {
    let mut conditions = range.list("status.conditions").iter();
    let ready = conditions.find(|condition| condition["type"] == READY);
    !range.has("metadata.deletionTimestamp") && ready.is_none_or(|condition| condition["status"] == "True")
}

fn is_usable(net: &IpNet) -> bool {
    net.addr().is_ipv4() || net.prefix_len() >= SHORTEST_V6
}

/// Whether the range has this address for a Service: neither its own nor, of IPv4, that for all.
pub fn holds(net: &IpNet, ip: IpAddr) -> bool {
    net.contains(&ip) && ip != net.network() && (ip != net.broadcast() || ip.is_ipv6())
}

/// The numbers of the addresses that Services may have: first those that are given away, then those of the lower part,
/// which are left to who asks for one as long as there are others.
pub(super) fn bands(net: &IpNet) -> [RangeInclusive<u128>; 2] {
    let bits = u32::from(net.max_prefix_len() - net.prefix_len());
    let size = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
    let last = match net {
        IpNet::V4(_) => size.saturating_sub(2),
        IpNet::V6(_) => size - 1,
    };
    let lower = match size > *LOWER.start() {
        true => (size / LOWER_SHARE).clamp(*LOWER.start(), *LOWER.end()),
        false => 0,
    };
    [lower + 1..=last, 1..=lower.min(last)]
}

/// The address of a number. None when the range is not that large.
pub(super) fn nth(net: &IpNet, number: u128) -> Option<IpAddr> {
    match net.network() {
        IpAddr::V4(first) => {
            let ip = u32::from(first).checked_add(u32::try_from(number).ok()?)?;
            Some(Ipv4Addr::from(ip).into())
        }
        IpAddr::V6(first) => Some(Ipv6Addr::from(u128::from(first).checked_add(number)?).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_lower_part_is_given_away_last() {
        for (range, upper, lower) in [
            ("10.0.0.0/28", Some((1, 14)), None),
            ("10.0.0.0/27", Some((17, 30)), Some((1, 16))),
            ("10.0.0.0/24", Some((17, 254)), Some((1, 16))),
            ("10.0.0.0/16", Some((257, 65534)), Some((1, 256))),
            ("10.0.0.0/31", None, None),
            ("10.0.0.0/32", None, None),
            ("fd00::/124", Some((1, 15)), None),
            ("fd00::/112", Some((257, 65535)), Some((1, 256))),
        ] {
            let ends =
                |band: RangeInclusive<u128>| (!band.is_empty()).then_some((*band.start(), *band.end()));
            assert_eq!(bands(&net(range)).map(ends), [upper, lower], "{range}");
        }
        assert_eq!(nth(&net("10.0.0.8/29"), 3), "10.0.0.11".parse().ok());
        assert_eq!(nth(&net("fd00::/64"), 3), "fd00::3".parse().ok());
    }

    #[test]
    fn a_range_has_neither_its_own_address_nor_that_for_all() {
        for (range, ip, want) in [
            ("10.0.0.0/29", "10.0.0.0", false),
            ("10.0.0.0/29", "10.0.0.1", true),
            ("10.0.0.0/29", "10.0.0.7", false),
            ("10.0.0.0/29", "10.0.0.8", false),
            ("fd00::/120", "fd00::", false),
            ("fd00::/120", "fd00::ff", true),
        ] {
            assert_eq!(holds(&net(range), ip.parse().unwrap()), want, "{range} {ip}");
        }
    }

    #[test]
    fn what_is_leaving_or_not_ready_opens_nothing() {
        let condition = |status: &str| json!({"conditions": [{"type": "Ready", "status": status}]});
        for (meta, status, want) in [
            (json!({}), json!({}), true),
            (json!({}), condition("True"), true),
            (json!({}), condition("False"), false),
            (
                json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
                condition("True"),
                false,
            ),
        ] {
            let range = json!({"metadata": meta, "status": status});
            assert_eq!(is_ready(&range), want, "{range}");
        }
    }
}
