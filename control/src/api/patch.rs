//! `patch`: a JSON patch, a merge patch, a strategic merge patch or an applied configuration becomes an update, the
//! last also a creation.
use super::decode;
use super::negotiate::{self, PatchType};
use super::others::settled;
use super::render::Style;
use super::status::{ApiError, Result};
use super::write::{self, Options};
use super::written::Written;
use super::{Call, manage};
use crate::kinds::view::View;
use crate::kinds::{FieldIssue, Kind};
use axum::response::Response;
use http::StatusCode;
use json_patch::{Patch, PatchOperation};
use serde_json::Value;

/// Upstream's `maxJSONPatchOperations`.
const OPERATIONS: usize = 10_000;
/// What knows the built-in kinds, in words.
const SCHEME: &str = "k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30";
/// Upstream's `JSONPatchMaxCopyBytes`: what all `copy` operations of one patch may add up to.
const COPIED: usize = 3 << 20;

/// A decoded patch, ready to be applied to whatever the object is by then.
pub enum Prepared {
    Json(Patch),
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
    let value = settled(call, || manage::apply(call, None, config)).await??;
    write::check_name(write::name_of(&value), name)?;
    if let Some(uid) = value["metadata"]["uid"].as_str() {
        let why = format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        );
        return Err(ApiError::conflict(&call.target.kind, name, &why));
    }
    write::create(call, options, value, issues.to_vec()).await
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
    // A Scale is a built-in kind, whoever has it.
    let scale = call.target.subresource.as_deref() == Some("scale");
    if kind == PatchType::Strategic && !scale && !call.target.kind.merges_strategically() {
        return Err(negotiate::no_strategic_patch());
    }
    let undecodable = |why: String| ApiError::bad_request(format!("error decoding patch: {why}"));
    let decoded = decode::json(&call.body).map_err(undecodable)?;
    let patch = match kind {
        PatchType::Json => Prepared::Json(operations(decoded.value)?),
        PatchType::Merge => Prepared::Merge(decoded.value),
        PatchType::Strategic | PatchType::Apply => Prepared::Strategic(decoded.value),
    };
    Ok((patch, decoded.issues))
}

fn operations(value: Value) -> Result<Patch> {
    let count = value.as_array().map_or(0, Vec::len);
    if count > OPERATIONS {
        return Err(ApiError::too_many_operations(OPERATIONS, count));
    }
    serde_json::from_value(value).map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))
}

/// What a JSON patch that was not sent by the client makes of a value, within the same limits.
pub(crate) fn apply_operations(patch: Value, current: &Value) -> std::result::Result<Value, String> {
    let applied = operations(patch).and_then(|patch| apply_json(&patch, current));
    applied.map_err(|error| error.message().to_owned())
}

/// What the patch makes of the object, which stays of its kind. Upstream decodes what a JSON or a merge patch made, and
/// overlooks what a strategic one says of the kind.
fn made(kind: &Kind, patch: &Prepared, current: &Value) -> Result<Value> {
    let made = apply(kind, patch, current)?;
    let is = |key: &str| match made.text(key) {
        "" => current.text(key).to_owned(),
        said => said.to_owned(),
    };
    let (version, name) = (is("apiVersion"), is("kind"));
    let strategic = matches!(patch, Prepared::Strategic(_));
    if strategic
        || kind.custom.is_some()
        || (current.text("apiVersion"), current.text("kind")) == (&version, &name)
    {
        return Ok(made);
    }
    let why = format!("no kind {name:?} is registered for version {version:?} in scheme {SCHEME:?}");
    Err(ApiError::unfit_patch(&made, &why))
}

/// What the patch makes of the object.
pub fn apply(kind: &Kind, patch: &Prepared, current: &Value) -> Result<Value> {
    match patch {
        Prepared::Json(patch) => apply_json(patch, current),
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

/// One operation after the other, so that what they copy can be counted.
fn apply_json(patch: &Patch, current: &Value) -> Result<Value> {
    let mut value = current.clone();
    let mut copied = 0;
    for operation in &patch.0 {
        if let PatchOperation::Copy(copy) = operation {
            let source = value
                .pointer(copy.from.as_str())
                .map_or(0, |v| v.to_string().len());
            copied += source;
            if copied > COPIED {
                return Err(ApiError::unprocessable(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the \
                     limit {COPIED}"
                )));
            }
        }
        if expects_nothing(operation, &value) {
            continue;
        }
        json_patch::patch(&mut value, std::slice::from_ref(operation)).map_err(|e| {
            ApiError::unprocessable(format!(
                "the server rejected our request due to an error in our request: {e}"
            ))
        })?;
    }
    Ok(value)
}

/// A test for null holds where there is nothing, as upstream's library has it; clients that add the first finalizer
/// rely on it.
fn expects_nothing(operation: &PatchOperation, value: &Value) -> bool {
    let PatchOperation::Test(test) = operation else {
        return false;
    };
    let path = test.path.as_str();
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    test.value.is_null() && value.pointer(path).is_none() && value.pointer(parent).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn json_patch(operations_of: Value, current: &Value) -> Result<Value> {
        apply_json(&operations(operations_of)?, current)
    }

    #[test]
    fn too_many_operations_are_refused() {
        let many = vec![json!({"op": "test", "path": "/a", "value": 1}); OPERATIONS + 1];
        assert_eq!(json_patch(json!(many), &json!({"a": 1})).unwrap_err().code, 413);
    }

    #[test]
    fn a_patch_that_doubles_the_document_is_stopped() {
        let double = vec![json!({"op": "copy", "from": "", "path": "/b"}); 128];
        assert_eq!(
            json_patch(json!(double), &json!({"a": "x".repeat(1000)}))
                .unwrap_err()
                .code,
            422
        );
    }

    #[test]
    fn a_test_for_null_holds_where_nothing_is() {
        let test = |path: &str| json!([{"op": "test", "path": path, "value": null}, {"op": "add", "path": "/b", "value": 1}]);
        let current = json!({"a": {}});
        assert_eq!(
            json_patch(test("/a/x"), &current).unwrap(),
            json!({"a": {}, "b": 1})
        );
        assert_eq!(json_patch(test("/a"), &current).unwrap_err().code, 422);
        assert_eq!(json_patch(test("/x/y"), &current).unwrap_err().code, 422);
    }

    #[test]
    fn a_failing_test_is_unprocessable() {
        let patch = json!([{"op": "test", "path": "/a", "value": 2}]);
        assert_eq!(json_patch(patch, &json!({"a": 1})).unwrap_err().code, 422);
    }
}
