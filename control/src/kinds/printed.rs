//! Values without types as Go prints them (`%v`), and their types (`%T`): messages of upstream's show both.
use serde_json::Value;

use crate::cel::double;

/// A value as Go prints it.
pub fn printed(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(n) => double(n),
            None => number.to_string(),
        },
        Value::Bool(flag) => flag.to_string(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(printed).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| key.as_str());
            let members: Vec<String> = members
                .iter()
                .map(|(key, value)| format!("{key}:{}", printed(value)))
                .collect();
            format!("map[{}]", members.join(" "))
        }
    }
}

/// The type that a value has once it is decoded.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_map_is_printed_as_by_go() {
        let patch = json!({"spec": {"b": [1, "x", null], "a": true}, "data": {}, "n": [2.0, 1e20]});
        let want = "map[data:map[] n:[2 1e+20] spec:map[a:true b:[1 x <nil>]]]";
        assert_eq!(printed(&patch), want);
    }
}
