//! Whether a schema is structural: every part has a type outside of its junctors, and junctors only check.
//!
//! Rules: Kubernetes' "Specifying a structural schema" (upstream's `ValidateStructural`), then the defaults in it.
use serde_json::{Value, json};

use super::schema::Structural;
use super::{defaulting, lists, prune, validate as values};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::regexes;
use crate::kinds::view::View;

/// Where in a schema a part stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Everything that keeps `root` from being structural; when it is, everything wrong with its defaults.
pub(super) fn validate(root: &Value, path: &str) -> FieldErrors {
    let mut errors = invariants(root, Level::Root, path);
    errors.extend(complete(root, path));
    errors.sort_by_key(ToString::to_string);
    if errors.is_empty() {
        errors = defaults(root, path);
    }
    errors
}

fn invariants(schema: &Value, level: Level, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let ty = schema.text("type");
    if ty == "array" && !schema.at("items").is_object() {
        errors.push(FieldError::required(format!("{path}.items"), "must be specified"));
    }
    if schema.at("items").is_object() {
        errors.extend(invariants(
            schema.at("items"),
            Level::Item,
            &format!("{path}.items"),
        ));
    }
    for (name, member) in schema.map("properties").into_iter().flatten() {
        errors.extend(invariants(
            member,
            Level::Field,
            &format!("{path}.properties[{name}]"),
        ));
    }
    if schema.has("additionalProperties") {
        let path = format!("{path}.additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(
                path.clone(),
                "must not be used at the root",
            ));
        }
        if schema.at("additionalProperties").is_object() {
            errors.extend(invariants(schema.at("additionalProperties"), Level::Field, &path));
        }
    }
    errors.extend(extensions(schema, path));
    let skip_any = is_int_or_string(schema);
    let skip_first = schema.list("allOf").first().is_some_and(is_int_or_string);
    errors.extend(junctors(schema, path, skip_any, skip_first));
    errors.extend(type_of(schema, level, path));
    errors.extend(metadata(schema, level, path));
    errors
}

fn type_of(schema: &Value, level: Level, path: &str) -> FieldErrors {
    let (ty, path) = (schema.text("type"), format!("{path}.type"));
    let embedded = schema.flag("x-kubernetes-embedded-resource");
    let mut errors = Vec::new();
    if embedded && ty != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match ty {
            "" => FieldError::required(path.clone(), why),
            ty => FieldError::invalid(path.clone(), ty, why),
        });
    } else if ty.is_empty()
        && !schema.flag("x-kubernetes-int-or-string")
        && !schema.flag("x-kubernetes-preserve-unknown-fields")
    {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(path.clone(), why));
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.push(FieldError::invalid(path, ty, "must be object at the root"));
    }
    errors
}

fn extensions(schema: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for key in [
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
    ] {
        if schema.flag("x-kubernetes-int-or-string") && schema.flag(key) {
            let why = "must be false if x-kubernetes-int-or-string is true";
            errors.push(FieldError::invalid(format!("{path}.{key}"), true, why));
        }
    }
    if schema.flag("x-kubernetes-embedded-resource") {
        let bare = schema.map("properties").is_none_or(serde_json::Map::is_empty);
        if schema.has("additionalProperties") {
            let why = "must not be used if x-kubernetes-embedded-resource is set";
            errors.push(FieldError::forbidden(format!("{path}.additionalProperties"), why));
        }
        if bare && !schema.flag("x-kubernetes-preserve-unknown-fields") {
            let why = "must not be empty if x-kubernetes-embedded-resource is true without \
                       x-kubernetes-preserve-unknown-fields";
            errors.push(FieldError::required(format!("{path}.properties"), why));
        }
    }
    errors
}

fn metadata(schema: &Value, level: Level, path: &str) -> FieldErrors {
    let checked = level == Level::Root || schema.flag("x-kubernetes-embedded-resource");
    let mut errors = Vec::new();
    for key in ["kind", "apiVersion"] {
        let member = schema.at("properties").at(key);
        if checked && !member.is_null() && member.text("type") != "string" {
            let path = format!("{path}.properties[{key}].type");
            errors.push(FieldError::invalid(path, member.text("type"), "must be string"));
        }
    }
    let Some(metadata) = schema.at("properties").get("metadata") else {
        return errors;
    };
    let path = format!("{path}.properties[metadata]");
    if checked && metadata.text("type") != "object" {
        errors.push(FieldError::invalid(
            format!("{path}.type"),
            metadata.text("type"),
            "must be object",
        ));
    }
    if level == Level::Root && says_more_than_names(metadata) {
        let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(FieldError::forbidden(path, why));
    }
    errors
}

fn says_more_than_names(metadata: &Value) -> bool {
    let others = metadata.as_object().into_iter().flatten();
    let mut others = others.filter(|(key, _)| !matches!(key.as_str(), "type" | "properties" | "default"));
    let names = metadata.map("properties").into_iter().flatten();
    let mut names = names.map(|(name, _)| name.as_str());
    others.next().is_some() || names.any(|name| !matches!(name, "name" | "generateName"))
}

/// `anyOf: [{type: integer}, {type: string}]`, which is how `x-kubernetes-int-or-string` may be said twice.
fn is_int_or_string(schema: &Value) -> bool {
    *schema.at("anyOf") == json!([{"type": "integer"}, {"type": "string"}])
}

/// The junctors and the pattern of a part.
fn junctors(schema: &Value, path: &str, skip_any: bool, skip_first: bool) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["anyOf", "allOf", "oneOf"] {
        if key == "anyOf" && skip_any {
            continue;
        }
        for (i, part) in schema.list(key).iter().enumerate() {
            let skip = key == "allOf" && skip_first && i == 0;
            errors.extend(nested(part, &format!("{path}.{key}[{i}]"), skip));
        }
    }
    if schema.at("not").is_object() {
        errors.extend(nested(schema.at("not"), &format!("{path}.not"), false));
    }
    let pattern = schema.text("pattern");
    if !pattern.is_empty()
        && let Err(why) = regexes::compile(pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        errors.push(FieldError::invalid(format!("{path}.pattern"), pattern, why));
    }
    errors
}

/// Keywords that shape a value and so have no place in a junctor, with what is said of them.
const SHAPING: [(&str, &str); 12] = [
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    (
        "x-kubernetes-preserve-unknown-fields",
        "must be false to be structural",
    ),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

fn nested(schema: &Value, path: &str, skip_any: bool) -> FieldErrors {
    let mut errors = junctors(schema, path, skip_any, false);
    if schema.at("items").is_object() {
        errors.extend(nested(schema.at("items"), &format!("{path}.items"), false));
    }
    for (name, member) in schema.map("properties").into_iter().flatten() {
        errors.extend(nested(member, &format!("{path}.properties[{name}]"), false));
    }
    let set = |key: &str| schema.has(key) && *schema.at(key) != false && *schema.at(key) != "";
    let shaping = SHAPING.iter().filter(|(key, _)| set(key));
    errors.extend(shaping.map(|(key, why)| FieldError::forbidden(format!("{path}.{key}"), *why)));
    if schema.at("properties").has("metadata") {
        let why = "must not be specified in a nested context";
        errors.push(FieldError::forbidden(format!("{path}.properties[metadata]"), why));
    }
    errors
}

/// What the root's junctors mention must be specified outside of them too.
fn complete(root: &Value, path: &str) -> FieldErrors {
    mentioned(root, root, path, path)
}

fn mentioned(part: &Value, shape: &Value, shape_path: &str, path: &str) -> FieldErrors {
    let mut parts: Vec<(String, &Value)> = Vec::new();
    parts.extend(part.get("not").map(|not| (format!("{path}.not"), not)));
    for key in ["allOf", "anyOf", "oneOf"] {
        let list = part.list(key).iter().enumerate();
        parts.extend(list.map(|(i, part)| (format!("{path}.{key}[{i}]"), part)));
    }
    parts
        .into_iter()
        .flat_map(|(path, part)| inside(part, shape, shape_path, &path))
        .collect()
}

/// As [`mentioned`], for a part that is itself a check.
fn inside(check: &Value, shape: &Value, shape_path: &str, path: &str) -> FieldErrors {
    let mut errors = mentioned(check, shape, shape_path, path);
    let mut members = Vec::new();
    if check.at("items").is_object() {
        members.push(("items".to_owned(), check.at("items"), shape.get("items")));
    }
    for (name, member) in check.map("properties").into_iter().flatten() {
        members.push((
            format!("properties[{name}]"),
            member,
            shape.at("properties").get(name),
        ));
    }
    for (step, member, own) in members {
        let (shape_path, path) = (format!("{shape_path}.{step}"), format!("{path}.{step}"));
        match own {
            Some(own) => errors.extend(inside(member, own, &shape_path, &path)),
            None => errors.push(FieldError::required(
                shape_path,
                format!("because it is defined in {path}"),
            )),
        }
    }
    errors
}

/// Defaults must be what defaulting and validation would leave alone.
fn defaults(schema: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if schema.has("default") {
        errors.extend(default(schema, &format!("{path}.default")));
    }
    if schema.at("items").is_object() {
        errors.extend(defaults(schema.at("items"), &format!("{path}.items")));
    }
    for (name, member) in schema.map("properties").into_iter().flatten() {
        errors.extend(defaults(member, &format!("{path}.properties[{name}]")));
    }
    errors
}

fn default(schema: &Value, path: &str) -> FieldErrors {
    let (parsed, mut value) = (Structural::parse(schema), schema.at("default").clone());
    let mut errors = Vec::new();
    let pruned = prune::prune(&parsed, &mut value);
    if !pruned.issues.is_empty() {
        let why = "must not have unknown fields";
        errors.push(FieldError::invalid(path, schema.at("default").clone(), why));
    }
    defaulting::default(&parsed, &mut value);
    let found = values::validate(&parsed, &value, None).into_iter();
    let found = found.chain(lists::validate(&parsed, &value, None));
    let found = pruned.misfit.into_iter().chain(found);
    errors.extend(found.map(|mut error| {
        error.field = match error.field.as_str() {
            "" | "<nil>" => path.to_owned(),
            below if below.starts_with('[') => format!("{path}{below}"),
            below => format!("{path}.{below}"),
        };
        error
    }));
    errors
}
