//! CustomResourceDefinition as a kind: its defaults, what an update keeps, and what makes one invalid.
//!
//! Paths in errors are upstream's internal ones: what all versions have in common is told as `spec.validation`,
//! `spec.subresources`, `spec.additionalPrinterColumns`.
mod approval;
mod authority;
mod conversion;
mod selectable;
mod validate;
mod version;

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value, json};

use crate::kinds::numbers;
use crate::kinds::prepare;
use crate::kinds::rules::Rules;
use crate::kinds::view::{View, items_mut, object_mut, set_missing, set_zero};

/// Keeps a definition until its objects are gone.
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

pub(in crate::kinds) static RULES: Rules = Rules {
    generation: true,
    default,
    prepare_create,
    prepare_update,
    validate_create,
    validate_update,
    ..Rules::PLAIN
};
pub use approval::approval;
pub use authority::has_good_authority;
use validate::{validate_create, validate_update};

fn default(object: &mut Value) {
    let kind = object.text("spec.names.kind").to_owned();
    if let Some(names) = object_mut(object, "spec.names").filter(|_| !kind.is_empty()) {
        set_zero(names, "singular", kind.to_lowercase());
        set_zero(names, "listKind", format!("{kind}List"));
    }
    if let Some(spec) = object_mut(object, "spec") {
        set_missing(spec, "conversion", json!({"strategy": "None"}));
        if let Some(service) = spec
            .get_mut("conversion")
            .and_then(|c| c.pointer_mut("/webhook/clientConfig/service"))
            .and_then(Value::as_object_mut)
        {
            set_missing(service, "port", 443);
        }
        for version in items_mut(spec, "versions") {
            drop_empty(version);
            if let Some(schema) = version.get_mut("schema") {
                numbers::settle(schema);
            }
        }
    }
}

/// Lists that the encoder leaves out when they are empty.
fn drop_empty(version: &mut Map<String, Value>) {
    for key in ["additionalPrinterColumns", "selectableFields"] {
        if version
            .get(key)
            .and_then(Value::as_array)
            .is_some_and(Vec::is_empty)
        {
            version.remove(key);
        }
    }
}

fn prepare_create(object: &mut Value) {
    prepare::without_status(object);
    remember_storage(object);
}

fn prepare_update(subresource: Option<&str>, new: &mut Value, old: &Value) {
    prepare::split_status(subresource, new, old);
    if subresource.is_none() || new.list("status.storedVersions").is_empty() {
        remember_storage(new);
    }
}

/// Every version that objects were ever stored in is remembered, until an administrator has migrated them.
fn remember_storage(object: &mut Value) {
    let versions = object.list("spec.versions").iter();
    let storage: Vec<Value> = versions
        .filter(|v| v.flag("storage"))
        .map(|v| v["name"].clone())
        .collect();
    let Some(status) = object_mut(object, "status") else {
        return;
    };
    set_missing(status, "acceptedNames", json!({"kind": "", "plural": ""}));
    set_missing(status, "conditions", json!([]));
    set_missing(status, "storedVersions", json!([]));
    if let Some(stored) = status.get_mut("storedVersions").and_then(Value::as_array_mut) {
        for version in storage {
            if !stored.contains(&version) {
                stored.push(version);
            }
        }
    }
}

/// Marks that the objects of a definition go before it does.
pub fn begin_deletion(definition: &mut Value, now: &str) {
    if let Some(meta) = object_mut(definition, "metadata") {
        let list = meta.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = list
            .as_array_mut()
            .filter(|list| !list.contains(&FINALIZER.into()))
        {
            list.push(FINALIZER.into());
        }
    }
    let condition = json!({
        "type": "Terminating", "status": "True", "lastTransitionTime": now, "reason": "InstanceDeletionPending",
        "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    });
    if let Some(status) = object_mut(definition, "status") {
        let list = status.entry("conditions").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.retain(|c| c["type"] != "Terminating");
            list.push(condition);
        }
    }
}

/// Names a definition asks for and gets, and why it does not get others: condition `NamesAccepted`.
#[derive(Debug, PartialEq, Eq)]
pub struct Naming {
    pub accepted: Value,
    /// Reason and message when something is taken.
    pub conflict: Option<(&'static str, String)>,
}

/// Settles the names of a definition against those that others of its group have.
pub fn settle_names<'a>(definition: &Value, others: impl Iterator<Item = &'a Value>) -> Naming {
    let (mut resources, mut kinds) = (HashSet::new(), HashSet::new());
    for other in others.filter(|o| o.text("spec.group") == definition.text("spec.group")) {
        let names = other.at("status.acceptedNames");
        resources.extend([names.text("plural"), names.text("singular")]);
        resources.extend(names.list("shortNames").iter().filter_map(Value::as_str));
        kinds.extend([names.text("kind"), names.text("listKind")]);
    }
    let wanted = definition.at("spec.names");
    let mut accepted: BTreeMap<String, Value> = definition
        .at("status.acceptedNames")
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let mut conflict = None;
    let mut take = |key: &str, reason: &'static str, taken: &HashSet<&str>| {
        let names: Vec<&str> = match wanted.at(key) {
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        match names
            .iter()
            .find(|name| !name.is_empty() && taken.contains(*name))
        {
            Some(name) => conflict = Some((reason, format!("{name:?} is already in use"))),
            None if wanted.has(key) => drop(accepted.insert(key.to_owned(), wanted.at(key).clone())),
            None => drop(accepted.remove(key)),
        }
    };
    take("plural", "PluralConflict", &resources);
    take("singular", "SingularConflict", &resources);
    take("shortNames", "ShortNamesConflict", &resources);
    take("kind", "KindConflict", &kinds);
    take("listKind", "ListKindConflict", &kinds);
    take("categories", "", &HashSet::new());
    Naming {
        accepted: json!(accepted),
        conflict,
    }
}
