//! Custom resources: what a CustomResourceDefinition says about a kind, and what follows for its objects.
//!
//! Owns structural schemas and all that is driven by them: pruning, defaulting, validation, printer columns, published
//! OpenAPI. Pure, like the rest of `kinds`; which definitions there are is the API server's business.
mod build;
mod columns;
mod conversion;
mod correlated;
mod declare;
mod defaulting;
pub(super) mod definition;
mod definition_schema;
mod jsonpath;
mod lists;
mod numeric;
mod openapi;
mod place;
mod prune;
mod rules;
mod scaled;
mod schema;
mod structural;
#[cfg(test)]
mod tests;
mod typed;
mod validate;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::error::{DecodeError, ErrorKind, FieldError, FieldErrors, FieldIssue, new_among};
use super::kind::Kind;
use super::schema::Schemas;
use super::{decode, meta, numbers, wire};
pub use build::{fingerprint, kinds, sort, storage_kind};
pub use conversion::{Conversion, Converter};
use correlated::Memory;
pub use definition::{Naming, approval, begin_deletion, has_good_authority, settle_names};
use jsonpath::JsonPath;
pub(super) use openapi::{definition as openapi_definition, list as openapi_list};
pub use schema::Structural;

const UNCHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing \
     errors to complete validation";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// Members that every object has, whatever its schema says.
pub(super) const TYPE_AND_META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// What a definition says about one served version.
#[derive(Debug)]
pub struct Custom {
    /// `com.example.stable.v1.CronTab`: the name of the schema in OpenAPI documents.
    pub(super) model: String,
    pub(super) schema: Structural,
    /// The schema as its author wrote it, for documentation.
    pub(super) source: Value,
    /// The version objects are stored in.
    pub storage_version: String,
    pub is_storage: bool,
    /// Who turns objects of other versions into this one; none when they are the same but for `apiVersion`.
    pub converter: Option<Converter>,
    /// Whether the status is written through its own subresource only.
    status: bool,
    pub scale: Option<ScalePaths>,
    columns: Vec<JsonPath>,
    selectable: Vec<(String, Vec<String>)>,
    /// What clients of a deprecated version are told.
    pub warning: Option<String>,
    /// Whether the definition is being deleted: what is there may go, nothing may come.
    pub terminating: bool,
    /// Distinguishes two states of the same definition.
    pub fingerprint: u64,
}

/// Where a custom resource keeps what its Scale shows, as member names from the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    pub spec_replicas: Vec<String>,
    pub status_replicas: Vec<String>,
    pub selector: Option<Vec<String>>,
}

impl Custom {
    pub(super) fn prune(&self, object: &mut Value) -> Result<Vec<FieldIssue>, DecodeError> {
        let Value::Object(map) = object else {
            return Err(DecodeError::new(
                "json: cannot unmarshal into Go value of type map[string]interface {}",
            ));
        };
        for (_, member) in map.iter_mut().filter(|(key, _)| *key != "metadata") {
            numbers::read(member);
        }
        let mut issues = metadata(map)?;
        let pruned = prune::prune(&self.schema, object);
        if let Some(misfit) = pruned.misfit {
            return Err(DecodeError::new(misfit.to_string()));
        }
        issues.extend(pruned.issues);
        Ok(issues)
    }

    /// Whether there was room for all defaults.
    pub(super) fn default(&self, object: &mut Value) -> bool {
        defaulting::default(&self.schema, object)
    }

    pub(super) fn default_merged(&self, object: &mut Value) -> bool {
        defaulting::default_merged(&self.schema, object)
    }

    /// What is left of an object that was of another version before. It has the defaults of the version it was stored by, and is not
    /// given those of this one.
    pub(super) fn fit(&self, object: &mut Value) {
        prune::prune(&self.schema, object);
    }

    /// What a change of the schema since the object was written makes of it.
    pub(super) fn refresh(&self, object: &mut Value) {
        prune::prune(&self.schema, object);
        self.default(object);
    }

    /// The form in which the object is stored and served.
    pub(super) fn normalise(&self, object: &mut Value) {
        let members = object.as_object_mut().into_iter().flatten();
        for (_, member) in members.filter(|(key, _)| *key != "metadata") {
            numbers::settle(member);
        }
        self.normalise_metadata(object);
    }

    pub(super) fn normalise_metadata(&self, object: &mut Value) {
        if let Some(metadata) = object.get_mut("metadata")
            && let Some(definition) = Schemas::builtin().get(OBJECT_META)
        {
            wire::normalise(Schemas::builtin(), definition, metadata);
        }
    }

    pub(super) fn prepare_create(&self, object: &mut Value) {
        if self.status
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
        meta::set_generation(object, 1);
    }

    pub(super) fn prepare_update(&self, subresource: Option<&str>, new: &mut Value, old: &Value) {
        match subresource {
            Some("status") => keep_all_but_status(new, old),
            _ if self.status => super::view::copy_member(new, old, "status"),
            _ => {}
        }
        if subresource != Some("status") && self.desired(new) != self.desired(old) {
            meta::set_generation(new, meta::generation(old) + 1);
        }
    }

    /// What counts for the generation: all but metadata, and the status when it has its own subresource.
    fn desired<'a>(&self, object: &'a Value) -> Vec<(&'a String, &'a Value)> {
        let members = object.as_object().into_iter().flatten();
        members
            .filter(|(key, _)| *key != "metadata" && !(self.status && *key == "status"))
            .collect()
    }

    /// Everything wrong with an object, and what is to be told of what was wrong already.
    pub(super) fn validate(&self, object: &Value, old: Option<&Value>) -> (FieldErrors, Vec<String>) {
        let memory = Memory::default();
        let was = old.map(|old| memory.of(&self.schema, object, old));
        let found = validate::validate(&self.schema, object, was);
        if found.is_full() {
            return (found.told(), Vec::new());
        }
        let mut errors = found.told();
        if let Some(scale) = &self.scale {
            // What was stored before there was a scale must not keep anybody from writing the rest.
            let before = old.map(|old| scaled::validate(scale, old)).unwrap_or_default();
            errors.extend(new_among(scaled::validate(scale, object), before));
        }
        errors.extend(lists::validate(&self.schema, object, old));
        if self.schema.has_rules && errors.iter().any(blocks) {
            errors.push(FieldError::invalid("<nil>", Value::Null, UNCHECKED));
            return (errors, Vec::new());
        }
        let judged = rules::validate(&self.schema, object, was);
        errors.extend(judged.errors.told());
        (
            errors,
            judged.kept.into_iter().map(|kept| kept.to_string()).collect(),
        )
    }

    pub(super) fn row(&self, kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> {
        columns::row(&self.columns, &kind.columns, object, now)
    }

    pub(super) fn selectable(&self, object: &Value) -> Vec<(String, String)> {
        let value = |path: &[String]| {
            let found = path.iter().try_fold(object, |v, key| v.get(key));
            match found {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            }
        };
        self.selectable
            .iter()
            .map(|(label, path)| (label.clone(), value(path)))
            .collect()
    }
}

/// Decodes `metadata` as every kind's.
fn metadata(map: &mut Map<String, Value>) -> Result<Vec<FieldIssue>, DecodeError> {
    let Some(found) = map.get_mut("metadata") else {
        return Ok(Vec::new());
    };
    if found.is_null() {
        *found = Value::Object(Map::new());
    }
    let schemas: &Arc<Schemas> = Schemas::builtin();
    let Some(definition) = schemas.get(OBJECT_META) else {
        return Ok(Vec::new());
    };
    let issues = decode::decode(schemas, definition, found)?;
    Ok(issues.into_iter().map(|issue| issue.below("metadata")).collect())
}

/// An update of the status changes nothing else, metadata included.
fn keep_all_but_status(new: &mut Value, old: &Value) {
    let status = new.get("status").cloned();
    let managed = new["metadata"].get("managedFields").cloned();
    let version = new["metadata"].get("resourceVersion").cloned();
    *new = old.clone();
    if let Some(map) = new.as_object_mut() {
        match status {
            Some(status) => map.insert("status".into(), status),
            None => map.remove("status"),
        };
    }
    if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) {
        for (key, value) in [("managedFields", managed), ("resourceVersion", version)] {
            match value {
                Some(value) => metadata.insert(key.into(), value),
                None => metadata.remove(key),
            };
        }
    }
}

/// Rules rely on the types and the bounds that the schema promises; what a value is within them is no matter.
fn blocks(error: &FieldError) -> bool {
    use ErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
    matches!(
        error.kind,
        NotSupported | Required | TooLong | TooMany | TypeInvalid
    )
}
