//! Values during an evaluation. JSON is read in place, as its type says, when it is looked at.
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::SignedDuration;
use serde_json::{Map as JsonObject, Value as Json};

use super::authority::{Asking, Decision, Draft};
use super::functions::Version;
use super::moment::Moment;
use super::syntax::Literal;
use super::text;
use super::types::{Structure, Type, unescape};
use crate::kinds::numbers::is_whole;
use crate::kinds::quantity::Quantity;

/// A value of an expression.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Rc<[u8]>),
    Timestamp(Moment),
    Duration(SignedDuration),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Rc<Value<'a>>>),
    Type(Rc<str>),
    Quantity(Quantity),
    Semver(Rc<Version>),
    Url(Rc<str>),
    Ip(IpAddr),
    Cidr(IpNet),
    /// The name of a format, `dns1123Label`.
    Format(Rc<str>),
    Asking(Draft<'a>),
    Decision(Rc<Decision>),
}

/// Text, borrowed where it was there before.
#[derive(Debug, Clone)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Shared(Rc<str>),
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

#[derive(Debug, Clone)]
pub enum List<'a> {
    Json(&'a [Json], Arc<Type>),
    Shared(Rc<Made<Vec<Value<'a>>>>),
}

#[derive(Debug, Clone)]
pub enum Map<'a> {
    Json(&'a JsonObject<String, Json>, Arc<Type>),
    Object(&'a JsonObject<String, Json>, Arc<Structure>),
    Shared(Rc<Made<BTreeMap<Key, Value<'a>>>>),
}

/// What an expression made, and how deep what was made nests in it.
#[derive(Debug)]
pub struct Made<T> {
    of: T,
    depth: u16,
}

impl<T> std::ops::Deref for Made<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.of
    }
}

/// What may be a key of a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    /// The bits of a number.
    Double(u64),
    String(Rc<str>),
    Timestamp(Moment),
    Duration(SignedDuration),
}

impl<'a> Value<'a> {
    pub fn text(text: impl AsRef<str>) -> Value<'a> {
        Value::String(Text::Shared(Rc::from(text.as_ref())))
    }

    pub fn list(items: Vec<Value<'a>>) -> Value<'a> {
        let depth = deepest(&items);
        Value::List(List::Shared(Rc::new(Made { of: items, depth })))
    }

    pub fn map(members: BTreeMap<Key, Value<'a>>) -> Value<'a> {
        let depth = deepest(members.values());
        Value::Map(Map::Shared(Rc::new(Made { of: members, depth })))
    }

    pub fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Rc::new(value)))
    }

    /// JSON as a value of this type.
    pub fn of(json: &'a Json, ty: &Type) -> Value<'a> {
        match (json, ty) {
            (Json::Null, _) => Value::Null,
            (Json::Bool(b), _) => Value::Bool(*b),
            (Json::Number(n), Type::Double) => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
            (Json::Number(n), Type::Int) => n.as_i64().map_or_else(|| whole(n), Value::Int),
            (Json::Number(n), _) => n
                .as_i64()
                .map_or_else(|| Value::Double(n.as_f64().unwrap_or(f64::NAN)), Value::Int),
            (Json::String(s), Type::Timestamp) => {
                Moment::parse(s).map_or_else(|| borrowed(s), Value::Timestamp)
            }
            (Json::String(s), Type::Duration) => {
                text::duration(s).map_or_else(|| borrowed(s), Value::Duration)
            }
            (Json::String(s), Type::Bytes) => {
                text::base64(s).map_or_else(|| borrowed(s), |b| Value::Bytes(Rc::from(b)))
            }
            (Json::String(s), _) => borrowed(s),
            (Json::Array(items), Type::List(item)) => Value::List(List::Json(items, item.clone())),
            (Json::Array(items), _) => Value::List(List::Json(items, Arc::new(Type::Dyn))),
            (Json::Object(map), Type::Object(structure)) => Value::Map(Map::Object(map, structure.clone())),
            (Json::Object(map), Type::Map(_, value)) => Value::Map(Map::Json(map, value.clone())),
            (Json::Object(map), _) => Value::Map(Map::Json(map, Arc::new(Type::Dyn))),
        }
    }

    /// The name of its type, as `type()` gives it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::List(_) => "list",
            Value::Map(_) => "map",
            Value::Optional(_) => "optional_type",
            Value::Type(_) => "type",
            Value::Quantity(_) => "kubernetes.Quantity",
            Value::Semver(_) => "kubernetes.Semver",
            Value::Url(_) => "kubernetes.URL",
            Value::Ip(_) => "net.IP",
            Value::Cidr(_) => "net.CIDR",
            Value::Format(_) => "kubernetes.NamedFormat",
            Value::Asking(draft) => draft.stage().name(),
            Value::Decision(_) => Asking::Decision.name(),
        }
    }

    /// How much there is to look at, for costs.
    pub fn size(&self) -> u64 {
        let size = match self {
            Value::String(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::List(list) => list.len(),
            Value::Map(map) => map.len(),
            _ => 1,
        };
        size as u64
    }

    /// How deep what expressions made nests in it.
    pub(super) fn depth(&self) -> u16 {
        match self {
            Value::List(List::Shared(made)) => made.depth,
            Value::Map(Map::Shared(made)) => made.depth,
            Value::Optional(Some(inner)) => inner.depth().saturating_add(1),
            _ => 0,
        }
    }

    pub fn key(&self) -> Option<Key> {
        Some(match self {
            Value::Null => Key::Null,
            Value::Bool(b) => Key::Bool(*b),
            Value::Int(n) => Key::Int(*n),
            Value::Uint(n) => Key::Uint(*n),
            // There is one zero.
            Value::Double(n) => Key::Double((n + 0.0).to_bits()),
            Value::String(text) => Key::String(Rc::from(&**text)),
            Value::Timestamp(time) => Key::Timestamp(*time),
            Value::Duration(duration) => Key::Duration(*duration),
            _ => return None,
        })
    }

    /// Fails for what cannot stand between brackets, though a map may have it as a key.
    pub(super) fn qualifier(&self) -> Result<(), String> {
        let of = match self {
            Value::Timestamp(_) => "types.Timestamp",
            Value::Duration(_) => "types.Duration",
            Value::Null => "types.Null",
            Value::Bytes(_) => "types.Bytes",
            Value::List(_) => "*types.baseList",
            Value::Map(_) => "*types.baseMap",
            _ => return Ok(()),
        };
        Err(format!("invalid qualifier type: {of}"))
    }

    /// Order of two values of one kind; numbers compare across kinds.
    pub fn order(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::String(a), Value::String(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
            (a, b) => numbers(a, b),
        }
    }
}

fn whole<'a>(number: &serde_json::Number) -> Value<'a> {
    match number.as_f64() {
        Some(n) => integer(n).map_or(Value::Double(n), Value::Int),
        None => Value::Double(f64::NAN),
    }
}

/// The int that a whole double is, where ints go that far.
fn integer(n: f64) -> Option<i64> {
    (is_whole(n) && n.abs() < 9.0e18).then_some(n as i64)
}

/// The depth of what is made of these.
fn deepest<'v, 'a: 'v>(values: impl IntoIterator<Item = &'v Value<'a>>) -> u16 {
    let below = values.into_iter().map(Value::depth).max();
    below.unwrap_or(0).saturating_add(1)
}

fn borrowed(text: &str) -> Value<'_> {
    Value::String(Text::Borrowed(text))
}

/// What is written out in an expression.
pub(super) fn constant<'a>(literal: &'a Literal) -> Value<'a> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(n) => Value::Int(*n),
        Literal::Uint(n) => Value::Uint(*n),
        Literal::Double(n) => Value::Double(*n),
        Literal::String(text) => Value::String(Text::Borrowed(text)),
        Literal::Bytes(bytes) => Value::Bytes(Rc::from(&**bytes)),
    }
}

/// The order of two numbers of any kinds; none when one is none, or NaN.
fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (a, b) => double(a)?.partial_cmp(&double(b)?),
    }
}

fn double(value: &Value<'_>) -> Option<f64> {
    Some(match value {
        Value::Int(n) => *n as f64,
        Value::Uint(n) => *n as f64,
        Value::Double(n) => *n,
        _ => return None,
    })
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            List::Json(items, _) => items.len(),
            List::Shared(items) => items.len(),
        }
    }

    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            List::Json(items, ty) => items.get(index).map(|item| Value::of(item, ty)),
            List::Shared(items) => items.get(index).cloned(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).filter_map(|i| self.get(i))
    }
}

impl<'a> Map<'a> {
    pub fn len(&self) -> usize {
        match self {
            Map::Json(map, _) | Map::Object(map, _) => map.len(),
            Map::Shared(map) => map.len(),
        }
    }

    /// The value at a key.
    pub fn get(&self, key: &Key) -> Option<Value<'a>> {
        match (self, key) {
            (Map::Shared(map), key) => {
                let known = |key: Key| map.get(&key).cloned();
                let found = map.get(key).cloned();
                found.or_else(|| other_numbers(key).into_iter().flatten().find_map(known))
            }
            (_, Key::String(name)) => self.field(name),
            _ => None,
        }
    }

    /// The value of a field by the name expressions use.
    pub fn field(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Map::Json(map, ty) => map.get(name).map(|v| Value::of(v, ty)),
            Map::Object(map, structure) => {
                let value = map.get(name).or_else(|| map.get(&unescape(name)))?;
                Some(Value::of(value, structure.fields.get(name).unwrap_or(&Type::Dyn)))
            }
            Map::Shared(map) => map.get(&Key::String(Rc::from(name))).cloned(),
        }
    }

    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Map::Json(map, _) | Map::Object(map, _) => map.keys().map(|k| borrowed(k)).collect(),
            Map::Shared(map) => map.keys().map(Key::value).collect(),
        }
    }
}

impl Key {
    pub fn value<'a>(&self) -> Value<'a> {
        match self {
            Key::Null => Value::Null,
            Key::Bool(b) => Value::Bool(*b),
            Key::Int(n) => Value::Int(*n),
            Key::Uint(n) => Value::Uint(*n),
            Key::Double(bits) => Value::Double(f64::from_bits(*bits)),
            Key::String(text) => Value::String(Text::Shared(text.clone())),
            Key::Timestamp(time) => Value::Timestamp(*time),
            Key::Duration(duration) => Value::Duration(*duration),
        }
    }
}

/// A number is looked for as whole ones of other kinds too, without and with a sign.
fn other_numbers(key: &Key) -> [Option<Key>; 2] {
    match key {
        Key::Int(n) => [u64::try_from(*n).ok().map(Key::Uint), None],
        Key::Uint(n) => [i64::try_from(*n).ok().map(Key::Int), None],
        Key::Double(bits) => {
            let whole = integer(f64::from_bits(*bits));
            let unsigned = whole.and_then(|n| u64::try_from(n).ok());
            [whole.map(Key::Int), unsigned.map(Key::Uint)]
        }
        _ => [None, None],
    }
}
