//! Durations as Go's `time.ParseDuration` reads them (`1h30m`, `-1.5s`), what it says of others, and as Go prints them.
use jiff::SignedDuration;
use std::time::Duration;

/// As Go prints it, which is how it stands in messages of Kubernetes: `10s`, `2m40s`, `1.5s`, `250ms`. What is below a millisecond
/// is cut off.
pub fn print(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    if seconds == 0 && millis > 0 {
        return format!("{millis}ms");
    }
    let fraction = match millis {
        0 => String::new(),
        millis => format!(".{millis:03}").trim_end_matches('0').to_owned(),
    };
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}{fraction}s"),
        (0, m, s) => format!("{m}m{s}{fraction}s"),
        (h, m, s) => format!("{h}h{m}m{s}{fraction}s"),
    }
}

/// The error is in Go's words, behind its `time: `.
pub fn parse(text: &str) -> Result<SignedDuration, String> {
    let invalid = || format!("invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0_i128;
    while !rest.is_empty() {
        let (whole, tail) = digits(rest);
        let (fraction, tail) = tail.strip_prefix('.').map_or(("", tail), digits);
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, tail) = tail.split_at(end.unwrap_or(tail.len()));
        let factor = match unit {
            "" => return Err(format!("missing unit in duration {text:?}")),
            unit => nanoseconds(unit).ok_or_else(|| format!("unknown unit {unit:?} in duration {text:?}"))?,
        };
        let more = amount(whole, fraction, factor).ok_or_else(invalid)?;
        total = total.checked_add(more).ok_or_else(invalid)?;
        rest = tail;
    }
    let total = i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())?;
    Ok(SignedDuration::from_nanos(total))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn nanoseconds(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// What is below a nanosecond is cut off. The fraction goes through a float, as Go's does: a third of an hour is twenty minutes.
fn amount(whole: &str, fraction: &str, factor: i128) -> Option<i128> {
    let whole: i128 = match whole {
        "" => 0,
        digits => digits.parse().ok()?,
    };
    let (mut part, mut scale) = (0_i64, 1.0);
    for digit in fraction.bytes() {
        // Digits that no longer fit say nothing more.
        let Some(more) = part
            .checked_mul(10)
            .and_then(|p| p.checked_add(i64::from(digit - b'0')))
        else {
            break;
        };
        (part, scale) = (more, scale * 10.0);
    }
    let part = part as f64 * (factor as f64 / scale);
    whole.checked_mul(factor)?.checked_add(part as i128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_prints() {
        for (millis, expected) in [
            (0, "0s"),
            (7, "7ms"),
            (999, "999ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (2040, "2.04s"),
            (15_012, "15.012s"),
            (60_000, "1m0s"),
            (75_500, "1m15.5s"),
            (100_001, "1m40.001s"),
            (3_600_000, "1h0m0s"),
            (90_061_250, "25h1m1.25s"),
        ] {
            assert_eq!(print(Duration::from_millis(millis)), expected);
        }
        assert_eq!(print(Duration::from_nanos(1_999_999)), "1ms");
    }

    #[test]
    fn what_go_reads() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("-0", 0),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("-2m", -120_000_000_000),
            ("+100ms", 100_000_000),
            ("1ns1.9ns", 2),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(parse(text), Ok(SignedDuration::from_nanos(nanoseconds)), "{text}");
        }
    }

    #[test]
    fn what_go_says_of_others() {
        for (text, why) in [
            ("", r#"invalid duration """#),
            ("-", r#"invalid duration "-""#),
            ("x", r#"invalid duration "x""#),
            (".s", r#"invalid duration ".s""#),
            (
                "9223372036854775808ns",
                r#"invalid duration "9223372036854775808ns""#,
            ),
            ("1", r#"missing unit in duration "1""#),
            ("1.2.3s", r#"missing unit in duration "1.2.3s""#),
            ("1x", r#"unknown unit "x" in duration "1x""#),
        ] {
            assert_eq!(parse(text), Err(why.to_owned()), "{text}");
        }
    }
}
