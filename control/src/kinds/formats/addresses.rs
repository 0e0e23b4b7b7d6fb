//! Addresses: of the network, of pages, of people. Go's parsers are the standard, with what they let pass.
use std::sync::LazyLock;

use regex::Regex;

use crate::kinds::address;

/// With leading zeros, as before Go 1.17; the IPv6 form that holds one will do.
pub(super) fn ipv4(text: &str) -> bool {
    text.contains('.') && address::sloppy(text).is_some()
}

pub(super) fn cidr(text: &str) -> bool {
    address::range(text).is_some()
}

/// A word with at most one dash, or labels that end in a domain of letters.
pub(super) fn hostname(text: &str) -> bool {
    static FORM: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let sign = r"[a-zA-Z0-9\p{S}\p{L}]";
        let word = format!("{sign}-?{sign}{{0,62}}");
        let label = format!(r"{sign}(?:[a-zA-Z0-9\-\p{{S}}\p{{L}}]{{0,61}}{sign})?");
        Regex::new(&format!(r"^(?:{word}|(?:{label}\.)+\p{{L}}{{2,63}})$")).ok()
    });
    text.len() <= 255
        && text.split('.').all(|part| part.len() <= 63)
        && FORM.as_ref().is_some_and(|form| form.is_match(text))
}

/// `url.ParseRequestURI`: absolute, or a rooted path.
pub(super) fn uri(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    if text.is_empty() || text.bytes().any(|b| b < b' ' || b == 0x7f) {
        return false;
    }
    let Some((scheme, rest)) = scheme(text) else {
        return false;
    };
    let rest = rest.split('?').next().unwrap_or_default();
    if !rest.starts_with('/') {
        return !scheme.is_empty();
    }
    match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            self::authority(authority) && escaped(path, |_| true)
        }
        None => escaped(rest, |_| true),
    }
}

/// What stands before the first colon, if it can be one; none when nothing stands there.
fn scheme(text: &str) -> Option<(&str, &str)> {
    let sign = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    match text.split_once(':') {
        Some(("", _)) => None,
        Some((scheme, rest)) if scheme.bytes().all(sign) && scheme.as_bytes()[0].is_ascii_alphabetic() => {
            Some((scheme, rest))
        }
        _ => Some(("", text)),
    }
}

fn authority(text: &str) -> bool {
    let (user, host) = text.rsplit_once('@').unwrap_or(("", text));
    let sign = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.rsplit_once(']') {
            Some((name, port)) => (name, port),
            None => return false,
        },
        None => host.split_at(host.rfind(':').unwrap_or(host.len())),
    };
    let port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    // Signs of ASCII are not to be written as escapes in a host.
    let foreign = |byte: u8| !byte.is_ascii() || byte == b'%';
    let fit = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"%".contains(c);
    user.chars().all(sign)
        && escaped(user, |_| true)
        && port
        && name.chars().all(fit)
        && escaped(name, foreign)
}

/// Whether every `%` begins an escape, of a byte that may be one.
fn escaped(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    text.split('%').skip(1).all(|after| {
        let hex = after
            .get(..2)
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .is_some_and(&allowed)
    })
}

/// `mail.ParseAddress`: an address, or a name with one in angle brackets.
pub(super) fn email(text: &str) -> bool {
    let text = text.trim_matches([' ', '\t']);
    match text.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
        Some((name, address)) => phrase(name) && mailbox(address),
        None => mailbox(text),
    }
}

fn phrase(name: &str) -> bool {
    let name = name.trim_matches([' ', '\t']);
    let word = |word: &str| word.chars().all(|c| is_of_atom(c) || c == '.');
    quoted(name) || name.split([' ', '\t']).all(word)
}

fn mailbox(text: &str) -> bool {
    text.rsplit_once('@').is_some_and(|(user, host)| {
        let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let literal = literal.is_some_and(|address| {
            let address = address.strip_prefix("IPv6:").unwrap_or(address);
            address.parse::<std::net::IpAddr>().is_ok()
        });
        (atoms(user) || quoted(user)) && (atoms(host) || literal)
    })
}

fn atoms(text: &str) -> bool {
    text.split('.')
        .all(|atom| !atom.is_empty() && atom.chars().all(is_of_atom))
}

fn is_of_atom(c: char) -> bool {
    !c.is_ascii() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
}

fn quoted(text: &str) -> bool {
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.is_some_and(|inner| {
        let mut escaped = false;
        let fits = inner.chars().all(|c| {
            let fit = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            fit && !c.is_control()
        });
        fits && !escaped
    })
}
