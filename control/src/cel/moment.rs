//! A time as CEL has it: a point, and the offset it was written with, which its text keeps. Compared by the point alone.
use jiff::fmt::temporal::Pieces;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use std::cmp::Ordering;
use std::fmt;

#[derive(Clone, Copy, Debug)]
pub struct Moment {
    time: Timestamp,
    offset: Offset,
}

impl Moment {
    /// RFC 3339, or a date alone.
    pub fn parse(text: &str) -> Option<Moment> {
        let written = match text.len() {
            10 => &format!("{text}T00:00:00Z"),
            _ => text,
        };
        let time = written.parse().ok()?;
        let offset = Pieces::parse(written).ok()?.to_numeric_offset();
        Some(Moment {
            time,
            offset: offset.unwrap_or(Offset::UTC),
        })
    }

    pub fn from_second(second: i64) -> Option<Moment> {
        let time = Timestamp::from_second(second).ok()?;
        let offset = Offset::UTC;
        Some(Moment { time, offset })
    }

    pub fn time(self) -> Timestamp {
        self.time
    }

    /// Later by that much, or earlier; none beyond the years that there are.
    pub fn moved(self, by: SignedDuration) -> Option<Moment> {
        let time = self.time.checked_add(by).ok()?;
        Some(Moment { time, ..self })
    }
}

/// A zone by its name in the IANA database, or by its offset in hours and minutes.
pub fn zone(name: &str) -> Option<TimeZone> {
    let Some((hours, minutes)) = name.split_once(':') else {
        return TimeZone::get(name).ok();
    };
    let number = |text: &str| text.parse::<u8>().ok().map(i32::from);
    let seconds = number(hours.trim_start_matches(['+', '-']))? * 3600 + number(minutes)? * 60;
    let seconds = if hours.starts_with('-') { -seconds } else { seconds };
    Some(TimeZone::fixed(Offset::from_seconds(seconds).ok()?))
}

impl PartialEq for Moment {
    fn eq(&self, other: &Self) -> bool {
        self.time == other.time
    }
}

impl Eq for Moment {}

impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Moment {
    fn cmp(&self, other: &Self) -> Ordering {
        self.time.cmp(&other.time)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset == Offset::UTC {
            true => self.time.fmt(f),
            false => self.time.display_with_offset(self.offset).fmt(f),
        }
    }
}
