//! Durations, times and encodings as text.
use super::hexadecimal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;

/// As Go's `strconv.ParseBool` reads it.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// As Go's `strconv.ParseFloat` reads it: digits may be parted by underscores, and what is too large is none.
pub(super) fn number(text: &str) -> Option<f64> {
    if let Some(number) = hexadecimal::number(text) {
        return number;
    }
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let parted = |at: usize| at > 0 && digit(at - 1) && digit(at + 1);
    if bytes.iter().enumerate().any(|(at, b)| *b == b'_' && !parted(at)) {
        return None;
    }
    let number: f64 = text.replace('_', "").parse().ok()?;
    let named = text.contains(['i', 'I']);
    (number.is_finite() || number.is_nan() || named).then_some(number)
}

/// As Go's `time.ParseDuration` reads it.
pub(super) fn duration(text: &str) -> Option<SignedDuration> {
    go_values::duration::parse(text).ok()
}

/// As CEL writes a duration: seconds.
pub(super) fn seconds(duration: SignedDuration) -> String {
    let nanos = duration.as_nanos();
    let (whole, rest) = (nanos / 1_000_000_000, (nanos % 1_000_000_000).abs());
    let sign = if nanos < 0 && whole == 0 { "-" } else { "" };
    match rest {
        0 => format!("{sign}{whole}s"),
        rest => {
            let fraction = format!("{rest:09}");
            format!("{sign}{whole}.{}s", fraction.trim_end_matches('0'))
        }
    }
}

/// As Go writes a number with `%g`: as short as can be, with an exponent where it is long.
pub fn double(n: f64) -> String {
    if n.is_nan() {
        return "NaN".to_owned();
    }
    if n.is_infinite() {
        return if n > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{n:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..=5 => n.to_string(),
        exponent => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles() {
        for (n, want) in [
            (1e6, "1e+06"),
            (123_456_789.0, "1.23456789e+08"),
            (100_000.0, "100000"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e21, "1e+21"),
            (9_223_372_036_854_775_807.0, "9.223372036854776e+18"),
            (f64::NEG_INFINITY, "-Inf"),
            (-1.5, "-1.5"),
            (2.0, "2"),
            (0.0, "0"),
        ] {
            assert_eq!(double(n), want);
        }
    }

    #[test]
    fn numbers() {
        for (text, want) in [
            ("1_0", Some(10.0)),
            (".5", Some(0.5)),
            ("5.", Some(5.0)),
            ("-Inf", Some(f64::NEG_INFINITY)),
            ("1e999", None),
            ("1__0", None),
            ("_1", None),
            ("1_", None),
            ("1e", None),
            ("0x1p-2", Some(0.25)),
            ("1p-2", None),
        ] {
            assert_eq!(number(text), want, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, want) in [
            ("1h30m", "5400s"),
            ("1.5s", "1.5s"),
            ("-2m", "-120s"),
            ("100ms", "0.1s"),
            ("0", "0s"),
        ] {
            assert_eq!(duration(text).map(seconds).as_deref(), Some(want), "{text}");
        }
        for bad in ["", "1", "x", "1x", "-"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
