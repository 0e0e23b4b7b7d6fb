//! What a Scale could not show of a custom resource (upstream's `ValidateScaleSpec` and `ValidateScaleStatus`).
use serde_json::Value;

use super::ScalePaths;
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::printed::{printed, type_name};

/// Everything wrong with what is at the paths.
pub(super) fn validate(paths: &ScalePaths, object: &Value) -> FieldErrors {
    let numbers = [&paths.spec_replicas, &paths.status_replicas];
    let numbers = numbers.into_iter().filter_map(|path| number(object, path));
    let selector = paths.selector.iter().filter_map(|path| text(object, path));
    numbers.chain(selector).collect()
}

fn number(object: &Value, path: &[String]) -> Option<FieldError> {
    let (shown, why) = match nested(object, path, "int64", Value::is_i64) {
        Ok(found) => {
            let number = found?.as_i64()?;
            let why = match number {
                i64::MIN..0 => "should be a non-negative integer".to_owned(),
                _ if i32::try_from(number).is_ok() => return None,
                _ => format!("should be less than or equal to {}", i32::MAX),
            };
            (number, why)
        }
        Err(why) => (0, why),
    };
    Some(FieldError::invalid(shown_path(path), shown, why))
}

fn text(object: &Value, path: &[String]) -> Option<FieldError> {
    let why = nested(object, path, "string", Value::is_string).err()?;
    Some(FieldError::invalid(shown_path(path), "", why))
}

fn shown_path(path: &[String]) -> String {
    format!(".{}", path.join("."))
}

/// What is at the path, if it is anything; fails where it, or what is above it, is of another type.
fn nested<'a>(
    object: &'a Value,
    path: &[String],
    wanted: &str,
    fits: impl Fn(&Value) -> bool,
) -> Result<Option<&'a Value>, String> {
    let mismatch = |depth: usize, value: &Value, wanted: &str| {
        let (at, shown, is) = (shown_path(&path[..depth]), printed(value), type_name(value));
        format!("{at} accessor error: {shown} is of the type {is}, expected {wanted}")
    };
    let mut value = object;
    for (i, key) in path.iter().enumerate() {
        let members = match value {
            Value::Null => return Ok(None),
            Value::Object(members) => members,
            other => return Err(mismatch(i + 1, other, "map[string]interface{}")),
        };
        match members.get(key) {
            None => return Ok(None),
            Some(member) => value = member,
        }
    }
    match fits(value) {
        true => Ok(Some(value)),
        false => Err(mismatch(path.len(), value, wanted)),
    }
}
