//! Schemas of schemas in protobuf: messages whose JSON is one of several forms (`JSONSchemaPropsOrBool` and its like),
//! and members that are sent although nothing was set. Refuses to know the rest of the wire format.
use serde_json::{Map, Value};

use super::encode::{put, put_varint};
use super::{Fields, ProtobufError, Raw, Result, reference, text};

const PACKAGE: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";
const SCHEMA: &str = "JSONSchemaProps";

/// Whether a message is among those of which some have several forms.
pub(super) fn is_near(name: &str) -> bool {
    name.starts_with(PACKAGE)
}

/// The JSON of a message that has several forms; none for another message.
pub(super) fn decode(name: &str, bytes: &[u8], depth: usize) -> Option<Result<Value>> {
    match name.strip_prefix(PACKAGE)? {
        "JSONSchemaPropsOrBool" => Some(boolean(bytes, depth)),
        "JSONSchemaPropsOrArray" => Some(list(bytes, depth, |raw| schema(raw, depth))),
        "JSONSchemaPropsOrStringArray" => Some(list(bytes, depth, |raw| text(raw).map(Value::from))),
        _ => None,
    }
}

fn boolean(bytes: &[u8], depth: usize) -> Result<Value> {
    let mut allows = false;
    for field in Fields(bytes) {
        match field? {
            (1, Raw::Varint(n)) => allows = n != 0,
            (2, raw) => return schema(&raw, depth),
            _ => {}
        }
    }
    Ok(allows.into())
}

/// One schema as field 1, or items as field 2.
fn list(bytes: &[u8], depth: usize, item: impl Fn(&Raw<'_>) -> Result<Value>) -> Result<Value> {
    let mut items = Vec::new();
    for field in Fields(bytes) {
        match field? {
            (1, raw) => return schema(&raw, depth),
            (2, raw) => items.push(item(&raw)?),
            _ => {}
        }
    }
    Ok(items.into())
}

/// The way back; none for another message.
pub(super) fn encode(name: &str, value: &Value, out: &mut Vec<u8>) -> Option<Option<()>> {
    let form = name.strip_prefix(PACKAGE)?;
    if ![
        "JSONSchemaPropsOrBool",
        "JSONSchemaPropsOrArray",
        "JSONSchemaPropsOrStringArray",
    ]
    .contains(&form)
    {
        return None;
    }
    Some(match (form, value) {
        ("JSONSchemaPropsOrBool", Value::Bool(allows)) => {
            put_varint(1, (*allows).into(), out);
            Some(())
        }
        ("JSONSchemaPropsOrBool", value) => {
            put_varint(1, 1, out);
            put_schema(2, value, out)
        }
        (_, Value::Array(items)) => items.iter().try_for_each(|item| match item {
            Value::String(text) => {
                put(2, text.as_bytes(), out);
                Some(())
            }
            item => put_schema(2, item, out),
        }),
        (_, value) => put_schema(1, value, out),
    })
}

fn put_schema(number: u64, value: &Value, out: &mut Vec<u8>) -> Option<()> {
    let mut nested = Vec::new();
    super::encode::reference(&format!("{PACKAGE}{SCHEMA}"), value, &mut nested)?;
    put(number, &nested, out);
    Some(())
}

fn schema(raw: &Raw<'_>, depth: usize) -> Result<Value> {
    match raw {
        Raw::Bytes(bytes) => reference(&format!("{PACKAGE}{SCHEMA}"), bytes, depth),
        _ => Err(ProtobufError::Mismatch(SCHEMA.into())),
    }
}

/// Texts and booleans of a schema are sent when they are not set, numbers are not.
pub(super) fn drop_unset(name: &str, object: &mut Map<String, Value>) {
    if name.strip_prefix(PACKAGE) == Some(SCHEMA) {
        object.retain(|_, value| *value != Value::Bool(false) && value.as_str() != Some(""));
    }
}
