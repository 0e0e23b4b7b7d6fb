//! What can be wrong with an object: field errors in Kubernetes' words, decoding errors, strictness issues.
//!
//! Owns wording. Refuses to know HTTP codes and the rules themselves.
use std::collections::HashSet;
use std::fmt;

use serde_json::Value;

/// The class of a [`FieldError`]; `reason()` is its name in `Status.details.causes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TypeInvalid,
    Internal,
}

impl ErrorKind {
    /// `metav1.CauseType` of this class.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
            ErrorKind::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "Not found",
            ErrorKind::Required => "Required value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::Invalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
            ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::Internal => "Internal error",
        }
    }
}

/// One reason why an object is not valid. `Display` gives upstream's line: `spec.x: Invalid value: 1: why`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldError {
    pub field: String,
    pub kind: ErrorKind,
    /// The offending value as it is printed, JSON text; empty where none is shown.
    pub bad_value: String,
    pub detail: String,
}

/// What validation found; empty when the object is valid.
pub type FieldErrors = Vec<FieldError>;

/// Those of `errors` that were not there `before`.
pub fn new_among(mut errors: FieldErrors, before: FieldErrors) -> FieldErrors {
    let before: HashSet<FieldError> = before.into_iter().collect();
    errors.retain(|error| !before.contains(error));
    errors
}

impl FieldError {
    fn new(field: impl fmt::Display, kind: ErrorKind, bad: Value, detail: impl Into<String>) -> Self {
        FieldError {
            field: field.to_string(),
            kind,
            bad_value: shown(&bad),
            detail: detail.into(),
        }
    }

    /// Like [`FieldError::invalid`], without a value in the message.
    pub fn without_value(field: impl fmt::Display, detail: impl Into<String>) -> Self {
        FieldError {
            bad_value: String::new(),
            ..Self::new(field, ErrorKind::Invalid, Value::Null, detail)
        }
    }

    /// Like [`FieldError::invalid`], with the value already in its printed form.
    pub fn invalid_shown(
        field: impl fmt::Display,
        shown: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        FieldError {
            bad_value: shown.into(),
            ..Self::new(field, ErrorKind::Invalid, Value::Null, detail)
        }
    }

    /// Like [`FieldError::invalid`], for a value too large to show.
    pub fn invalid_part(field: impl fmt::Display, detail: impl Into<String>) -> Self {
        Self::invalid_shown(field, "", detail)
    }

    pub fn required(field: impl fmt::Display, detail: impl Into<String>) -> Self {
        Self::new(field, ErrorKind::Required, Value::Null, detail)
    }

    pub fn invalid(field: impl fmt::Display, bad: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(field, ErrorKind::Invalid, bad.into(), detail)
    }

    /// A value of another type than the field's.
    pub fn type_invalid(field: impl fmt::Display, bad: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(field, ErrorKind::TypeInvalid, bad.into(), detail)
    }

    /// Like [`FieldError::duplicate`], for a value too large to show.
    pub fn duplicate_part(field: impl fmt::Display) -> Self {
        FieldError {
            bad_value: String::new(),
            ..Self::new(field, ErrorKind::Duplicate, Value::Null, "")
        }
    }

    pub fn duplicate(field: impl fmt::Display, bad: impl Into<Value>) -> Self {
        Self::new(field, ErrorKind::Duplicate, bad.into(), "")
    }

    pub fn not_found(field: impl fmt::Display, bad: impl Into<Value>) -> Self {
        Self::new(field, ErrorKind::NotFound, bad.into(), "")
    }

    pub fn forbidden(field: impl fmt::Display, detail: impl Into<String>) -> Self {
        Self::new(field, ErrorKind::Forbidden, Value::Null, detail)
    }

    /// What upstream calls its own fault, though it is the object's.
    pub fn internal(field: impl fmt::Display, detail: impl Into<String>) -> Self {
        Self::new(field, ErrorKind::Internal, Value::Null, detail)
    }

    /// `limit` is in bytes.
    pub fn too_long(field: impl fmt::Display, limit: usize) -> Self {
        Self::new(
            field,
            ErrorKind::TooLong,
            Value::Null,
            format!("may not be more than {limit} bytes"),
        )
    }

    pub fn too_many(field: impl fmt::Display, actual: usize, limit: usize) -> Self {
        let items = if limit == 1 { "item" } else { "items" };
        Self::new(
            field,
            ErrorKind::TooMany,
            Value::from(actual),
            format!("must have at most {limit} {items}"),
        )
    }

    /// `supported` in the order to print.
    pub fn not_supported(field: impl fmt::Display, bad: impl Into<Value>, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| quote(s)).collect();
        Self::new(
            field,
            ErrorKind::NotSupported,
            bad.into(),
            format!("supported values: {}", list.join(", ")),
        )
    }

    /// The line without the field, as `Status.details.causes[].message` has it.
    pub fn message(&self) -> String {
        let mut out = self.kind.words().to_owned();
        if self.shows_value() && !self.bad_value.is_empty() {
            out.push_str(": ");
            out.push_str(&self.bad_value);
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }

    fn shows_value(&self) -> bool {
        let hidden = matches!(
            self.kind,
            ErrorKind::Required | ErrorKind::Forbidden | ErrorKind::TooLong | ErrorKind::Internal
        );
        !hidden && !self.bad_value.is_empty()
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message())
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => other.to_string(),
    }
}

/// A string as Go's `%q` prints it.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Joins errors as upstream's aggregate does: one plain, several in brackets, repeats once.
pub fn join(errors: &[FieldError]) -> String {
    let (mut lines, mut seen) = (Vec::new(), HashSet::new());
    for line in errors.iter().map(ToString::to_string) {
        if seen.insert(line.clone()) {
            lines.push(line);
        }
    }
    match lines.len() {
        1 => lines.remove(0),
        _ => format!("[{}]", lines.join(", ")),
    }
}

/// Bytes of the paths of fields that decoding drops, but for the one that goes beyond: each may be as long as the body.
const PATHS: usize = 16 << 20;

/// Fields that decoding drops, as they are found: further ones are dropped without being told.
#[derive(Debug, Default)]
pub struct Unknown {
    issues: Vec<FieldIssue>,
    size: usize,
}

impl Unknown {
    pub fn note(&mut self, path: &str) {
        if self.size < PATHS {
            self.size += path.len();
            self.issues.push(FieldIssue::Unknown(path.to_owned()));
        }
    }

    pub fn into_issues(self) -> Vec<FieldIssue> {
        self.issues
    }
}

/// A field that lenient decoding drops and strict decoding refuses. `Display`: `unknown field "spec.foo"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldIssue {
    Unknown(String),
    Duplicate(String),
    /// A key that comes twice in a mapping of a YAML text: the line of its later value, counted from 1.
    Repeated {
        line: u64,
        key: String,
    },
    /// Of a member of an operation of a JSON patch.
    OfJsonPatch(Box<FieldIssue>),
}

impl FieldIssue {
    /// The same, of a part at `path`.
    pub fn below(self, path: &str) -> Self {
        match self {
            FieldIssue::Unknown(at) => FieldIssue::Unknown(format!("{path}.{at}")),
            FieldIssue::Duplicate(at) => FieldIssue::Duplicate(format!("{path}.{at}")),
            other @ (FieldIssue::Repeated { .. } | FieldIssue::OfJsonPatch(_)) => other,
        }
    }

    pub fn of_json_patch(self) -> Self {
        FieldIssue::OfJsonPatch(Box::new(self))
    }
}

impl fmt::Display for FieldIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldIssue::Unknown(path) => write!(f, "unknown field {path:?}"),
            FieldIssue::Duplicate(path) => write!(f, "duplicate field {path:?}"),
            FieldIssue::Repeated { line, key } => {
                write!(f, "line {line}: key {} already set in map", quote(key))
            }
            FieldIssue::OfJsonPatch(issue) => write!(f, "json patch {issue}"),
        }
    }
}

/// The object has a value of a type its schema cannot hold. The text is the decoder's; a 400 wraps it as
/// `KIND in version "VERSION" cannot be handled as a KIND: TEXT` (see `Kind::decode_message`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{told}")]
pub struct DecodeError {
    told: String,
    /// The same in the words of upstream's converter, which reads strategic merges.
    converter: Option<String>,
}

impl DecodeError {
    pub fn new(told: impl Into<String>) -> Self {
        DecodeError {
            told: told.into(),
            converter: None,
        }
    }

    /// A value that does not go into its field.
    pub fn misplaced(told: String, converter: String) -> Self {
        DecodeError {
            told,
            converter: Some(converter),
        }
    }

    /// What upstream's converter says.
    pub fn of_converter(&self) -> &str {
        self.converter.as_deref().unwrap_or(&self.told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_as_upstreams() {
        let cases = [
            (
                FieldError::required("spec.containers", ""),
                "spec.containers: Required value",
            ),
            (
                FieldError::invalid("a", -1, "must be"),
                "a: Invalid value: -1: must be",
            ),
            (
                FieldError::duplicate("a[1].name", "c"),
                "a[1].name: Duplicate value: \"c\"",
            ),
            (
                FieldError::not_supported("p", "X", &["SCTP", "TCP"]),
                "p: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\"",
            ),
            (
                FieldError::too_long("[]", 3),
                "[]: Too long: may not be more than 3 bytes",
            ),
            (
                FieldError::not_found("v[0].name", "x"),
                "v[0].name: Not found: \"x\"",
            ),
        ];
        for (error, want) in cases {
            assert_eq!(error.to_string(), want);
        }
    }

    #[test]
    fn several_are_bracketed_and_repeats_said_once() {
        let e = FieldError::required("a", "");
        assert_eq!(join(&[e.clone(), e.clone()]), "a: Required value");
        assert_eq!(
            join(&[e, FieldError::required("b", "")]),
            "[a: Required value, b: Required value]"
        );
    }
}
