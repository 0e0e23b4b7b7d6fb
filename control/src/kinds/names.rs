//! The grammar of names, labels, annotations and keys, with upstream's words for what is wrong.
//!
//! RFC 1035 and 1123 as Kubernetes reads them. Each check returns every complaint, empty when the text is good.

const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
    alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
    '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
    used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const LABEL_1123: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
    must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_1123: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
    or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
    alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
    validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
    'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME: &str = "a valid environment variable name must consist only of printable ASCII characters other than \
    '='";
const PORT_CHARS: &str = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)";

/// How `metadata.name` of a kind is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, 253 characters.
    Subdomain,
    /// RFC 1123 label, 63 characters.
    Label,
    /// RFC 1035 label, 63 characters.
    Label1035,
    /// Whatever fits between two slashes of a path.
    PathSegment,
}

impl NameRule {
    /// What is wrong with a name; with `prefix` it is a `generateName` and may end in `-`.
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        let masked = if prefix { mask_dash(name) } else { name.to_owned() };
        match self {
            NameRule::Subdomain => subdomain(&masked),
            NameRule::Label => label(&masked),
            NameRule::Label1035 => label_1035(&masked),
            NameRule::PathSegment => path_segment(name),
        }
    }
}

/// A trailing dash of a prefix is followed by more, so it is as good as a letter.
fn mask_dash(name: &str) -> String {
    match name.strip_suffix('-') {
        Some(head) if !head.is_empty() => format!("{head}a"),
        _ => name.to_owned(),
    }
}

fn max_len(limit: usize) -> String {
    format!("must be no more than {limit} characters")
}

fn check(text: &str, limit: usize, words: &str, good: impl Fn(&str) -> bool) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > limit {
        errors.push(max_len(limit));
    }
    if !good(text) {
        errors.push(words.to_owned());
    }
    errors
}

fn edges(text: &str, inner: impl Fn(u8) -> bool, edge: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    edge(*first) && edge(*last) && bytes.iter().all(|b| inner(*b))
}

fn lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    edges(text, |b| lower(b) || b == b'-', lower)
}

fn is_name_part(text: &str) -> bool {
    edges(
        text,
        |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'),
        |b| b.is_ascii_alphanumeric(),
    )
}

/// A name that a path can hold as one segment, and be taken for nothing else.
pub fn path_segment(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    let found = ["/", "%"].iter().filter(|each| text.contains(**each));
    found.map(|each| format!("may not contain '{each}'")).collect()
}

/// RFC 1123 label.
pub fn label(text: &str) -> Vec<String> {
    let dotted = text.contains('.') && text.split('.').all(is_label);
    let words = if dotted {
        "must not contain dots"
    } else {
        LABEL_1123
    };
    check(text, 63, words, is_label)
}

/// RFC 1123 subdomain.
pub fn subdomain(text: &str) -> Vec<String> {
    check(text, 253, SUBDOMAIN_1123, |t| t.split('.').all(is_label))
}

/// RFC 1035 label.
pub fn label_1035(text: &str) -> Vec<String> {
    check(text, 63, LABEL_1035, |t| {
        is_label(t) && t.starts_with(|c: char| c.is_ascii_lowercase())
    })
}

/// Value of a label.
pub fn label_value(text: &str) -> Vec<String> {
    check(text, 63, LABEL_VALUE, |t| t.is_empty() || is_name_part(t))
}

/// `name` or `prefix/name`: label keys, annotation keys, finalizers, resource names.
pub fn qualified(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name = match text.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            qualified_prefix(prefix, &mut errors);
            name
        }
        _ => {
            errors.push(format!("a valid label key {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"));
            return errors;
        }
    };
    match name {
        "" => errors.push("name part must be non-empty".into()),
        long if long.len() > 63 => errors.push(format!("name part {}", max_len(63))),
        _ => {}
    }
    if !is_name_part(name) {
        errors.push(format!("name part {QUALIFIED}"));
    }
    errors
}

fn qualified_prefix(prefix: &str, errors: &mut Vec<String>) {
    match prefix {
        "" => errors.push("prefix part must be non-empty".into()),
        _ => errors.extend(subdomain(prefix).into_iter().map(|e| format!("prefix part {e}"))),
    }
}

/// Key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Vec<String> {
    let good = |t: &str| {
        !t.is_empty()
            && t.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let mut errors = check(text, 253, CONFIG_KEY, good);
    match text {
        "." => errors.push("must not be '.'".into()),
        ".." => errors.push("must not be '..'".into()),
        dots if dots.starts_with("..") => errors.push("must not start with '..'".into()),
        _ => {}
    }
    errors
}

/// Name of an environment variable.
pub fn env_name(text: &str) -> Vec<String> {
    let good = !text.is_empty() && text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=');
    if good {
        Vec::new()
    } else {
        vec![ENV_NAME.to_owned()]
    }
}

/// Name of a container port (IANA service name).
pub fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push("must be no more than 15 characters".to_owned());
    }
    if text.is_empty() || !text.bytes().all(|b| lower(b) || b == b'-') {
        errors.push(PORT_CHARS.to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// A port number.
pub fn port_number(port: i64) -> Vec<String> {
    in_range(port, 1, 65_535)
}

/// `low ..= high`, in upstream's words.
pub fn in_range(n: i64, low: i64, high: i64) -> Vec<String> {
    match (low..=high).contains(&n) {
        true => Vec::new(),
        false => vec![format!("must be between {low} and {high}, inclusive")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_and_bad_names() {
        for good in ["a", "a-b", "a.b", "0", &"a".repeat(253)] {
            assert!(subdomain(good).is_empty(), "{good}");
        }
        for bad in [
            "",
            "A",
            "-a",
            "a-",
            "a..b",
            "a_b",
            ".",
            "a/b",
            "\0",
            &"a".repeat(254),
        ] {
            assert!(!subdomain(bad).is_empty(), "{bad}");
        }
        assert!(NameRule::Subdomain.check("g-", true).is_empty());
        assert!(!NameRule::Subdomain.check("g-", false).is_empty());
        assert!(!label_1035("1a").is_empty() && label_1035("a1").is_empty());
    }

    #[test]
    fn qualified_names() {
        for good in ["a", "A_b.c", "example.com/a", "kubernetes.io/metadata.name"] {
            assert!(qualified(good).is_empty(), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "-a", "Ex ample/a", "_/a"] {
            assert!(!qualified(bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn keys_and_ports() {
        assert!(
            config_key("a.b-c_D").is_empty()
                && !config_key("a/b").is_empty()
                && !config_key("..x").is_empty()
        );
        assert!(env_name("A_B").is_empty() && !env_name("a=b").is_empty() && !env_name("").is_empty());
        assert!(port_name("http").is_empty() && !port_name("80").is_empty() && !port_name("a--b").is_empty());
        assert_eq!(port_number(70_000), ["must be between 1 and 65535, inclusive"]);
    }
}
