//! What is done with text: searching, cutting, replacing and formatting it. Every result is charged by its length.
use super::{ELEMENTS, count, failed, to_text};
use crate::cel::eval::{EvalError, Evaluated, Run};
use crate::cel::value::{List, Value};
use crate::kinds::{quote, regexes};

pub(super) fn on_string<'a>(
    run: &mut Run<'a, '_>,
    name: &str,
    subject: &str,
    args: &[Value<'a>],
) -> Evaluated<'a> {
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

/// A value as `%s` spells it.
fn spelled<'a>(run: &mut Run<'a, '_>, value: &Value<'a>) -> Result<String, EvalError> {
    match value {
        Value::List(_) | Value::Map(_) => spelled_part(run, value),
        other => to_text(other),
    }
}

/// A value within a list or a map: of what kind it is can be seen.
fn spelled_part<'a>(run: &mut Run<'a, '_>, value: &Value<'a>) -> Result<String, EvalError> {
    run.charge(1)?;
    match value {
        Value::List(list) => {
            let mut parts = Vec::new();
            for item in list.iter() {
                parts.push(spelled_part(run, &item)?);
            }
            Ok(format!("[{}]", parts.join(", ")))
        }
        Value::Map(map) => {
            let mut parts = Vec::new();
            for key in map.keys() {
                let value = key.key().and_then(|k| map.get(&k)).unwrap_or(Value::Null);
                parts.push((spelled_part(run, &key)?, spelled_part(run, &value)?));
            }
            parts.sort();
            let parts: Vec<String> = parts.into_iter().map(|(k, v)| format!("{k}:{v}")).collect();
            Ok(format!("{{{}}}", parts.join(", ")))
        }
        Value::Double(n) if n.is_finite() => Ok(format!("{n:.6}")),
        Value::Double(_) | Value::String(_) => to_text(value).map(|text| quote(&text)),
        Value::Bytes(_) => to_text(value).map(|text| format!("b{}", quote(&text))),
        Value::Duration(_) => to_text(value).map(|text| format!("duration({})", quote(&text))),
        Value::Timestamp(_) => to_text(value).map(|text| format!("timestamp({})", quote(&text))),
        other => to_text(other),
    }
}
