//! What functions do. Their types are in `signatures`; here every argument may still be anything.
use std::net::IpAddr;
use std::rc::Rc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::authority;
use super::eval::{EvalError, Evaluated, Run};
use super::operators::equal;
use super::signatures::NAMESPACES;
use super::text;
use super::value::{Key, List, Map, Value, timestamp};
use crate::kinds::quantity::Quantity;
use crate::kinds::{names, regexes};

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
        ("int" | "uint" | "double" | "bool" | "string" | "bytes" | "timestamp" | "duration", [value])
            if !method =>
        {
            convert(name, value)
        }
        (name, [Value::String(subject), rest @ ..]) if method || name == "matches" => {
            let subject = subject.clone();
            on_string(run, name, &subject, rest)
        }
        (name, [Value::List(list), rest @ ..]) if method => on_list(run, name, list, rest),
        (name, [Value::Timestamp(time), rest @ ..]) if method => on_timestamp(name, *time, rest),
        (name, [Value::Duration(duration)]) if method => on_duration(name, *duration),
        (name, [Value::Optional(inner)]) if method => on_optional(name, inner.as_deref()),
        (name, [Value::Quantity(quantity), rest @ ..]) if method => on_quantity(name, *quantity, rest),
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

fn convert<'a>(name: &str, value: &Value<'a>) -> Evaluated<'a> {
    let bad = |text: &str| {
        EvalError::new(format!(
            "type conversion error from 'string' to '{name}': {text:?}"
        ))
    };
    let range = || EvalError::new("integer overflow");
    Ok(match (name, value) {
        ("int", Value::Int(_)) | ("uint", Value::Uint(_)) | ("double", Value::Double(_)) => value.clone(),
        ("bool", Value::Bool(_)) | ("string", Value::String(_)) | ("bytes", Value::Bytes(_)) => value.clone(),
        ("timestamp", Value::Timestamp(_)) | ("duration", Value::Duration(_)) => value.clone(),
        ("int", Value::Uint(n)) => Value::Int(i64::try_from(*n).map_err(|_| range())?),
        ("int", Value::Double(n)) if n.abs() < 9.2e18 => Value::Int(n.trunc() as i64),
        ("int", Value::Double(_)) => return Err(range()),
        ("int", Value::String(t)) => Value::Int(t.parse().map_err(|_| bad(t))?),
        ("int", Value::Timestamp(t)) => Value::Int(t.as_second()),
        ("uint", Value::Int(n)) => Value::Uint(u64::try_from(*n).map_err(|_| range())?),
        ("uint", Value::Double(n)) if (0.0..1.8e19).contains(n) => Value::Uint(n.trunc() as u64),
        ("uint", Value::Double(_)) => return Err(range()),
        ("uint", Value::String(t)) => Value::Uint(t.parse().map_err(|_| bad(t))?),
        ("double", Value::Int(n)) => Value::Double(*n as f64),
        ("double", Value::Uint(n)) => Value::Double(*n as f64),
        ("double", Value::String(t)) => Value::Double(t.parse().map_err(|_| bad(t))?),
        ("bool", Value::String(t)) => match &**t {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Value::Bool(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Value::Bool(false),
            other => return Err(bad(other)),
        },
        ("bytes", Value::String(t)) => Value::Bytes(Rc::from(t.as_bytes())),
        ("timestamp", Value::String(t)) => Value::Timestamp(timestamp(t).ok_or_else(|| bad(t))?),
        ("timestamp", Value::Int(n)) => Value::Timestamp(Timestamp::from_second(*n).map_err(|_| range())?),
        ("duration", Value::String(t)) => Value::Duration(text::duration(t).ok_or_else(|| bad(t))?),
        ("string", value) => Value::text(to_text(value)?),
        _ => return Err(EvalError::no_overload()),
    })
}

/// What `string(…)` makes of a value.
fn to_text(value: &Value<'_>) -> Result<String, EvalError> {
    Ok(match value {
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Double(n) => n.to_string(),
        Value::String(t) => t.to_string(),
        Value::Bytes(b) => String::from_utf8(b.to_vec()).map_err(|_| EvalError::new("invalid UTF-8"))?,
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

fn on_string<'a>(run: &mut Run<'a, '_>, name: &str, subject: &str, args: &[Value<'a>]) -> Evaluated<'a> {
    let chars = || subject.chars().collect::<Vec<char>>();
    let bool = |b: bool| Ok(Value::Bool(b));
    match (name, args) {
        ("contains", [Value::String(part)]) => bool(subject.contains(&**part)),
        ("startsWith", [Value::String(part)]) => bool(subject.starts_with(&**part)),
        ("endsWith", [Value::String(part)]) => bool(subject.ends_with(&**part)),
        ("matches" | "find" | "findAll", [Value::String(pattern), rest @ ..]) => {
            searched(run, name, subject, pattern, rest)
        }
        ("size", []) => Ok(count(subject.chars().count())),
        ("lowerAscii", []) => Ok(Value::text(subject.to_ascii_lowercase())),
        ("upperAscii", []) => Ok(Value::text(subject.to_ascii_uppercase())),
        ("trim", []) => Ok(Value::text(subject.trim())),
        ("reverse", []) => Ok(Value::text(subject.chars().rev().collect::<String>())),
        ("charAt", [Value::Int(at)]) => {
            let chars = chars();
            match usize::try_from(*at) {
                Ok(at) if at < chars.len() => Ok(Value::text(chars[at].to_string())),
                Ok(at) if at == chars.len() => Ok(Value::text("")),
                _ => failed(format!("index out of range: {at}")),
            }
        }
        ("indexOf" | "lastIndexOf", [Value::String(part), rest @ ..]) => found(name, &chars(), part, rest),
        ("replace", [Value::String(from), Value::String(to), rest @ ..]) => {
            replaced(run, subject, (from, to), rest)
        }
        ("split", [Value::String(by), rest @ ..]) => split(subject, by, rest),
        ("substring", [Value::Int(from), rest @ ..]) => {
            let chars = chars();
            let end = i64::try_from(chars.len()).unwrap_or(i64::MAX);
            let to = match rest {
                [Value::Int(to)] => *to,
                _ => end,
            };
            match (usize::try_from(*from), usize::try_from(to)) {
                (Ok(a), Ok(b)) if a <= b && b <= chars.len() => {
                    Ok(Value::text(chars[a..b].iter().collect::<String>()))
                }
                _ => failed(format!("index out of range: {from}")),
            }
        }
        ("format", [Value::List(args)]) => formatted(run, subject, args),
        _ => Err(EvalError::no_overload()),
    }
}

fn searched<'a>(
    run: &mut Run<'a, '_>,
    name: &str,
    subject: &str,
    pattern: &str,
    rest: &[Value<'a>],
) -> Evaluated<'a> {
    let parts = (pattern.len() as u64).div_ceil(4).max(1);
    run.charge((subject.len() as u64).div_ceil(10).saturating_mul(parts))?;
    let compiled = regexes::compile(pattern).map_err(EvalError::new)?;
    let regex = compiled.regex();
    Ok(match name {
        "matches" => Value::Bool(regex.is_match(subject)),
        "find" => Value::text(regex.find(subject).map_or("", |m| m.as_str())),
        _ => {
            let limit = match rest {
                [Value::Int(n)] => usize::try_from(*n).unwrap_or(ELEMENTS),
                _ => ELEMENTS,
            };
            let all: Vec<Value<'a>> = regex
                .find_iter(subject)
                .take(limit)
                .map(|m| Value::text(m.as_str()))
                .collect();
            run.charge(all.len() as u64)?;
            Value::list(all)
        }
    })
}

fn found<'a>(name: &str, chars: &[char], part: &str, rest: &[Value<'a>]) -> Evaluated<'a> {
    let part: Vec<char> = part.chars().collect();
    let last = chars.len().checked_sub(part.len());
    let fits = |at: &usize| chars[*at..].starts_with(&part);
    let limit = match rest {
        [Value::Int(n)] => match usize::try_from(*n) {
            Ok(n) if n <= chars.len() => Some(n),
            _ => return failed(format!("index out of range: {n}")),
        },
        _ => None,
    };
    let at = last.and_then(|last| match name {
        "indexOf" => (limit.unwrap_or(0)..=last).find(fits),
        _ => (0..=limit.unwrap_or(last).min(last)).rev().find(fits),
    });
    Ok(at.map_or(Value::Int(-1), count))
}

fn replaced<'a>(
    run: &mut Run<'a, '_>,
    subject: &str,
    (from, to): (&str, &str),
    rest: &[Value<'a>],
) -> Evaluated<'a> {
    let limit = match rest {
        [Value::Int(n)] if *n >= 0 => usize::try_from(*n).unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    let times = match from.is_empty() {
        true => subject.chars().count() + 1,
        false => subject.matches(from).count(),
    };
    // Before it is made: the result may be far larger than what it is made of.
    run.charge_text((times.min(limit) as u64).saturating_mul(to.len() as u64))?;
    Ok(Value::text(subject.replacen(from, to, limit)))
}

fn split<'a>(subject: &str, by: &str, rest: &[Value<'a>]) -> Evaluated<'a> {
    let pieces = |limit: usize| -> Vec<Value<'a>> {
        match by {
            "" => {
                let chars: Vec<char> = subject.chars().collect();
                let cut = limit.saturating_sub(1).min(chars.len());
                let mut parts: Vec<Value<'a>> =
                    chars[..cut].iter().map(|c| Value::text(c.to_string())).collect();
                if cut < chars.len() {
                    parts.push(Value::text(chars[cut..].iter().collect::<String>()));
                }
                parts
            }
            by => subject.splitn(limit, by).map(Value::text).collect(),
        }
    };
    Ok(Value::list(match rest {
        [Value::Int(0)] => Vec::new(),
        [Value::Int(n)] if *n > 0 => pieces(usize::try_from(*n).unwrap_or(usize::MAX)),
        _ => pieces(usize::MAX),
    }))
}

/// `%s`, `%d`, `%f`, `%e`, `%b`, `%x`, `%X`, `%o`, with a precision.
fn formatted<'a>(run: &mut Run<'a, '_>, format: &str, args: &List<'a>) -> Evaluated<'a> {
    let (mut out, mut chars, mut next) = (String::new(), format.chars().peekable(), 0);
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut precision = String::new();
        if chars.peek() == Some(&'.') {
            chars.next();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                precision.push(digit);
            }
        }
        let verb = chars
            .next()
            .ok_or_else(|| EvalError::new("unexpected end of format string"))?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = args
            .get(next)
            .ok_or_else(|| EvalError::new(format!("index {next} out of range")))?;
        next += 1;
        let precision = precision.parse().unwrap_or(6_usize).min(100);
        let piece = clause(run, verb, precision, &value)?;
        run.charge_text(piece.len() as u64)?;
        out.push_str(&piece);
    }
    Ok(Value::text(out))
}

fn clause<'a>(
    run: &mut Run<'a, '_>,
    verb: char,
    precision: usize,
    value: &Value<'a>,
) -> Result<String, EvalError> {
    let bad = || {
        EvalError::new(format!(
            "error during formatting: could not format {} as %{verb}",
            value.type_name()
        ))
    };
    Ok(match (verb, value) {
        ('s', value) => spelled(run, value)?,
        ('d', Value::Int(n)) => n.to_string(),
        ('d', Value::Uint(n)) => n.to_string(),
        ('f', Value::Double(n)) => format!("{n:.precision$}"),
        ('f', Value::Int(n)) => format!("{:.precision$}", *n as f64),
        ('e', Value::Double(n)) => format!("{n:.precision$e}"),
        ('b', Value::Int(n)) => format!("{n:b}"),
        ('b', Value::Bool(b)) => u8::from(*b).to_string(),
        ('o', Value::Int(n)) => format!("{n:o}"),
        ('x', Value::Int(n)) => format!("{n:x}"),
        ('X', Value::Int(n)) => format!("{n:X}"),
        ('x', Value::String(t)) => hex::encode(t.as_bytes()),
        ('X', Value::String(t)) => hex::encode_upper(t.as_bytes()),
        _ => return Err(bad()),
    })
}

/// A value as `%s` spells it, lists and maps included.
fn spelled<'a>(run: &mut Run<'a, '_>, value: &Value<'a>) -> Result<String, EvalError> {
    run.charge(1)?;
    match value {
        Value::List(list) => {
            let mut parts = Vec::new();
            for item in list.iter() {
                parts.push(spelled(run, &item)?);
            }
            Ok(format!("[{}]", parts.join(", ")))
        }
        Value::Map(map) => {
            let mut parts = Vec::new();
            for key in map.keys() {
                let value = key.key().and_then(|k| map.get(&k)).unwrap_or(Value::Null);
                parts.push(format!("{}: {}", spelled(run, &key)?, spelled(run, &value)?));
            }
            Ok(format!("{{{}}}", parts.join(", ")))
        }
        other => to_text(other),
    }
}

fn on_list<'a>(run: &mut Run<'a, '_>, name: &str, list: &List<'a>, args: &[Value<'a>]) -> Evaluated<'a> {
    run.charge(list.len() as u64)?;
    let items: Vec<Value<'a>> = list.iter().collect();
    let optional = |item: Option<&Value<'a>>| Ok(Value::Optional(item.cloned().map(Rc::new)));
    match (name, args) {
        ("size", []) => Ok(count(items.len())),
        ("join", rest) => {
            let by = match rest {
                [Value::String(by)] => by.to_string(),
                _ => String::new(),
            };
            let texts = items.iter().map(to_text).collect::<Result<Vec<_>, _>>()?;
            let total = texts.iter().map(|t| t.len() + by.len()).sum::<usize>();
            run.charge_text(total as u64)?;
            Ok(Value::text(texts.join(&by)))
        }
        ("isSorted", []) => Ok(Value::Bool(
            items
                .windows(2)
                .all(|w| w[0].order(&w[1]).is_some_and(|o| o.is_le())),
        )),
        ("min" | "max", []) => extreme(items, name == "min"),
        ("sum", []) => summed(items),
        ("indexOf" | "lastIndexOf", [wanted]) => {
            let mut at = None;
            for (i, item) in items.iter().enumerate() {
                if (at.is_none() || name == "lastIndexOf") && equal(run, item, wanted)? {
                    at = Some(i);
                }
            }
            Ok(at.map_or(Value::Int(-1), count))
        }
        ("first", []) => optional(items.first()),
        ("last", []) => optional(items.last()),
        ("reverse", []) => Ok(Value::list(items.into_iter().rev().collect())),
        ("slice", [Value::Int(from), Value::Int(to)]) => match (usize::try_from(*from), usize::try_from(*to))
        {
            (Ok(a), Ok(b)) if a <= b && b <= items.len() => Ok(Value::list(items[a..b].to_vec())),
            _ => failed(format!("index out of bounds: [{from}, {to}]")),
        },
        ("distinct", []) => distinct(run, items),
        ("sort", []) => {
            run.charge((items.len() as u64).saturating_mul(20))?;
            let mut items = items;
            if items.windows(2).any(|w| w[0].order(&w[1]).is_none()) {
                return Err(EvalError::no_overload());
            }
            items.sort_by(|a, b| a.order(b).unwrap_or(std::cmp::Ordering::Equal));
            Ok(Value::list(items))
        }
        ("flatten", rest) => {
            let depth = match rest {
                [Value::Int(n)] => u8::try_from(*n).unwrap_or(32).min(32),
                _ => 1,
            };
            let mut out = Vec::new();
            flatten(run, items, depth, &mut out)?;
            Ok(Value::list(out))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn flatten<'a>(
    run: &mut Run<'a, '_>,
    items: Vec<Value<'a>>,
    depth: u8,
    out: &mut Vec<Value<'a>>,
) -> Result<(), EvalError> {
    run.charge(items.len() as u64)?;
    for item in items {
        match item {
            Value::List(inner) if depth > 0 => flatten(run, inner.iter().collect(), depth - 1, out)?,
            other => out.push(other),
        }
    }
    Ok(())
}

fn distinct<'a>(run: &mut Run<'a, '_>, items: Vec<Value<'a>>) -> Evaluated<'a> {
    let mut out: Vec<Value<'a>> = Vec::new();
    for item in items {
        let mut known = false;
        for other in &out {
            run.charge(1)?;
            if equal(run, &item, other)? {
                known = true;
                break;
            }
        }
        if !known {
            out.push(item);
        }
    }
    Ok(Value::list(out))
}

fn extreme<'a>(items: Vec<Value<'a>>, least: bool) -> Evaluated<'a> {
    let mut items = items.into_iter();
    let first = items.next().ok_or_else(|| {
        EvalError::new(format!(
            "{} called on empty list",
            if least { "min" } else { "max" }
        ))
    })?;
    items.try_fold(first, |best, item| {
        let order = item.order(&best).ok_or_else(EvalError::no_overload)?;
        Ok(if order.is_lt() == least && order.is_ne() {
            item
        } else {
            best
        })
    })
}

fn summed<'a>(items: Vec<Value<'a>>) -> Evaluated<'a> {
    let overflow = || EvalError::new("integer overflow");
    let mut items = items.into_iter();
    let Some(first) = items.next() else {
        return Ok(Value::Int(0));
    };
    items.try_fold(first, |total, item| match (total, item) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(b).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(a), Value::Uint(b)) => a.checked_add(b).map(Value::Uint).ok_or_else(overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_add(b).map(Value::Duration).ok_or_else(overflow)
        }
        _ => Err(EvalError::no_overload()),
    })
}

fn on_timestamp<'a>(name: &str, time: Timestamp, args: &[Value<'a>]) -> Evaluated<'a> {
    let zone = match args {
        [] => TimeZone::UTC,
        [Value::String(zone)] => {
            TimeZone::get(zone).map_err(|_| EvalError::new(format!("unknown time zone {}", &**zone)))?
        }
        _ => return Err(EvalError::no_overload()),
    };
    let at = time.to_zoned(zone);
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

fn on_duration<'a>(name: &str, duration: SignedDuration) -> Evaluated<'a> {
    let seconds = duration.as_secs();
    Ok(Value::Int(match name {
        "getHours" => seconds / 3600,
        "getMinutes" => seconds / 60,
        "getSeconds" => seconds,
        "getMilliseconds" => i64::from(duration.subsec_millis()),
        _ => return Err(EvalError::no_overload()),
    }))
}

fn on_optional<'a>(name: &str, inner: Option<&Value<'a>>) -> Evaluated<'a> {
    match (name, inner) {
        ("hasValue", inner) => Ok(Value::Bool(inner.is_some())),
        ("value", Some(inner)) => Ok(inner.clone()),
        ("value", None) => failed("optional.none() dereference"),
        _ => Err(EvalError::no_overload()),
    }
}

fn on_quantity<'a>(name: &str, quantity: Quantity, args: &[Value<'a>]) -> Evaluated<'a> {
    let order = |other: &Quantity| quantity.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal);
    Ok(match (name, args) {
        ("isInteger", []) => Value::Bool(quantity.is_integer()),
        ("asInteger", []) => match (quantity.is_integer(), i64::try_from(quantity.value())) {
            (true, Ok(n)) => Value::Int(n),
            _ => return failed("cannot convert value to integer"),
        },
        ("asApproximateFloat", []) => Value::Double(quantity.nanos() as f64 / 1e9),
        ("sign", []) => Value::Int(quantity.nanos().signum() as i64),
        ("isGreaterThan", [Value::Quantity(other)]) => Value::Bool(order(other).is_gt()),
        ("isLessThan", [Value::Quantity(other)]) => Value::Bool(order(other).is_lt()),
        ("compareTo", [Value::Quantity(other)]) => Value::Int(order(other) as i64),
        ("add", [Value::Quantity(other)]) => Value::Quantity(quantity.plus(*other)),
        ("add", [Value::Int(n)]) => {
            let other = Quantity::parse(&n.to_string()).map_err(|e| EvalError::new(e.to_string()))?;
            Value::Quantity(quantity.plus(other))
        }
        _ => return Err(EvalError::no_overload()),
    })
}

fn on_ip<'a>(name: &str, ip: IpAddr) -> Evaluated<'a> {
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

fn on_cidr<'a>(name: &str, cidr: &ipnet::IpNet, args: &[Value<'a>]) -> Evaluated<'a> {
    let address = |t: &str| {
        t.parse::<IpAddr>()
            .map_err(|_| EvalError::new(format!("IP Address {t:?} parse error")))
    };
    let network = |t: &str| {
        t.parse::<ipnet::IpNet>()
            .map_err(|_| EvalError::new(format!("network address parse error: {t}")))
    };
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
fn parse_url(text: &str) -> Option<http::Uri> {
    let uri: http::Uri = text.parse().ok()?;
    (uri.scheme().is_some() || text.starts_with('/')).then_some(uri)
}

fn on_url<'a>(name: &str, url: &str) -> Evaluated<'a> {
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
    Value::Map(Map::Shared(Rc::new(members.collect())))
}

fn check_format<'a>(format: &str, text: &str) -> Value<'a> {
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

const FORMATS: [&str; 10] = [
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
        ("math.greatest" | "math.least", values) => {
            let items = match values {
                [Value::List(list)] => list.iter().collect(),
                values => values.to_vec(),
            };
            extreme(items, name == "math.least")
        }
        (name, [Value::Double(n)]) if name.starts_with("math.") => math(name, *n),
        ("math.abs", [Value::Int(n)]) => n
            .checked_abs()
            .map(Value::Int)
            .ok_or_else(|| EvalError::new("integer overflow")),
        ("math.sign", [Value::Int(n)]) => Ok(Value::Int(n.signum())),
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
        ("base64.encode", [Value::Bytes(bytes)]) => Ok(Value::text(text::to_base64(bytes))),
        ("base64.decode", [Value::String(t)]) => match text::base64(t) {
            Some(bytes) => Ok(Value::Bytes(Rc::from(bytes))),
            None => failed("illegal base64 data"),
        },
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
        ("isQuantity", [Value::String(t)]) => Ok(Value::Bool(Quantity::parse(t).is_ok())),
        ("ip", [Value::String(t)]) => match t.parse() {
            Ok(ip) => Ok(Value::Ip(ip)),
            Err(_) => failed(format!(
                "IP Address {:?} parse error during conversion from string",
                &**t
            )),
        },
        ("isIP", [Value::String(t)]) => Ok(Value::Bool(t.parse::<IpAddr>().is_ok())),
        ("ip.isCanonical", [Value::String(t)]) => match t.parse::<IpAddr>() {
            Ok(ip) => Ok(Value::Bool(ip.to_string() == **t)),
            Err(_) => failed(format!(
                "IP Address {:?} parse error during conversion from string",
                &**t
            )),
        },
        ("cidr", [Value::String(t)]) => match t.parse() {
            Ok(cidr) => Ok(Value::Cidr(cidr)),
            Err(_) => failed(format!(
                "network address parse error during conversion from string: {}",
                &**t
            )),
        },
        ("isCIDR", [Value::String(t)]) => Ok(Value::Bool(t.parse::<ipnet::IpNet>().is_ok())),
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

fn math<'a>(name: &str, n: f64) -> Evaluated<'a> {
    Ok(match name {
        "math.ceil" => Value::Double(n.ceil()),
        "math.floor" => Value::Double(n.floor()),
        "math.round" => Value::Double(n.round()),
        "math.trunc" => Value::Double(n.trunc()),
        "math.abs" => Value::Double(n.abs()),
        "math.sign" if n == 0.0 => Value::Double(0.0),
        "math.sign" => Value::Double(n.signum()),
        "math.isNaN" => Value::Bool(n.is_nan()),
        "math.isInf" => Value::Bool(n.is_infinite()),
        "math.isFinite" => Value::Bool(n.is_finite()),
        _ => return Err(EvalError::no_overload()),
    })
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

fn has<'a>(run: &mut Run<'a, '_>, list: &List<'a>, wanted: &Value<'a>) -> Result<bool, EvalError> {
    for item in list.iter() {
        run.charge(1)?;
        if equal(run, &item, wanted)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether every element of `a` is in `b`.
fn subset<'a>(run: &mut Run<'a, '_>, a: &List<'a>, b: &List<'a>) -> Result<bool, EvalError> {
    for item in a.iter() {
        if !has(run, b, &item)? {
            return Ok(false);
        }
    }
    Ok(true)
}
