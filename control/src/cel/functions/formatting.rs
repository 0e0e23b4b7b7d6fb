//! `string.format` at work. Numbers with a point are written as English has them: `1,234.5`, `1.500000×10⁰³`.
use super::to_text;
use crate::cel::eval::{EvalError, Evaluated, Run};
use crate::cel::formats::{self, Clause, Piece, Pieces};
use crate::cel::value::{List, Value};
use crate::kinds::quote;

/// Digits after the point when the clause does not say, and the most that it can ask for.
const PRECISION: usize = 6;
const PRECISE: usize = 1000;

pub(super) fn format<'a>(run: &mut Run<'a, '_>, format: &str, args: &List<'a>) -> Evaluated<'a> {
    let (mut out, mut taken) = (String::new(), 0);
    for piece in Pieces(format) {
        let clause = match piece {
            Piece::Text(text) => {
                out.push_str(text);
                continue;
            }
            Piece::Clause(clause) => Some(clause),
            Piece::End => None,
        };
        let value = args
            .get(taken)
            .ok_or_else(|| EvalError::new(format!("index {taken} out of range")))?;
        taken += 1;
        let clause = clause.ok_or_else(|| EvalError::new("unexpected end of string"))?;
        let shown = shown(run, clause.map_err(EvalError::new)?, &value)?;
        run.charge_text(shown.len() as u64)?;
        out.push_str(&shown);
    }
    Ok(Value::text(out))
}

fn shown<'a>(run: &mut Run<'a, '_>, clause: Clause, value: &Value<'a>) -> Result<String, EvalError> {
    let precision = clause.precision.unwrap_or(PRECISION).min(PRECISE);
    Ok(match (clause.verb, value) {
        (b's', value) => return spelled(run, value),
        (b'd' | b'b' | b'o' | b'x' | b'X', Value::Int(n)) => {
            let digits = whole(clause.verb, n.unsigned_abs());
            if *n < 0 { format!("-{digits}") } else { digits }
        }
        (b'd' | b'b' | b'o' | b'x' | b'X', Value::Uint(n)) => whole(clause.verb, *n),
        (b'b', Value::Bool(b)) => u8::from(*b).to_string(),
        (b'x', Value::String(text)) => hex::encode(text.as_bytes()),
        (b'X', Value::String(text)) => hex::encode_upper(text.as_bytes()),
        (b'x', Value::Bytes(bytes)) => hex::encode(bytes),
        (b'X', Value::Bytes(bytes)) => hex::encode_upper(bytes),
        (b'f' | b'e', value) => match (clause.verb, number(value)) {
            (_, None) => return Err(refused(clause.verb, value)),
            (b'f', Some(n)) => fixed(n, precision),
            (_, Some(n)) => scientific(n, precision),
        },
        (verb, value) => return Err(refused(verb, value)),
    })
}

fn refused(verb: u8, value: &Value<'_>) -> EvalError {
    let why = formats::refusal(verb);
    EvalError::new(format!(
        "error during formatting: {why}, was given {}",
        value.type_name()
    ))
}

fn whole(verb: u8, n: u64) -> String {
    match verb {
        b'b' => format!("{n:b}"),
        b'o' => format!("{n:o}"),
        b'x' => format!("{n:x}"),
        b'X' => format!("{n:X}"),
        _ => n.to_string(),
    }
}

/// A number with a point, or the name of one that has no digits.
fn number(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(n) => Some(*n),
        Value::String(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// A number that is none, or has no end.
fn special(n: f64) -> Option<String> {
    match n {
        n if n.is_nan() => Some("NaN".to_owned()),
        n if n.is_infinite() => Some(if n > 0.0 { "∞" } else { "-∞" }.to_owned()),
        _ => None,
    }
}

/// `1,234.50`.
fn fixed(n: f64, precision: usize) -> String {
    if let Some(special) = special(n) {
        return special;
    }
    let text = format!("{n:.precision$}");
    // What is below nothing keeps its sign, nothing itself has none.
    let text = if n == 0.0 {
        text.trim_start_matches('-')
    } else {
        &text
    };
    let whole = text.find('.').unwrap_or(text.len());
    let first = usize::from(text.starts_with('-'));
    let mut out = String::with_capacity(text.len() + whole / 3);
    for (at, c) in text.char_indices() {
        if at > first && at < whole && (whole - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `1.500000×10⁰³`. What should be the digits after the point upstream takes for the least width.
fn scientific(n: f64, width: usize) -> String {
    const RAISED: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let shown = special(n).unwrap_or_else(|| {
        let text = format!("{n:.PRECISION$e}");
        let text = if n == 0.0 {
            text.trim_start_matches('-')
        } else {
            &text
        };
        let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let below = if exponent.starts_with('-') { "⁻" } else { "" };
        let raised = format!("{:0>2}", exponent.trim_start_matches('-'));
        let raised: String = raised.bytes().map(|b| RAISED[usize::from(b - b'0')]).collect();
        format!("{digits}×10{below}{raised}")
    });
    format!("{shown:>width$}")
}

/// A value as `%s` spells it.
fn spelled<'a>(run: &mut Run<'a, '_>, value: &Value<'a>) -> Result<String, EvalError> {
    match value {
        Value::List(_) | Value::Map(_) => spelled_part(run, value),
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Uint(_)
        | Value::Double(_)
        | Value::String(_)
        | Value::Bytes(_)
        | Value::Timestamp(_)
        | Value::Duration(_)
        | Value::Type(_) => to_text(value),
        other => Err(refused(b's', other)),
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
                if matches!(key, Value::Timestamp(_) | Value::Duration(_)) {
                    let why = format!("no formatting function for map key of type {}", key.type_name());
                    return Err(EvalError::new(format!("error during formatting: {why}")));
                }
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
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Type(_) => to_text(value),
        other => {
            let why = format!("no formatting function for {}", other.type_name());
            Err(EvalError::new(format!("error during formatting: {why}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_in_english() {
        for (n, precision, want) in [
            (1234.5, 6, "1,234.500000"),
            (1_234_567.0, 0, "1,234,567"),
            (-123_456.0, 1, "-123,456.0"),
            (0.05, 1, "0.1"),
            (0.5, 0, "0"),
            (2.675, 2, "2.67"),
            (-0.004, 2, "-0.00"),
            (-0.0, 2, "0.00"),
            (999.996, 2, "1,000.00"),
            (1e21, 0, "1,000,000,000,000,000,000,000"),
            (f64::NEG_INFINITY, 2, "-∞"),
        ] {
            assert_eq!(fixed(n, precision), want);
        }
        for (n, width, want) in [
            (1234.5, 6, "1.234500×10⁰³"),
            (-0.00012, 1, "-1.200000×10⁻⁰⁴"),
            (0.0, 0, "0.000000×10⁰⁰"),
            (1e100, 16, "  1.000000×10¹⁰⁰"),
            (f64::NAN, 2, "NaN"),
        ] {
            assert_eq!(scientific(n, width), want);
        }
    }
}
