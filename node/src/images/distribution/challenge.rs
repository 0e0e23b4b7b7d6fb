//! Reading `WWW-Authenticate` (RFC 9110 §11.6.1) as registries use it (distribution token specification).

use std::collections::BTreeMap;

/// How a registry wants to be convinced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The best challenge in a header value: Bearer before Basic; none when neither is offered.
pub fn parse(header: &str) -> Option<Challenge> {
    let challenges = split(header);
    let bearer = challenges.iter().find_map(|(scheme, params)| {
        let realm = params
            .get("realm")
            .filter(|_| scheme.eq_ignore_ascii_case("bearer"))?;
        Some(Challenge::Bearer {
            realm: realm.clone(),
            service: params.get("service").cloned(),
            scope: params.get("scope").cloned(),
        })
    });
    let basic = || {
        challenges
            .iter()
            .any(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
    };
    bearer.or_else(|| basic().then_some(Challenge::Basic))
}

/// Splits a header into schemes with their parameters.
fn split(header: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut challenges: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(['=', ' ', '\t', ',']).unwrap_or(rest.len());
        if end == 0 {
            return challenges;
        }
        let (word, tail) = rest.split_at(end);
        match tail.strip_prefix('=') {
            Some(tail) => {
                let (value, tail) = parameter(tail);
                if let Some((_, params)) = challenges.last_mut() {
                    params.insert(word.to_ascii_lowercase(), value);
                }
                rest = tail;
            }
            None => {
                challenges.push((word.to_owned(), BTreeMap::new()));
                rest = tail;
            }
        }
    }
}

/// A token or quoted string, and what follows it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return (value, &quoted[at + 1..]),
            c => {
                value.push(c);
                escaped = false;
            }
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_of_real_registries() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull,push""#;
        assert_eq!(
            parse(hub),
            Some(Challenge::Bearer {
                realm: "https://auth.docker.io/token".into(),
                service: Some("registry.docker.io".into()),
                scope: Some("repository:library/x:pull,push".into()),
            })
        );
        assert_eq!(parse(r#"Basic realm="Registry Realm""#), Some(Challenge::Basic));
        let both = r#"Basic realm="x", Bearer realm="https://a/\"b\"""#;
        assert!(matches!(parse(both), Some(Challenge::Bearer { realm, .. }) if realm == "https://a/\"b\""));
        assert_eq!(parse("Negotiate"), None);
        assert_eq!(parse("Bearer service=x"), None);
        assert_eq!(parse("="), None);
    }

    proptest! {
        #[test]
        fn parsing_ends(text in "\\PC{0,100}") {
            let _ = parse(&text);
        }
    }
}
