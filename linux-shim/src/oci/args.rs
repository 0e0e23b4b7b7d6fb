//! Words of the command line: flags in any order beside the other words, long and short, with a value or without.
//! Parsing only.

use std::ffi::OsString;
use std::time::Duration;

/// One flag a command knows.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    pub takes_value: bool,
}

/// A flag with a value.
pub const fn value(name: &'static str) -> Flag {
    short_value(name, None)
}

/// A flag with a value and a short form.
pub const fn short_value(name: &'static str, short: Option<char>) -> Flag {
    Flag {
        name,
        short,
        takes_value: true,
    }
}

/// A flag that is there or not.
pub const fn switch(name: &'static str) -> Flag {
    short_switch(name, None)
}

/// A flag that is there or not, and its short form.
pub const fn short_switch(name: &'static str, short: Option<char>) -> Flag {
    Flag {
        name,
        short,
        takes_value: false,
    }
}

/// A command line no such command understands.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    #[error("unknown flag {0:?}")]
    UnknownFlag(String),
    #[error("flag {0:?} needs a value")]
    MissingValue(String),
    #[error("argument {0:?} is not UTF-8")]
    NotUtf8(OsString),
    #[error("{flag} takes a number, not {value:?}")]
    NotNumber { flag: &'static str, value: String },
    #[error("{flag} takes a time such as 5s or 1m30s, not {value:?}")]
    NotDuration { flag: &'static str, value: String },
    #[error("{flag} takes a number of bytes such as 67108864 or 64M, or -1 for no limit, not {value:?}")]
    NotSize { flag: &'static str, value: String },
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("unknown command {0:?}; try --help")]
    UnknownCommand(String),
    #[error("there is no manager of cgroups {0:?}: cgroupfs, systemd and disabled are known")]
    Manager(String),
    #[error("there is no signal {0:?}")]
    Signal(String),
}

/// Where flags may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Up to the end of the line.
    End,
    /// Up to the first word that is none: what follows belongs to somebody else.
    FirstWord,
}

/// A line taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    given: Vec<(&'static str, String)>,
    pub words: Vec<String>,
}

/// Takes a line apart.
pub fn parse(known: &[Flag], line: &[String], until: Until) -> Result<Parsed, ArgsError> {
    let mut out = Parsed::default();
    let mut rest = line.iter();
    while let Some(word) = rest.next() {
        if word == "--" {
            break;
        }
        if !word.starts_with('-') || word == "-" {
            out.words.push(word.clone());
            if until == Until::FirstWord {
                break;
            }
            continue;
        }
        let (name, inline) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let flag = find(known, name).ok_or_else(|| ArgsError::UnknownFlag(word.clone()))?;
        let value = match (inline, flag.takes_value) {
            (Some(value), _) => value,
            (None, true) => rest
                .next()
                .cloned()
                .ok_or_else(|| ArgsError::MissingValue(word.clone()))?,
            (None, false) => "true".to_owned(),
        };
        out.given.push((flag.name, value));
    }
    out.words.extend(rest.cloned());
    Ok(out)
}

/// Long names may have one dash, as Go's flags do.
fn find(known: &[Flag], word: &str) -> Option<Flag> {
    let name = word.trim_start_matches('-');
    let mut letters = name.chars();
    let letter = letters.next().filter(|_| letters.next().is_none());
    let fits = |f: &&Flag| f.name == name || (letter.is_some() && f.short == letter);
    known.iter().find(fits).copied()
}

impl Parsed {
    /// The value given last.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.given
            .iter()
            .rev()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.as_str())
    }

    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.given
            .iter()
            .filter(move |(n, _)| *n == name)
            .map(|(_, v)| v.as_str())
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.value(name).is_some_and(|v| v == "true" || v == "1")
    }

    pub fn number<T: std::str::FromStr>(&self, flag: &'static str) -> Result<Option<T>, ArgsError> {
        let read = |value: &str| value.parse().ok();
        self.read(flag, read, |value| ArgsError::NotNumber { flag, value })
    }

    pub fn size(&self, flag: &'static str) -> Result<Option<i64>, ArgsError> {
        self.read(flag, bytes, |value| ArgsError::NotSize { flag, value })
    }

    pub fn duration(&self, flag: &'static str) -> Result<Option<Duration>, ArgsError> {
        self.read(flag, time, |value| ArgsError::NotDuration { flag, value })
    }

    fn read<T>(
        &self,
        flag: &str,
        read: impl Fn(&str) -> Option<T>,
        unread: impl Fn(String) -> ArgsError,
    ) -> Result<Option<T>, ArgsError> {
        let value = self.value(flag);
        value
            .map(|value| read(value).ok_or_else(|| unread(value.into())))
            .transpose()
    }

    /// The word at a place, named for the error without one.
    pub fn word(&self, at: usize, what: &'static str) -> Result<&str, ArgsError> {
        self.words
            .get(at)
            .map(String::as_str)
            .ok_or(ArgsError::Missing(what))
    }
}

/// As runc takes it: `5s`, `1m30s`. Nothing takes no time.
fn time(text: &str) -> Option<Duration> {
    let time = go_values::duration::parse(text).ok()?;
    Duration::try_from(time).ok().filter(|time| !time.is_zero())
}

/// The letters of sizes, each 1024 of the one before.
const UNITS: &str = "kmgtp";

/// `64M`, `64mb`, `1.5GiB`: numbers as runc takes them; −1 has no unit.
fn bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let end = text.rfind(|c: char| c.is_ascii_digit())? + 1;
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start().to_lowercase();
    let power = match unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(&unit)
    {
        "" if unit == "ib" => return None,
        "" => 0,
        letter => i32::try_from(UNITS.find(letter).filter(|_| letter.len() == 1)? + 1).ok()?,
    };
    if power == 0 && !number.contains('.') {
        return number.parse().ok().filter(|n| *n >= 0);
    }
    let size = number.parse::<f64>().ok()? * 1024_f64.powi(power);
    // Beyond that there is no such number of bytes.
    (0.0..i64::MAX as f64).contains(&size).then_some(size as i64)
}

/// Names of signals (signal(7)), by number; real-time ones are numbers only.
const SIGNALS: [&str; 32] = [
    "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// The highest signal (`_NSIG`).
const LAST_SIGNAL: i32 = 64;

/// `KILL`, `SIGKILL`, `sigkill` or `9`.
pub fn signal(text: &str) -> Result<i32, ArgsError> {
    let fail = || ArgsError::Signal(text.into());
    if let Ok(number) = text.parse::<i32>() {
        return (0..=LAST_SIGNAL)
            .contains(&number)
            .then_some(number)
            .ok_or_else(fail);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let at = SIGNALS.iter().position(|n| !n.is_empty() && *n == name);
    at.and_then(|n| i32::try_from(n).ok()).ok_or_else(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, millis) in [
            ("5s", 5000),
            ("100ms", 100),
            ("1.5m", 90_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(time(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "s", "2", "0s", "-1s", "5 s", "5d", "1e400s"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, size) in [
            ("-1", -1),
            ("0", 0),
            ("9223372036854775807", i64::MAX),
            ("64M", 64 << 20),
            ("64mb", 64 << 20),
            ("64 MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("2k", 2048),
            ("7b", 7),
        ] {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for bad in ["", "M", "-2", "64x", "64Mx", "64ib", "64MiBB", "1e3", "99999999P"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    const KNOWN: [Flag; 3] = [
        short_value("bundle", Some('b')),
        switch("detach"),
        value("pid-file"),
    ];

    fn line(text: &str, until: Until) -> Result<Parsed, ArgsError> {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        parse(&KNOWN, &words, until)
    }

    #[test]
    fn flags_may_be_anywhere() {
        let got = line("c1 --bundle /b --detach -pid-file=/p", Until::End).unwrap();
        assert_eq!(got.words, ["c1"]);
        assert_eq!(
            (got.value("bundle"), got.value("pid-file")),
            (Some("/b"), Some("/p"))
        );
        assert!(got.is_set("detach"));
        assert_eq!(line("-b /x c", Until::End).unwrap().value("bundle"), Some("/x"));
    }

    #[test]
    fn a_command_keeps_its_own_flags() {
        let got = line("--detach c1 sh --bundle -x", Until::FirstWord).unwrap();
        assert_eq!(got.words, ["c1", "sh", "--bundle", "-x"]);
        let got = line("c1 -- --detach", Until::End).unwrap();
        assert_eq!(got.words, ["c1", "--detach"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(
            line("--nope", Until::End),
            Err(ArgsError::UnknownFlag("--nope".into()))
        );
        assert_eq!(
            line("--bundle", Until::End),
            Err(ArgsError::MissingValue("--bundle".into()))
        );
        assert_eq!(
            line("x", Until::End).unwrap().word(1, "signal"),
            Err(ArgsError::Missing("signal"))
        );
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("KILL", 9),
            ("SIGTERM", 15),
            ("sigusr1", 10),
            ("9", 9),
            ("64", 64),
            ("SYS", 31),
        ] {
            assert_eq!(signal(text), Ok(number));
        }
        for bad in ["", "SIG", "NOPE", "65", "-1"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }
}
