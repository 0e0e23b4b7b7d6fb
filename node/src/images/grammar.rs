//! The grammar of image references (distribution/reference, `reference.go`), read by hand: the regular expression that a library
//! has of it is seven MiB as long as the process runs. Owns what is well-formed; refuses to know what short names mean.

/// A reference's parts, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// With the registry, if it is named.
    pub name: &'a str,
    pub tag: Option<&'a str>,
    pub digest: Option<&'a str>,
}

/// The parts of `text`; `None` if it is no reference.
pub fn parts(text: &str) -> Option<Parts<'_>> {
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (text, None),
    };
    // Before a slash a colon begins a port.
    let last = named.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match named[last..].find(':') {
        Some(colon) => (&named[..last + colon], Some(&named[last + colon + 1..])),
        None => (named, None),
    };
    let is_one = is_name(name) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest);
    is_one.then_some(Parts { name, tag, digest })
}

fn is_name(text: &str) -> bool {
    match text.split_once('/') {
        None => is_component(text),
        Some((first, rest)) => {
            (is_component(first) || is_registry(first)) && rest.split('/').all(is_component)
        }
    }
}

/// Lower case letters and digits, with a dot, one or two underscores or any number of dashes between them.
fn is_component(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separates = |between: &str| {
        matches!(between, "." | "_" | "__") || between.bytes().all(|b| b == b'-') // or nothing
    };
    text.starts_with(is_plain) && text.ends_with(is_plain) && text.split(is_plain).all(separates)
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    host.split('.').all(is_label) && port.is_none_or(is_port)
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&text.len())
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

/// Of any algorithm.
fn is_digest(text: &str) -> bool {
    let is_algorithm = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.split(['-', '_', '+', '.']).all(is_algorithm)
            && hex.len() >= 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use oci_distribution::Reference;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ports_are_no_tags() {
        let all = |name, tag, digest| Some(Parts { name, tag, digest });
        assert_eq!(parts("r:5000/a/b"), all("r:5000/a/b", None, None));
        assert_eq!(parts("r:5000/a/b:t"), all("r:5000/a/b", Some("t"), None));
        assert_eq!(parts("r:5000"), all("r", Some("5000"), None));
        let digest = "sha256+b64u:0123456789abcdef0123456789ABCDEF";
        let text = format!("a:t@{digest}");
        assert_eq!(parts(&text), all("a", Some("t"), Some(digest)));
        for bad in [
            "a_.b",
            "a___b",
            "a..b",
            "r:/a",
            "-r.example/a",
            "a:é",
            "a@",
            "a@md5:00",
            "R",
            "[::1]/a",
        ] {
            assert_eq!(parts(bad), None, "{bad}");
        }
        assert!(parts("a--b/c__d/e.f_g").is_some() && parts("R/a").is_some());
    }

    proptest! {
        #[test]
        fn it_is_the_grammar_of_others(text in "[ab0AB.:/@_-]{0,12}(@(sha256|m.d):[0-9a-f]{31,33})?") {
            let theirs = text.parse::<Reference>();
            let is_one = !matches!(theirs, Err(oci_distribution::ParseError::ReferenceInvalidFormat
                | oci_distribution::ParseError::NameEmpty));
            prop_assert_eq!(parts(&text).is_some(), is_one);
        }
    }
}
