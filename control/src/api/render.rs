//! Answers: objects, Tables and PartialObjectMetadata, as JSON, YAML or protobuf.
//!
//! Stored bytes go out as they are wherever the kind is served as it is stored.
use super::cache::frame;
use super::negotiate::{Accepted, Format, Shape};
use super::object::{self, Object};
use super::query::Query;
use super::status::{ApiError, Result};
use crate::kinds::{Kind, protobuf};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashSet;

/// What a Table row carries of its object (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    fn of(query: &Query) -> Result<Self> {
        match query.get("includeObject") {
            None | Some("Metadata") => Ok(Include::Metadata),
            Some("None") => Ok(Include::None),
            Some("Object") => Ok(Include::Object),
            Some(other) => Err(ApiError::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: \
                 must be 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }
}

/// How one request wants its answer.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    pub accepted: Accepted,
    pub include: Include,
}

impl Style {
    /// What the request accepts; only of a Table it counts what its rows are to carry.
    pub fn of(accepted: Accepted, query: &Query) -> Result<Self> {
        let include = match accepted.shape {
            Shape::Table => Include::of(query)?,
            _ => Include::Metadata,
        };
        Ok(Style { accepted, include })
    }

    /// Whether the answer is the object itself, as JSON: the bytes that are stored.
    pub fn is_plain(self) -> bool {
        self.accepted == Accepted::whole(Format::Json)
    }
}

/// An object as `kind` serves it.
pub fn value(kind: &Kind, object: &Object) -> Result<Value> {
    let mut value = object.value().map_err(ApiError::internal)?;
    if !kind.stored_as_served() {
        show_as(kind, &mut value);
    }
    Ok(value)
}

/// As [`value`], in bytes.
pub fn bytes(kind: &Kind, object: &Object) -> Result<Bytes> {
    match kind.stored_as_served() {
        true => Ok(object.json()),
        false => Ok(object::bytes(&value(kind, object)?)),
    }
}

/// Turns stored bytes of any revision into what `kind` serves.
pub fn reread(kind: &Kind, json: &[u8]) -> Result<Value> {
    let mut value = serde_json::from_slice(json).map_err(ApiError::internal)?;
    if !kind.stored_as_served() {
        show_as(kind, &mut value);
    }
    Ok(value)
}

/// Normalising sets `apiVersion` and `kind`, and leaves the metadata alone.
fn show_as(kind: &Kind, value: &mut Value) {
    kind.from_storage(value);
    kind.normalise(value);
}

/// One object in the shape that was asked for.
pub fn one(kind: &Kind, style: Style, code: StatusCode, object: &Value) -> Result<Response> {
    let shaped = shape(kind, style, object, true)?;
    respond(style.accepted.format, code, shaped.as_ref().unwrap_or(object))
}

/// A stored object, without parsing it where it can be served as it is.
pub fn stored(kind: &Kind, style: Style, object: &Object) -> Result<Response> {
    if style.is_plain() {
        let document = match kind.stored_as_served() {
            true => object.line.clone(),
            false => object::document(&value(kind, object)?),
        };
        return Ok(json_response(StatusCode::OK, Body::from(document)));
    }
    one(kind, style, StatusCode::OK, &value(kind, object)?)
}

/// The object in another shape; none when it is to go out as it is.
pub fn shape(kind: &Kind, style: Style, object: &Value, headers: bool) -> Result<Option<Value>> {
    let shaped = match style.accepted.shape {
        Shape::Object => return Ok(None),
        Shape::Metadata => metadata_only(object),
        Shape::MetadataList => return Err(ApiError::is_no_list(kind)),
        Shape::Table => {
            let version = &object["metadata"]["resourceVersion"];
            let metadata = json!({"resourceVersion": version});
            table(kind, &metadata, vec![row(kind, style.include, object)], headers)
        }
    };
    Ok(Some(versioned(style.accepted, shaped)))
}

/// The version that shapes are made in.
pub const META_V1: &str = "meta.k8s.io/v1";
const META_V1BETA1: &str = "meta.k8s.io/v1beta1";

/// The version of shapes that was asked for.
pub fn metadata_version(accepted: Accepted) -> &'static str {
    if accepted.beta { META_V1BETA1 } else { META_V1 }
}

/// A shape, and the metadata in it, in the version that was asked for.
pub fn versioned(accepted: Accepted, mut shaped: Value) -> Value {
    if accepted.beta {
        rename(&mut shaped);
        for part in ["items", "rows"] {
            let parts = shaped.get_mut(part).and_then(Value::as_array_mut);
            for part in parts.into_iter().flatten() {
                rename(match part.get_mut("object") {
                    Some(object) => object,
                    None => part,
                });
            }
        }
    }
    shaped
}

fn rename(value: &mut Value) {
    if value["apiVersion"] == META_V1 {
        value["apiVersion"] = META_V1BETA1.into();
    }
}

pub fn metadata_only(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": META_V1,
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}

/// One row of a Table.
pub fn row(kind: &Kind, include: Include, object: &Value) -> Value {
    row_of(kind.row(object, Timestamp::now()), include, object)
}

/// As above with cells that are not of a kind.
pub fn row_of(cells: Vec<Value>, include: Include, object: &Value) -> Value {
    let shown = match include {
        Include::None => Value::Null,
        Include::Metadata => metadata_only(object),
        Include::Object => object.clone(),
    };
    json!({"cells": cells, "object": shown})
}

/// A Table. Later tables of one watch repeat no headers.
pub fn table(kind: &Kind, metadata: &Value, rows: Vec<Value>, headers: bool) -> Value {
    let columns = if headers {
        json!(kind.columns())
    } else {
        Value::Null
    };
    table_of(columns, metadata, rows)
}

/// As above with columns that are not of a kind.
pub fn table_of(columns: Value, metadata: &Value, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": META_V1,
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

/// Any value, in the format that was asked for.
pub fn respond(format: Format, code: StatusCode, value: &Value) -> Result<Response> {
    match format {
        Format::Json => Ok(json_response(code, Body::from(object::document(value)))),
        Format::Yaml => {
            let text = serde_yaml::to_string(value).map_err(ApiError::internal)?;
            let content = [(header::CONTENT_TYPE, HeaderValue::from_static("application/yaml"))];
            Ok((code, content, text).into_response())
        }
        // What has no such form is not negotiated so, but for the answers that say how something went.
        Format::Protobuf => Ok(match protobuf::encode(value) {
            Some(body) => protobuf_response(code, body.into()),
            None => json_response(code, Body::from(object::document(value))),
        }),
    }
}

pub fn protobuf_response(code: StatusCode, body: Body) -> Response {
    let media_type = HeaderValue::from_static("application/vnd.kubernetes.protobuf");
    (code, [(header::CONTENT_TYPE, media_type)], body).into_response()
}

/// The stream of a watch.
pub fn events(format: Format, body: Body) -> Response {
    let mut response = json_response(StatusCode::OK, body);
    if format == Format::Protobuf {
        let media_type = HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch");
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    }
    response
}

/// One event of a watch.
pub fn event(format: Format, word: &str, object: &Value) -> Bytes {
    match format {
        Format::Protobuf => protobuf::frame(word, &protobuf::encode(object).unwrap_or_default()).into(),
        _ => frame(word, object.to_string().as_bytes()),
    }
}

pub fn json_response(code: StatusCode, body: Body) -> Response {
    let content = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (code, content, body).into_response()
}

/// What an answer has yet to warn of.
#[derive(Clone, Debug, Default)]
struct Warnings(Vec<String>);

/// Puts these before what the answer warns of already.
pub fn warn(mut response: Response, mut warnings: Vec<String>) -> Response {
    let told = response.extensions_mut().get_or_insert_default::<Warnings>();
    warnings.append(&mut told.0);
    told.0 = warnings;
    response
}

/// Writes the `Warning` headers (RFC 9110's code 299, agent `-`).
pub fn tell_warnings(response: &mut Response) {
    let warnings = response.extensions_mut().remove::<Warnings>().unwrap_or_default();
    for warning in fitting(warnings.0) {
        let quoted = Value::from(warning).to_string();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - {quoted}").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// Upstream's limits of all warnings of one answer, and of each where they are more, in characters.
const WARNINGS: usize = 4 << 10;
const WARNING: usize = 256;

/// Each once, and together no more than fits. What a header cannot hold is passed over, as upstream does.
fn fitting(warnings: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    let told = |warning: &String| !warning.is_empty() && !warning.chars().any(char::is_control);
    let once = |warning: &String| told(warning) && seen.insert(warning.clone());
    let warnings: Vec<String> = warnings.into_iter().filter(once).collect();
    let length = |warning: &String| warning.chars().count();
    if warnings.iter().map(length).sum::<usize>() <= WARNINGS {
        return warnings;
    }
    let cut = warnings
        .iter()
        .map(|warning| warning.chars().take(WARNING).collect());
    let mut told = 0;
    cut.take_while(|warning| {
        let fits = told < WARNINGS;
        told += length(warning);
        fits
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_have_limits() {
        let long = |letter: char, length: usize| letter.to_string().repeat(length);
        let few = vec![long('a', 4000), long('b', 96)];
        assert_eq!(fitting([few.clone(), few.clone()].concat()), few);
        assert_eq!(fitting(vec!["a\nb".to_owned(), "c".to_owned()]), ["c"]);
        let more = fitting(vec![long('ä', 4000), long('b', 97)]);
        assert_eq!(more, [long('ä', 256), long('b', 97)]);
        let many: Vec<String> = (0..1000).map(|n| format!("{n:0300}")).collect();
        assert_eq!(fitting(many).len(), 16);
    }
}
