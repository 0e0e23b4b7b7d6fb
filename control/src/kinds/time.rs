//! Times on the wire (`metav1.Time`, `metav1.MicroTime`) and ages as `kubectl get` prints them.
use jiff::Timestamp;

const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const MICRO_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";
/// Bytes before the fraction of a second, and those of a fraction in microseconds with its point.
const WHOLE: usize = 19;
const FRACTION: usize = 7;

/// Canonical `metav1.Time`: UTC, whole seconds. The error is in Go's words.
pub fn rfc3339(text: &str) -> Result<String, String> {
    let time = parse(text).ok_or_else(|| unreadable(text, LAYOUT))?;
    Ok(format_seconds(time))
}

/// Canonical `metav1.MicroTime`: UTC, six digits, no more and no fewer. The error is in Go's words.
pub fn rfc3339_micro(text: &str) -> Result<String, String> {
    let time = parse(text).ok_or_else(|| unreadable(text, MICRO_LAYOUT))?;
    match microseconds(text.get(WHOLE..).unwrap_or_default()) {
        None => Ok(format_micros(time)),
        Some((part, wanted)) => Err(format!(
            "parsing time {text:?} as {MICRO_LAYOUT:?}: cannot parse {part:?} as {wanted:?}"
        )),
    }
}

/// What part of the fraction and offset of a readable time is not of [`MICRO_LAYOUT`], and what it ought to be.
fn microseconds(rest: &str) -> Option<(&str, &'static str)> {
    let digits = rest.get(1..FRACTION).unwrap_or_default();
    let pointed = rest.starts_with(['.', ',']);
    if !pointed || digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Some((rest, ".000000"));
    }
    let offset = &rest[FRACTION..];
    let fits = offset == "Z" || (offset.starts_with(['+', '-']) && offset.as_bytes().get(3) == Some(&b':'));
    (!fits).then_some((offset, "Z07:00"))
}

/// `2024-01-02T03:04:05Z`.
pub fn format_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Now, as [`format_seconds`] writes it.
pub fn now() -> String {
    format_seconds(Timestamp::now())
}

/// `2024-01-02T03:04:05.000006Z`.
pub fn format_micros(time: Timestamp) -> String {
    format!(
        "{}.{:06}Z",
        time.strftime("%Y-%m-%dT%H:%M:%S"),
        time.subsec_nanosecond().unsigned_abs() / 1000
    )
}

/// A time as RFC 3339 with a date, a `T`, a time to the second and an offset.
pub fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let shape = bytes.len() >= 20 && bytes[10] == b'T' && bytes[13] == b':' && bytes[16] == b':';
    shape.then(|| text.parse().ok()).flatten()
}

fn unreadable(text: &str, layout: &str) -> String {
    format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"")
}

/// How long ago, or `<unknown>` when the time is absent.
pub fn age(time: Option<&str>, now: Timestamp) -> String {
    match time.and_then(parse) {
        Some(then) => human_duration(now.as_second() - then.as_second()),
        None => "<unknown>".into(),
    }
}

/// Seconds as upstream's `duration.HumanDuration` prints them: two units at most, coarser as they grow.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    match seconds {
        i64::MIN..=-2 => "<invalid>".into(),
        -1 => "0s".into(),
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds / MINUTE, "m", seconds % MINUTE, "s"),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(seconds / HOUR, "h", seconds % HOUR / MINUTE, "m"),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

fn two(big: i64, big_unit: &str, small: i64, small_unit: &str) -> String {
    match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_upstreams() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (59, "59s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (599, "9m59s"),
            (600, "10m"),
            (3600, "60m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ];
        for (seconds, want) in cases {
            assert_eq!(human_duration(seconds), want, "{seconds}");
        }
    }

    #[test]
    fn canonical_times() {
        assert_eq!(
            rfc3339("2024-01-02T03:04:05.9+01:00").as_deref(),
            Ok("2024-01-02T02:04:05Z")
        );
        assert!(rfc3339("yesterday").is_err() && rfc3339("2024-01-02").is_err());
    }

    #[test]
    fn microseconds_are_six_digits() {
        for (rest, wanted) in [
            (".000006Z", Ok("2024-01-02T03:04:05.000006Z")),
            (".123456+01:00", Ok("2024-01-02T02:04:05.123456Z")),
            (".123456-01:30", Ok("2024-01-02T04:34:05.123456Z")),
            ("Z", Err(r#"cannot parse "Z" as ".000000""#)),
            ("+01:00", Err(r#"cannot parse "+01:00" as ".000000""#)),
            (".1Z", Err(r#"cannot parse ".1Z" as ".000000""#)),
            (".12345Z", Err(r#"cannot parse ".12345Z" as ".000000""#)),
            (".123456789Z", Err(r#"cannot parse "789Z" as "Z07:00""#)),
            (".1234567+01:00", Err(r#"cannot parse "7+01:00" as "Z07:00""#)),
        ] {
            let text = format!("2024-01-02T03:04:05{rest}");
            let start = format!("parsing time {text:?} as {MICRO_LAYOUT:?}: ");
            let wanted = wanted.map(str::to_owned).map_err(|why| format!("{start}{why}"));
            assert_eq!(rfc3339_micro(&text), wanted, "{rest}");
        }
    }
}
