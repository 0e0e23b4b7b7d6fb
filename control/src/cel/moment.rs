//! A time as CEL has it: a point, and the offset it was written with, which its text keeps. Compared by the point alone.
use jiff::civil::{Date, Time};
use jiff::fmt::temporal::Pieces;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use std::cmp::Ordering;
use std::fmt;

/// The beginning of the year 1, in seconds.
const FIRST: i64 = -62_135_596_800;

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
        let time = known(written.parse().ok()?)?;
        let offset = Pieces::parse(written).ok()?.to_numeric_offset();
        Some(Moment {
            time,
            offset: offset.unwrap_or(Offset::UTC),
        })
    }

    /// RFC 3339 as Go's `time.Parse` reads it: an hour may have one digit, a fraction begin with a comma, and the fraction have
    /// more digits than count.
    pub fn written(text: &str) -> Option<Moment> {
        let (date, rest) = text.split_once('T')?;
        let mut fields = date.split('-');
        let mut field = |digits: usize| fields.next().filter(|f| f.len() == digits).and_then(number);
        let (year, month, day) = (field(4)?, field(2)?, field(2)?);
        let zone = rest.find(['Z', '+', '-'])?;
        let (clock, offset) = rest.split_at(zone);
        let (clock, fraction) = match clock.split_once(['.', ',']) {
            Some((clock, fraction)) => (clock, Some(fraction)),
            None => (clock, None),
        };
        let parts: Vec<&str> = clock.split(':').collect();
        let [hour @ (1 | 2), 2, 2] = parts.iter().map(|p| p.len()).collect::<Vec<_>>()[..] else {
            return None;
        };
        let (hour, minute, second) = (number(&parts[0][..hour])?, number(parts[1])?, number(parts[2])?);
        let nanos = fraction.map_or(Some(0), nanoseconds)?;
        let small = |n: i32| i8::try_from(n).ok();
        let date = Date::new(i16::try_from(year).ok()?, small(month)?, small(day)?).ok()?;
        let time = Time::new(small(hour)?, small(minute)?, small(second)?, nanos).ok()?;
        let offset = written_offset(offset)?;
        let time = known(offset.to_timestamp(date.to_datetime(time)).ok()?)?;
        fields.next().is_none().then_some(Moment { time, offset })
    }

    pub fn from_second(second: i64) -> Option<Moment> {
        let time = known(Timestamp::from_second(second).ok()?)?;
        let offset = Offset::UTC;
        Some(Moment { time, offset })
    }

    pub fn time(self) -> Timestamp {
        self.time
    }

    /// Later by that much, or earlier; none beyond the years that there are.
    pub fn moved(self, by: SignedDuration) -> Option<Moment> {
        let time = known(self.time.checked_add(by).ok()?)?;
        Some(Moment { time, ..self })
    }
}

/// A time of the years 1 to 9999, which are those that there are.
fn known(time: Timestamp) -> Option<Timestamp> {
    (time.as_second() >= FIRST).then_some(time)
}

fn number(digits: &str) -> Option<i32> {
    let all = digits.bytes().all(|b| b.is_ascii_digit());
    all.then(|| digits.parse().ok()).flatten()
}

/// The nanoseconds of a fraction; further digits do not count.
fn nanoseconds(fraction: &str) -> Option<i32> {
    let counted = fraction.get(..fraction.len().min(9))?;
    let fit = !fraction.is_empty() && fraction.bytes().all(|b| b.is_ascii_digit());
    fit.then(|| number(&format!("{counted:0<9}"))).flatten()
}

/// `Z` or `+01:30`; Go takes one of 24 hours and of 60 minutes.
fn written_offset(text: &str) -> Option<Offset> {
    if text == "Z" {
        return Some(Offset::UTC);
    }
    let (hours, minutes) = text[1..].split_once(':')?;
    let (hours, minutes) = match (hours.len(), minutes.len()) {
        (2, 2) => (number(hours)?, number(minutes)?),
        _ => return None,
    };
    let seconds = hours * 3600 + minutes * 60;
    let seconds = if text.starts_with('-') { -seconds } else { seconds };
    (hours <= 24 && minutes <= 60)
        .then(|| Offset::from_seconds(seconds).ok())
        .flatten()
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
