//! Parameters of a version 2 document that are said once and referred to, as upstream's builder has them.
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::{Map, Value, json};

use crate::kinds::view::{View, object_mut};

const REFERENCE: &str = "#/parameters/";
/// Bodies of which all kinds have the same.
const GENERIC: &str = "#/definitions/io.k8s.apimachinery";

/// Moves the parameters that are the same for many operations to a place of their own.
pub(super) fn share(document: &mut Value) {
    let mut shared = object_mut(document, "parameters")
        .map(std::mem::take)
        .unwrap_or_default();
    for parameter in parameters(document) {
        if is_shared(parameter) {
            let name = name(parameter);
            let reference = json!({"$ref": format!("{REFERENCE}{name}")});
            shared.insert(name, std::mem::replace(parameter, reference));
        }
    }
    document["parameters"] = shared.into();
}

/// Puts the parameters of `known` in the places of what refers to them.
pub(super) fn inline(item: &mut Value, known: &Value) {
    for parameter in of_item(item) {
        let name = parameter.text("$ref").strip_prefix(REFERENCE);
        if let Some(own) = name.and_then(|name| known.get(name)) {
            *parameter = own.clone();
        }
    }
}

fn parameters(document: &mut Value) -> Vec<&mut Value> {
    let paths = object_mut(document, "paths");
    paths
        .into_iter()
        .flat_map(Map::values_mut)
        .flat_map(of_item)
        .collect()
}

/// Those of a path and of its operations.
fn of_item(item: &mut Value) -> Vec<&mut Value> {
    let mut found = Vec::new();
    for (_, part) in item.as_object_mut().into_iter().flatten() {
        match part {
            Value::Array(parameters) => found.extend(parameters),
            operation => {
                let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
                found.extend(parameters.into_iter().flatten());
            }
        }
    }
    found
}

/// Names are of one kind; old kubectl looks for `dryRun` and `fieldValidation` where they are taken.
fn is_shared(parameter: &Value) -> bool {
    match (parameter.text("in"), parameter.text("name")) {
        ("query" | "path", "name") | ("query", "fieldValidation" | "dryRun") | (_, "") => false,
        ("body", "body") => parameter.at("schema").text("$ref").starts_with(GENERIC),
        _ => true,
    }
}

/// A name that no other parameter has: with the FNV-1 hash of what it is.
fn name(parameter: &Value) -> String {
    let hash = parameter
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)
        });
    format!(
        "{}-{}",
        parameter.text("name"),
        URL_SAFE.encode(&hash.to_be_bytes()[..6])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_have_is_said_once() {
        let pretty = json!({"in": "query", "name": "pretty", "type": "string"});
        let own = json!({"in": "query", "name": "dryRun", "type": "string"});
        let paths = json!({"/a": {"get": {"parameters": [own, pretty]}, "parameters": [pretty]}});
        let mut document = json!({ "paths": paths });
        share(&mut document);
        let shared = document["parameters"].as_object().expect("some").clone();
        let (name, said) = shared.iter().next().expect("one");
        assert_eq!((shared.len(), said), (1, &pretty));
        let reference = json!({"$ref": format!("{REFERENCE}{name}")});
        let there = &document["paths"]["/a"];
        assert_eq!(there["parameters"], json!([reference]));
        assert_eq!(there["get"]["parameters"], json!([own, reference]));
        let mut item = there.clone();
        inline(&mut item, &document["parameters"]);
        assert_eq!(item, paths["/a"]);
    }
}
