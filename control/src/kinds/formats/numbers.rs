//! Numbers that carry a digit to check them by.
use std::sync::LazyLock;

use regex::Regex;

/// Numbers of the known issuers, by their beginnings and lengths; the last digit checks the others (Luhn).
pub(super) fn credit_card(text: &str) -> bool {
    static ISSUED: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let issuers = [
            "4[0-9]{12}(?:[0-9]{3})?",
            "5[1-5][0-9]{14}",
            "6(?:011|5[0-9]{2})[0-9]{12}",
            "3[47][0-9]{13}",
            "3(?:0[0-5]|[68][0-9])[0-9]{11}",
            "(?:2131|1800|35[0-9]{3})[0-9]{11}",
        ];
        Regex::new(&format!("^(?:{})$", issuers.join("|"))).ok()
    });
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let doubled = |(i, digit): (usize, u8)| {
        let value = u32::from(digit - b'0');
        match (i % 2, value * 2) {
            (0, _) => value,
            (_, twice) if twice > 9 => twice - 9,
            (_, twice) => twice,
        }
    };
    let sum: u32 = digits.bytes().rev().enumerate().map(doubled).sum();
    ISSUED.as_ref().is_some_and(|form| form.is_match(&digits)) && sum.is_multiple_of(10)
}

/// `123-45-6789`.
pub(super) fn social_security(text: &str) -> bool {
    let digit = |(i, byte): (usize, u8)| match i {
        3 | 6 => matches!(byte, b'-' | b' '),
        _ => byte.is_ascii_digit(),
    };
    text.len() == 11 && text.bytes().enumerate().all(digit)
}

pub(super) fn isbn10(text: &str) -> bool {
    let digits = unspaced(text);
    let value = |(i, byte): (usize, u8)| match byte {
        b'0'..=b'9' => Some((i as u32 + 1) * u32::from(byte - b'0')),
        b'X' if i == 9 => Some(100),
        _ => None,
    };
    let sum = || digits.bytes().enumerate().map(value).sum::<Option<u32>>();
    digits.len() == 10 && sum().is_some_and(|sum| sum.is_multiple_of(11))
}

pub(super) fn isbn13(text: &str) -> bool {
    let digits = unspaced(text);
    let weighed = |(i, byte): (usize, u8)| u32::from(byte - b'0') * if i % 2 == 0 { 1 } else { 3 };
    digits.len() == 13
        && digits.bytes().all(|b| b.is_ascii_digit())
        && digits
            .bytes()
            .enumerate()
            .map(weighed)
            .sum::<u32>()
            .is_multiple_of(10)
}

fn unspaced(text: &str) -> String {
    let between = |c: &char| !(c.is_ascii_whitespace() || *c == '-');
    text.chars().filter(between).collect()
}
