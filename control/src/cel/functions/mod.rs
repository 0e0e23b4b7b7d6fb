//! What functions do. Their types are in `signatures`; here every argument may still be anything.
mod formatting;
pub(super) mod lists;
mod objects;
mod strings;
mod versions;

use std::rc::Rc;

use super::authority;
use super::eval::{EvalError, Evaluated, Run};
use super::moment::Moment;
use super::signatures::NAMESPACES;
use super::text;
use super::value::Value;
use crate::kinds::quantity::Quantity;
use lists::{has, on_list, subset};
use objects::{
    FORMATS, address, check_format, network, on_cidr, on_duration, on_ip, on_optional, on_quantity,
    on_semver, on_timestamp, on_url, parse_url,
};
use strings::on_string;
pub(super) use versions::Version;

/// 2⁶³: the first number that is too large for an `int`.
const WHOLE: f64 = 9_223_372_036_854_775_808.0;
/// Elements that one function may make.
const ELEMENTS: usize = 100_000;

pub(super) fn is_namespace(name: &str) -> bool {
    NAMESPACES.contains(&name)
}

/// Names that stand for types.
pub(super) fn type_named(name: &str) -> Option<&'static str> {
    const NAMES: [&str; 11] = [
        "null_type",
        "bool",
        "int",
        "uint",
        "double",
        "string",
        "bytes",
        "list",
        "map",
        "type",
        "optional_type",
    ];
    NAMES.iter().find(|n| **n == name).copied()
}

/// A value as text, for errors and keys.
pub(super) fn shown(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => text.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        other => other.type_name().to_owned(),
    }
}

fn failed<'a>(why: impl Into<String>) -> Evaluated<'a> {
    Err(EvalError::new(why))
}

/// Calls a function; with `method` the first value is what it was called on.
pub(super) fn call<'a>(
    run: &mut Run<'a, '_>,
    name: &str,
    method: bool,
    values: Vec<Value<'a>>,
) -> Evaluated<'a> {
    for value in &values {
        if let Value::String(text) = value {
            run.charge_text(text.len() as u64)?;
        }
    }
    match (name, values.as_slice()) {
        ("size", [value]) => sized(value),
        ("type", [value]) => Ok(Value::Type(Rc::from(value.type_name()))),
        ("dyn", [value]) => Ok(value.clone()),
        (name, [value]) if !method && is_conversion(name) => convert(name, value),
        (name, [Value::String(subject), rest @ ..]) if method || name == "matches" => {
            let subject = subject.clone();
            on_string(run, name, &subject, rest)
        }
        (name, [Value::List(list), rest @ ..]) if method => on_list(run, name, list, rest),
        (name, [Value::Timestamp(time), rest @ ..]) if method => on_timestamp(name, *time, rest),
        (name, [Value::Duration(duration)]) if method => on_duration(name, *duration),
        (name, [Value::Optional(inner)]) if method => on_optional(name, inner.as_deref()),
        (name, [Value::Quantity(quantity), rest @ ..]) if method => on_quantity(name, *quantity, rest),
        (name, [Value::Semver(version), rest @ ..]) if method => on_semver(name, version, rest),
        (name, [Value::Ip(ip)]) if method => on_ip(name, *ip),
        (name, [Value::Cidr(cidr), rest @ ..]) if method => on_cidr(name, cidr, rest),
        (name, [Value::Url(url)]) if method => on_url(name, url),
        (name, [Value::Asking(draft), rest @ ..]) if method => authority::ask(run, name, draft, rest),
        (name, [Value::Decision(decision)]) if method => authority::told(name, decision),
        ("validate", [Value::Format(format), Value::String(text)]) => Ok(check_format(format, text)),
        (name, values) if !method => plain(run, name, values),
        _ => Err(EvalError::no_overload()),
    }
}

fn sized<'a>(value: &Value<'a>) -> Evaluated<'a> {
    let size = match value {
        Value::String(text) => text.chars().count() as u64,
        Value::Bytes(_) | Value::List(_) | Value::Map(_) => value.size(),
        _ => return Err(EvalError::no_overload()),
    };
    Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}

fn count(n: usize) -> Value<'static> {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

/// Whether a function makes a value of the type that it is named after.
pub(super) fn is_conversion(name: &str) -> bool {
    let names = [
        "int",
        "uint",
        "double",
        "bool",
        "string",
        "bytes",
        "timestamp",
        "duration",
    ];
    names.contains(&name)
}

pub(super) fn convert<'a>(name: &str, value: &Value<'a>) -> Evaluated<'a> {
    let kind = match name {
        "timestamp" => "google.protobuf.Timestamp",
        "duration" => "google.protobuf.Duration",
        other => other,
    };
    let unreadable = || EvalError::new(format!("type conversion error from 'string' to '{kind}'"));
    let overflow = || EvalError::new("integer overflow");
    let unsigned = || EvalError::new("unsigned integer overflow");
    let late = || EvalError::new("timestamp overflow");
    Ok(match (name, value) {
        ("int", Value::Int(_)) | ("uint", Value::Uint(_)) | ("double", Value::Double(_)) => value.clone(),
        ("bool", Value::Bool(_)) | ("string", Value::String(_)) | ("bytes", Value::Bytes(_)) => value.clone(),
        ("timestamp", Value::Timestamp(_)) | ("duration", Value::Duration(_)) => value.clone(),
        ("int", Value::Uint(n)) => Value::Int(i64::try_from(*n).map_err(|_| overflow())?),
        ("int", Value::Double(n)) if n.abs() < WHOLE => Value::Int(n.trunc() as i64),
        ("int", Value::Double(_)) => return Err(overflow()),
        ("int", Value::String(t)) => Value::Int(t.parse().map_err(|_| unreadable())?),
        ("int", Value::Timestamp(t)) => Value::Int(t.time().as_second()),
        ("int", Value::Duration(d)) => Value::Int(i64::try_from(d.as_nanos()).map_err(|_| overflow())?),
        ("uint", Value::Int(n)) => Value::Uint(u64::try_from(*n).map_err(|_| unsigned())?),
        ("uint", Value::Double(n)) if *n >= 0.0 && *n < 2.0 * WHOLE => Value::Uint(n.trunc() as u64),
        ("uint", Value::Double(_)) => return Err(unsigned()),
        // A sign is none of an unsigned number.
        ("uint", Value::String(t)) if t.starts_with('+') => return Err(unreadable()),
        ("uint", Value::String(t)) => Value::Uint(t.parse().map_err(|_| unreadable())?),
        ("double", Value::Int(n)) => Value::Double(*n as f64),
        ("double", Value::Uint(n)) => Value::Double(*n as f64),
        ("double", Value::String(t)) => Value::Double(text::number(t).ok_or_else(unreadable)?),
        ("bool", Value::String(t)) => Value::Bool(text::boolean(t).ok_or_else(unreadable)?),
        ("bytes", Value::String(t)) => Value::Bytes(Rc::from(t.as_bytes())),
        ("timestamp", Value::String(t)) => Value::Timestamp(Moment::written(t).ok_or_else(unreadable)?),
        ("timestamp", Value::Int(n)) => Value::Timestamp(Moment::from_second(*n).ok_or_else(late)?),
        ("duration", Value::String(t)) => Value::Duration(text::duration(t).ok_or_else(unreadable)?),
        ("duration", Value::Int(_)) => {
            let why = format!("type conversion error from 'int' to '{kind}'");
            return Err(EvalError::new(why));
        }
        (
            "string",
            Value::Bool(_)
            | Value::Int(_)
            | Value::Uint(_)
            | Value::Double(_)
            | Value::Bytes(_)
            | Value::Timestamp(_)
            | Value::Duration(_)
            | Value::Ip(_)
            | Value::Cidr(_),
        ) => Value::text(to_text(value)?),
        _ => {
            let why = format!("no such overload: {name}({})", value.type_name());
            return Err(EvalError::new(why));
        }
    })
}

/// What `string(…)` makes of a value.
fn to_text(value: &Value<'_>) -> Result<String, EvalError> {
    Ok(match value {
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Double(n) => text::double(*n),
        Value::String(t) => t.to_string(),
        Value::Bytes(b) => String::from_utf8(b.to_vec())
            .map_err(|_| EvalError::new("invalid UTF-8 in bytes, cannot convert to string"))?,
        Value::Timestamp(t) => t.to_string(),
        Value::Duration(d) => text::seconds(*d),
        Value::Ip(ip) => ip.to_string(),
        Value::Cidr(cidr) => cidr.to_string(),
        Value::Quantity(q) => q.to_string(),
        Value::Url(url) => url.to_string(),
        Value::Type(name) => name.to_string(),
        Value::Null => "null".to_owned(),
        _ => return Err(EvalError::no_overload()),
    })
}

fn plain<'a>(run: &mut Run<'a, '_>, name: &str, values: &[Value<'a>]) -> Evaluated<'a> {
    match (name, values) {
        ("optional.of", [value]) => Ok(Value::some(value.clone())),
        ("optional.none", []) => Ok(Value::Optional(None)),
        // RFC 6901: a key as one part of a JSON pointer.
        ("jsonpatch.escapeKey", [Value::String(key)]) => {
            Ok(Value::text(key.replace('~', "~0").replace('/', "~1")))
        }
        ("optional.ofNonZeroValue", [value]) => Ok(match is_zero(value) {
            true => Value::Optional(None),
            false => Value::some(value.clone()),
        }),
        ("sets.contains", [Value::List(a), Value::List(b)]) => subset(run, b, a).map(Value::Bool),
        ("sets.equivalent", [Value::List(a), Value::List(b)]) => {
            Ok(Value::Bool(subset(run, a, b)? && subset(run, b, a)?))
        }
        ("sets.intersects", [Value::List(a), Value::List(b)]) => {
            for item in a.iter() {
                if has(run, b, &item)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        ("strings.quote", [Value::String(t)]) => Ok(Value::text(crate::kinds::quote(t))),
        ("lists.range", [Value::Int(n)]) => {
            run.charge(u64::try_from(*n).unwrap_or(0))?;
            Ok(Value::list((0..*n).map(Value::Int).collect()))
        }
        ("url", [Value::String(t)]) => match parse_url(t) {
            Some(_) => Ok(Value::Url(Rc::from(&**t))),
            None => failed(format!("URL parse error during conversion from string: {}", &**t)),
        },
        ("isURL", [Value::String(t)]) => Ok(Value::Bool(parse_url(t).is_some())),
        ("quantity", [Value::String(t)]) => Quantity::parse(t)
            .map(Value::Quantity)
            .map_err(|e| EvalError::new(e.to_string())),
        ("sign", [Value::Quantity(quantity)]) => Ok(Value::Int(quantity.nanos().signum() as i64)),
        ("isQuantity", [Value::String(t)]) => Ok(Value::Bool(Quantity::parse(t).is_ok())),
        ("semver" | "isSemver", [Value::String(t), rest @ ..]) => {
            let version = match rest {
                [] | [Value::Bool(false)] => Version::parse(t),
                [Value::Bool(true)] => Version::parse_normalised(t),
                _ => return Err(EvalError::no_overload()),
            };
            match name {
                "isSemver" => Ok(Value::Bool(version.is_ok())),
                _ => version.map(|v| Value::Semver(Rc::new(v))).map_err(EvalError::new),
            }
        }
        ("ip", [Value::String(t)]) => address(t).map(Value::Ip),
        ("isIP", [Value::String(t)]) => Ok(Value::Bool(address(t).is_ok())),
        ("ip.isCanonical", [Value::String(t)]) => address(t).map(|ip| Value::Bool(ip.to_string() == **t)),
        ("cidr", [Value::String(t)]) => network(t).map(Value::Cidr),
        ("isCIDR", [Value::String(t)]) => Ok(Value::Bool(network(t).is_ok())),
        ("format.named", [Value::String(t)]) => Ok(match FORMATS.contains(&&**t) {
            true => Value::some(Value::Format(Rc::from(&**t))),
            false => Value::Optional(None),
        }),
        (name, []) if name.strip_prefix("format.").is_some_and(|f| FORMATS.contains(&f)) => {
            Ok(Value::Format(Rc::from(&name["format.".len()..])))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Int(n) => *n == 0,
        Value::Uint(n) => *n == 0,
        Value::Double(n) => *n == 0.0,
        Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => value.size() == 0,
        _ => false,
    }
}
