//! Schedules of CronJobs as text: whether one can be read, and why not.
//!
//! The standard five fields (minute, hour, day of month, month, day of week) and `@` descriptors, as the Go library
//! that Kubernetes uses reads them.

/// One of the five fields: its bounds, and names for its values.
struct Field {
    low: u32,
    high: u32,
    names: &'static [&'static str],
    /// The value of the first name.
    first: u32,
}

const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field::plain(0, 59),
    Field::plain(0, 23),
    Field::plain(1, 31),
    Field {
        low: 1,
        high: 12,
        names: MONTHS,
        first: 1,
    },
    Field {
        low: 0,
        high: 6,
        names: DAYS,
        first: 0,
    },
];
const DESCRIPTORS: [&str; 7] = [
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@midnight",
    "@hourly",
];

impl Field {
    const fn plain(low: u32, high: u32) -> Field {
        Field {
            low,
            high,
            names: &[],
            first: 0,
        }
    }
}

/// Why a schedule cannot be read; nothing when it can.
pub fn check(schedule: &str) -> Result<(), String> {
    let schedule = without_zone(schedule)?;
    if schedule.is_empty() {
        return Err("empty spec string".into());
    }
    if schedule.starts_with('@') {
        return descriptor(schedule);
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let all = fields.join(" ");
        return Err(format!(
            "expected exactly 5 fields, found {}: [{all}]",
            fields.len()
        ));
    }
    let mut pairs = fields.iter().zip(&FIELDS);
    pairs.try_for_each(|(text, field)| text.split(',').try_for_each(|range| check_range(range, field)))
}

/// A `TZ=` or `CRON_TZ=` in front, whose zone must exist.
fn without_zone(schedule: &str) -> Result<&str, String> {
    let Some(rest) = schedule
        .strip_prefix("TZ=")
        .or_else(|| schedule.strip_prefix("CRON_TZ="))
    else {
        return Ok(schedule);
    };
    let (zone, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    jiff::tz::TimeZone::get(zone)
        .map_err(|_| format!("provided bad location {zone}: unknown time zone {zone}"))?;
    Ok(rest.trim())
}

fn descriptor(text: &str) -> Result<(), String> {
    if DESCRIPTORS.contains(&text) {
        return Ok(());
    }
    let Some(every) = text.strip_prefix("@every ") else {
        return Err(format!("unrecognized descriptor: {text}"));
    };
    let unreadable = || format!("failed to parse duration {text}: time: invalid duration {every:?}");
    match every.parse::<jiff::SignedDuration>() {
        Ok(_) => Ok(()),
        Err(_) => Err(unreadable()),
    }
}

/// `*`, `N`, `N-M`, each with `/STEP`.
fn check_range(text: &str, field: &Field) -> Result<(), String> {
    let (range, step) = match text.split('/').collect::<Vec<_>>()[..] {
        [range] => (range, None),
        [range, step] => (range, Some(step)),
        _ => return Err(format!("too many slashes: {text}")),
    };
    let ends: Vec<&str> = range.split('-').collect();
    let (from, to) = match ends[..] {
        ["*" | "?"] => (field.low, field.high),
        [one] => {
            let value = value(one, field)?;
            (value, if step.is_some() { field.high } else { value })
        }
        [from, to] => (value(from, field)?, value(to, field)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = step.map_or(Ok(1), number)?;
    let (low, high) = (field.low, field.high);
    if from < low {
        return Err(format!(
            "beginning of range ({from}) below minimum ({low}): {text}"
        ));
    }
    if to > high {
        return Err(format!("end of range ({to}) above maximum ({high}): {text}"));
    }
    if from > to {
        return Err(format!(
            "beginning of range ({from}) beyond end of range ({to}): {text}"
        ));
    }
    match step {
        0 => Err(format!("step of range should be a positive number: {text}")),
        _ => Ok(()),
    }
}

fn value(text: &str, field: &Field) -> Result<u32, String> {
    let lower = text.to_lowercase();
    match field
        .names
        .iter()
        .zip(field.first..)
        .find(|(name, _)| **name == lower)
    {
        Some((_, value)) => Ok(value),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    let number: i64 = text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })?;
    u32::try_from(number).map_err(|_| format!("negative number ({number}) not allowed: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn schedules() {
        for good in [
            "*/5 * * * *",
            "0 0 1 jan sun",
            "1-5,7 0/2 ? * mon-FRI",
            "@hourly",
            "@every 1h30m",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", "empty spec string"),
            ("a b", "expected exactly 5 fields, found 2: [a b]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            (
                "5-1 * * * *",
                "beginning of range (5) beyond end of range (1): 5-1",
            ),
            (
                "x * * * *",
                "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("@never", "unrecognized descriptor: @never"),
        ] {
            assert_eq!(check(bad), Err(why.to_owned()), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,30}") {
            let _ = check(&text);
        }
    }
}
