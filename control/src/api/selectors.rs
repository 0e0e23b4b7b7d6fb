//! Label and field selectors: parsing and matching. Pure.
//!
//! Grammar: Kubernetes' "Labels and Selectors" and "Field Selectors".
use super::status::{ApiError, Result};
use super::texts::Lookup;
use std::collections::BTreeSet;

/// Terms in one label selector; more than anything real, and bounded work per object.
const TERMS: usize = 20_000;

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
        let mut terms = Vec::new();
        for part in split_outside_parentheses(text) {
            if terms.len() == TERMS {
                return Err(ApiError::bad_request(format!(
                    "a label selector may have at most {TERMS} terms"
                )));
            }
            let part = part.trim();
            if !part.is_empty() {
                terms.push(term(part).map_err(|why| unparsable(part, &why))?);
            }
        }
        Ok(LabelSelector(terms))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, labels: &impl Lookup) -> bool {
        self.0.iter().all(|term| term.matches(labels))
    }
}

fn unparsable(part: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!("unable to parse requirement: {why}: {part:?}"))
}

/// Splits at commas that are not inside a value list.
fn split_outside_parentheses(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.split(move |c: char| {
        match c {
            '(' => inside = true,
            ')' => inside = false,
            _ => {}
        }
        c == ',' && !inside
    })
}

fn term(part: &str) -> std::result::Result<Term, String> {
    if let Some(rest) = part.strip_prefix('!') {
        return Ok(Term::Absent(key(rest)?));
    }
    for (symbol, build) in SYMBOLS {
        if let Some((left, right)) = part.split_once(symbol) {
            return build(key(left)?, right.trim());
        }
    }
    match part.split_once(char::is_whitespace) {
        Some((left, rest)) => set_term(key(left)?, rest.trim()),
        None => Ok(Term::Exists(key(part)?)),
    }
}

type Build = fn(String, &str) -> std::result::Result<Term, String>;

/// Longer symbols first.
const SYMBOLS: [(&str, Build); 5] = [
    ("!=", |k, v| Ok(Term::NotIn(k, [value(v)?].into()))),
    ("==", |k, v| Ok(Term::In(k, [value(v)?].into()))),
    ("=", |k, v| Ok(Term::In(k, [value(v)?].into()))),
    (">", |k, v| Ok(Term::Greater(k, integer(v)?))),
    ("<", |k, v| Ok(Term::Less(k, integer(v)?))),
];

/// `in (a,b)` and `notin (a,b)`.
fn set_term(key: String, rest: &str) -> std::result::Result<Term, String> {
    let (word, list) = rest.split_once('(').ok_or("found no value list")?;
    let list = list
        .trim_end()
        .strip_suffix(')')
        .ok_or("the value list does not end in ')'")?;
    let values = list
        .split(',')
        .map(|v| value(v.trim()))
        .collect::<std::result::Result<BTreeSet<_>, _>>()?;
    match word.trim() {
        "in" => Ok(Term::In(key, values)),
        "notin" => Ok(Term::NotIn(key, values)),
        other => Err(format!("found {other:?}, expected: in, notin, =, ==, !=, gt, lt")),
    }
}

/// A qualified name: optional DNS prefix, then a name of at most 63 characters.
fn key(text: &str) -> std::result::Result<String, String> {
    let text = text.trim();
    let (prefix, name) = text.rsplit_once('/').map_or((None, text), |(p, n)| (Some(p), n));
    let good = (1..=63).contains(&name.len()) && is_label_text(name);
    let prefix_good =
        prefix.is_none_or(|p| !p.is_empty() && p.len() <= 253 && is_label_text(p) && !p.contains('_'));
    if good && prefix_good {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not a label key"))
    }
}

fn value(text: &str) -> std::result::Result<String, String> {
    let good = text.len() <= 63 && (text.is_empty() || is_label_text(text));
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not a label value"))
    }
}

fn integer(text: &str) -> std::result::Result<i64, String> {
    text.parse()
        .map_err(|_| format!("{text:?} must be an integer for '>' and '<'"))
}

fn is_label_text(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(text.chars().next())
        && edge(text.chars().next_back())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
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
                return Err(ApiError::bad_request(format!(
                    "invalid field selector: unescaped {c:?}"
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
    fn bad_labels_are_refused() {
        for selector in [
            "a b", "=x", "a in x", "a in (x", "a=b=c", "a>x", "-a=b", "a=-b", "a/b/c",
        ] {
            assert_eq!(
                LabelSelector::parse(selector).unwrap_err().code,
                400,
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
