//! A kind: its names, scope, verbs and schema, and the pure functions the request pipeline calls on its objects.
//!
//! Owns the one surface behind which kinds differ. Refuses to know requests, stores, clocks and identities.
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::custom::{Converter, Custom, ScalePaths};
use super::error::{DecodeError, FieldErrors, FieldIssue};
use super::rules::Rules;
use super::schema::{Definition, Schemas};
use super::strategic::{self, PatchError};
use super::{app_armor, decode, gated, meta, table, warn, wire};

/// A served subresource and the kind its body has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// `status`, `scale`, `log`, …
    pub name: String,
    pub group: String,
    pub version: String,
    pub kind: String,
    pub verbs: Vec<String>,
}

/// A column of a `meta.k8s.io/v1` Table.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub ty: String,
    pub format: String,
    pub description: String,
    /// 0 is always shown; 1 only in wide output.
    pub priority: i32,
}

/// One row of the table of kinds. Strings are owned so that custom resources can join.
#[derive(Debug)]
pub struct Kind {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub list_kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub subresources: Vec<Subresource>,
    /// `/registry/pods`; a key is this, the namespace when there is one, and the name, joined by `/`.
    pub storage_prefix: String,
    pub columns: Vec<Column>,
    pub schemas: Arc<Schemas>,
    pub definition: Arc<Definition>,
    pub(super) rules: &'static Rules,
    /// What its CustomResourceDefinition says; none for built-in kinds.
    pub custom: Option<Arc<Custom>>,
}

impl Kind {
    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `deployments.apps`, or `pods` for the core group.
    pub fn group_resource(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// `Deployment.apps`, or `Pod` for the core group, as error messages name it.
    pub fn group_kind(&self) -> String {
        match self.group.as_str() {
            "" => self.kind.clone(),
            group => format!("{}.{group}", self.kind),
        }
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// The store's key of an object.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        match namespace {
            Some(namespace) if self.namespaced => format!("{}/{namespace}/{name}", self.storage_prefix),
            _ => format!("{}/{name}", self.storage_prefix),
        }
    }

    /// Decodes by the schema: drops what it does not know (each told as an issue) and nulls, puts quantities and
    /// times into their canonical form. Fails when a value has a type the field cannot hold.
    pub fn prune(&self, object: &mut Value) -> Result<Vec<FieldIssue>, DecodeError> {
        match &self.custom {
            Some(custom) => custom.prune(object),
            None => decode::decode(&self.schemas, &self.definition, object),
        }
    }

    /// The text of the 400 for a body that cannot be decoded.
    pub fn decode_message(&self, error: &str) -> String {
        format!(
            "{0} in version {1:?} cannot be handled as a {0}: {error}",
            self.kind, self.version
        )
    }

    /// Fills in what upstream's defaulting fills in. Idempotent. False when the defaults of a custom resource had not enough room, so
    /// that some are missing.
    pub fn default(&self, object: &mut Value) -> bool {
        match &self.custom {
            Some(custom) => custom.default(object),
            None => {
                (self.rules.default)(object);
                true
            }
        }
    }

    /// As [`Kind::default`], of what an apply made: upstream decodes no such object, so that nulls are left in it, which
    /// validation refuses.
    pub fn default_merged(&self, object: &mut Value) -> bool {
        match &self.custom {
            Some(custom) => custom.default_merged(object),
            None => self.default(object),
        }
    }

    /// Brings the object into the form it is stored and served in: zero values left out or written as upstream's
    /// encoder does, `apiVersion` and `kind` set. Call last before storing.
    pub fn normalise(&self, object: &mut Value) {
        match &self.custom {
            Some(custom) => custom.normalise(object),
            None => wire::normalise(&self.schemas, &self.definition, object),
        }
        self.write_type(object);
    }

    /// Writes down what the object is.
    fn write_type(&self, object: &mut Value) {
        if let Some(map) = object.as_object_mut() {
            map.insert("apiVersion".into(), self.api_version().into());
            map.insert("kind".into(), self.kind.clone().into());
        }
    }

    /// Drops what a creator may not set (status, deletion) and sets first values, a generation that counts among them.
    /// Name, uid, creation time and resource version are the caller's.
    pub fn prepare_create(&self, object: &mut Value) {
        meta::prepare_create(object);
        if let Some(custom) = &self.custom {
            return custom.prepare_create(object);
        }
        gated::drop_fields(self, object, &Value::Null);
        (self.rules.prepare_create)(object);
        if self.rules.generation {
            meta::set_generation(object, 1);
        }
    }

    /// Copies from `old` what this update may not touch, and bumps the generation when the desired state changed.
    /// `subresource` is `status`, `finalize`, … or none for the object itself.
    pub fn prepare_update(&self, subresource: Option<&str>, new: &mut Value, old: &Value) {
        match &self.custom {
            // Numbers are judged as they were written.
            Some(custom) => {
                custom.normalise_metadata(new);
                self.write_type(new);
            }
            None => self.normalise(new),
        }
        meta::prepare_update(new, old);
        if let Some(custom) = &self.custom {
            return custom.prepare_update(subresource, new, old);
        }
        gated::drop_fields(self, new, old);
        (self.rules.prepare_update)(subresource, new, old);
        // Binding fills in the node and asks nothing new of it; no more does an eviction.
        let desires = !matches!(subresource, Some("status" | "binding" | "eviction"));
        if self.rules.generation && desires && (self.rules.desired_changed)(new, old) {
            meta::set_generation(new, meta::generation(old) + 1);
        }
    }

    /// Everything wrong with a new object, in upstream's order.
    pub fn validate_create(&self, object: &Value) -> FieldErrors {
        if self.judges_metadata_last() {
            let errors = (self.rules.validate_create)(object);
            return match errors.is_empty() {
                true => meta::validate(object, self.namespaced, self.rules.name_rule),
                false => errors,
            };
        }
        let mut errors = meta::validate(object, self.namespaced, self.rules.name_rule);
        errors.extend(self.foreign_finalizers(object));
        match &self.custom {
            Some(custom) => errors.extend(custom.validate(object, None).0),
            None => {
                errors.extend((self.rules.validate_create)(object));
                errors.extend(gated::errors(self, object, &Value::Null));
            }
        }
        errors
    }

    fn foreign_finalizers(&self, object: &Value) -> FieldErrors {
        let apart = matches!(
            self.group.as_str(),
            "admissionregistration.k8s.io"
                | "apiextensions.k8s.io"
                | "apiregistration.k8s.io"
                | "coordination.k8s.io"
                | "node.k8s.io"
                | "policy"
        );
        match self.custom.is_some() || apart {
            true => Vec::new(),
            false => meta::foreign_finalizers(object),
        }
    }

    /// Everything wrong with an update. Call after [`Kind::prepare_update`].
    pub fn validate_update(&self, subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
        self.judge_update(subresource, new, old).0
    }

    /// As above, with what the writer is to be told of what was wrong already and is let be.
    pub fn judge_update(
        &self,
        subresource: Option<&str>,
        new: &Value,
        old: &Value,
    ) -> (FieldErrors, Vec<String>) {
        let mut errors = meta::validate_update(new, old);
        if self.judges_metadata_last() {
            errors.extend((self.rules.validate_update)(subresource, new, old));
            return (errors, Vec::new());
        }
        errors.extend(self.foreign_finalizers(new));
        if let Some(custom) = &self.custom {
            let (found, kept) = custom.validate(new, Some(old));
            errors.extend(found);
            return (errors, kept);
        }
        // Upstream checks metadata before and again with the kind: each complaint is listed twice in `causes`.
        errors.extend(errors.clone());
        errors.extend((self.rules.validate_update)(subresource, new, old));
        errors.extend(gated::errors(self, new, old));
        (errors, Vec::new())
    }

    /// Applies a strategic merge patch; prune, default and validate the result like any update.
    pub fn strategic_merge(&self, current: &Value, patch: &Value) -> Result<Value, PatchError> {
        strategic::merge(&self.schemas, &self.definition, current, patch)
    }

    /// The columns of this kind's Table, never empty.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Whether upstream makes the rows as of any kind, by a name and the time of creation.
    pub fn has_plain_rows(&self) -> bool {
        self.custom.is_none()
            && self
                .columns
                .get(1)
                .is_some_and(|column| column.name == "Created At")
    }

    /// The cells of one object, as many as there are columns.
    pub fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match &self.custom {
            Some(custom) => custom.row(self, object, now),
            None => table::row(self, object, now),
        }
    }

    /// Every field label a field selector may name, with this object's value.
    pub fn selectable_fields(&self, object: &Value) -> BTreeMap<String, String> {
        let mut fields = meta::selectable(object, self.namespaced);
        match &self.custom {
            Some(custom) => fields.extend(custom.selectable(object)),
            None => fields.extend((self.rules.selectable)(object)),
        }
        fields
    }

    /// Whether a field selector may name this label. Some may be named although no object has anything there, as upstream.
    pub fn supports_field_label(&self, label: &str) -> bool {
        let labels = self.selectable_fields(&Value::Null);
        labels.contains_key(label)
            || match label {
                "metadata.namespace" => self.custom.is_none() && !self.has_own_field_labels(),
                "status.podIPs" => labels.contains_key("status.podIP"),
                _ => false,
            }
    }

    /// Whether there are field labels beside those that all kinds have.
    pub fn has_own_field_labels(&self) -> bool {
        let labels = self.selectable_fields(&Value::Null);
        labels.keys().any(|label| !label.starts_with("metadata."))
    }

    /// Turns an object of this kind into the form it is stored in, when another version of it is stored.
    pub fn to_storage(&self, object: &mut Value) {
        (self.rules.to_storage)(object);
    }

    /// Group, version and kind that objects lie in the store as, joined by slashes; none for what is not stored.
    pub fn stored_as(&self) -> Option<String> {
        let version = match &self.custom {
            Some(custom) => format!("{}/{}", self.group, custom.storage_version),
            None => {
                let mut object = json!({"apiVersion": self.api_version(), "kind": self.kind});
                self.to_storage(&mut object);
                object["apiVersion"].as_str().unwrap_or_default().to_owned()
            }
        };
        let group = if version.contains('/') { "" } else { "/" };
        let stored = self.has_verb("create") && self.has_verb("get");
        stored.then(|| format!("{group}{version}/{}", self.kind))
    }

    /// Turns a stored object into this kind.
    pub fn from_storage(&self, object: &mut Value) {
        match &self.custom {
            Some(custom) => custom.fit(object),
            None => (self.rules.from_storage)(object),
        }
    }

    /// Brings an object as it lies in the store up to this kind, which is the one it would be stored as today. Whether
    /// anything had to be done.
    pub fn modernise(&self, object: &mut Value) -> bool {
        let Some(custom) = &self.custom else {
            return false;
        };
        // What only its converter can bring up to date stays as it is until somebody asks for it.
        if custom.converter.is_some() && object["apiVersion"] != *self.api_version() {
            return false;
        }
        let before = object.clone();
        custom.refresh(object);
        self.normalise(object);
        *object != before
    }

    /// Whether strategic merge patches are defined on this kind.
    pub fn merges_strategically(&self) -> bool {
        self.custom.is_none()
    }

    /// Where replicas are, when the kind has a Scale: a built-in kind's own places, or what a definition says.
    pub fn scale_paths(&self) -> Option<&ScalePaths> {
        self.custom.as_ref()?.scale.as_ref()
    }

    /// What clients of this version are to be told with every answer.
    pub fn warning(&self) -> Option<&str> {
        match &self.custom {
            Some(custom) => custom.warning.as_deref(),
            None => warn::deprecated(self),
        }
    }

    /// What the writer of a new object is to be told of what [`Kind::prepare_create`] is about to mend.
    pub fn warnings_of_sent(&self, new: &Value) -> Vec<String> {
        match self.group.is_empty() && self.plural == "pods" {
            true => app_armor::warnings(new),
            false => Vec::new(),
        }
    }

    /// What the writer of a valid object is to be told about it; `old` is what it replaces.
    pub fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        match &self.custom {
            Some(_) => Vec::new(),
            None => warn::of(self, new, old),
        }
    }

    /// Whether stored bytes are served as they are.
    pub fn stored_as_served(&self) -> bool {
        match &self.custom {
            Some(custom) => custom.is_storage && custom.converter.is_none(),
            None => self.rules.stored_as_served,
        }
    }

    /// Who turns objects of other versions into this kind, when it takes more than a new `apiVersion`.
    pub fn converter(&self) -> Option<&Converter> {
        self.custom.as_ref()?.converter.as_ref()
    }
}
