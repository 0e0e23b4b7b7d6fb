//! IP addresses and ranges in fields, read strictly. KEP-4858.
use std::fmt::Display;
use std::net::IpAddr;

use crate::kinds::address::{is_mapped, range, sloppy};
use crate::kinds::error::{FieldError, FieldErrors};

pub(super) const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const BAD_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Go prints a mapped address as the one it stands for.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// An address in a field that once took more than it does now.
pub(super) fn ip(path: impl Display, value: &str) -> FieldErrors {
    match sloppy(value) {
        None => vec![FieldError::invalid(path, value, BAD_IP)],
        Some((_, true)) => vec![FieldError::invalid(path, value, "must not have leading 0s")],
        Some((address, _)) if is_mapped(address) => vec![FieldError::invalid(
            path,
            value,
            "must not be an IPv4-mapped IPv6 address",
        )],
        Some(_) => Vec::new(),
    }
}

/// An address in the one form it should have.
pub(super) fn strict_ip(path: &str, value: &str) -> FieldErrors {
    let errors = ip(path, value);
    let shown = value.parse().map(|address| canonical(address).to_string());
    match shown {
        Ok(shown) if errors.is_empty() && shown != value => {
            let detail = format!("must be in canonical form (\"{shown}\")");
            vec![FieldError::invalid(path, value, detail)]
        }
        _ => errors,
    }
}

/// A range in a field that once took more than it does now.
pub(super) fn cidr(path: &str, value: &str) -> FieldErrors {
    let told = |why: &str| vec![FieldError::invalid(path, value, why)];
    let Some(((address, zeros), bits, bit_zeros)) = range(value) else {
        return told(BAD_CIDR);
    };
    if zeros || bit_zeros {
        return told("must not have leading 0s in IP or prefix length");
    }
    if is_mapped(address) {
        return told("must not have an IPv4-mapped IPv6 address");
    }
    match ipnet::IpNet::new(address, bits) {
        Ok(net) if net.network() != address => told("must not have bits set beyond the prefix length"),
        Ok(_) => Vec::new(),
        Err(_) => told(BAD_CIDR),
    }
}

/// A range in the one form it should have.
pub(super) fn strict_cidr(path: &str, value: &str) -> FieldErrors {
    let errors = cidr(path, value);
    let shown = value.parse::<ipnet::IpNet>().map(|net| net.to_string());
    match shown {
        Ok(shown) if errors.is_empty() && shown != value => {
            let detail = format!("must be in canonical form (\"{shown}\")");
            vec![FieldError::invalid(path, value, detail)]
        }
        _ => errors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::error::join;

    #[test]
    fn addresses() {
        for good in ["10.9.8.7", "::1", "2001:DB8::1"] {
            assert!(ip("f", good).is_empty(), "{good}");
        }
        for (bad, why) in [
            ("", BAD_IP),
            ("1.2.3", BAD_IP),
            ("1.2.3.256", BAD_IP),
            ("01.2.3.4", "must not have leading 0s"),
            ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
        ] {
            assert_eq!(join(&ip("f", bad)), format!("f: Invalid value: \"{bad}\": {why}"));
        }
        assert!(join(&strict_ip("f", "2001:DB8::1")).contains("must be in canonical form (\"2001:db8::1\")"));
    }

    #[test]
    fn ranges() {
        for good in ["10.0.0.0/8", "0.0.0.0/0", "::/0"] {
            assert!(cidr("f", good).is_empty(), "{good}");
        }
        for (bad, why) in [
            ("10.0.0.0", BAD_CIDR),
            ("10.0.0.0/33", BAD_CIDR),
            ("10.0.0.0/-1", BAD_CIDR),
            ("010.0.0.0/8", "must not have leading 0s in IP or prefix length"),
            ("10.0.0.0/08", "must not have leading 0s in IP or prefix length"),
            ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
            ("::ffff:1.2.3.4/128", "must not have an IPv4-mapped IPv6 address"),
        ] {
            assert_eq!(
                join(&cidr("f", bad)),
                format!("f: Invalid value: \"{bad}\": {why}")
            );
        }
    }
}
