//! Another server's OpenAPI document of version 2 as a part of ours, as upstream's aggregator merges them: its paths below
//! one prefix, and what these refer to. A definition of a name that is taken by another one gets a name of its own.
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::shared;
use crate::kinds::view::{View, object_mut};

const REFERENCE: &str = "#/definitions/";

/// Puts the paths of `theirs` below `prefix` (`/apis/GROUP/VERSION/`), which are not there yet, into `ours`.
pub fn merge(ours: &mut Value, theirs: &Value, prefix: &str) {
    let no_map = Map::new();
    let part = |key: &str| theirs.get(key).and_then(Value::as_object).unwrap_or(&no_map);
    let known = ours["paths"].clone();
    let below = |path: &&String| path.starts_with(prefix) || **path == prefix.trim_end_matches('/');
    let paths: Map<String, Value> = part("paths")
        .iter()
        .filter(|(path, _)| below(path) && known.get(path.as_str()).is_none())
        .map(|(path, item)| {
            let mut item = item.clone();
            shared::inline(&mut item, theirs.at("parameters"));
            (path.clone(), item)
        })
        .collect();
    let wanted = closure(paths.values(), part("definitions"));
    let Some(definitions) = object_mut(ours, "definitions") else {
        return;
    };
    let names = names_for(&wanted, definitions);
    for (name, definition) in wanted {
        let mut definition = definition.clone();
        rename(&mut definition, &names);
        definitions.insert(names.get(name).unwrap_or(name).clone(), definition);
    }
    if let Some(all) = object_mut(ours, "paths") {
        for (path, mut item) in paths {
            rename(&mut item, &names);
            all.insert(path, item);
        }
    }
    shared::share(ours);
}

/// The definitions that some parts of a document refer to, and those that these do.
fn closure<'a>(
    parts: impl Iterator<Item = &'a Value>,
    definitions: &'a Map<String, Value>,
) -> BTreeMap<&'a String, &'a Value> {
    let mut open = BTreeSet::new();
    parts.for_each(|part| references(part, &mut open));
    let mut found = BTreeMap::new();
    while let Some(name) = open.pop_first() {
        let Some((name, definition)) = definitions.get_key_value(&name) else {
            continue;
        };
        if found.insert(name, definition).is_none() {
            references(definition, &mut open);
        }
    }
    found
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            let target = map.get("$ref").and_then(Value::as_str);
            found.extend(target.and_then(|t| t.strip_prefix(REFERENCE)).map(str::to_owned));
            map.values().for_each(|v| references(v, found));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

/// New names for definitions whose own is another's here.
fn names_for(wanted: &BTreeMap<&String, &Value>, taken: &Map<String, Value>) -> BTreeMap<String, String> {
    let other = |(name, definition): &(&&String, &&Value)| {
        taken.get(name.as_str()).is_some_and(|ours| ours != **definition)
    };
    let free = |name: &str| {
        let mut names = (2..).map(|n| format!("{name}_v{n}"));
        names.find(|name| !taken.contains_key(name) && !wanted.contains_key(name))
    };
    let clashes = wanted.iter().filter(other);
    clashes
        .filter_map(|(name, _)| Some(((*name).clone(), free(name)?)))
        .collect()
}

fn rename(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get_mut("$ref")
                && let Some(name) = target.strip_prefix(REFERENCE).and_then(|name| names.get(name))
            {
                *target = format!("{REFERENCE}{name}");
            }
            map.values_mut().for_each(|v| rename(v, names));
        }
        Value::Array(list) => list.iter_mut().for_each(|v| rename(v, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn their_paths_bring_what_they_refer_to() {
        let reference = |name: &str| json!({"$ref": format!("{REFERENCE}{name}")});
        let mut ours =
            json!({"paths": {"/apis/a/v1/": 1}, "definitions": {"Meta": {"type": "object"}, "Same": {}}});
        let theirs = json!({
            "paths": {"/apis/b/v1/foos": {"get": {"parameters": [{"$ref": "#/parameters/p"}], "schema": reference("Foo")}},
                "/apis/a/v1/": 2, "/apis/c/v1/x": reference("Gone")},
            "parameters": {"p": {"name": "pretty", "in": "query"}},
            "definitions": {"Foo": {"meta": reference("Meta"), "same": reference("Same"), "self": reference("Foo")},
                "Meta": {"type": "string"}, "Same": {}, "Gone": {}},
        });
        merge(&mut ours, &theirs, "/apis/b/v1/");
        let name = ours["parameters"]
            .as_object()
            .and_then(|all| all.keys().next())
            .expect("one")
            .clone();
        assert_eq!(
            ours,
            json!({
                "paths": {"/apis/a/v1/": 1, "/apis/b/v1/foos": {"get": {
                    "parameters": [{"$ref": format!("#/parameters/{name}")}], "schema": reference("Foo")}}},
                "parameters": {name: {"name": "pretty", "in": "query"}},
                "definitions": {"Meta": {"type": "object"}, "Meta_v2": {"type": "string"}, "Same": {},
                    "Foo": {"meta": reference("Meta_v2"), "same": reference("Same"), "self": reference("Foo")}},
            })
        );
    }
}
