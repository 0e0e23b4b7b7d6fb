//! `sort`: lines of all files in the order of their bytes, or as it is asked for.

use crate::text::open;
use crate::{Call, Failure, Outcome, misuse};
use std::cmp::Ordering;
use std::io::BufRead;

/// How two lines are compared.
struct How {
    /// From which field to which, counted from 1; the whole line without.
    key: Option<(usize, usize)>,
    separator: Option<char>,
    numeric: bool,
    fold: bool,
    skip_blanks: bool,
    reverse: bool,
}

pub fn sort(call: &mut Call<'_>) -> Outcome {
    let how = How::read(call)?;
    call.or_input();
    let mut lines = Vec::new();
    for operand in &call.operands {
        match open(operand.as_ref()) {
            Ok(from) => {
                for line in from.split(b'\n') {
                    lines.push(String::from_utf8_lossy(&line?).into_owned());
                }
            }
            Err(error) => return misuse(format!("{operand}: {}", crate::words(&error))),
        }
    }
    let unique = call.has('u');
    lines.sort_by(|a, b| match how.compare(a, b) {
        Ordering::Equal if !unique => {
            if how.reverse {
                b.cmp(a)
            } else {
                a.cmp(b)
            }
        }
        ordering => ordering,
    });
    if unique {
        lines.dedup_by(|a, b| how.compare(a, b) == Ordering::Equal);
    }
    for line in lines {
        writeln!(call.out, "{line}")?;
    }
    Ok(0)
}

impl How {
    fn read(call: &Call<'_>) -> Result<Self, Failure> {
        let key = call.options.value('k').map(|key| {
            let (from, to) = key.split_once(',').unwrap_or((key, ""));
            let to = if to.is_empty() {
                usize::MAX
            } else {
                to.parse().unwrap_or(0)
            };
            match from.parse() {
                Ok(from) if from > 0 && to >= from => Ok((from, to)),
                _ => misuse(format!("invalid field specification '{key}'")),
            }
        });
        let mut separator = call.options.value('t').unwrap_or_default().chars();
        let how = Self {
            key: key.transpose()?,
            separator: separator.next(),
            numeric: call.has('n'),
            fold: call.has('f'),
            skip_blanks: call.has('b'),
            reverse: call.has('r'),
        };
        match separator.next() {
            Some(_) => misuse("the separator of fields is one character"),
            None => Ok(how),
        }
    }

    fn compare(&self, a: &str, b: &str) -> Ordering {
        let (a, b) = (self.part(a), self.part(b));
        let ordering = match (self.numeric, self.fold) {
            (true, _) => number(&a).total_cmp(&number(&b)),
            (false, true) => a.to_uppercase().cmp(&b.to_uppercase()),
            (false, false) => a.cmp(&b),
        };
        if self.reverse {
            ordering.reverse()
        } else {
            ordering
        }
    }

    fn part(&self, line: &str) -> String {
        let part = match self.key {
            None => line.to_owned(),
            Some((from, to)) => self.fields(line, from, to),
        };
        match self.skip_blanks {
            true => part.trim_start().to_owned(),
            false => part,
        }
    }

    /// Without a separator fields end where blanks begin, and these belong to the field after them (POSIX, sort).
    fn fields(&self, line: &str, from: usize, to: usize) -> String {
        if let Some(separator) = self.separator {
            let fields = line
                .split(separator)
                .skip(from - 1)
                .take(to.saturating_sub(from - 1));
            return fields.collect::<Vec<_>>().join(&separator.to_string());
        }
        let mut field = 1;
        let mut was_blank = true;
        let within = |letter: &char| {
            let blank = letter.is_whitespace();
            field += usize::from(blank && !was_blank);
            was_blank = blank;
            (from..=to).contains(&field)
        };
        line.chars().filter(within).collect()
    }
}

/// The number that a text begins with; none is 0.
fn number(text: &str) -> f64 {
    let text = text.trim_start();
    let sign = usize::from(text.starts_with('-'));
    let digits = text[sign..].find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let end = digits.map_or(text.len(), |end| end + sign);
    text[..end].parse().unwrap_or(0.0)
}
