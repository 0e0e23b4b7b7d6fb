//! Properties of a container's unit that its annotations ask for: `org.systemd.property.NAME`, as runc has them. Pure.

use super::SystemdError;
use super::wire::{Property, Value};

const PREFIX: &str = "org.systemd.property.";
/// Names that end so are told to systemd in microseconds, under another ending.
const SECONDS: (&str, &str) = ("Sec", "USec");
const MICROS: u64 = 1_000_000;

/// Those of all annotations that are meant for systemd.
pub fn asked<'a>(
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<Vec<Property>, SystemdError> {
    let named = |(key, value): (&'a String, &'a String)| Some((key.strip_prefix(PREFIX)?, value));
    let all = annotations.into_iter().filter_map(named);
    let mut made = all
        .map(|(name, text)| {
            property(name, text).ok_or_else(|| SystemdError::Property(name.into(), text.clone()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    made.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(made)
}

fn property(name: &str, text: &str) -> Option<Property> {
    let legal = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic());
    let value = value(text.trim()).filter(|_| legal)?;
    let seconds = name.strip_suffix(SECONDS.0).filter(|stem| !stem.ends_with('U'));
    match (seconds, value) {
        (Some(stem), value) => Some((format!("{stem}{}", SECONDS.1), micros(&value)?)),
        (None, value) => Some((name.to_owned(), value)),
    }
}

fn micros(value: &Value) -> Option<Value> {
    let seconds = match value {
        Value::Int(n) => u64::try_from(*n).ok()?,
        Value::Uint(n) => (*n).into(),
        Value::Long(n) => u64::try_from(*n).ok()?,
        Value::Ulong(n) => *n,
        _ => return None,
    };
    seconds.checked_mul(MICROS).map(Value::Ulong)
}

/// A value in GVariant's text form: a truth, a text in quotes, a number with its type or without (then `int32`).
fn value(text: &str) -> Option<Value> {
    match text {
        "true" => return Some(Value::Bool(true)),
        "false" => return Some(Value::Bool(false)),
        _ => {}
    }
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote)) {
            return (!inner.contains([quote, '\\'])).then(|| Value::Text(inner.into()));
        }
    }
    match text.split_once(' ') {
        None => text.parse().ok().map(Value::Int),
        Some(("int32", n)) => n.trim().parse().ok().map(Value::Int),
        Some(("uint32", n)) => n.trim().parse().ok().map(Value::Uint),
        Some(("int64", n)) => n.trim().parse().ok().map(Value::Long),
        Some(("uint64", n)) => n.trim().parse().ok().map(Value::Ulong),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, text: &str) -> Option<(String, Value)> {
        let key = format!("{PREFIX}{name}");
        asked([(&key, &text.to_owned())]).ok()?.pop()
    }

    #[test]
    fn values_are_read_as_runc_reads_them() {
        for (name, text, as_name, value) in [
            (
                "CollectMode",
                "'inactive-or-failed'",
                "CollectMode",
                Value::Text("inactive-or-failed".into()),
            ),
            (
                "DefaultDependencies",
                "true",
                "DefaultDependencies",
                Value::Bool(true),
            ),
            (
                "TimeoutStopUSec",
                "uint64 5000000",
                "TimeoutStopUSec",
                Value::Ulong(5_000_000),
            ),
            (
                "TimeoutStopSec",
                "10",
                "TimeoutStopUSec",
                Value::Ulong(10_000_000),
            ),
            ("OOMScoreAdjust", "int32 -7", "OOMScoreAdjust", Value::Int(-7)),
        ] {
            assert_eq!(one(name, text), Some((as_name.into(), value)), "{name}={text}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for (name, text) in [
            ("CollectMode", "inactive"),
            ("", "true"),
            ("A b", "true"),
            ("TimeoutStopSec", "'x'"),
            ("X", "['a', 'b']"),
            ("X", "uint64 -1"),
        ] {
            assert_eq!(one(name, text), None, "{name}={text}");
        }
        let other = "io.kubernetes.cri.sandbox-id".to_owned();
        assert_eq!(asked([(&other, &"x y".to_owned())]).unwrap(), []);
    }
}
