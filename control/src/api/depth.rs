//! How deep an object may be nested. Whatever reads objects does it by recursion, serde_json down to 127 levels: an object that is
//! deeper could be stored and never be read again. (Upstream's decoder ends at 10,000.) Pure.
use super::status::{ApiError, Result};
use serde_json::Value;

/// Lists and objects within one another of what is stored. The rest is for what objects are sent in: lists, events,
/// reviews of admission and of conversion.
pub const LEVELS: usize = 120;

/// What the record of its owners adds to the levels of an object at most.
const OWNERS: usize = 8;

/// Refuses what could not be read again. `owners_apart`: who owns the fields is not in the value but will be.
pub fn check(object: &Value, owners_apart: bool) -> Result<()> {
    let most = match owners_apart {
        true => LEVELS - OWNERS,
        false => LEVELS,
    };
    match exceeds(object, most, &mut 0) {
        true => Err(ApiError::bad_request(format!(
            "the object is nested too deeply: with its managedFields it may have {LEVELS} levels"
        ))),
        false => Ok(()),
    }
}

/// Whether there are more than so many lists and objects within one another; `seen` counts the values that were looked at.
/// Looks no deeper, so that it costs little stack with any value.
pub fn exceeds(value: &Value, levels: usize, seen: &mut usize) -> bool {
    *seen += 1;
    let Some(below) = levels.checked_sub(1) else {
        return value.is_array() || value.is_object();
    };
    match value {
        Value::Array(items) => items.iter().any(|item| exceeds(item, below, seen)),
        Value::Object(members) => members.values().any(|member| exceeds(member, below, seen)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!(1), |inner, level| match level % 2 {
            0 => json!([inner]),
            _ => json!({"n": inner}),
        })
    }

    #[test]
    fn lists_and_objects_within_one_another_are_counted() {
        for (levels, most, want) in [
            (0, 0, false),
            (1, 0, true),
            (3, 3, false),
            (4, 3, true),
            (900, 120, true),
        ] {
            assert_eq!(exceeds(&nested(levels), most, &mut 0), want, "{levels} of {most}");
        }
        let mut seen = 0;
        assert!(!exceeds(
            &json!({"a": [1, 2, {"b": null}], "c": "x"}),
            3,
            &mut seen
        ));
        assert_eq!(seen, 7);
    }

    #[test]
    fn what_is_stored_can_be_read_within_a_list_and_a_review() {
        assert!(check(&nested(LEVELS), false).is_ok());
        assert!(check(&nested(LEVELS), true).is_err());
        assert!(check(&nested(LEVELS + 1), false).is_err());
        let review = json!({"request": {"objects": [nested(LEVELS)]}}).to_string();
        assert!(serde_json::from_str::<Value>(&review).is_ok());
    }
}
