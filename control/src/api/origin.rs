//! Where a request comes from, by its headers, as its audit event tells it. Pure.
use http::{HeaderMap, HeaderName, header};
use std::net::IpAddr;

/// What a client calls itself is told up to here (upstream's `maxUserAgentLength`).
const AGENT_LENGTH: usize = 1024;

/// The addresses it came through, nearest last. Only the last, the peer's own, is sure: the others are what was said
/// (upstream's `SourceIPs`).
pub(super) fn sources(headers: &HeaderMap, peer: Option<IpAddr>) -> Vec<IpAddr> {
    let address = |text: &str| text.trim().parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    let forwarded = text(headers, HeaderName::from_static("x-forwarded-for"));
    let mut sources: Vec<IpAddr> = forwarded.split(',').filter_map(address).collect();
    let real = address(text(headers, HeaderName::from_static("x-real-ip")));
    sources.extend(real.filter(|ip| !sources.contains(ip)));
    let peer = peer.map(|ip| ip.to_canonical());
    sources.extend(peer.filter(|ip| sources.last() != Some(ip)));
    sources
}

/// What the client calls itself.
pub(super) fn agent(headers: &HeaderMap) -> String {
    let agent = text(headers, header::USER_AGENT);
    match agent.get(..AGENT_LENGTH) {
        Some(start) if agent.len() > AGENT_LENGTH => format!("{start}...TRUNCATED"),
        _ => agent.to_owned(),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(said: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = said
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        pairs.collect()
    }

    #[test]
    fn addresses_come_in_the_order_of_the_way() {
        for (said, want) in [
            (&[][..], "10.0.0.1"),
            (
                &[("x-forwarded-for", "1.1.1.1, x,2.2.2.2")],
                "1.1.1.1 2.2.2.2 10.0.0.1",
            ),
            (&[("x-forwarded-for", "1.1.1.1,10.0.0.1")], "1.1.1.1 10.0.0.1"),
            (
                &[("x-real-ip", "3.3.3.3"), ("x-forwarded-for", "1.1.1.1")],
                "1.1.1.1 3.3.3.3 10.0.0.1",
            ),
            (
                &[("x-real-ip", "1.1.1.1"), ("x-forwarded-for", "1.1.1.1")],
                "1.1.1.1 10.0.0.1",
            ),
        ] {
            let peer = "::ffff:10.0.0.1".parse().ok();
            let told: Vec<String> = sources(&headers(said), peer)
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(told.join(" "), want, "{said:?}");
        }
    }

    #[test]
    fn a_long_name_is_cut() {
        assert_eq!(agent(&headers(&[("user-agent", "kubectl")])), "kubectl");
        let cut = agent(&headers(&[("user-agent", &"x".repeat(2000))]));
        assert_eq!((cut.len(), cut.ends_with("xx...TRUNCATED")), (1024 + 12, true));
    }
}
