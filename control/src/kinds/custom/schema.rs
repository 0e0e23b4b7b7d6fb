//! A structural schema: `JSONSchemaProps` of a CustomResourceDefinition, read once into a form that is quick to walk.
//!
//! Owns reading. What a schema must look like is `structural`'s, what it means for an object that of its neighbours.
//! Facts: Kubernetes' "Extend the API with CustomResourceDefinitions", "Specifying a structural schema".
use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::declare;
use super::rules::{self, Rule};
use crate::kinds::numbers::{self, equal};
use crate::kinds::regexes::{self, Pattern};
use crate::kinds::view::View;

/// One schema, the root or a part of one. Junctors (`allOf` …) hold schemas of which only the checks matter.
#[derive(Debug, Default)]
pub struct Structural {
    /// Empty when none is given.
    pub ty: String,
    pub nullable: bool,
    pub default: Option<Value>,
    pub properties: BTreeMap<String, Structural>,
    pub items: Option<Box<Structural>>,
    pub additional: Additional,
    pub preserve_unknown: bool,
    pub embedded: bool,
    pub int_or_string: bool,
    pub list_type: Option<String>,
    pub list_map_keys: Vec<String>,
    pub map_type: Option<String>,
    pub checks: Checks,
    /// Rules of this part (`x-kubernetes-validations`), and whether there are any here or below.
    pub rules: Vec<Rule>,
    pub has_rules: bool,
}

/// `additionalProperties`.
#[derive(Debug, Default)]
pub enum Additional {
    #[default]
    None,
    Any,
    Schema(Box<Structural>),
}

/// What a value must satisfy beyond its type.
#[derive(Debug, Default)]
pub struct Checks {
    pub format: Option<String>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    pub max_length: Option<u64>,
    pub min_length: Option<u64>,
    pub max_items: Option<u64>,
    pub min_items: Option<u64>,
    pub max_properties: Option<u64>,
    pub min_properties: Option<u64>,
    pub pattern: Option<Pattern>,
    pub allowed: Allowed,
    pub required: Vec<String>,
    pub all_of: Vec<Structural>,
    pub any_of: Vec<Structural>,
    pub one_of: Vec<Structural>,
    pub not: Option<Box<Structural>>,
}

/// The values of an `enum`, texts among them by an index: there may be as many as values that are looked for.
#[derive(Debug, Default)]
pub struct Allowed {
    pub values: Vec<Value>,
    texts: HashSet<String>,
}

impl Allowed {
    fn of(values: &[Value]) -> Allowed {
        let texts = values.iter().filter_map(Value::as_str);
        Allowed {
            values: values.to_vec(),
            texts: texts.map(str::to_owned).collect(),
        }
    }

    pub fn has(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.texts.contains(text),
            other => self.values.iter().any(|one| equal(one, other)),
        }
    }
}

impl Structural {
    /// Reads `openAPIV3Schema`. What does not belong into a schema reads as absent: validation has refused it before.
    pub fn parse(schema: &Value) -> Structural {
        Structural::part(schema, true)
    }

    fn part(schema: &Value, root: bool) -> Structural {
        let mut parsed = Structural::shape(schema);
        let sources = schema.get("x-kubernetes-validations").and_then(Value::as_array);
        if let Some(sources) = sources.filter(|list| !list.is_empty()) {
            let ty = declare::declare(&parsed, root);
            parsed.rules = rules::compile(sources, &parsed, (&ty, &declare::extent(&parsed, root)));
        }
        parsed.has_rules = !parsed.rules.is_empty() || parsed.children().any(|child| child.has_rules);
        parsed
    }

    /// The parts of a value that have schemas of their own.
    fn children(&self) -> impl Iterator<Item = &Structural> {
        let further = match &self.additional {
            Additional::Schema(schema) => Some(schema.as_ref()),
            _ => None,
        };
        self.properties
            .values()
            .chain(self.items.as_deref())
            .chain(further)
    }

    fn shape(schema: &Value) -> Structural {
        Structural {
            ty: schema.text("type").to_owned(),
            nullable: schema.flag("nullable"),
            default: default(schema),
            properties: members(schema.at("properties")),
            items: child(schema.at("items")),
            additional: additional(schema.at("additionalProperties")),
            preserve_unknown: schema.flag("x-kubernetes-preserve-unknown-fields"),
            embedded: schema.flag("x-kubernetes-embedded-resource"),
            int_or_string: schema.flag("x-kubernetes-int-or-string"),
            list_type: text(schema, "x-kubernetes-list-type"),
            list_map_keys: texts(schema, "x-kubernetes-list-map-keys"),
            map_type: text(schema, "x-kubernetes-map-type"),
            checks: checks(schema),
            rules: Vec::new(),
            has_rules: false,
        }
    }

    /// The schema of a member: its own, or that of all further ones.
    pub fn member(&self, key: &str) -> Option<&Structural> {
        match (self.properties.get(key), &self.additional) {
            (Some(own), _) => Some(own),
            (None, Additional::Schema(schema)) => Some(schema),
            (None, _) => None,
        }
    }
}

fn default(schema: &Value) -> Option<Value> {
    let mut default = schema.get("default").filter(|d| !d.is_null())?.clone();
    numbers::settle(&mut default);
    Some(default)
}

fn checks(schema: &Value) -> Checks {
    Checks {
        format: text(schema, "format"),
        maximum: schema.at("maximum").as_f64(),
        exclusive_maximum: schema.flag("exclusiveMaximum"),
        minimum: schema.at("minimum").as_f64(),
        exclusive_minimum: schema.flag("exclusiveMinimum"),
        multiple_of: schema.at("multipleOf").as_f64(),
        max_length: schema.at("maxLength").as_u64(),
        min_length: schema.at("minLength").as_u64(),
        max_items: schema.at("maxItems").as_u64(),
        min_items: schema.at("minItems").as_u64(),
        max_properties: schema.at("maxProperties").as_u64(),
        min_properties: schema.at("minProperties").as_u64(),
        // A pattern that does not compile was refused with its definition.
        pattern: text(schema, "pattern").and_then(|p| regexes::compile(&p).ok()),
        allowed: Allowed::of(schema.list("enum")),
        required: texts(schema, "required"),
        all_of: list(schema, "allOf"),
        any_of: list(schema, "anyOf"),
        one_of: list(schema, "oneOf"),
        not: child(schema.at("not")),
    }
}

fn members(value: &Value) -> BTreeMap<String, Structural> {
    let members = value.as_object().into_iter().flatten();
    members
        .map(|(name, schema)| (name.clone(), Structural::part(schema, false)))
        .collect()
}

fn child(value: &Value) -> Option<Box<Structural>> {
    value
        .is_object()
        .then(|| Box::new(Structural::part(value, false)))
}

fn additional(value: &Value) -> Additional {
    match value {
        Value::Bool(true) => Additional::Any,
        Value::Object(_) => Additional::Schema(Box::new(Structural::part(value, false))),
        _ => Additional::None,
    }
}

fn list(schema: &Value, key: &str) -> Vec<Structural> {
    schema
        .list(key)
        .iter()
        .map(|part| Structural::part(part, false))
        .collect()
}

fn text(schema: &Value, key: &str) -> Option<String> {
    let text = schema.get(key).and_then(Value::as_str);
    text.filter(|t| !t.is_empty()).map(str::to_owned)
}

fn texts(schema: &Value, key: &str) -> Vec<String> {
    let list = schema.get(key).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}
