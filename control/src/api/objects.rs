//! What admission and authorization read: the watch cache.
use super::cache::Cache;
use super::object::Object;
use super::render;
use crate::admission::{Objects, ResourceName};
use crate::kinds::{Kind, Live, Registry};
use serde_json::Value;
use std::sync::Arc;

/// What nearly every write asks about: few objects, which are parsed once.
const ASKED_ABOUT: [&str; 6] = [
    "apiservices",
    "limitranges",
    "namespaces",
    "priorityclasses",
    "runtimeclasses",
    "serviceaccounts",
];

/// Objects of the watch cache.
pub struct CachedObjects {
    pub cache: Arc<Cache>,
    pub kinds: Arc<Live>,
}

impl CachedObjects {
    /// The named object, or all of a namespace or of the cluster, read by `read`; none of a kind that is
    /// not served.
    fn found(
        &self,
        resource: ResourceName<'_>,
        namespace: Option<&str>,
        name: Option<&str>,
        read: impl Fn(&Kind, &Object) -> Option<Arc<Value>>,
    ) -> Vec<Arc<Value>> {
        let kinds = self.kinds.load();
        let Some(kind) = kinds.resource(resource.0, resource.1, resource.2) else {
            return Vec::new();
        };
        let Ok(all) = self.cache.resource(kind) else {
            return Vec::new();
        };
        let objects = match (name, namespace) {
            (Some(name), _) => all.get(&kind.key(namespace, name)).into_iter().collect(),
            (None, Some(namespace)) => all.list(&format!("{}/{namespace}/", kind.storage_prefix), None).0,
            (None, None) => all.list(&format!("{}/", kind.storage_prefix), None).0,
        };
        objects.iter().filter_map(|object| read(kind, object)).collect()
    }
}

impl Objects for CachedObjects {
    fn get(&self, resource: ResourceName<'_>, namespace: Option<&str>, name: &str) -> Option<Arc<Value>> {
        self.found(resource, namespace, Some(name), shown).pop()
    }

    fn list(&self, resource: ResourceName<'_>, namespace: Option<&str>) -> Vec<Arc<Value>> {
        self.found(resource, namespace, None, shown)
    }

    fn stored(
        &self,
        resource: ResourceName<'_>,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Vec<Arc<Value>> {
        self.found(resource, namespace, name, |_, object| {
            object.value().ok().map(Arc::new)
        })
    }

    fn any(&self, (group, version, plural): ResourceName<'_>) -> bool {
        let kinds = self.kinds.load();
        let all = kinds
            .resource(group, version, plural)
            .and_then(|kind| self.cache.resource(kind).ok());
        all.is_some_and(|all| !all.is_empty())
    }

    fn kinds(&self) -> Arc<Registry> {
        self.kinds.load()
    }
}

/// The object as `kind` shows it; what waits for a converter cannot be read here.
fn shown(kind: &Kind, object: &Object) -> Option<Arc<Value>> {
    if kind.custom.is_none() && kind.stored_as_served() && ASKED_ABOUT.contains(&kind.plural.as_str()) {
        return object.made(|value| value);
    }
    let value = object.value().ok()?;
    match kind.stored_as_served() {
        true => Some(Arc::new(value)),
        false if kind.converter().is_some() && value["apiVersion"] != *kind.api_version() => None,
        false => render::value(kind, object).ok().map(Arc::new),
    }
}
