//! A CustomResourceDefinition becomes kinds: one for each version it serves.
use std::cmp::Reverse;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::{Value, json};

use super::jsonpath::JsonPath;
use super::schema::Structural;
use super::typed;
use super::{Converter, Custom, ScalePaths};
use crate::kinds::kind::{Column, Kind, Subresource};
use crate::kinds::rules::Rules;
use crate::kinds::version_order::precedence;
use crate::kinds::view::View;

/// In upstream's order.
const VERBS: [&str; 8] = [
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];
const SUBRESOURCE_VERBS: [&str; 3] = ["get", "patch", "update"];
const NAME_COLUMN: &str = "Name must be unique within a namespace.";
const AGE_COLUMN: &str = "The time the object was created.";
const AGE_PATH: &str = ".metadata.creationTimestamp";

static RULES: Rules = Rules {
    generation: true,
    ..Rules::PLAIN
};

/// What of a definition decides how its objects are served; another value means that it has changed.
pub fn fingerprint(definition: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    definition.at("spec").to_string().hash(&mut hasher);
    definition
        .at("status.acceptedNames")
        .to_string()
        .hash(&mut hasher);
    definition.text("metadata.uid").hash(&mut hasher);
    established(definition).hash(&mut hasher);
    definition.has("metadata.deletionTimestamp").hash(&mut hasher);
    hasher.finish()
}

/// The kinds of an established definition, the preferred version first; none before it is established.
pub fn kinds(definition: &Value) -> Vec<Kind> {
    if !established(definition) {
        return Vec::new();
    }
    let mut served: Vec<&Value> = definition
        .list("spec.versions")
        .iter()
        .filter(|v| v.flag("served"))
        .collect();
    served.sort_by_key(|v| Reverse(precedence(v.text("name"))));
    served.into_iter().map(|v| kind(definition, v)).collect()
}

/// The kind that the objects of an established definition are stored as, served or not.
pub fn storage_kind(definition: &Value) -> Option<Kind> {
    let storage = definition
        .list("spec.versions")
        .iter()
        .find(|v| v.flag("storage"))?;
    established(definition).then(|| kind(definition, storage))
}

/// Whether the API serves the objects of this definition.
pub(super) fn established(definition: &Value) -> bool {
    let conditions = definition.list("status.conditions");
    conditions
        .iter()
        .any(|c| c.text("type") == "Established" && c.text("status") == "True")
}

/// Puts kinds into discovery order: by group, the preferred version first, then by name.
pub fn sort(kinds: &mut [Kind]) {
    kinds.sort_by_key(|kind| {
        (
            kind.group.clone(),
            Reverse(precedence(&kind.version)),
            kind.plural.clone(),
        )
    });
}

/// The kind of one version of a definition.
fn kind(definition: &Value, version: &Value) -> Kind {
    let names = definition.at("status.acceptedNames");
    let group = definition.text("spec.group").to_owned();
    let (version_name, name) = (version.text("name").to_owned(), names.text("kind").to_owned());
    let plural = names.text("plural").to_owned();
    let (columns, paths) = columns(version);
    let custom = custom(definition, version, model(&group, &version_name, &name), paths);
    let gvk = (group.clone(), version_name.clone(), name.clone());
    let (schemas, root) = typed::definitions(&custom.model, gvk, &custom.schema);
    Kind {
        storage_prefix: format!("/registry/{group}/{plural}"),
        list_kind: names.text("listKind").to_owned(),
        singular: names.text("singular").to_owned(),
        short_names: strings(names, "shortNames"),
        categories: strings(names, "categories"),
        namespaced: definition.text("spec.scope") == "Namespaced",
        verbs: VERBS.iter().map(ToString::to_string).collect(),
        subresources: subresources(&group, &version_name, &name, &custom, version),
        columns,
        definition: root,
        schemas,
        rules: &RULES,
        custom: Some(Arc::new(custom)),
        version: version_name,
        kind: name,
        plural,
        group,
    }
}

/// What such a kind has that no built-in one has; `columns` are where its cells come from.
fn custom(definition: &Value, version: &Value, model: String, columns: Vec<JsonPath>) -> Custom {
    let source = version.at("schema.openAPIV3Schema").clone();
    let versions = definition.list("spec.versions");
    let storage = versions.iter().find(|v| v.flag("storage"));
    Custom {
        is_storage: version.flag("storage"),
        converter: Converter::of(definition),
        storage_version: storage.map_or_else(String::new, |v| v.text("name").to_owned()),
        status: version.has("subresources.status"),
        scale: scale(version),
        columns,
        selectable: selectable(version),
        warning: warning(definition, version),
        terminating: definition.has("metadata.deletionTimestamp"),
        fingerprint: fingerprint(definition),
        model,
        schema: Structural::parse(&source),
        source,
    }
}

/// `com.example.stable.v1.CronTab`.
fn model(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').rev().collect();
    parts.extend([version, kind]);
    parts.join(".")
}

fn strings(value: &Value, key: &str) -> Vec<String> {
    let list = value.list(key).iter();
    list.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn subresources(group: &str, version: &str, kind: &str, custom: &Custom, row: &Value) -> Vec<Subresource> {
    let verbs: Vec<String> = SUBRESOURCE_VERBS.iter().map(ToString::to_string).collect();
    let of = |name: &str, group: &str, version: &str, kind: &str| Subresource {
        name: name.to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        verbs: verbs.clone(),
    };
    let status = row
        .has("subresources.status")
        .then(|| of("status", group, version, kind));
    let scale = custom
        .scale
        .is_some()
        .then(|| of("scale", "autoscaling", "v1", "Scale"));
    status.into_iter().chain(scale).collect()
}

fn scale(version: &Value) -> Option<ScalePaths> {
    let scale = version.at("subresources.scale");
    let path = |key: &str| {
        JsonPath::parse(scale.text(key))
            .ok()?
            .members()
            .filter(|p| !p.is_empty())
    };
    Some(ScalePaths {
        spec_replicas: path("specReplicasPath")?,
        status_replicas: path("statusReplicasPath")?,
        selector: path("labelSelectorPath"),
    })
}

fn selectable(version: &Value) -> Vec<(String, Vec<String>)> {
    let fields = version.list("selectableFields").iter();
    let fields = fields.filter_map(|f| JsonPath::parse(f.text("jsonPath")).ok()?.members());
    fields.map(|path| (path.join("."), path)).collect()
}

fn columns(version: &Value) -> (Vec<Column>, Vec<JsonPath>) {
    let mut columns = vec![column("Name", "string", "name", NAME_COLUMN, 0)];
    let mut paths = Vec::new();
    let age = json!({"name": "Age", "type": "date", "jsonPath": AGE_PATH, "description": AGE_COLUMN});
    let named = version.list("additionalPrinterColumns");
    let named = if named.is_empty() {
        std::slice::from_ref(&age)
    } else {
        named
    };
    for row in named {
        let Ok(path) = JsonPath::parse(row.text("jsonPath")) else {
            continue;
        };
        let described = format!(
            "Custom resource definition column (in JSONPath format): {}",
            row.text("jsonPath")
        );
        let description = match row.text("description") {
            "" => &described,
            text => text,
        };
        let priority = row
            .int("priority")
            .and_then(|p| i32::try_from(p).ok())
            .unwrap_or(0);
        columns.push(column(
            row.text("name"),
            row.text("type"),
            row.text("format"),
            description,
            priority,
        ));
        paths.push(path);
    }
    (columns, paths)
}

fn column(name: &str, ty: &str, format: &str, description: &str, priority: i32) -> Column {
    Column {
        name: name.to_owned(),
        ty: ty.to_owned(),
        format: format.to_owned(),
        description: description.to_owned(),
        priority,
    }
}

/// What clients of a deprecated version are told: the author's words, or upstream's with the newest better version.
fn warning(definition: &Value, version: &Value) -> Option<String> {
    if !version.flag("deprecated") {
        return None;
    }
    if let Some(own) = version.at("deprecationWarning").as_str() {
        return Some(own.to_owned());
    }
    let (group, kind) = (definition.text("spec.group"), definition.text("spec.names.kind"));
    let name = version.text("name");
    let better = definition.list("spec.versions").iter();
    let better = better
        .filter(|v| {
            v.flag("served") && !v.flag("deprecated") && precedence(v.text("name")) > precedence(name)
        })
        .max_by_key(|v| precedence(v.text("name")));
    let base = format!("{group}/{name} {kind} is deprecated");
    Some(match better {
        Some(better) => format!("{base}; use {group}/{} {kind}", better.text("name")),
        None => base,
    })
}
