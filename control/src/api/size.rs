//! How large an object may be that is stored. A body is bounded as it is read; defaults, the record of its owners and statuses come
//! to it afterwards, and each change of an object is kept whole for a while.
use super::Call;
use super::convert::stored_form;
use super::decode::BODY_LIMIT;
use super::status::{ApiError, Result};
use crate::kinds::protobuf;
use bytes::Bytes;
use serde_json::Value;

/// What upstream's store takes of an object in its form, which is protobuf where a kind has one (etcd, `--max-request-bytes`).
const BINARY_LIMIT: usize = 3 << 19;

/// The bytes to store. An object that is too large with the record of its owners is stored without, as upstream's, unless it was
/// applied, for which that is kept.
pub async fn fitted(
    call: &Call,
    value: &mut Value,
    owners: Option<&str>,
    before: usize,
    applied: bool,
) -> Result<Bytes> {
    let bytes = stored_form(call, value, owners).await?;
    match check(&bytes, before) {
        Err(_) if !applied => {}
        checked => return checked.map(|()| bytes),
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    let bytes = stored_form(call, value, None).await?;
    check(&bytes, before)?;
    Ok(bytes)
}

/// Whether an object is there because it was applied: nobody else owns anything of it yet.
pub fn is_applied(new: &Value) -> bool {
    let entries = new["metadata"]["managedFields"].as_array();
    entries.is_some_and(|all| all.iter().any(|entry| entry["operation"] == "Apply"))
}

/// Refuses built-in kinds' objects of which upstream's store would have no more, and others that are larger than a body may be. Who
/// makes an object smaller, of `before` bytes, may: finalizers of a large one can be taken out.
fn check(json: &[u8], before: usize) -> Result<()> {
    if json.len() <= BINARY_LIMIT.max(before) {
        return Ok(());
    }
    let object: Value = serde_json::from_slice(json).map_err(ApiError::internal)?;
    let (size, limit) = match protobuf::encode(&object) {
        Some(binary) => (binary.len(), BINARY_LIMIT),
        None => (json.len(), BODY_LIMIT),
    };
    match size <= limit {
        true => Ok(()),
        false => Err(ApiError::body_too_large(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_stored_is_bounded() {
        let map = |text: &str, count: usize| json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c"}, "data": {"a": text.repeat(count)}});
        let custom = |count: usize| json!({"kind": "Own", "apiVersion": "own.io/v1", "spec": {"a": "x".repeat(count)}});
        for (what, object, before, fits) in [
            ("as much as upstream's store takes", map("x", 1_572_000), 0, true),
            ("more", map("x", 1_573_000), 0, false),
            ("less than it was", map("x", 2_000_000), 2_100_000, true),
            ("more than it was", map("x", 2_000_000), 1_900_000, false),
            (
                "six bytes in JSON, one in its form",
                map("\u{1}", 1_000_000),
                0,
                true,
            ),
            (
                "as much as a body may be, without another form",
                custom(3_000_000),
                0,
                true,
            ),
            ("more of that", custom(3_200_000), 0, false),
        ] {
            assert_eq!(
                check(object.to_string().as_bytes(), before).is_ok(),
                fits,
                "{what}"
            );
        }
    }
}
