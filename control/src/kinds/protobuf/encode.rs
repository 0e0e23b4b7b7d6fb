//! JSON values as Kubernetes' protobuf bodies, by the same table.
//!
//! Fields that are not set are left out, also those that upstream's generated code writes with their zero values: readers
//! cannot tell the difference. Maps go out in the order of their keys.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::super::schema::{Definition, Schemas, Type};
use super::{MAGIC, META, alternatives, definition, numbers};

/// Definitions whose JSON is one member of bytes.
const FREE: [&str; 3] = [".FieldsV1", ".RawExtension", ".JSON"];

/// The one list that is a message of its own, and that discovery has.
const WRAPPED: (&str, &str) = ("io.k8s.apimachinery.pkg.apis.meta.v1.APIResource", "verbs");

/// Whether objects of this kind have a protobuf form: built-in kinds, and their metadata.
pub fn has_form(version: &str, kind: &str) -> bool {
    partial(kind).is_some() || definition(version, kind).is_some_and(|d| numbers().contains_key(&d.name))
}

/// The body of an object or list; none when its kind has no protobuf form, or the object is not one of its kind.
pub fn encode(object: &Value) -> Option<Vec<u8>> {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let mut raw = Vec::new();
    match partial(kind) {
        Some(list) => metadata(list, object, &mut raw)?,
        None => message(definition(version, kind)?, object.as_object()?, &mut raw)?,
    }
    Some(envelope(version, kind, &raw))
}

fn envelope(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut meta = Vec::new();
    put(1, version.as_bytes(), &mut meta);
    put(2, kind.as_bytes(), &mut meta);
    let mut body = Vec::with_capacity(MAGIC.len() + raw.len() + meta.len() + 16);
    body.extend_from_slice(MAGIC);
    put(1, &meta, &mut body);
    put(2, raw, &mut body);
    // The encoding and type of the content: none.
    put(3, b"", &mut body);
    put(4, b"", &mut body);
    body
}

/// A list, item by item.
pub struct List(Vec<u8>);

impl List {
    pub fn new(metadata: &Value) -> Option<List> {
        let mut raw = Vec::new();
        single(&Type::Ref(format!("{META}ListMeta")), 1, metadata, &mut raw)?;
        Some(List(raw))
    }

    /// Adds an object of a built-in kind.
    pub fn push(&mut self, object: &Value) -> Option<()> {
        let text = |key: &str| object[key].as_str().unwrap_or_default();
        let mut raw = Vec::new();
        let definition = definition(text("apiVersion"), text("kind"))?;
        message(definition, object.as_object()?, &mut raw)?;
        put(2, &raw, &mut self.0);
        Some(())
    }

    /// Adds the metadata of an object.
    pub fn push_metadata(&mut self, object: &Value) -> Option<()> {
        let mut raw = Vec::new();
        metadata(false, object, &mut raw)?;
        put(2, &raw, &mut self.0);
        Some(())
    }

    pub fn finish(self, version: &str, kind: &str) -> Vec<u8> {
        envelope(version, kind, &self.0)
    }
}

/// One event of a watch, with its length before it; `object` is an encoded body.
pub fn frame(event: &str, object: &[u8]) -> Vec<u8> {
    let (mut extension, mut message) = (Vec::new(), Vec::new());
    put(1, object, &mut extension);
    put(1, event.as_bytes(), &mut message);
    put(2, &extension, &mut message);
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), message.as_slice()].concat()
}

/// Whether a kind is metadata only, and if so, of a list.
fn partial(kind: &str) -> Option<bool> {
    match kind {
        "PartialObjectMetadata" => Some(false),
        "PartialObjectMetadataList" => Some(true),
        _ => None,
    }
}

fn metadata(list: bool, object: &Value, out: &mut Vec<u8>) -> Option<()> {
    let name = if list { "ListMeta" } else { "ObjectMeta" };
    let ty = Type::Ref(format!("{META}{name}"));
    single(&ty, 1, &object["metadata"], out)?;
    for item in object["items"].as_array().into_iter().flatten() {
        let mut nested = Vec::new();
        metadata(false, item, &mut nested)?;
        put(2, &nested, out);
    }
    Some(())
}

fn message(definition: &Definition, object: &Map<String, Value>, out: &mut Vec<u8>) -> Option<()> {
    inlined(&definition.name, definition, object, out)
}

/// The members of a struct whose fields JSON shows among those of `definition`.
fn inlined(
    numbered: &str,
    definition: &Definition,
    object: &Map<String, Value>,
    out: &mut Vec<u8>,
) -> Option<()> {
    for (number, name) in numbers().get(numbered)? {
        if let Some(inner) = name.strip_prefix('@') {
            let mut nested = Vec::new();
            inlined(inner, definition, object, &mut nested)?;
            if !nested.is_empty() {
                put(*number, &nested, out);
            }
            continue;
        }
        let value = object.get(name).filter(|value| !value.is_null());
        if let (Some(value), Some(field)) = (value, definition.field(name)) {
            match (numbered, name.as_str()) == WRAPPED {
                true => {
                    let mut nested = Vec::new();
                    member(&field.ty, 1, value, &mut nested)?;
                    put(*number, &nested, out);
                }
                false => member(&field.ty, *number, value, out)?,
            }
        }
    }
    Some(())
}

fn member(ty: &Type, number: u64, value: &Value, out: &mut Vec<u8>) -> Option<()> {
    match ty {
        Type::List(item) => value
            .as_array()?
            .iter()
            .try_for_each(|value| single(item, number, value, out)),
        Type::Map(item) => value.as_object()?.iter().try_for_each(|(key, value)| {
            let mut entry = Vec::new();
            put(1, key.as_bytes(), &mut entry);
            single(item, 2, value, &mut entry)?;
            put(number, &entry, out);
            Some(())
        }),
        ty => single(ty, number, value, out),
    }
}

fn single(ty: &Type, number: u64, value: &Value, out: &mut Vec<u8>) -> Option<()> {
    let mut nested = Vec::new();
    match ty {
        Type::String => put(number, value.as_str()?.as_bytes(), out),
        Type::Bool => put_varint(number, value.as_bool()?.into(), out),
        Type::Int32 | Type::Int64 => put_varint(number, value.as_i64()?.cast_unsigned(), out),
        Type::Float => put_fixed(number, value.as_f64()?, out),
        Type::Bytes => put(number, &STANDARD.decode(value.as_str()?).ok()?, out),
        _ => {
            composed(ty, value, &mut nested)?;
            put(number, &nested, out);
        }
    }
    Some(())
}

/// What is a message of its own.
fn composed(ty: &Type, value: &Value, out: &mut Vec<u8>) -> Option<()> {
    match ty {
        Type::Quantity => match value {
            Value::String(text) => put(1, text.as_bytes(), out),
            other => put(1, other.to_string().as_bytes(), out),
        },
        Type::IntOrString => {
            let text = value.as_str();
            put_varint(1, text.is_some().into(), out);
            put_varint(2, value.as_i64().unwrap_or(0).cast_unsigned(), out);
            put(3, text.unwrap_or_default().as_bytes(), out);
        }
        Type::Time | Type::MicroTime if value.is_null() => {}
        Type::Time | Type::MicroTime => time(value.as_str()?, out)?,
        Type::Any => put(1, value.to_string().as_bytes(), out),
        Type::Ref(name) => reference(name, value, out)?,
        // A list inside a map, see the way back.
        Type::List(_) => member(ty, 1, value, out)?,
        _ => return None,
    }
    Some(())
}

pub(super) fn reference(name: &str, value: &Value, out: &mut Vec<u8>) -> Option<()> {
    if let Some(done) = alternatives::encode(name, value, out) {
        return done;
    }
    if FREE.iter().any(|free| name.ends_with(free)) {
        put(1, value.to_string().as_bytes(), out);
        return Some(());
    }
    let definition = Schemas::builtin().get(name)?;
    match definition.fields.is_empty() {
        true => Some(()),
        false => message(definition, value.as_object()?, out),
    }
}

/// Seconds and nanoseconds.
fn time(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let time: Timestamp = text.parse().ok()?;
    let nanos = time.as_nanosecond().rem_euclid(1_000_000_000);
    let seconds = time.as_nanosecond().div_euclid(1_000_000_000);
    put_varint(1, i64::try_from(seconds).ok()?.cast_unsigned(), out);
    put_varint(2, u64::try_from(nanos).ok()?, out);
    Some(())
}

pub(super) fn put(number: u64, bytes: &[u8], out: &mut Vec<u8>) {
    varint(number << 3 | 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

pub(super) fn put_varint(number: u64, value: u64, out: &mut Vec<u8>) {
    varint(number << 3, out);
    varint(value, out);
}

fn put_fixed(number: u64, value: f64, out: &mut Vec<u8>) {
    varint(number << 3 | 1, out);
    out.extend_from_slice(&value.to_le_bytes());
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}
