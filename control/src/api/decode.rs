//! Bodies: bytes within limits → a JSON value, with duplicate keys noted.
use super::negotiate::Encoding;
use super::places::below;
use super::status::{ApiError, Result};
use super::syntax;
use super::yaml::Node;
use crate::kinds::protobuf::{self, ProtobufError};
use crate::kinds::{FieldIssue, Kind, numbers};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, map};
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// Upstream's `MaxRequestBodyBytes`.
pub const BODY_LIMIT: usize = 3 << 20;
/// Events, nodes and scalars of a YAML body: as much as a JSON body of the same limit can hold, so that aliases
/// cannot multiply a small text.
const YAML_NODES: usize = 400_000;
const YAML_ALIASES: usize = 1_000;
/// Events that aliases of one body may add: anchors in manifests repeat a few lines, not books.
const YAML_REPEATED: usize = 20_000;
/// How much of a body an error repeats.
const SHOWN: usize = 30;

/// A body as it comes.
pub struct Incoming {
    body: Limited<Body>,
    read: BytesMut,
    /// How long it may still take.
    left: Duration,
}

impl Incoming {
    pub fn new(body: Body, within: Duration) -> Self {
        Incoming {
            body: Limited::new(body, BODY_LIMIT),
            read: BytesMut::new(),
            left: within,
        }
    }

    /// Reads until so many bytes are there, and says whether they are all.
    pub async fn read(&mut self, enough: usize) -> Result<bool> {
        let begun = Instant::now();
        let read = tokio::time::timeout(self.left, self.fill(enough)).await;
        self.left = self.left.saturating_sub(begun.elapsed());
        read.unwrap_or_else(|_| Err(ApiError::took_too_long()))
    }

    async fn fill(&mut self, enough: usize) -> Result<bool> {
        while self.read.len() < enough {
            match self.body.frame().await {
                None => return Ok(true),
                Some(Ok(frame)) => {
                    let data = frame.data_ref().map_or(&[][..], |data| data);
                    self.read.extend_from_slice(data);
                }
                Some(Err(e)) if e.is::<LengthLimitError>() => {
                    return Err(ApiError::body_too_large(BODY_LIMIT));
                }
                Some(Err(e)) => return Err(ApiError::bad_request(format!("the body cannot be read: {e}"))),
            }
        }
        Ok(false)
    }

    /// How long it is, or may be where that is not known.
    pub fn size(&self) -> usize {
        let rest = self.body.size_hint().exact();
        let rest = rest.and_then(|rest| usize::try_from(rest).ok());
        rest.map_or(BODY_LIMIT, |rest| BODY_LIMIT.min(self.read.len() + rest))
    }

    /// What was read of it.
    pub fn bytes(self) -> Bytes {
        self.read.freeze()
    }
}

/// A decoded body and what strict decoding would refuse about it.
#[derive(Debug)]
pub struct Decoded {
    pub value: Value,
    pub issues: Vec<FieldIssue>,
}

/// Decodes an object of `kind`; the value is checked to be an object, not more.
pub fn object(kind: &str, encoding: Encoding, body: &[u8]) -> Result<Decoded> {
    match encoding {
        Encoding::Protobuf => binary_object(kind, body),
        _ => any_object(kind, encoding, body).map_err(|why| unrecognized(kind, &why, body)),
    }
}

/// What of protobuf cannot be read upstream tells by how far it could be.
fn binary_object(kind: &str, body: &[u8]) -> Result<Decoded> {
    binary(kind, body).map_err(|why| match why {
        ProtobufError::Inside {
            version,
            kind: said,
            why,
        } => {
            let version = version.rsplit('/').next().unwrap_or_default();
            ApiError::bad_request(format!(
                "{said} in version {version:?} cannot be handled as a {kind}: {why}"
            ))
        }
        why => unrecognized(kind, &why.to_string(), body),
    })
}

/// The same, of options: upstream says of them only why they cannot be read.
pub fn options(kind: &str, encoding: Encoding, body: &[u8]) -> Result<Decoded> {
    any_object(kind, encoding, body).map_err(ApiError::bad_request)
}

fn any_object(kind: &str, encoding: Encoding, body: &[u8]) -> std::result::Result<Decoded, String> {
    let decoded = match encoding {
        Encoding::Json => json(body),
        Encoding::Yaml => yaml(body),
        Encoding::Protobuf => return binary(kind, body).map_err(|why| why.to_string()),
    };
    let decoded = decoded.and_then(checked);
    decoded.map_err(|why| format!("{UNREADABLE}: {why}"))
}

/// An object that another server sent, in JSON or YAML by how it begins, as upstream's client decodes it. The error is its
/// words.
pub fn sent(body: &[u8]) -> std::result::Result<Value, String> {
    let decoded = match body.trim_ascii_start().first() {
        Some(b'{') => json(body),
        _ => yaml(body),
    };
    let object = match decoded {
        // What says nothing is an object without fields.
        Ok(decoded) if decoded.value.is_null() => Ok(Map::new().into()),
        decoded => decoded.and_then(checked).map(|decoded| decoded.value),
    };
    object.map_err(|why| format!("{UNREADABLE}: {why}"))
}

/// What upstream says before why it cannot read an object.
const UNREADABLE: &str = "couldn't get version/kind; json parse error";

/// The value is to be an object.
fn checked(decoded: Decoded) -> std::result::Result<Decoded, String> {
    match &decoded.value {
        Value::Object(_) => Ok(decoded),
        other => {
            let target = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
            Err(format!(
                "json: cannot unmarshal {} into Go value of type {target}",
                word(other)
            ))
        }
    }
}

fn binary(kind: &str, body: &[u8]) -> std::result::Result<Decoded, ProtobufError> {
    let value = protobuf::decode(body, ("v1", kind))?;
    Ok(Decoded {
        value,
        issues: Vec::new(),
    })
}

/// Decodes any JSON value.
pub fn json(body: &[u8]) -> std::result::Result<Decoded, String> {
    let issues = RefCell::new(Vec::new());
    let seed = Noting {
        path: Path::Root,
        issues: &issues,
    };
    let text = protobuf::lossy(body);
    let mut reader = serde_json::Deserializer::from_str(&text);
    let value = seed
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value));
    match value {
        Ok(value) => Ok(Decoded {
            value,
            issues: issues.into_inner(),
        }),
        Err(e) => Err(syntax::complaint(body).unwrap_or_else(|| e.to_string())),
    }
}

/// Decodes an applied configuration: YAML, of which JSON is a part.
pub fn config(body: &[u8]) -> std::result::Result<Decoded, String> {
    match body.first().filter(|first| **first == b'{').map(|_| json(body)) {
        Some(Ok(mut decoded)) if decoded.issues.is_empty() => {
            // Upstream reads it as YAML, to which a whole number is an integer however it is written.
            numbers::settle(&mut decoded.value);
            Ok(decoded)
        }
        _ => yaml(body),
    }
}

fn yaml(body: &[u8]) -> std::result::Result<Decoded, String> {
    let text = first_document(std::str::from_utf8(body).map_err(|e| e.to_string())?);
    let mut budget = serde_yaml::Budget::default();
    budget.max_nodes = YAML_NODES;
    budget.max_events = YAML_NODES * 2;
    budget.max_aliases = YAML_ALIASES;
    budget.max_total_scalar_bytes = BODY_LIMIT * 2;
    budget.max_documents = 1;
    let repeats = serde_yaml::alias_limits! { max_total_replayed_events: YAML_REPEATED };
    let options = serde_yaml::options! {
        budget: Some(budget), alias_limits: repeats, legacy_octal_numbers: true, with_snippet: false,
        duplicate_keys: serde_yaml::DuplicateKeyPolicy::LastWins
    };
    let node: Node = serde_yaml::from_str_with_options(text, options).map_err(|e| e.to_string())?;
    Ok(node.0)
}

/// As far as upstream's decoder reads. Markers stand at the beginning of a line and end a document wherever they do.
fn first_document(text: &str) -> &str {
    let (mut at, mut begun) = (0, false);
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end();
        let marks = |mark: &str| {
            let rest = line.strip_prefix(mark);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        };
        if begun && (marks("---") || marks("...")) {
            return &text[..at];
        }
        begun |= !bare.is_empty() && !bare.starts_with(['#', '%']);
        at += line.len();
    }
    text
}

fn unrecognized(kind: &str, why: &str, body: &[u8]) -> ApiError {
    let summary = summary(body);
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): {why} ({summary})"
    ))
}

fn summary(body: &[u8]) -> String {
    let head = &body[..body.len().min(SHOWN)];
    let dots = if body.len() > SHOWN { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{dots}", String::from_utf8_lossy(head)),
        Some(_) => format!("{}{dots}", hex::encode(head)),
    }
}

/// What JSON calls a value of this type.
pub(crate) fn word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Checks that a body is of the kind that the path is of. Both may be left out.
pub fn check_kind(kind: &Kind, object: &Value) -> Result<()> {
    let said = |field: &str| {
        object
            .get(field)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let wanted = kind.api_version();
    if let Some(found) = said("apiVersion")
        && found != wanted
    {
        return Err(other_version(found, &wanted));
    }
    match said("kind") {
        Some(found) if found != kind.kind => {
            let why = format!(
                "no kind {found:?} is registered for this resource, expected {:?}",
                kind.kind
            );
            Err(ApiError::bad_request(kind.decode_message(&why)))
        }
        _ => Ok(()),
    }
}

/// The refusal of an object of another version than that of the path.
pub fn other_version(found: &str, wanted: &str) -> ApiError {
    ApiError::bad_request(format!(
        "the API version in the data ({found}) does not match the expected API version ({wanted})"
    ))
}

/// Upstream's decoder tells of so many fields (`saveStrictError`).
pub const TOLD: usize = 100;

/// Where a reader is, told only when there is something to tell.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Member(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl Path<'_> {
    fn text(&self) -> String {
        match self {
            Path::Root => String::new(),
            Path::Member(above, key) => below(&above.text(), key),
            Path::Item(above, at) => format!("{}[{at}]", above.text()),
        }
    }
}

/// Builds a value and notes keys that come twice; the last wins.
struct Noting<'a> {
    path: Path<'a>,
    issues: &'a RefCell<Vec<FieldIssue>>,
}

impl<'de> DeserializeSeed<'de> for Noting<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Noting<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> std::result::Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> std::result::Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> std::result::Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Noting {
            path: Path::Item(&self.path, items.len()),
            issues: self.issues,
        })? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let member = members.entry(key);
            let path = Path::Member(&self.path, member.key());
            if matches!(member, map::Entry::Occupied(_)) && self.issues.borrow().len() < TOLD {
                self.issues.borrow_mut().push(FieldIssue::Duplicate(path.text()));
            }
            let issues = self.issues;
            let value = map.next_value_seed(Noting { path, issues })?;
            match member {
                map::Entry::Vacant(place) => drop(place.insert(value)),
                map::Entry::Occupied(mut place) => drop(place.insert(value)),
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_noted_with_their_path() {
        let body = br#"{"a":{"b":1,"b":2},"l":[{"x":1,"x":1}]}"#;
        let decoded = json(body).unwrap();
        assert_eq!(decoded.value["a"]["b"], 2);
        let wanted = ["a.b", "l[0].x"].map(|p| FieldIssue::Duplicate(p.into()));
        assert_eq!(decoded.issues, wanted);
    }

    #[test]
    fn keys_that_come_twice_in_yaml_are_noted_by_line() {
        let text = b"a: 1\nb:\n  c: 1\n  c:\n    d: 2\n    d: 3\na: 4\n";
        let decoded = config(text).unwrap();
        assert_eq!(decoded.value, serde_json::json!({"a": 4, "b": {"c": {"d": 3}}}));
        let told: Vec<String> = decoded.issues.iter().map(ToString::to_string).collect();
        let line = |n: u8, key: &str| format!("line {n}: key {key:?} already set in map");
        assert_eq!(told, [line(6, "d"), line(5, "c"), line(7, "a")]);
        let told = config(br#"{"a":1,"a":2}"#).unwrap().issues[0].to_string();
        assert_eq!(told, line(1, "a"));
    }

    #[test]
    fn what_follows_the_first_document_is_not_read() {
        for (text, want) in [
            ("a: 1\n---\nb: 2\n", serde_json::json!({"a": 1})),
            ("a: 1\n---\tb\nb: 2\n", serde_json::json!({"a": 1})),
            ("# x\n--- # y\na: 1\n...\n: [\n", serde_json::json!({"a": 1})),
            (
                "%YAML 1.2\r\n---\r\na: 1\r\n---\r\n{",
                serde_json::json!({"a": 1}),
            ),
            ("a: |\n  ---\n  x\n", serde_json::json!({"a": "---\nx\n"})),
            ("a: 1\n---\tb: 2\n", serde_json::json!({"a": 1})),
            ("a: ---x\nb: 1\n", serde_json::json!({"a": "---x", "b": 1})),
        ] {
            assert_eq!(yaml(text.as_bytes()).unwrap().value, want, "{text:?}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let bomb = "[".repeat(100_000);
        assert!(json(bomb.as_bytes()).is_err());
        assert!(yaml(bomb.as_bytes()).is_err());
    }

    #[test]
    fn an_alias_bomb_is_an_error() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 9].join(",");
            bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        assert!(yaml(bomb.as_bytes()).is_err());
    }

    #[test]
    fn errors_read_as_upstreams() {
        let message = |body: &[u8]| {
            object("Pod", Encoding::Json, body)
                .unwrap_err()
                .message()
                .to_owned()
        };
        let start = "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: ";
        assert_eq!(
            message(br#"{"a":"#),
            format!("{start}unexpected end of JSON input ({{\"a\":)")
        );
        assert_eq!(
            message(b""),
            format!("{start}unexpected end of JSON input (<empty>)")
        );
        assert!(message(b"[]").ends_with("(5b5d)"));
        let binary = |body: &[u8]| {
            let told = object("Pod", Encoding::Protobuf, body).unwrap_err();
            told.message().to_owned()
        };
        let start = "the object provided is unrecognized (must be of type Pod): ";
        assert_eq!(binary(b"k8s\0"), format!("{start}empty body (6b387300)"));
        assert_eq!(
            binary(b"k8s\0\x12\x02\x0a\x09"),
            "Pod in version \"v1\" cannot be handled as a Pod: unexpected EOF"
        );
    }
}
