//! What makes a definition invalid as a whole: its group, scope, names, storage and approval.
//!
//! Paths in errors are upstream's internal ones: what all versions have in common is told as `spec.validation`,
//! `spec.subresources`, `spec.additionalPrinterColumns`.
use super::conversion::conversion;
use super::version::{Common, common_errors, version_errors};
use super::{approval, authority};
use crate::kinds::error::{FieldError, FieldErrors, new_among};
use crate::kinds::names;
use crate::kinds::view::View;
use serde_json::{Value, json};
use std::collections::HashSet;

const IMMUTABLE: &str = "field is immutable";

pub(super) fn validate_create(object: &Value) -> FieldErrors {
    let mut errors = name(object);
    errors.extend(spec(object.at("spec"), None));
    errors.extend(names_of(
        object.at("status.acceptedNames"),
        "status.acceptedNames",
    ));
    errors.extend(approval::error(object, None));
    errors.extend(preserve(object));
    errors
}

pub(super) fn validate_update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let accepted = names_of(new.at("status.acceptedNames"), "status.acceptedNames");
    if subresource == Some("status") {
        return accepted;
    }
    let mut errors = spec(new.at("spec"), Some(old.at("spec")));
    errors.extend(authority::update(new, old));
    if crate::kinds::custom::build::established(old) {
        errors.extend(fixed(new, old, "spec.scope"));
        errors.extend(fixed(new, old, "spec.names.kind"));
    }
    errors.extend(fixed(new, old, "spec.group"));
    errors.extend(fixed(new, old, "spec.names.plural"));
    errors.extend(accepted);
    // One that is going may go, whatever somebody wrote into its status.
    if !old.has("metadata.deletionTimestamp") {
        errors.extend(stored_versions(new));
    }
    errors.extend(approval::error(new, Some(old)));
    errors.extend(preserve(new));
    errors
}

fn fixed(new: &Value, old: &Value, path: &str) -> Option<FieldError> {
    (new.at(path) != old.at(path)).then(|| FieldError::invalid(path, new.at(path).clone(), IMMUTABLE))
}

pub(super) fn name(object: &Value) -> FieldErrors {
    let name = object.text("metadata.name");
    let wanted = format!(
        "{}.{}",
        object.text("spec.names.plural"),
        object.text("spec.group")
    );
    let wrong = !name.is_empty() && name != wanted;
    let error = || {
        FieldError::invalid(
            "metadata.name",
            name,
            "must be spec.names.plural+\".\"+spec.group",
        )
    };
    wrong.then(error).into_iter().collect()
}

fn stored_versions(object: &Value) -> FieldErrors {
    let path = "status.storedVersions";
    let stored = object.list(path);
    if stored.is_empty() {
        return vec![FieldError::invalid(
            path,
            Value::Null,
            "must have at least one stored version",
        )];
    }
    let versions: HashSet<&Value> = object
        .list("spec.versions")
        .iter()
        .map(|v| v.at("name"))
        .collect();
    let gone = stored.iter().enumerate().filter(|(_, v)| !versions.contains(v));
    gone.map(|(i, v)| {
        let name = v.as_str().unwrap_or_default();
        let why = format!(
            "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
             until a storage migration ensures no data remains persisted in {name} and removes {name} from \
             status.storedVersions"
        );
        FieldError::invalid(format!("{path}[{i}]"), name, why)
    })
    .collect()
}

pub(super) fn spec(spec: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = group(spec.text("group"));
    errors.extend(scope(spec.text("scope")));
    let versions = spec.list("versions");
    let schemaless = versions
        .iter()
        .enumerate()
        .filter(|(_, v)| !v.has("schema.openAPIV3Schema"));
    errors.extend(
        schemaless
            .map(|(i, _)| FieldError::required(format!("spec.versions[{i}].schema.openAPIV3Schema"), "")),
    );
    let common = Common::of(versions);
    for (i, version) in versions.iter().enumerate() {
        errors.extend(version_errors(version, &format!("spec.versions[{i}]"), &common));
    }
    errors.extend(flags(versions));
    // Upstream's internal form names the first one again.
    let first = versions.first().map_or("", |version| version.text("name"));
    errors.extend(label(first, "spec.version", "", str::to_owned));
    errors.extend(required_names(spec.at("names")));
    errors.extend(names_of(spec.at("names"), "spec.names"));
    if let Some(first) = versions.first() {
        errors.extend(common_errors(first, versions, &common));
    }
    errors.extend(conversion(spec.at("conversion")));
    // What is stored already stays acceptable, so that a stricter server does not lock its users out.
    if let Some(old) = old.filter(|old| old.at("versions") == spec.at("versions")) {
        errors = new_among(errors, self::spec(old, None));
    }
    errors
}

pub(super) fn group(group: &str) -> FieldErrors {
    let path = "spec.group";
    let complaints = names::subdomain(group);
    match group {
        "" => vec![FieldError::required(path, "")],
        group if !complaints.is_empty() => vec![FieldError::invalid(path, group, complaints.join(","))],
        group if !group.contains('.') => {
            vec![FieldError::invalid(
                path,
                group,
                "should be a domain with at least one dot",
            )]
        }
        _ => Vec::new(),
    }
}

fn scope(scope: &str) -> Option<FieldError> {
    match scope {
        "" => Some(FieldError::required("spec.scope", "")),
        "Cluster" | "Namespaced" => None,
        other => Some(FieldError::not_supported(
            "spec.scope",
            other,
            &["Cluster", "Namespaced"],
        )),
    }
}

fn flags(versions: &[Value]) -> FieldErrors {
    let mut errors = Vec::new();
    let shown = || Value::from(versions.iter().map(shown_version).collect::<Vec<_>>());
    let distinct: HashSet<&str> = versions.iter().map(|v| v.text("name")).collect();
    if distinct.len() != versions.len() {
        errors.push(FieldError::invalid(
            "spec.versions",
            shown(),
            "must contain unique version names",
        ));
    }
    if versions.iter().filter(|v| v.flag("storage")).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", shown(), why));
    }
    errors
}

/// A version as upstream prints its internal form.
fn shown_version(version: &Value) -> Value {
    json!({
        "Name": version.at("name"), "Served": version.flag("served"), "Storage": version.flag("storage"),
        "Deprecated": version.flag("deprecated"), "DeprecationWarning": version.at("deprecationWarning"),
        "Schema": null, "Subresources": null, "AdditionalPrinterColumns": null, "SelectableFields": null,
    })
}

fn required_names(names: &Value) -> FieldErrors {
    let missing = ["plural", "singular", "kind", "listKind"].into_iter();
    let missing = missing.filter(|key| names.text(key).is_empty());
    missing
        .map(|key| FieldError::required(format!("spec.names.{key}"), ""))
        .collect()
}

fn names_of(names: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["plural", "singular"] {
        errors.extend(label(
            names.text(key),
            &format!("{path}.{key}"),
            "",
            str::to_owned,
        ));
    }
    for key in ["kind", "listKind"] {
        let words = "may have mixed case, but should otherwise match: ";
        errors.extend(label(
            names.text(key),
            &format!("{path}.{key}"),
            words,
            str::to_lowercase,
        ));
    }
    errors.extend(labels(names, "shortNames", path));
    let (kind, list_kind) = (names.text("kind"), names.text("listKind"));
    if !kind.is_empty() && kind == list_kind {
        let why = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(format!("{path}.listKind"), list_kind, why));
    }
    errors.extend(labels(names, "categories", path));
    errors
}

fn labels(names: &Value, key: &str, path: &str) -> FieldErrors {
    let list = names.list(key).iter().enumerate();
    let list = list.map(|(i, name)| (format!("{path}.{key}[{i}]"), name.as_str().unwrap_or_default()));
    list.filter_map(|(path, name)| {
        let complaints = names::label_1035(name);
        (!complaints.is_empty()).then(|| FieldError::invalid(path, name, complaints.join(",")))
    })
    .collect()
}

fn label(name: &str, path: &str, words: &str, form: impl Fn(&str) -> String) -> Option<FieldError> {
    let complaints = names::label_1035(&form(name));
    let bad = !name.is_empty() && !complaints.is_empty();
    bad.then(|| FieldError::invalid(path, name, format!("{words}{}", complaints.join(","))))
}

fn preserve(object: &Value) -> Option<FieldError> {
    let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
    object
        .flag("spec.preserveUnknownFields")
        .then(|| FieldError::invalid("spec.preserveUnknownFields", true, why))
}
