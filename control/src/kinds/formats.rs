//! String formats that custom resource validation knows; others mean nothing.
//!
//! The list: Kubernetes' "Extend the API with CustomResourceDefinitions", `supported formats` of OpenAPI v3.
use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::names;

/// Whether a text is of a format; unknown formats take anything.
pub fn is(format: &str, text: &str) -> bool {
    match format {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "mac" => mac(text),
        "uuid" => uuid(text, None),
        "uuid3" => uuid(text, Some('3')),
        "uuid4" => uuid(text, Some('4')),
        "uuid5" => uuid(text, Some('5')),
        "byte" => STANDARD.decode(text).is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "date-time" | "datetime" => date_time(text),
        "duration" => duration(text),
        "hostname" => hostname(text),
        "uri" => uri(text),
        "email" => email(text),
        "hexcolor" => hexcolor(text),
        "bsonobjectid" => text.len() == 24 && hexadecimal(text),
        "k8s-short-name" => names::label(text).is_empty(),
        "k8s-long-name" => names::subdomain(text).is_empty(),
        _ => true,
    }
}

fn hexadecimal(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn mac(text: &str) -> bool {
    ['-', ':', '.'].iter().any(|separator| {
        let parts: Vec<&str> = text.split(*separator).collect();
        let width = if *separator == '.' { 4 } else { 2 };
        let total = parts.len() * width;
        matches!(total, 12 | 16 | 40) && parts.iter().all(|p| p.len() == width && hexadecimal(p))
    })
}

fn uuid(text: &str, version: Option<char>) -> bool {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    let dashes = text.len() == 32 || (text.len() == 36 && uuid::Uuid::parse_str(text).is_ok());
    dashes && hex.len() == 32 && hexadecimal(&hex) && version.is_none_or(|v| hex.chars().nth(12) == Some(v))
}

fn date_time(text: &str) -> bool {
    let separated = text.as_bytes().get(10).is_some_and(|c| matches!(c, b'T' | b't'));
    separated && text.parse::<jiff::Timestamp>().is_ok()
}

/// `time.ParseDuration`, and the words strfmt adds.
fn duration(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    if text == "0" {
        return true;
    }
    let mut rest = text;
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        const UNITS: [&str; 11] = ["ns", "us", "µs", "ms", "s", "m", "h", "d", "w", "days", "weeks"];
        if number.parse::<f64>().is_err() || !UNITS.contains(&unit.trim()) {
            return false;
        }
        rest = tail;
    }
    true
}

fn hostname(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    text.len() <= 255 && text.trim_end_matches('.').split('.').all(label)
}

/// `url.ParseRequestURI`: absolute, or a rooted path.
fn uri(text: &str) -> bool {
    let clean = !text.bytes().any(|b| b <= b' ' || b == 0x7f);
    let scheme = text.split_once(':').is_some_and(|(scheme, rest)| {
        let letters = scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        letters && scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && rest.starts_with('/')
    });
    clean && (text.starts_with('/') || scheme)
}

fn email(text: &str) -> bool {
    text.split_once('@').is_some_and(|(user, host)| {
        !user.is_empty() && !user.contains(char::is_whitespace) && !host.contains('@') && hostname(host)
    })
}

fn hexcolor(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && hexadecimal(digits)
}

#[cfg(test)]
mod tests {
    use super::is;

    #[test]
    fn formats() {
        for (format, good, bad) in [
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "::1", "1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("mac", "00:11:22:33:44:55", "00:11"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "x"),
            ("byte", "YQ==", "%"),
            ("date", "2024-02-29", "2023-02-29"),
            ("date-time", "2024-01-01T00:00:00Z", "2024-01-01"),
            ("duration", "1h30m", "1x"),
            ("hostname", "a.example", "-a"),
            ("uri", "https://a/b", "a b"),
            ("email", "a@b.c", "a"),
        ] {
            assert!(is(format, good), "{format} {good}");
            assert!(!is(format, bad), "{format} {bad}");
        }
        assert!(is("never-heard-of", "x"));
    }
}
