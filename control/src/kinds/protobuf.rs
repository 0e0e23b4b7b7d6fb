//! Kubernetes' protobuf bodies as JSON values and back (`encode`), by the field numbers of the embedded table.
//!
//! Upstream's own programs send and read built-in kinds this way. Wire format: protobuf's encoding page (proto2); envelope: `k8s\0` and a `runtime.Unknown`.
mod alternatives;
mod encode;
mod error;
#[cfg(test)]
mod recorded_tests;
#[cfg(test)]
mod tests;

pub use encode::{List, encode, frame, has_form};
pub use error::ProtobufError;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::schema::{Definition, Schemas, Type, Wire};

const NUMBERS: &str = include_str!("data/protobuf.jsonl");
const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages; no Kubernetes kind but a schema of schemas comes near.
const DEPTH: usize = 64;
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

type Result<T> = std::result::Result<T, ProtobufError>;

/// Decodes a body. `fallback` is the `(apiVersion, kind)` of a body that does not say.
pub fn decode(body: &[u8], fallback: (&str, &str)) -> Result<Value> {
    let envelope = match body.strip_prefix(MAGIC) {
        _ if body.is_empty() => return Err(ProtobufError::Nothing),
        None => return Err(ProtobufError::Magic),
        Some([]) => return Err(ProtobufError::Bare),
        Some(envelope) => envelope,
    };
    let unknown = Fields(envelope).collect::<Result<Vec<_>>>();
    let unknown = unknown.map_err(|why| why.of("Unknown"))?;
    let part = |number: u64| {
        unknown
            .iter()
            .rev()
            .find(|(n, _)| *n == number)
            .map(|(_, raw)| raw)
    };
    let (mut version, mut kind) = (String::new(), String::new());
    if let Some(Raw::Bytes(meta)) = part(1) {
        for field in Fields(meta) {
            match field? {
                (1, raw) => version = text(&raw)?,
                (2, raw) => kind = text(&raw)?,
                _ => {}
            }
        }
    }
    for (said, or) in [(&mut version, fallback.0), (&mut kind, fallback.1)] {
        if said.is_empty() {
            *said = or.to_owned();
        }
    }
    let definition = definition(&version, &kind).ok_or_else(|| ProtobufError::Unknown {
        version: version.clone(),
        kind: kind.clone(),
    })?;
    let mut object = Map::new();
    if let Some(Raw::Bytes(raw)) = part(2) {
        message(definition, raw, &mut object, 0).map_err(|why| ProtobufError::Inside {
            version: version.clone(),
            kind: kind.clone(),
            why: why.into(),
        })?;
    }
    object.insert("apiVersion".into(), version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

/// The definition of a kind; option kinds are registered in every group.
fn definition(version: &str, kind: &str) -> Option<&'static Definition> {
    static BY_KIND: OnceLock<HashMap<(String, String), String>> = OnceLock::new();
    let by_kind = BY_KIND.get_or_init(|| {
        let all = Schemas::builtin()
            .iter()
            .flat_map(|d| d.group_version_kinds.iter().map(move |gvk| (gvk, d)));
        all.map(|((group, version, kind), d)| ((joined(group, version), kind.clone()), d.name.clone()))
            .collect()
    });
    let own = by_kind.get(&(version.to_owned(), kind.to_owned()));
    let name = own.cloned().unwrap_or_else(|| format!("{META}{kind}"));
    Schemas::builtin().get(&name).map(AsRef::as_ref)
}

fn joined(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// Definition → field number → JSON name, or `@` and the definition of an inlined struct.
fn numbers() -> &'static HashMap<String, BTreeMap<u64, String>> {
    static TABLE: OnceLock<HashMap<String, BTreeMap<u64, String>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let rows = NUMBERS
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        rows.filter_map(|row| Some((row["n"].as_str()?.to_owned(), row_numbers(&row))))
            .collect()
    })
}

fn row_numbers(row: &Value) -> BTreeMap<u64, String> {
    let fields = row["f"].as_array().into_iter().flatten();
    fields
        .filter_map(|f| Some((f[0].as_u64()?, f[1].as_str()?.to_owned())))
        .collect()
}

fn message(definition: &Definition, bytes: &[u8], out: &mut Map<String, Value>, depth: usize) -> Result<()> {
    inlined(&definition.name, definition, bytes, out, depth)
}

/// A struct whose fields JSON shows among those of `definition`.
fn inlined(
    numbered: &str,
    definition: &Definition,
    bytes: &[u8],
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<()> {
    if depth > DEPTH {
        return Err(ProtobufError::Deep);
    }
    let Some(names) = numbers().get(numbered) else {
        return Ok(());
    };
    for field in Fields(bytes) {
        let (number, raw) = field.map_err(|why| why.of(numbered))?;
        let Some(name) = names.get(&number) else { continue };
        match (name.strip_prefix('@'), &raw) {
            (Some(inner), Raw::Bytes(bytes)) => inlined(inner, definition, bytes, out, depth + 1)?,
            (Some(_), _) => return Err(ProtobufError::Mismatch(name.clone())),
            (None, _) => member(definition, name, &raw, out, depth)?,
        }
    }
    Ok(())
}

fn member(
    definition: &Definition,
    name: &str,
    raw: &Raw<'_>,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<()> {
    let Some(field) = definition.field(name) else {
        return Ok(());
    };
    match &field.ty {
        Type::List(item) => {
            let list = out.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let found = elements(item, raw, depth)?;
            if let Value::Array(list) = list {
                list.extend(found);
            }
        }
        Type::Map(value) => {
            let map = out.entry(name).or_insert_with(|| Value::Object(Map::new()));
            let (key, value) = entry(value, raw, depth)?;
            if let Value::Object(map) = map {
                map.insert(key, value);
            }
        }
        Type::Ref(name_of) if merges(name_of) && out.get(name).is_some_and(Value::is_object) => {
            let Raw::Bytes(more) = raw else {
                return Err(ProtobufError::Mismatch(field.ty.go_name()));
            };
            if let (Some(inner), Some(known)) = (
                Schemas::builtin().get(name_of),
                out.get_mut(name).and_then(Value::as_object_mut),
            ) {
                message(inner, more, known, depth + 1)?;
            }
        }
        ty => {
            let value = single(ty, raw, depth)?;
            // A field that is not a pointer is sent even when nothing was set.
            if matches!(field.wire, Wire::Keep | Wire::Null) || !is_zero(&value) {
                out.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// Whether a message that comes twice is read into what was read before, as protobuf has it: what is a struct to Go.
fn merges(definition: &str) -> bool {
    let is_struct = |definition: &Arc<Definition>| !definition.fields.is_empty();
    !alternatives::is_near(definition) && Schemas::builtin().get(definition).is_some_and(is_struct)
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_i64() == Some(0),
        Value::String(s) => s.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// One element, or several packed numbers.
fn elements(ty: &Type, raw: &Raw<'_>, depth: usize) -> Result<Vec<Value>> {
    match (ty, raw) {
        (Type::Int32 | Type::Int64 | Type::Bool, Raw::Bytes(packed)) => {
            let mut rest = *packed;
            let mut out = Vec::new();
            while !rest.is_empty() {
                out.push(single(ty, &Raw::Varint(varint(&mut rest)?), depth)?);
            }
            Ok(out)
        }
        _ => Ok(vec![single(ty, raw, depth)?]),
    }
}

/// A map is a list of messages with a key and a value.
fn entry(ty: &Type, raw: &Raw<'_>, depth: usize) -> Result<(String, Value)> {
    let Raw::Bytes(bytes) = raw else {
        return Err(ProtobufError::Mismatch("map".into()));
    };
    let (mut key, mut value) = (String::new(), None);
    for field in Fields(bytes) {
        match field? {
            (1, raw) => key = text(&raw)?,
            (2, raw) => value = Some(single(ty, &raw, depth)?),
            _ => {}
        }
    }
    let value = value.unwrap_or_else(|| {
        if *ty == Type::String {
            "".into()
        } else {
            Value::Null
        }
    });
    Ok((key, value))
}

fn single(ty: &Type, raw: &Raw<'_>, depth: usize) -> Result<Value> {
    match (ty, raw) {
        (Type::String, raw) => Ok(text(raw)?.into()),
        (Type::Bool, Raw::Varint(n)) => Ok((*n != 0).into()),
        (Type::Int32 | Type::Int64, Raw::Varint(n)) => Ok((n.cast_signed()).into()),
        (Type::Float, Raw::Fixed(n)) => Ok(f64::from_bits(*n).into()),
        (Type::Bytes, Raw::Bytes(bytes)) => Ok(STANDARD.encode(bytes).into()),
        (Type::Quantity, Raw::Bytes(bytes)) => {
            first(bytes).map(|text| text.unwrap_or_else(|| "0".into()).into())
        }
        (Type::IntOrString, Raw::Bytes(bytes)) => int_or_string(bytes),
        (Type::Time, Raw::Bytes(bytes)) => time(bytes, "%Y-%m-%dT%H:%M:%SZ"),
        (Type::MicroTime, Raw::Bytes(bytes)) => time(bytes, "%Y-%m-%dT%H:%M:%S%.6fZ"),
        (Type::Any, Raw::Bytes(bytes)) => embedded(bytes),
        (Type::Ref(name), Raw::Bytes(bytes)) => reference(name, bytes, depth),
        // A list inside a map is a message of its own, with the elements as field 1.
        (Type::List(item), Raw::Bytes(bytes)) => {
            let found = Fields(bytes)
                .map(|field| elements(item, &field?.1, depth))
                .collect::<Result<Vec<_>>>()?;
            Ok(found.concat().into())
        }
        _ => Err(ProtobufError::Mismatch(ty.go_name())),
    }
}

fn reference(name: &str, bytes: &[u8], depth: usize) -> Result<Value> {
    if let Some(value) = alternatives::decode(name, bytes, depth) {
        return value;
    }
    let Some(definition) = Schemas::builtin().get(name) else {
        return Ok(Value::Null);
    };
    if definition.fields.is_empty() {
        return embedded(bytes);
    }
    let mut out = Map::new();
    message(definition, bytes, &mut out, depth + 1)?;
    alternatives::drop_unset(name, &mut out);
    Ok(Value::Object(out))
}

/// Free JSON (`RawExtension`, `FieldsV1`) is bytes in field 1; an empty struct has none.
fn embedded(bytes: &[u8]) -> Result<Value> {
    for field in Fields(bytes) {
        if let (1, Raw::Bytes(json)) = field? {
            return serde_json::from_slice(json).map_err(|e| ProtobufError::Json(e.to_string()));
        }
    }
    Ok(Value::Object(Map::new()))
}

/// The text of field 1.
fn first(bytes: &[u8]) -> Result<Option<String>> {
    let mut found = None;
    for field in Fields(bytes) {
        if let (1, raw) = field? {
            found = Some(text(&raw)?);
        }
    }
    Ok(found)
}

fn int_or_string(bytes: &[u8]) -> Result<Value> {
    let (mut is_text, mut number, mut string) = (false, 0, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, Raw::Varint(n)) => is_text = n == 1,
            (2, Raw::Varint(n)) => number = n.cast_signed(),
            (3, raw) => string = text(&raw)?,
            _ => {}
        }
    }
    Ok(if is_text { string.into() } else { number.into() })
}

/// Nothing set is no time.
fn time(bytes: &[u8], format: &str) -> Result<Value> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields(bytes) {
        match field? {
            (1, Raw::Varint(n)) => seconds = n.cast_signed(),
            (2, Raw::Varint(n)) => nanos = i32::try_from(n).unwrap_or(0),
            _ => {}
        }
    }
    let told = (seconds, nanos) != (0, 0);
    let time = told.then(|| Timestamp::new(seconds, nanos).ok()).flatten();
    Ok(time.map_or(Value::Null, |time| time.strftime(format).to_string().into()))
}

fn text(raw: &Raw<'_>) -> Result<String> {
    match raw {
        Raw::Bytes(bytes) => Ok(lossy(bytes).into_owned()),
        _ => Err(ProtobufError::Mismatch("string".into())),
    }
}

/// Bytes that are no UTF-8 become U+FFFD one by one, as upstream shows them.
pub fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.into();
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text.into()
}

/// A value as the wire has it.
enum Raw<'b> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'b [u8]),
}

/// The fields of a message, in order.
struct Fields<'b>(&'b [u8]);

impl<'b> Iterator for Fields<'b> {
    type Item = Result<(u64, Raw<'b>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'b> Fields<'b> {
    fn field(&mut self) -> Result<(u64, Raw<'b>)> {
        let tag = varint(&mut self.0)?;
        let raw = match tag & 7 {
            0 => Raw::Varint(varint(&mut self.0)?),
            1 => Raw::Fixed(u64::from_le_bytes(
                self.take(8)?.try_into().map_err(|_| ProtobufError::Short)?,
            )),
            2 => {
                let length = usize::try_from(varint(&mut self.0)?).map_err(|_| ProtobufError::Short)?;
                Raw::Bytes(self.take(length)?)
            }
            5 => Raw::Fixed(
                u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| ProtobufError::Short)?).into(),
            ),
            other => return Err(ProtobufError::WireType(other)),
        };
        match tag >> 3 {
            0 => Err(ProtobufError::Tag {
                message: String::new(),
                number: 0,
                wire: tag & 7,
            }),
            number => Ok((number, raw)),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ProtobufError::Short)?;
        self.0 = rest;
        Ok(taken)
    }
}

/// At most ten bytes of seven bits, low ones first.
fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(ProtobufError::Short)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(ProtobufError::Short)
}
