//! String formats that custom resource validation knows; others mean nothing.
//!
//! The list: Kubernetes' "Extend the API with CustomResourceDefinitions", `supported formats` of OpenAPI v3.
mod addresses;
mod numbers;
mod times;

use std::net::Ipv6Addr;
use std::sync::LazyLock;

use regex::Regex;

use super::names;

/// Whether a text is of a format; unknown formats take anything.
pub fn is(format: &str, text: &str) -> bool {
    match format {
        "ipv4" => addresses::ipv4(text),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => addresses::cidr(text),
        "mac" => mac(text),
        "uuid" => uuid(text, None, false),
        "uuid3" => uuid(text, Some("3"), false),
        "uuid4" => uuid(text, Some("4"), true),
        "uuid5" => uuid(text, Some("5"), true),
        "byte" => byte(text),
        "date" => times::date(text),
        "date-time" | "datetime" => times::date_time(text),
        "duration" => times::duration(text),
        "hostname" => addresses::hostname(text),
        "uri" => addresses::uri(text),
        "email" => addresses::email(text),
        "hexcolor" => hexcolor(text),
        "rgbcolor" => rgbcolor(text),
        "creditcard" => numbers::credit_card(text),
        "ssn" => numbers::social_security(text),
        "isbn" => numbers::isbn10(text) || numbers::isbn13(text),
        "isbn10" => numbers::isbn10(text),
        "isbn13" => numbers::isbn13(text),
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

/// Each dash may be missing.
fn uuid(text: &str, version: Option<&str>, variant: bool) -> bool {
    static FORM: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            "^(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?([0-9a-f])[0-9a-f]{3}-?([0-9a-f])[0-9a-f]{3}-?[0-9a-f]{12}$",
        )
        .ok()
    });
    let Some(found) = FORM.as_ref().and_then(|form| form.captures(text)) else {
        return false;
    };
    version.is_none_or(|version| &found[1] == version)
        && (!variant || matches!(&found[2], "8" | "9" | "a" | "b" | "A" | "B"))
}

/// Base64, with something in it; bits that mean nothing may be set.
fn byte(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    let alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    !digits.is_empty()
        && text.len().is_multiple_of(4)
        && text.len() - digits.len() <= 2
        && digits.bytes().all(alphabet)
}

fn hexcolor(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && hexadecimal(digits)
}

/// `rgb(1, 2, 3)`.
fn rgbcolor(text: &str) -> bool {
    let inner = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')'));
    let shade = |part: &str| {
        let part = part.trim_ascii();
        part.parse::<u8>().is_ok_and(|shade| shade.to_string() == part)
    };
    inner.is_some_and(|inner| inner.split(',').count() == 3 && inner.split(',').all(shade))
}

#[cfg(test)]
mod tests {
    use super::is;

    /// What upstream's API server took and refused.
    #[test]
    fn formats() {
        for (format, good, bad) in [
            (
                "ipv4",
                "10.0.0.1 01.2.3.4 0001.2.3.4 ::ffff:1.2.3.4",
                "10.0.0 1.2.3.256 ::1 1.2.3.-4",
            ),
            ("ipv6", "::1 ::ffff:1.2.3.4", "1 1.2.3.4 fe80::1%eth0"),
            (
                "cidr",
                "10.0.0.0/8 010.0.0.0/08 ::/0",
                "10.0.0.0 10.0.0.0/33 10.0.0.0/+8",
            ),
            ("mac", "00:11:22:33:44:55 0011.2233.4455", "00:11"),
            (
                "uuid",
                "123e4567-e89b-12d3-a456-426614174000 123e4567e89b12d3-a456426614174000",
                "x",
            ),
            (
                "uuid3",
                "123e4567-e89b-32d3-0456-426614174000",
                "123e4567-e89b-42d3-0456-426614174000",
            ),
            (
                "uuid4",
                "123e4567-e89b-42d3-a456-426614174000",
                "123e4567-e89b-42d3-0456-426614174000",
            ),
            ("byte", "YQ== YR== YWFh", "% YQ Y-_= ===="),
            ("date", "2024-02-29", "2023-02-29 2024-2-29 +2024-02-29"),
            (
                "date-time",
                "2024-01-01T00:00:00Z 2024-01-01t00:00:00z 2024-01-01T00:00:00.123+01:00",
                "2024-01-01 2024-01-01T00:00:60Z 2024-01-01T00:00:00+0100 2024-01-01T24:00:00Z 2024-01-01T00:00:00.Z",
            ),
            ("duration", "1h30m 1.5h -1h .5s 0 PT5M 3weeks", "1x 1 weeks 1hx"),
            (
                "hostname",
                "a.example a 1 a- ab.cde 1.com a--b.com a-b-c.com",
                "-a a.b 1.2.3.4 A.b. a. a_b a--b ab-c a.com1",
            ),
            (
                "uri",
                "https://a/b a:b /a * //a a: http://[::1] /a#b http://a: a:%zz",
                "a #a ?a 1:a :a http://a:x http://a/%zz x://[a http://a%41b *a",
            ),
            ("email", "a@b.c a@b <a@b> é@b.c", "a a@ a..b@c a@b.c."),
            ("rgbcolor", "rgb(1,2,3)", "red rgb(256,1,1) rgb(01,1,1) rgb(1,2)"),
            ("hexcolor", "#fff fff #ffffff", "#ffff"),
            (
                "creditcard",
                "4111111111111111 4111-1111-1111-1111",
                "4111111111111112 1",
            ),
            ("ssn", "123-45-6789", "123456789 1234-5-6789"),
            ("isbn", "0-306-40615-2 978-0-306-40615-7", "1"),
            ("isbn10", "0306406152 080442957X", "0306406153"),
            ("isbn13", "9780306406157", "9780306406158"),
        ] {
            for good in good.split(' ') {
                assert!(is(format, good), "{format} {good}");
            }
            for bad in bad.split(' ').chain([""]) {
                assert!(!is(format, bad), "{format} {bad:?}");
            }
        }
        for (format, text, good) in [
            ("duration", "1 hour", true),
            ("duration", "1h foo", true),
            ("email", "A <a@b.c>", true),
            ("email", "\"a b\"@c.d", true),
            ("email", "a b@c", false),
            ("uri", "http://a b", false),
            ("uri", "/a b", true),
            ("uri", "a b", false),
            ("rgbcolor", "rgb( 1 , 2,3 )", true),
            ("ssn", "123 45 6789", true),
            ("date-time", "2024-01-01 00:00:00Z", false),
        ] {
            assert_eq!(is(format, text), good, "{format} {text}");
        }
        assert!(is("never-heard-of", "x"));
        assert!(!is("isbn10", &"9".repeat(40_000)), "it is no sum that overflows");
    }
}
