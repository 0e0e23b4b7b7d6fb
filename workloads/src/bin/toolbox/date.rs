//! `date`: what time it is, and times as text. The only zone is UTC.

use crate::{Call, Outcome, misuse};
use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

pub fn date(call: &mut Call<'_>) -> Outcome {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let format = match call.operands.first().map(|operand| operand.strip_prefix('+')) {
        None if call.has('I') => "%F",
        None if call.has('R') => "%a, %d %b %Y %H:%M:%S %z",
        None => "%a %b %e %H:%M:%S %Z %Y",
        Some(Some(format)) if call.operands.len() == 1 => format,
        Some(_) => return misuse("the time can be shown, and not be set"),
    };
    let text = Time::at(now.as_secs(), now.subsec_nanos()).format(format);
    writeln!(call.out, "{text}")?;
    Ok(0)
}

/// A time as RFC 3339.
pub fn timestamp(seconds: u64) -> String {
    Time::at(seconds, 0).format("%FT%TZ")
}

/// A point of time by the calendar.
struct Time {
    since: u64,
    nanos: u32,
    year: u64,
    month: u64,
    day: u64,
}

impl Time {
    /// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    fn at(since: u64, nanos: u32) -> Self {
        let shifted = since / 86_400 + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        Self {
            since,
            nanos,
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
        }
    }

    /// Days since Sunday.
    fn weekday(&self) -> u64 {
        (self.since / 86_400 + 4) % 7
    }

    /// Days of this year before this one.
    fn day_of_year(&self) -> u64 {
        let is_leap =
            self.year.is_multiple_of(4) && !self.year.is_multiple_of(100) || self.year.is_multiple_of(400);
        let before: u64 = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
            .iter()
            .take(self.month as usize - 1)
            .sum();
        before + u64::from(is_leap && self.month > 2) + self.day - 1
    }

    /// Writes it as strftime(3) does. What is not known stays as it is.
    fn format(&self, format: &str) -> String {
        let mut out = String::new();
        let mut letters = format.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '%' => out.push_str(&letters.next().map_or("%".to_owned(), |letter| self.field(letter))),
                letter => out.push(letter),
            }
        }
        out
    }

    fn field(&self, letter: char) -> String {
        let (hour, minute, second) = (self.since / 3_600 % 24, self.since / 60 % 60, self.since % 60);
        let day = DAYS[self.weekday() as usize];
        let month = MONTHS[self.month as usize - 1];
        match letter {
            'A' => day.to_owned(),
            'a' => day[..3].to_owned(),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'c' => self.format("%a %b %e %H:%M:%S %Y"),
            'D' | 'x' => self.format("%m/%d/%y"),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'F' => self.format("%Y-%m-%d"),
            'H' => format!("{hour:02}"),
            'I' => format!("{:02}", (hour + 11) % 12 + 1),
            'j' => format!("{:03}", self.day_of_year() + 1),
            'M' => format!("{minute:02}"),
            'm' => format!("{:02}", self.month),
            'N' => format!("{:09}", self.nanos),
            'n' => "\n".to_owned(),
            'p' => (if hour < 12 { "AM" } else { "PM" }).to_owned(),
            'R' => self.format("%H:%M"),
            'S' => format!("{second:02}"),
            's' => self.since.to_string(),
            'T' | 'X' => self.format("%H:%M:%S"),
            't' => "\t".to_owned(),
            'u' => (if self.weekday() == 0 { 7 } else { self.weekday() }).to_string(),
            'w' => self.weekday().to_string(),
            'Y' => format!("{:04}", self.year),
            'y' => format!("{:02}", self.year % 100),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            '%' => "%".to_owned(),
            other => format!("%{other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(timestamp(seconds), text);
        }
    }

    #[test]
    fn formats() {
        let time = Time::at(951_827_696, 7);
        for (format, text) in [
            ("%s.%N", "951827696.000000007"),
            ("%a %A %u %w", "Tue Tuesday 2 2"),
            ("%b %e %j %y", "Feb 29 060 00"),
            ("%I:%M %p %Z %z", "12:34 PM UTC +0000"),
            ("%% %Q %", "% %Q %"),
        ] {
            assert_eq!(time.format(format), text, "{format}");
        }
    }
}
