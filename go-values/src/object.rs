//! Objects as Go reads them: a time that is null is Go's zero one.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Go's `time.Time{}`, which encodes as null where a time may not be left out.
const ZERO: &str = "0001-01-01T00:00:00Z";

/// The times that k8s-openapi's types cannot be without: of a `metav1.Condition` and of an `EventSeries`.
const TIMES: [&str; 2] = ["lastTransitionTime", "lastObservedTime"];

/// Reads an object from JSON. The error is the type's.
pub fn read<K: DeserializeOwned>(json: &str) -> Result<K, serde_json::Error> {
    serde_json::from_str(json).or_else(|why| {
        let mut value: Value = serde_json::from_str(json)?;
        match set_times(&mut value) {
            true => K::deserialize(value),
            false => Err(why),
        }
    })
}

/// Whether there was any to be set. The value was read by recursion, so it is not deep.
fn set_times(value: &mut Value) -> bool {
    let mut any = false;
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| any |= set_times(item)),
        Value::Object(members) => {
            for (key, member) in members {
                match member.is_null() && TIMES.contains(&key.as_str()) {
                    true => {
                        *member = ZERO.into();
                        any = true;
                    }
                    false => any |= set_times(member),
                }
            }
        }
        _ => {}
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Condition {
        last_transition_time: jiff::Timestamp,
    }

    #[test]
    fn a_time_that_is_null_is_zero_and_nothing_else_is_forgiven() {
        for (json, want) in [
            (
                r#"{"lastTransitionTime":"2026-01-01T00:00:00Z"}"#,
                Some("2026-01-01T00:00:00Z"),
            ),
            (r#"{"lastTransitionTime":null}"#, Some(ZERO)),
            (r#"{"lastTransitionTime":5}"#, None),
            (r#"{"other":null}"#, None),
            (r#"{"lastTransitionTime":null"#, None),
        ] {
            let read = read::<Condition>(json)
                .ok()
                .map(|it| it.last_transition_time.to_string());
            assert_eq!(read.as_deref(), want, "{json}");
        }
        let list = read::<Vec<Vec<Condition>>>(r#"[[{"lastTransitionTime":null}]]"#);
        assert_eq!(list.map(|all| all.len()).ok(), Some(1));
    }
}
