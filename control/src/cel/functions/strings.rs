//! What is done with text: searching, cutting, replacing and formatting it. Every result is charged by its length.
use super::{ELEMENTS, count, failed, formatting};
use crate::cel::eval::{EvalError, Evaluated, Run};
use crate::cel::value::Value;

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
        ("format", [Value::List(args)]) => formatting::format(run, subject, args),
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
    let illegal = |why: String| match name {
        "matches" => EvalError::new(why),
        _ => EvalError::new(format!("Illegal regex: {why}")),
    };
    let compiled = run.patterns.get(pattern).map_err(illegal)?;
    Ok(match name {
        "matches" => Value::Bool(compiled.is_match(subject)),
        "find" => Value::text(compiled.find(subject).map_or("", |found| &subject[found])),
        _ => {
            let limit = match rest {
                [Value::Int(n)] => usize::try_from(*n).unwrap_or(ELEMENTS),
                _ => ELEMENTS,
            };
            let all = compiled.find_some(subject, limit).into_iter();
            let all: Vec<Value<'a>> = all.map(|found| Value::text(&subject[found])).collect();
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
