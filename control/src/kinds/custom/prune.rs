//! Pruning: members that a structural schema does not specify are dropped, and told.
use serde_json::{Map, Value};

use super::lists::below;
use super::schema::{Additional, Structural};
use super::{OBJECT_META, TYPE_AND_META};
use crate::kinds::decode;
use crate::kinds::error::{FieldError, FieldIssue, Unknown};
use crate::kinds::schema::Schemas;

/// What pruning found.
pub(super) struct Pruned {
    pub(super) issues: Vec<FieldIssue>,
    /// The first embedded object that cannot be decoded; its metadata is left as it is.
    pub(super) misfit: Option<FieldError>,
}

/// Prunes a whole object; its own `apiVersion`, `kind` and `metadata` are left alone.
pub(super) fn prune(schema: &Structural, object: &mut Value) -> Pruned {
    let mut pruner = Pruner {
        path: String::new(),
        unknown: Unknown::default(),
        misfit: None,
    };
    pruner.value(Some(schema), object, true, false);
    Pruned {
        issues: pruner.unknown.into_issues(),
        misfit: pruner.misfit,
    }
}

struct Pruner {
    path: String,
    unknown: Unknown,
    misfit: Option<FieldError>,
}

impl Pruner {
    /// `root` is the object itself or an embedded one; `keep` spares what is not specified.
    fn value(&mut self, schema: Option<&Structural>, value: &mut Value, root: bool, keep: bool) {
        let keep = schema.map_or(keep, |s| s.preserve_unknown);
        let embedded = schema.is_some_and(|s| s.embedded);
        match value {
            Value::Object(map) => {
                if embedded {
                    self.embedded(map);
                }
                self.object(schema, map, root || embedded, keep);
            }
            Value::Array(items) => {
                let schema = schema.and_then(|s| s.items.as_deref());
                for (i, item) in items.iter_mut().enumerate() {
                    let length = self.path.len();
                    self.path.push_str(&format!("[{i}]"));
                    self.value(schema, item, false, keep);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, schema: Option<&Structural>, map: &mut Map<String, Value>, root: bool, keep: bool) {
        let keys: Vec<String> = map.keys().cloned().collect();
        for key in keys {
            if root && TYPE_AND_META.contains(&key.as_str()) {
                continue;
            }
            let length = self.enter(&key);
            let member = schema.and_then(|s| s.member(&key));
            let any = schema.is_some_and(|s| matches!(s.additional, Additional::Any));
            match (map.get_mut(&key), member) {
                (Some(value), Some(member)) => self.value(Some(member), value, false, false),
                (Some(value), None) if keep => self.value(None, value, false, true),
                (Some(_), None) if any => {}
                (Some(_), None) => {
                    self.unknown.note(&self.path);
                    map.remove(&key);
                }
                (None, _) => {}
            }
            self.path.truncate(length);
        }
    }

    fn enter(&mut self, key: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        length
    }

    /// What every object has is decoded in an embedded one, too (upstream's `Coerce`).
    fn embedded(&mut self, map: &mut Map<String, Value>) {
        for key in ["apiVersion", "kind"] {
            if let Some(other) = map.get(key).filter(|said| !said.is_string()) {
                self.misfit(key, other, "must be a string");
            }
        }
        let schemas = Schemas::builtin();
        let (Some(metadata), Some(definition)) = (map.get_mut("metadata"), schemas.get(OBJECT_META)) else {
            return;
        };
        if metadata.is_null() {
            *metadata = Value::Object(Map::new());
        }
        let mut decoded = metadata.clone();
        match decode::decode(schemas, definition, &mut decoded) {
            Ok(issues) => {
                *metadata = decoded;
                let path = below(&self.path, "metadata");
                for issue in issues {
                    if let FieldIssue::Unknown(at) = issue {
                        self.unknown.note(&below(&path, &at));
                    }
                }
            }
            Err(error) => self.misfit("metadata", metadata, &error.to_string()),
        }
    }

    fn misfit(&mut self, key: &str, found: &Value, why: &str) {
        let error = || FieldError::invalid(below(&self.path, key), found.clone(), why);
        self.misfit = self.misfit.take().or_else(|| Some(error()));
    }
}
