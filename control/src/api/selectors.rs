//! Label and field selectors: parsing and matching. Pure.
//!
//! Grammar: Kubernetes' "Labels and Selectors" and "Field Selectors".
mod labels;

use super::status::{ApiError, Result};
use super::texts::Lookup;
use std::collections::BTreeSet;

/// One condition on labels.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Exists(String),
    Absent(String),
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Greater(String, i64),
    Less(String, i64),
}

impl Term {
    fn matches(&self, labels: &impl Lookup) -> bool {
        let number = |key: &str| labels.find(key).and_then(|v| v.parse::<i64>().ok());
        match self {
            Term::Exists(key) => labels.find(key).is_some(),
            Term::Absent(key) => labels.find(key).is_none(),
            Term::In(key, values) => labels.find(key).is_some_and(|v| values.contains(v)),
            Term::NotIn(key, values) => labels.find(key).is_none_or(|v| !values.contains(v)),
            Term::Greater(key, bound) => number(key).is_some_and(|n| n > *bound),
            Term::Less(key, bound) => number(key).is_some_and(|n| n < *bound),
        }
    }
}

/// All terms must hold; none means everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Term>);

impl LabelSelector {
    pub fn parse(text: &str) -> Result<Self> {
        labels::parse(text)
            .map(LabelSelector)
            .map_err(ApiError::bad_request)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, labels: &impl Lookup) -> bool {
        self.0.iter().all(|term| term.matches(labels))
    }
}

/// One condition on a field: its label, the value, and whether it must be equal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTerm {
    field: String,
    value: String,
    equal: bool,
}

/// All terms must hold; none means everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldTerm>);

impl FieldSelector {
    pub fn parse(text: &str) -> Result<Self> {
        let parts = split_escaped(text, ',');
        let terms = parts
            .iter()
            .filter(|p| !p.is_empty())
            .map(|part| field_term(part))
            .collect::<Result<_>>()?;
        Ok(FieldSelector(terms))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the condition that `field` equals `value`.
    pub fn require(&mut self, field: &str, value: &str) {
        self.0.push(FieldTerm {
            field: field.to_owned(),
            value: value.to_owned(),
            equal: true,
        });
    }

    /// The field labels named.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|term| term.field.as_str())
    }

    /// The value that `field` must have, when a term demands one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|term| term.equal && term.field == field)
            .map(|term| term.value.as_str())
    }

    pub fn matches(&self, fields: &impl Lookup) -> bool {
        self.0.iter().all(|term| {
            let found = fields.find(&term.field).unwrap_or_default();
            (found == term.value) == term.equal
        })
    }
}

fn field_term(part: &str) -> Result<FieldTerm> {
    for (symbol, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((field, value)) = part.split_once(symbol) {
            return Ok(FieldTerm {
                field: field.trim().to_owned(),
                value: unescape(value)?,
                equal,
            });
        }
    }
    Err(ApiError::bad_request(format!(
        "invalid selector: '{part}'; can't understand '{part}'"
    )))
}

fn split_escaped(text: &str, at: char) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        if c == at && !escaped {
            parts.push(&text[start..i]);
            start = i + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                _ => {
                    return Err(ApiError::bad_request(format!(
                        "invalid field selector: bad escape in {text:?}"
                    )));
                }
            },
            ',' | '=' => {
                let code = u32::from(c);
                return Err(ApiError::bad_request(format!(
                    "invalid field selector: unescaped character in value: {code}"
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn labels(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        of.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn labels_match() {
        let mine = labels(&[("app", "web"), ("tier", "1"), ("x.io/a", "")]);
        for (selector, want) in [
            ("", true),
            ("app=web", true),
            ("app == web , tier", true),
            ("app!=web", false),
            ("missing!=web", true),
            ("app in (db, web)", true),
            ("app notin (db,web)", false),
            ("missing notin (db)", true),
            ("!missing", true),
            ("!app", false),
            ("tier>0", true),
            ("tier<1", false),
            ("x.io/a=", true),
            ("x.io/a", true),
        ] {
            assert_eq!(
                LabelSelector::parse(selector).unwrap().matches(&mine),
                want,
                "{selector}"
            );
        }
    }

    #[test]
    fn fields_match() {
        let mine = labels(&[("metadata.name", "a,b"), ("spec.nodeName", "")]);
        for (selector, want) in [
            ("metadata.name=a\\,b", true),
            ("metadata.name!=x,spec.nodeName=", true),
            ("metadata.name==x", false),
            ("", true),
        ] {
            assert_eq!(
                FieldSelector::parse(selector).unwrap().matches(&mine),
                want,
                "{selector}"
            );
        }
        assert!(FieldSelector::parse("nonsense").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = LabelSelector::parse(&text);
            let _ = FieldSelector::parse(&text);
        }
    }
}
