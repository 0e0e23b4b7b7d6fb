//! Names below somebody's domain, such as `acme.io/foo`: who may make them up is told by the domain. Pure.
use super::error::{FieldError, FieldErrors};
use super::names;

/// What a path of RFC 3986 may hold beside letters and digits.
const PATH: &str = "/-._~%!$&'()*+,;=:";
const BAD_PATH: &str = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";

/// What is wrong with a name of the field at `path` (upstream's `IsDomainPrefixedPath`).
pub fn domain_path(path: &str, name: &str) -> FieldErrors {
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let parts = name
        .split_once('/')
        .filter(|(domain, rest)| !domain.is_empty() && !rest.is_empty());
    let Some((domain, rest)) = parts else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        return vec![FieldError::invalid(path, name, detail)];
    };
    let told = names::subdomain(domain).into_iter();
    let mut errors: FieldErrors = told.map(|why| FieldError::invalid(path, domain, why)).collect();
    if !rest
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || PATH.contains(c))
    {
        errors.push(FieldError::invalid(path, rest, BAD_PATH));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::join;

    #[test]
    fn a_domain_and_a_path() {
        let form = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        let path = |bad: &str| format!("f: Invalid value: {bad:?}: {BAD_PATH}");
        for (name, want) in [
            ("acme.io/foo", "[]".to_owned()),
            ("acme.io/a/B_~%!$&'()*+,;=:.-", "[]".to_owned()),
            ("", "f: Required value".to_owned()),
            ("foo", format!("f: Invalid value: \"foo\": {form}")),
            ("/foo", format!("f: Invalid value: \"/foo\": {form}")),
            ("acme.io/", format!("f: Invalid value: \"acme.io/\": {form}")),
            ("acme.io/a b", path("a b")),
            ("acme.io/ä", path("ä")),
        ] {
            assert_eq!(join(&domain_path("f", name)), want, "{name}");
        }
        let both = domain_path("f", "Acme/a?");
        assert_eq!(both.len(), 2, "{both:?}");
    }
}
