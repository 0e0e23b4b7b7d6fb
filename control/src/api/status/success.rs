//! Answers that are a `Status` although nothing failed.
use super::details;
use crate::api::negotiate::Format;
use crate::api::render;
use crate::api::status::Result;
use crate::kinds::Kind;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

/// Goes with such an answer, for the audit trail: it is told of at every level, where other objects are at one only.
#[derive(Clone, Debug)]
pub struct Said(pub Value);

/// Of a deletion that left nothing to show.
pub fn deleted(kind: &Kind, name: &str, uid: &str, format: Format) -> Result<Response> {
    let mut about = details(name, &kind.group, &kind.plural);
    about["uid"] = uid.into();
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": about});
    answer(format, StatusCode::OK, status)
}

/// Of an action that has no object of its own (binding, eviction).
pub fn created(format: Format) -> Result<Response> {
    let code = StatusCode::CREATED;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code.as_u16()});
    answer(format, code, status)
}

fn answer(format: Format, code: StatusCode, status: Value) -> Result<Response> {
    let mut response = render::respond(format, code, &status)?;
    response.extensions_mut().insert(Said(status));
    Ok(response)
}
