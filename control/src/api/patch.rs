//! `patch`: a JSON patch, a merge patch, a strategic merge patch or an applied configuration becomes an update, the
//! last also a creation.
use super::decode;
use super::negotiate::{self, PatchType};
use super::operations::{self, Operation};
use super::others::settled;
use super::render::Style;
use super::status::{ApiError, Result};
use super::write::{self, Options};
use super::written::Written;
use super::{Call, create, manage, posted, precondition};
use crate::kinds::view::View;
use crate::kinds::{FieldIssue, Kind};
use axum::response::Response;
use http::StatusCode;
use serde_json::Value;

/// Upstream's `maxJSONPatchOperations`.
const OPERATIONS: usize = 10_000;

/// A decoded patch, ready to be applied to whatever the object is by then.
pub enum Prepared {
    Json(Vec<Operation>),
    Merge(Value),
    Strategic(Value),
    /// Server-side apply.
    Apply(Value),
}

/// How often an apply finds the object made or gone by somebody else before it gives up.
const RETRIES: usize = 4;

pub async fn serve(call: &Call, style: Style) -> Result<Response> {
    let name = call.name()?;
    let options = Options::of(&call.query, "PatchOptions")?;
    let (patch, issues) = prepare(call)?;
    let written = match &patch {
        Prepared::Apply(config) => apply_config(call, options, name, config, &issues).await?,
        patch => {
            let options = Options {
                patched: true,
                ..options
            };
            let change = |current: &Value| Ok((made(&call.target.kind, patch, current)?, issues.clone()));
            write::update(call, options, name, &change).await?
        }
    };
    super::written(call, style, written)
}

/// Applies to what is there, or creates it.
async fn apply_config(
    call: &Call,
    options: Options,
    name: &str,
    config: &Value,
    issues: &[FieldIssue],
) -> Result<Written> {
    let options = Options {
        applied: true,
        ..options
    };
    let change = |current: &Value| Ok((manage::apply(call, Some(current), config)?, issues.to_vec()));
    let mut outcome = write::update(call, options, name, &change).await;
    for _ in 0..RETRIES {
        outcome = match outcome {
            Err(error) if error.code == StatusCode::NOT_FOUND && call.target.subresource.is_none() => {
                create_applied(call, options, name, config, issues).await
            }
            Err(error) if error.is_already_exists() => write::update(call, options, name, &change).await,
            outcome => return outcome,
        };
    }
    outcome
}

async fn create_applied(
    call: &Call,
    options: Options,
    name: &str,
    config: &Value,
    issues: &[FieldIssue],
) -> Result<Written> {
    let mut value = settled(call, || manage::apply(call, None, config)).await??;
    precondition::forget_version(&mut value);
    write::check_name(write::name_of(&value), name)?;
    if let Some(uid) = value["metadata"]["uid"].as_str() {
        let why = format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        );
        return Err(ApiError::conflict(&call.target.kind, name, &why));
    }
    create::create(call, options, value, issues.to_vec()).await
}

/// Decodes the body.
pub fn prepare(call: &Call) -> Result<(Prepared, Vec<FieldIssue>)> {
    let kind = negotiate::patch(&call.headers)?;
    manage::check_apply(&call.query, kind == PatchType::Apply)?;
    if kind == PatchType::Apply {
        let decoded = decode::config(&call.body)
            .map_err(|why| ApiError::bad_request(format!("error decoding YAML: {why}")))?;
        return Ok((Prepared::Apply(decoded.value), decoded.issues));
    }
    if kind == PatchType::Strategic && !call.target.kind.merges_strategically() {
        return Err(negotiate::no_strategic_patch());
    }
    let undecodable = |why: String| ApiError::bad_request(format!("error decoding patch: {why}"));
    let decoded = decode::json(&call.body).map_err(undecodable)?;
    let mut issues = decoded.issues;
    let patch = match kind {
        PatchType::Json => {
            check_length(&decoded.value)?;
            let (operations, unknown) = operations::read(decoded.value).map_err(undecodable)?;
            issues.extend(unknown);
            issues = issues.into_iter().map(FieldIssue::of_json_patch).collect();
            Prepared::Json(operations)
        }
        PatchType::Merge => Prepared::Merge(decoded.value),
        PatchType::Strategic | PatchType::Apply => Prepared::Strategic(decoded.value),
    };
    Ok((patch, issues))
}

fn check_length(patch: &Value) -> Result<()> {
    match patch.as_array().map_or(0, Vec::len) {
        count if count > OPERATIONS => Err(ApiError::too_many_operations(OPERATIONS, count)),
        _ => Ok(()),
    }
}

/// What a JSON patch that was not sent by the client makes of a value, within the same limits.
pub(crate) fn apply_operations(
    patch: Value,
    current: &Value,
) -> std::result::Result<Value, operations::Failure> {
    check_length(&patch).map_err(|error| error.message().to_owned())?;
    let (operations, _) = operations::read(patch)?;
    operations::apply(&operations, current)
}

/// What the patch makes of the object, which stays of its kind.
fn made(kind: &Kind, patch: &Prepared, current: &Value) -> Result<Value> {
    let made = apply(kind, patch, current)?;
    if kind.custom.is_none() {
        check_kept(patch, &made, current)?;
    }
    Ok(made)
}

/// Upstream decodes what a JSON or a merge patch made, and overlooks what a strategic one says of the kind.
pub fn check_kept(patch: &Prepared, made: &Value, current: &Value) -> Result<()> {
    let is = |key: &str| match made.text(key) {
        "" => current.text(key).to_owned(),
        said => said.to_owned(),
    };
    let (version, name) = (is("apiVersion"), is("kind"));
    let strategic = matches!(patch, Prepared::Strategic(_));
    if strategic || (current.text("apiVersion"), current.text("kind")) == (&version, &name) {
        return Ok(());
    }
    Err(ApiError::unfit_patch(
        made.to_string(),
        &posted::unregistered(&name, &version, posted::SCHEME),
    ))
}

/// What the patch makes of the object.
pub fn apply(kind: &Kind, patch: &Prepared, current: &Value) -> Result<Value> {
    match patch {
        Prepared::Json(patch) => operations::apply(patch, current).map_err(|_| ApiError::rejected_patch()),
        Prepared::Merge(patch) | Prepared::Apply(patch) => {
            if !patch.is_object() {
                return Err(ApiError::bad_request(
                    "error decoding patch: a merge patch must be a JSON object",
                ));
            }
            let mut value = current.clone();
            json_patch::merge(&mut value, patch);
            Ok(value)
        }
        Prepared::Strategic(patch) => kind
            .strategic_merge(current, patch)
            .map_err(|e| ApiError::bad_request(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn too_many_operations_are_refused() {
        let many = |count| json!(vec![json!({"op": "test", "path": "/a", "value": 1}); count]);
        assert!(check_length(&many(OPERATIONS)).is_ok());
        assert_eq!(check_length(&many(OPERATIONS + 1)).unwrap_err().code, 413);
    }
}
