//! Times and how long they last.
use std::sync::LazyLock;

use regex::Regex;

/// Words that may go on: `hours` is an `hour`.
const BEGINNINGS: [&str; 8] = ["nano", "micro", "milli", "sec", "min", "hour", "day", "week"];
const WORDS: [&str; 11] = ["ns", "us", "µs", "ms", "s", "m", "h", "hr", "d", "w", "wk"];

pub(super) fn date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

/// A date, and a time of the day with its zone, whatever the zone is.
pub(super) fn date_time(text: &str) -> bool {
    static TIME: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new("^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](.[0-9]+)?(z|[+-][0-9]{2}:[0-9]{2})$").ok()
    });
    let text = text.to_lowercase();
    let mut parts = text.split('t');
    let (day, time) = (parts.next(), parts.next());
    day.is_some_and(date) && time.is_some_and(|time| TIME.as_ref().is_some_and(|form| form.is_match(time)))
}

/// What Go reads as one, or whole numbers with units in words, whatever else stands there.
pub(super) fn duration(text: &str) -> bool {
    go_values::duration::parse(text).is_ok() || duration_in_words(text)
}

fn duration_in_words(text: &str) -> bool {
    static PART: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new("([0-9]+)[\\t\\n\\f\\r ]*([A-Za-zµ]+)").ok());
    let Some(form) = PART.as_ref() else {
        return false;
    };
    let mut any = false;
    for part in form.captures_iter(text) {
        if part[1].parse::<i64>().is_err() {
            return false;
        }
        let unit = part[2].to_lowercase();
        any |= WORDS.contains(&unit.as_str()) || BEGINNINGS.iter().any(|word| unit.starts_with(word));
    }
    any
}
