//! What a schema in a CustomResourceDefinition may say at all, part by part (upstream's
//! `ValidateCustomResourceDefinitionOpenAPISchema`). Whether it is structural is `structural`'s to say.
use std::collections::HashSet;

use serde_json::Value;

use super::TYPE_AND_META;
use super::rules;
use super::schema::Structural;
use super::structural;
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const AT_ROOT: [&str; 24] = [
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
    "$schema",
    "id",
];
const AT_ROOT_SHOWN: &str = "[Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength \
    MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example \
    XPreserveUnknownFields XValidations]";

/// Everything wrong with `schema` (a `CustomResourceValidation`); `status` says whether there is a status subresource.
pub(super) fn validate(schema: &Value, path: &str, status: bool) -> FieldErrors {
    let root = schema.at("openAPIV3Schema");
    if root.is_null() {
        return Vec::new();
    }
    let path = format!("{path}.openAPIV3Schema");
    let mut errors = Vec::new();
    if status {
        errors.extend(root_of_status(root, &path));
    }
    if root.flag("nullable") {
        errors.push(FieldError::forbidden(
            format!("{path}.nullable"),
            "nullable cannot be true at the root",
        ));
    }
    errors.extend(structural::validate(root, &path));
    let context = Context {
        defaults_forbidden: None,
        inside_meta: false,
        root: true,
    };
    errors.extend(node(root, &path, &context));
    if errors.is_empty() {
        errors = rules::judge(root, &Structural::parse(root), &path);
    }
    errors
}

/// With a status subresource the status has a validation of its own, so the root may not say more than its parts.
fn root_of_status(root: &Value, path: &str) -> Option<FieldError> {
    if root.text("type") != "object" {
        let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        return Some(FieldError::invalid(
            format!("{path}.type"),
            root.text("type"),
            why,
        ));
    }
    let set = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
    let other = root
        .as_object()?
        .iter()
        .any(|(key, value)| set(value) && !AT_ROOT.contains(&key.as_str()));
    let why = format!(
        "only {AT_ROOT_SHOWN} fields are allowed at the root of the schema if the status subresource is enabled"
    );
    other.then(|| FieldError::invalid(path, root.clone(), why))
}

#[derive(Clone)]
struct Context {
    defaults_forbidden: Option<String>,
    inside_meta: bool,
    root: bool,
}

impl Context {
    fn below(&self) -> Context {
        Context {
            root: false,
            ..self.clone()
        }
    }
}

fn node(schema: &Value, path: &str, context: &Context) -> FieldErrors {
    let mut errors = keywords(schema, path, context);
    if schema.flag("uniqueItems") {
        errors.push(FieldError::forbidden(
            format!("{path}.uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ));
    }
    errors.extend(additional(schema, path, context));
    for (name, member) in schema.map("properties").into_iter().flatten() {
        let mut below = context.below();
        if (context.root || schema.flag("x-kubernetes-embedded-resource"))
            && TYPE_AND_META.contains(&name.as_str())
        {
            below.inside_meta = true;
            if context.root {
                below.defaults_forbidden = Some(format!("in top-level {name}"));
            }
        }
        errors.extend(node(member, &format!("{path}.properties[{name}]"), &below));
    }
    if schema.has("not") {
        errors.extend(node(schema.at("not"), &format!("{path}.not"), &context.below()));
    }
    for key in ["allOf", "oneOf", "anyOf"] {
        for (i, part) in schema.list(key).iter().enumerate() {
            errors.extend(node(part, &format!("{path}.{key}[{i}]"), &context.below()));
        }
    }
    if schema.at("items").is_object() {
        errors.extend(node(
            schema.at("items"),
            &format!("{path}.items"),
            &context.below(),
        ));
    }
    errors.extend(extensions(schema, path));
    errors
}

fn additional(schema: &Value, path: &str, context: &Context) -> FieldErrors {
    let value = schema.at("additionalProperties");
    let path = format!("{path}.additionalProperties");
    let mut errors = Vec::new();
    let has_properties = schema.map("properties").is_some_and(|p| !p.is_empty());
    if has_properties && !value.is_null() && *value != true {
        let why = "additionalProperties and properties are mutual exclusive";
        errors.push(FieldError::forbidden(path.clone(), why));
    }
    if value.is_object() {
        let mut below = context.below();
        if context.inside_meta {
            below.defaults_forbidden = Some("inside additionalProperties applying to object metadata".into());
        }
        errors.extend(node(value, &path, &below));
    }
    errors
}

/// JSON schema has them, definitions have not.
const UNSUPPORTED: [&str; 6] = [
    "id",
    "additionalItems",
    "patternProperties",
    "definitions",
    "dependencies",
    "$ref",
];

fn keywords(schema: &Value, path: &str, context: &Context) -> FieldErrors {
    let mut errors = Vec::new();
    let mut forbid = |key: &str, why: String| {
        errors.push(FieldError::forbidden(format!("{path}.{key}"), why));
    };
    if let (true, Some(reason)) = (schema.has("default"), &context.defaults_forbidden) {
        forbid("default", format!("must not be set {reason}"));
    }
    for key in UNSUPPORTED.into_iter().filter(|key| schema.has(key)) {
        forbid(key, format!("{key} is not supported"));
    }
    if schema.text("type") == "null" {
        let why = "type cannot be set to null, use nullable as an alternative";
        forbid("type", why.to_owned());
    }
    if !schema.list("items").is_empty() {
        let why = "items must be a schema object and not an array";
        forbid("items", why.to_owned());
    }
    let embeds = "x-kubernetes-embedded-resource";
    if context.inside_meta && schema.flag(embeds) {
        forbid(embeds, "must not be used inside of resource meta".to_owned());
    }
    unknown_type(schema, path).into_iter().chain(errors).collect()
}

fn unknown_type(schema: &Value, path: &str) -> Option<FieldError> {
    let ty = schema.text("type");
    let known = ty.is_empty() || TYPES.contains(&ty);
    (!known).then(|| FieldError::not_supported(format!("{path}.type"), ty, &TYPES))
}

fn extensions(schema: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let preserve = "x-kubernetes-preserve-unknown-fields";
    if schema.get(preserve) == Some(&Value::Bool(false)) {
        errors.push(FieldError::invalid(
            format!("{path}.{preserve}"),
            false,
            "must be true or undefined",
        ));
    }
    errors.extend(fits_type(schema, path, "x-kubernetes-map-type", "object"));
    let map_type = schema.text("x-kubernetes-map-type");
    if !matches!(map_type, "" | "atomic" | "granular") {
        errors.push(FieldError::not_supported(
            format!("{path}.x-kubernetes-map-type"),
            map_type,
            &["atomic", "granular"],
        ));
    }
    errors.extend(lists(schema, path));
    errors.extend(rules::shape(schema, path));
    errors
}

/// An extension that only makes sense on one type.
fn fits_type(schema: &Value, path: &str, extension: &str, wanted: &str) -> Option<FieldError> {
    if !schema.has(extension) || schema.text("type") == wanted {
        return None;
    }
    let why = format!("must be {wanted} if {extension} is specified");
    Some(match schema.text("type") {
        "" => FieldError::required(format!("{path}.type"), why),
        ty => FieldError::invalid(format!("{path}.type"), ty, why),
    })
}

fn lists(schema: &Value, path: &str) -> FieldErrors {
    let list_type = schema.text("x-kubernetes-list-type");
    let mut errors = Vec::new();
    match fits_type(schema, path, "x-kubernetes-list-type", "array") {
        Some(error) => errors.push(error),
        None if list_type == "set" => errors.extend(atomic_items(schema.at("items"), path)),
        None => {}
    }
    if !matches!(list_type, "" | "atomic" | "set" | "map") {
        let supported = ["atomic", "set", "map"];
        let path = format!("{path}.x-kubernetes-list-type");
        errors.push(FieldError::not_supported(path, list_type, &supported));
    }
    if !schema.list("x-kubernetes-list-map-keys").is_empty() && list_type != "map" {
        let (path, why) = (
            format!("{path}.x-kubernetes-list-type"),
            "must be map if x-kubernetes-list-map-keys is non-empty",
        );
        errors.push(match list_type {
            "" => FieldError::required(path, why),
            other => FieldError::invalid(path, other, why),
        });
    }
    if list_type == "map" {
        errors.extend(map_list(schema, path));
    }
    if matches!(list_type, "set" | "map") && schema.at("items").flag("nullable") {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(FieldError::forbidden(format!("{path}.items.nullable"), why));
    }
    if list_type == "map" {
        errors.extend(key_properties(schema, path));
    }
    errors
}

fn atomic_items(items: &Value, path: &str) -> Option<FieldError> {
    let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (extension, atomic) = match items.text("type") {
        "array" => (
            "x-kubernetes-list-type",
            matches!(items.text("x-kubernetes-list-type"), "" | "atomic"),
        ),
        "object" => (
            "x-kubernetes-map-type",
            items.text("x-kubernetes-map-type") == "atomic",
        ),
        _ => return None,
    };
    let shown = items.at("x-kubernetes-list-type").clone();
    (!atomic).then(|| FieldError::invalid(format!("{path}.items.{extension}"), shown, why))
}

fn map_list(schema: &Value, path: &str) -> FieldErrors {
    let (keys, items) = (schema.list("x-kubernetes-list-map-keys"), schema.at("items"));
    let keys_path = format!("{path}.x-kubernetes-list-map-keys");
    let mut errors = Vec::new();
    if keys.is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        errors.push(FieldError::required(keys_path.clone(), why));
    }
    if items.is_null() {
        let why = "must have a schema if x-kubernetes-list-type is map";
        errors.push(FieldError::required(format!("{path}.items"), why));
    } else if items.text("type") != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(FieldError::invalid(
            format!("{path}.items.type"),
            items.text("type"),
            why,
        ));
        return errors;
    }
    let mut seen = HashSet::new();
    for key in keys
        .iter()
        .filter_map(Value::as_str)
        .filter(|_| items.is_object())
    {
        match items.at("properties").get(key).map(|p| p.text("type")) {
            Some("array" | "object") => {
                let path = format!("{path}.items.properties[{key}].type");
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                errors.push(FieldError::invalid(path, items.text("type"), why));
            }
            Some(_) => {}
            None => {
                let why = "entries must all be names of item properties";
                errors.push(FieldError::invalid(keys_path.clone(), keys.to_vec(), why));
            }
        }
        if !seen.insert(key) {
            errors.push(FieldError::invalid(
                keys_path.clone(),
                keys.to_vec(),
                "must not contain duplicate entries",
            ));
        }
    }
    errors
}

fn key_properties(schema: &Value, path: &str) -> FieldErrors {
    let items = schema.at("items");
    let all_required: HashSet<&str> = items.list("required").iter().filter_map(Value::as_str).collect();
    let mut errors = Vec::new();
    for key in schema
        .list("x-kubernetes-list-map-keys")
        .iter()
        .filter_map(Value::as_str)
    {
        let Some(property) = items.at("properties").get(key) else {
            continue;
        };
        let path = format!("{path}.items.properties[{key}]");
        if !all_required.contains(key) && !property.has("default") {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(FieldError::required(format!("{path}.default"), why));
        }
        if property.flag("nullable") {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(FieldError::forbidden(format!("{path}.nullable"), why));
        }
    }
    errors
}
