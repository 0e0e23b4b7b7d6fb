//! What times, durations, optionals and Kubernetes' own types (quantity, ip, cidr, url, format) are asked.
use super::failed;
use super::versions::Version;
use crate::cel::eval::{EvalError, Evaluated};
use crate::cel::moment::{self, Moment};
use crate::cel::value::{Key, Value};
use crate::kinds::address::is_mapped;
use crate::kinds::names;
use crate::kinds::quantity::Quantity;
use ipnet::IpNet;
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use std::net::IpAddr;
use std::rc::Rc;

pub(super) fn on_timestamp<'a>(name: &str, time: Moment, args: &[Value<'a>]) -> Evaluated<'a> {
    let zone = match args {
        [] => TimeZone::UTC,
        [Value::String(zone)] => {
            moment::zone(zone).ok_or_else(|| EvalError::new(format!("unknown time zone {}", &**zone)))?
        }
        _ => return Err(EvalError::no_overload()),
    };
    let at = time.time().to_zoned(zone);
    let number = match name {
        "getFullYear" => i64::from(at.year()),
        "getMonth" => i64::from(at.month()) - 1,
        "getDate" => i64::from(at.day()),
        "getDayOfMonth" => i64::from(at.day()) - 1,
        "getDayOfYear" => i64::from(at.day_of_year()) - 1,
        "getDayOfWeek" => i64::from(at.weekday().to_sunday_zero_offset()),
        "getHours" => i64::from(at.hour()),
        "getMinutes" => i64::from(at.minute()),
        "getSeconds" => i64::from(at.second()),
        "getMilliseconds" => i64::from(at.millisecond()),
        _ => return Err(EvalError::no_overload()),
    };
    Ok(Value::Int(number))
}

pub(super) fn on_duration<'a>(name: &str, duration: SignedDuration) -> Evaluated<'a> {
    let seconds = duration.as_secs();
    Ok(Value::Int(match name {
        "getHours" => seconds / 3600,
        "getMinutes" => seconds / 60,
        "getSeconds" => seconds,
        "getMilliseconds" => i64::from(duration.subsec_millis()),
        _ => return Err(EvalError::no_overload()),
    }))
}

pub(super) fn on_optional<'a>(name: &str, inner: Option<&Value<'a>>) -> Evaluated<'a> {
    match (name, inner) {
        ("hasValue", inner) => Ok(Value::Bool(inner.is_some())),
        ("value", Some(inner)) => Ok(inner.clone()),
        ("value", None) => failed("optional.none() dereference"),
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn on_semver<'a>(name: &str, version: &Version, args: &[Value<'a>]) -> Evaluated<'a> {
    let part = |i: usize| match i64::try_from(version.numbers[i]) {
        Ok(number) => Ok(Value::Int(number)),
        Err(_) => Err(EvalError::new("integer overflow")),
    };
    match (name, args) {
        ("major", []) => part(0),
        ("minor", []) => part(1),
        ("patch", []) => part(2),
        ("isGreaterThan", [Value::Semver(other)]) => Ok(Value::Bool(version > &**other)),
        ("isLessThan", [Value::Semver(other)]) => Ok(Value::Bool(version < &**other)),
        ("compareTo", [Value::Semver(other)]) => Ok(Value::Int(version.cmp(other) as i64)),
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn on_quantity<'a>(name: &str, quantity: Quantity, args: &[Value<'a>]) -> Evaluated<'a> {
    let order = |other: &Quantity| quantity.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal);
    Ok(match (name, args) {
        ("isInteger", []) => Value::Bool(quantity.is_integer()),
        ("asInteger", []) => match (quantity.is_integer(), i64::try_from(quantity.value())) {
            (true, Ok(n)) => Value::Int(n),
            _ => return failed("cannot convert value to integer"),
        },
        ("asApproximateFloat", []) => Value::Double(quantity.nanos() as f64 / 1e9),
        ("isGreaterThan", [Value::Quantity(other)]) => Value::Bool(order(other).is_gt()),
        ("isLessThan", [Value::Quantity(other)]) => Value::Bool(order(other).is_lt()),
        ("compareTo", [Value::Quantity(other)]) => Value::Int(order(other) as i64),
        ("add" | "sub", [other]) => {
            let other = match other {
                Value::Quantity(other) => *other,
                Value::Int(n) => Quantity::whole(*n),
                _ => return Err(EvalError::no_overload()),
            };
            Value::Quantity(match name {
                "add" => quantity.plus(other),
                _ => quantity.minus(other),
            })
        }
        _ => return Err(EvalError::no_overload()),
    })
}

pub(super) fn on_ip<'a>(name: &str, ip: IpAddr) -> Evaluated<'a> {
    let local = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => (ip.segments()[0] & 0xffc0) == 0xfe80,
    };
    let local_multicast = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    };
    Ok(Value::Bool(match name {
        "family" => return Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        "isUnspecified" => ip.is_unspecified(),
        "isLoopback" => ip.is_loopback(),
        "isLinkLocalUnicast" => local(ip),
        "isLinkLocalMulticast" => local_multicast(ip),
        "isGlobalUnicast" => !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || local(ip)),
        _ => return Err(EvalError::no_overload()),
    }))
}

/// An address of one family.
pub(super) fn address(text: &str) -> Result<IpAddr, EvalError> {
    match text.parse::<IpAddr>() {
        Ok(ip) if is_mapped(ip) => Err(mapped(text)),
        Ok(ip) => Ok(ip),
        Err(_) => Err(EvalError::new(format!(
            "IP Address {text:?} parse error during conversion from string"
        ))),
    }
}

/// A range of addresses of one family.
pub(super) fn network(text: &str) -> Result<IpNet, EvalError> {
    let padded = text
        .rsplit_once('/')
        .is_some_and(|(_, bits)| bits.len() > 1 && bits.starts_with('0'));
    match text.parse::<IpNet>() {
        Ok(net) if is_mapped(net.addr()) => Err(mapped(text)),
        Ok(net) if !padded => Ok(net),
        _ => Err(EvalError::new(format!(
            "network address parse error during conversion from string: {text}"
        ))),
    }
}

fn mapped(text: &str) -> EvalError {
    EvalError::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
}

pub(super) fn on_cidr<'a>(name: &str, cidr: &IpNet, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(match (name, args) {
        ("containsIP", [Value::Ip(ip)]) => Value::Bool(cidr.contains(ip)),
        ("containsIP", [Value::String(t)]) => Value::Bool(cidr.contains(&address(t)?)),
        ("containsCIDR", [Value::Cidr(other)]) => Value::Bool(cidr.contains(other)),
        ("containsCIDR", [Value::String(t)]) => Value::Bool(cidr.contains(&network(t)?)),
        ("ip", []) => Value::Ip(cidr.addr()),
        ("masked", []) => Value::Cidr(cidr.trunc()),
        ("prefixLength", []) => Value::Int(i64::from(cidr.prefix_len())),
        _ => return Err(EvalError::no_overload()),
    })
}

/// An absolute URL, or a rooted path, as `url()` takes it.
pub(super) fn parse_url(text: &str) -> Option<http::Uri> {
    let uri: http::Uri = text.parse().ok()?;
    (uri.scheme().is_some() || text.starts_with('/')).then_some(uri)
}

pub(super) fn on_url<'a>(name: &str, url: &str) -> Evaluated<'a> {
    let uri = parse_url(url).ok_or_else(EvalError::no_overload)?;
    let host = uri.host().unwrap_or_default();
    Ok(Value::text(match name {
        "getScheme" => uri.scheme_str().unwrap_or_default().to_owned(),
        "getHostname" => host.trim_matches(['[', ']']).to_owned(),
        "getHost" => match uri.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        },
        "getPort" => uri.port().map_or_else(String::new, |p| p.to_string()),
        "getEscapedPath" => match (uri.path(), url.ends_with('/') || url.starts_with('/')) {
            ("/", false) => String::new(),
            (path, _) => path.to_owned(),
        },
        "getQuery" => return Ok(query(uri.query().unwrap_or_default())),
        _ => return Err(EvalError::no_overload()),
    }))
}

fn query<'a>(text: &str) -> Value<'a> {
    let mut members: std::collections::BTreeMap<Key, Vec<Value<'a>>> = Default::default();
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(
        &format!("/?{text}")
            .parse()
            .unwrap_or_else(|_| http::Uri::from_static("/")),
    );
    for (key, value) in pairs.map(|pairs| pairs.0).unwrap_or_default() {
        members
            .entry(Key::String(Rc::from(key)))
            .or_default()
            .push(Value::text(value));
    }
    let members = members.into_iter().map(|(k, v)| (k, Value::list(v)));
    Value::map(members.collect())
}

pub(super) fn check_format<'a>(format: &str, text: &str) -> Value<'a> {
    let complaints = match format {
        "dns1123Label" => names::label(text),
        "dns1123Subdomain" => names::subdomain(text),
        "dns1035Label" => names::label_1035(text),
        "qualifiedName" => names::qualified(text),
        "labelValue" => names::label_value(text),
        other => match crate::kinds::formats::is(other, text) {
            true => Vec::new(),
            false => vec![format!("invalid {other}")],
        },
    };
    match complaints.is_empty() {
        true => Value::Optional(None),
        false => Value::some(Value::list(complaints.into_iter().map(Value::text).collect())),
    }
}

pub(super) const FORMATS: [&str; 10] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];
