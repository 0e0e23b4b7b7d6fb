//! Addresses and ranges as text, as Go reads them.
use std::net::{IpAddr, Ipv4Addr};

/// An address, leading zeros of its numbers passed over as before Go 1.17, and whether there were any.
pub(super) fn sloppy(value: &str) -> Option<(IpAddr, bool)> {
    if let Ok(address) = value.parse() {
        return Some((address, false));
    }
    let numbers: Vec<&str> = value.split('.').collect();
    let digits = |n: &&str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
    if numbers.len() != 4 || !numbers.iter().all(digits) {
        return None;
    }
    let octets = numbers.iter().map(|n| n.trim_start_matches('0'));
    let octets = octets.map(|n| if n.is_empty() { Ok(0) } else { n.parse::<u8>() });
    let octets: Vec<u8> = octets.collect::<Result<_, _>>().ok()?;
    let octets: [u8; 4] = octets.try_into().ok()?;
    Some((IpAddr::V4(Ipv4Addr::from(octets)), true))
}

/// Address and length of a range, and whether they have leading zeros.
pub(super) fn range(value: &str) -> Option<((IpAddr, bool), u8, bool)> {
    let (address, bits) = value.split_once('/')?;
    let address = sloppy(address)?;
    let digits = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
    let length: u8 = bits.parse().ok().filter(|_| digits)?;
    let most = if address.0.is_ipv4() { 32 } else { 128 };
    (length <= most).then(|| (address, length, bits.len() > 1 && bits.starts_with('0')))
}

/// Whether it is one of IPv4 in the form of IPv6.
pub fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}
