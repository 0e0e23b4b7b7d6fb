//! CustomResourceDefinition as a kind: its defaults, what an update keeps, and what makes one invalid.
//!
//! Paths in errors are upstream's internal ones: what all versions have in common is told as `spec.validation`,
//! `spec.subresources`, `spec.additionalPrinterColumns`.
use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::{Map, Value, json};

use super::definition_schema;
use super::schema::Structural;
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::prepare;
use crate::kinds::rules::Rules;
use crate::kinds::view::{View, items_mut, object_mut, set_missing, set_zero};

/// Selectable fields of one version.
const MAX_SELECTABLE: usize = 8;
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 9] = [
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "name",
    "password",
];
const APPROVAL: &str = "api-approved.kubernetes.io";
/// Keeps a definition until its objects are gone.
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
const IMMUTABLE: &str = "field is immutable";

pub(in crate::kinds) static RULES: Rules = Rules {
    generation: true,
    default,
    prepare_create,
    prepare_update,
    validate_create,
    validate_update,
    ..Rules::PLAIN
};

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
    if subresource.is_none() {
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

fn validate_create(object: &Value) -> FieldErrors {
    let mut errors = name(object);
    errors.extend(spec(object.at("spec"), None));
    errors.extend(names_of(
        object.at("status.acceptedNames"),
        "status.acceptedNames",
    ));
    errors.extend(approval(object, None));
    errors.extend(preserve(object));
    errors
}

fn validate_update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let accepted = names_of(new.at("status.acceptedNames"), "status.acceptedNames");
    if subresource == Some("status") {
        return accepted;
    }
    let mut errors = spec(new.at("spec"), Some(old.at("spec")));
    if super::build::established(old) {
        errors.extend(fixed(new, old, "spec.scope"));
        errors.extend(fixed(new, old, "spec.names.kind"));
    }
    errors.extend(fixed(new, old, "spec.group"));
    errors.extend(fixed(new, old, "spec.names.plural"));
    errors.extend(accepted);
    errors.extend(stored_versions(new));
    errors.extend(approval(new, Some(old)));
    errors.extend(preserve(new));
    errors
}

fn fixed(new: &Value, old: &Value, path: &str) -> Option<FieldError> {
    (new.at(path) != old.at(path)).then(|| FieldError::invalid(path, new.at(path).clone(), IMMUTABLE))
}

fn name(object: &Value) -> FieldErrors {
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
    let versions: Vec<&Value> = object
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

fn spec(spec: &Value, old: Option<&Value>) -> FieldErrors {
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
    errors.extend(required_names(spec.at("names")));
    errors.extend(names_of(spec.at("names"), "spec.names"));
    if let Some(first) = versions.first() {
        errors.extend(common_errors(first, versions, &common));
    }
    errors.extend(conversion(spec.at("conversion")));
    // What is stored already stays acceptable, so that a stricter server does not lock its users out.
    if let Some(old) = old.filter(|old| old.at("versions") == spec.at("versions")) {
        let before = self::spec(old, None);
        errors.retain(|e| !before.contains(e));
    }
    errors
}

fn group(group: &str) -> FieldErrors {
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

/// What all versions have the same, which upstream keeps once and names at the top.
struct Common {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Common {
    fn of(versions: &[Value]) -> Common {
        let same = |path: &str| {
            let first = versions.first().map(|v| v.at(path));
            first.is_some_and(|f| !f.is_null() && versions.iter().all(|v| v.at(path) == f))
        };
        Common {
            schema: same("schema"),
            subresources: same("subresources"),
            columns: same("additionalPrinterColumns"),
            selectable: same("selectableFields"),
        }
    }
}

fn version_errors(version: &Value, path: &str, common: &Common) -> FieldErrors {
    let name = version.text("name");
    let mut errors = Vec::new();
    let complaints = names::label_1035(name);
    if !complaints.is_empty() {
        errors.push(FieldError::invalid(
            format!("{path}.name"),
            name,
            complaints.join(","),
        ));
    }
    errors.extend(deprecation(version, &format!("{path}.deprecationWarning")));
    let status = version.has("subresources.status");
    if !common.schema {
        errors.extend(definition_schema::validate(
            version.at("schema"),
            &format!("{path}.schema"),
            status,
        ));
    }
    if !common.subresources {
        errors.extend(subresources(
            version.at("subresources"),
            &format!("{path}.subresources"),
        ));
    }
    if !common.columns {
        errors.extend(columns(version, &format!("{path}.additionalPrinterColumns")));
    }
    if !common.selectable {
        errors.extend(selectable(version, &format!("{path}.selectableFields")));
    }
    errors
}

fn common_errors(first: &Value, versions: &[Value], common: &Common) -> FieldErrors {
    let mut errors = Vec::new();
    let status = versions.iter().any(|v| v.has("subresources.status"));
    if common.schema {
        errors.extend(definition_schema::validate(
            first.at("schema"),
            "spec.validation",
            status,
        ));
    }
    if common.subresources {
        errors.extend(subresources(first.at("subresources"), "spec.subresources"));
    }
    if common.columns {
        errors.extend(columns(first, "spec.additionalPrinterColumns"));
    }
    if common.selectable {
        errors.extend(selectable(first, "spec.selectableFields"));
    }
    errors
}

fn deprecation(version: &Value, path: &str) -> FieldErrors {
    let Some(warning) = version.at("deprecationWarning").as_str() else {
        return Vec::new();
    };
    let invalid = |why: &str| FieldError::invalid(path, warning, why);
    if !version.flag("deprecated") {
        return vec![invalid("can only be set for deprecated versions")];
    }
    let mut errors = Vec::new();
    if warning.len() > 256 {
        errors.push(invalid("must be <= 256 characters long"));
    }
    if warning.is_empty() {
        errors.push(invalid("must not be an empty string"));
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        errors.push(invalid(&format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {at}"
        )));
    }
    errors
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

fn subresources(subresources: &Value, path: &str) -> FieldErrors {
    if !subresources.has("scale") {
        return Vec::new();
    }
    let scale = subresources.at("scale");
    let mut errors = Vec::new();
    for (key, root) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let (text, path) = (scale.text(key), format!("{path}.scale.{key}"));
        if text.is_empty() {
            errors.push(FieldError::required(path, ""));
        } else if let Some(error) = simple_path(text, &path) {
            errors.push(error);
        } else if !text.starts_with(root) {
            let why = format!("should be a json path under {}", root.trim_end_matches('.'));
            errors.push(FieldError::invalid(path, text, why));
        }
    }
    let (text, path) = (
        scale.text("labelSelectorPath"),
        format!("{path}.scale.labelSelectorPath"),
    );
    if !text.is_empty() {
        match simple_path(text, &path) {
            Some(error) => errors.push(error),
            None if [".spec.", ".status."].iter().any(|root| text.starts_with(root)) => {}
            None => {
                let why = "should be a json path under either .spec or .status";
                errors.push(FieldError::invalid(path, text, why));
            }
        }
    }
    errors
}

fn simple_path(text: &str, path: &str) -> Option<FieldError> {
    (!text.starts_with('.'))
        .then(|| FieldError::invalid(path, text, "must be a simple json path starting with ."))
}

fn columns(version: &Value, path: &str) -> FieldErrors {
    let columns = version.list("additionalPrinterColumns").iter().enumerate();
    columns
        .flat_map(|(i, column)| self::column(column, &format!("{path}[{i}]")))
        .collect()
}

fn column(column: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let one_of = |list: &[&str]| format!("must be one of {}", list.join(","));
    if column.text("name").is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    match column.text("type") {
        "" => errors.push(FieldError::required(
            format!("{path}.type"),
            one_of(&COLUMN_TYPES),
        )),
        ty if COLUMN_TYPES.contains(&ty) => {}
        ty => errors.push(FieldError::invalid(
            format!("{path}.type"),
            ty,
            one_of(&COLUMN_TYPES),
        )),
    }
    match column.text("format") {
        "" => {}
        format if COLUMN_FORMATS.contains(&format) => {}
        format => errors.push(FieldError::invalid(
            format!("{path}.format"),
            format,
            one_of(&COLUMN_FORMATS),
        )),
    }
    match column.text("jsonPath") {
        "" => errors.push(FieldError::required(format!("{path}.JSONPath"), "")),
        text => errors.extend(simple_path(text, &format!("{path}.JSONPath"))),
    }
    errors
}

fn selectable(version: &Value, path: &str) -> FieldErrors {
    let fields = version.list("selectableFields");
    if fields.is_empty() {
        return Vec::new();
    }
    let schema = Structural::parse(version.at("schema.openAPIV3Schema"));
    let mut seen = BTreeSet::new();
    let mut errors = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        let (text, path) = (field.text("jsonPath"), format!("{path}[{i}].jsonPath"));
        match selectable_field(text, &schema) {
            Err(None) => errors.push(FieldError::required(path, "")),
            Err(Some(why)) => errors.push(FieldError::invalid(path, text, why)),
            Ok(()) if !seen.insert(text.to_owned()) => errors.push(FieldError::duplicate(path, text)),
            Ok(()) => {}
        }
    }
    if seen.len() > MAX_SELECTABLE {
        errors.push(FieldError::too_many(path, seen.len(), MAX_SELECTABLE));
    }
    errors
}

/// Whether a path leads to a scalar that may be selected by. `Err(None)` when there is no path.
fn selectable_field(text: &str, schema: &Structural) -> Result<(), Option<String>> {
    if text.is_empty() {
        return Err(None);
    }
    let invalid = |why: String| Some(format!("is an invalid path: {why}"));
    let path = super::jsonpath::JsonPath::parse(text)
        .ok()
        .filter(|_| text.starts_with('.'))
        .and_then(|p| p.members())
        .ok_or_else(|| invalid(format!("expected [ or . but got: {text}")))?;
    if path.first().is_some_and(|root| root == "metadata") {
        return Err(Some("must not point to fields in metadata".into()));
    }
    let found = path.iter().try_fold(schema, |schema, name| {
        schema
            .properties
            .get(name)
            .ok_or_else(|| invalid(format!("does not refer to a valid field: {name}")))
    })?;
    match found.ty.as_str() {
        "string" | "boolean" | "integer" => Ok(()),
        _ => Err(Some(
            "must point to a field of type string, boolean or integer. Enum string fields and strings with formats \
             are allowed."
                .into(),
        )),
    }
}

fn conversion(conversion: &Value) -> FieldErrors {
    let path = "spec.conversion";
    let webhook = conversion.at("webhook");
    let strategy = conversion.text("strategy");
    let mut errors = Vec::new();
    match strategy {
        "" => errors.push(FieldError::required(format!("{path}.strategy"), "")),
        "None" | "Webhook" => {}
        other => errors.push(FieldError::not_supported(
            format!("{path}.strategy"),
            other,
            &["None", "Webhook"],
        )),
    }
    let (client, versions) = (
        webhook.at("clientConfig"),
        webhook.list("conversionReviewVersions"),
    );
    if strategy != "Webhook" {
        let why = "should not be set when strategy is not set to Webhook";
        if !client.is_null() {
            errors.push(FieldError::forbidden(format!("{path}.webhookClientConfig"), why));
        }
        if !versions.is_empty() {
            errors.push(FieldError::forbidden(
                format!("{path}.conversionReviewVersions"),
                why,
            ));
        }
        return errors;
    }
    errors.extend(client_config(client, &format!("{path}.webhookClientConfig")));
    errors.extend(review_versions(
        versions,
        &format!("{path}.conversionReviewVersions"),
    ));
    errors
}

fn client_config(client: &Value, path: &str) -> FieldErrors {
    if client.is_null() {
        return vec![FieldError::required(
            path,
            "required when strategy is set to Webhook",
        )];
    }
    match (client.at("url").as_str(), client.at("service").is_object()) {
        (Some(url), false) => webhook_url(url, &format!("{path}.url")),
        (None, true) => {
            let service = client.at("service");
            let missing = ["name", "namespace"]
                .into_iter()
                .filter(|key| service.text(key).is_empty());
            missing
                .map(|key| {
                    FieldError::required(
                        format!("{path}.service.{key}"),
                        format!("service {key} is required"),
                    )
                })
                .collect()
        }
        _ => vec![FieldError::required(
            path,
            "exactly one of url or service is required",
        )],
    }
}

fn webhook_url(url: &str, path: &str) -> FieldErrors {
    let form = "desired format: https://host[/path]";
    let parsed: Option<http::Uri> = url.parse().ok();
    let invalid = |why: String| vec![FieldError::invalid(path, url, why)];
    match parsed {
        Some(uri) if uri.scheme_str() != Some("https") => {
            invalid(format!("'https' is the only allowed URL scheme; {form}"))
        }
        Some(uri) if uri.host().is_none_or(str::is_empty) => {
            invalid(format!("host must be specified; {form}"))
        }
        Some(uri) if uri.authority().is_some_and(|a| a.as_str().contains('@')) => {
            invalid("user information is not permitted in the URL".into())
        }
        Some(uri) if uri.query().is_some() => invalid("query parameters are not permitted in the URL".into()),
        Some(_) => Vec::new(),
        None => vec![FieldError::required(
            path,
            format!("url must be a valid URL: invalid URI; {form}"),
        )],
    }
}

fn review_versions(versions: &[Value], path: &str) -> FieldErrors {
    if versions.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut seen = HashSet::new();
    let mut errors = Vec::new();
    for (i, version) in versions.iter().enumerate() {
        let version = version.as_str().unwrap_or_default();
        let at = format!("{path}[{i}]");
        if !seen.insert(version) {
            errors.push(FieldError::invalid(at, version, "duplicate version"));
            continue;
        }
        errors.extend(
            names::label_1035(version)
                .into_iter()
                .map(|m| FieldError::invalid(at.clone(), version, m)),
        );
    }
    if !seen.contains("v1") && !seen.contains("v1beta1") {
        let why = "must include at least one of v1, v1beta1";
        errors.push(FieldError::invalid(path, versions.to_vec(), why));
    }
    errors
}

/// Groups of the Kubernetes community say who approved their API.
fn approval(object: &Value, old: Option<&Value>) -> Option<FieldError> {
    let group = object.text("spec.group");
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group == *domain || group.ends_with(&format!(".{domain}")));
    let said = |object: &Value| {
        object["metadata"]["annotations"][APPROVAL]
            .as_str()
            .map(str::to_owned)
    };
    let (now, before) = (said(object), old.map(said));
    if !protected || before.is_some_and(|before| before == now) {
        return None;
    }
    let path = format!("metadata.annotations[{APPROVAL}]");
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    match now.as_deref().unwrap_or_default() {
        "" => Some(FieldError::required(
            path,
            format!("protected groups must have approval annotation {APPROVAL:?}, {see}"),
        )),
        text if text.starts_with("unapproved") => None,
        text => match text.parse::<http::Uri>() {
            Ok(uri) if uri.scheme().is_some() && uri.host().is_some() => None,
            _ => Some(FieldError::invalid(
                path,
                text,
                format!(
                    "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason \
                     starting with \"unapproved\", {see}"
                ),
            )),
        },
    }
}

fn preserve(object: &Value) -> Option<FieldError> {
    let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
    object
        .flag("spec.preserveUnknownFields")
        .then(|| FieldError::invalid("spec.preserveUnknownFields", true, why))
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
