//! The watch cache as authentication and authorization see it.
use super::texts::Lookup;
use super::{CachedObjects, object};
use crate::auth::{GroupResource, Reader, Stored};
use crate::kinds::{Kind, Registry};
use serde_json::Value;
use std::sync::Arc;

impl CachedObjects {
    fn kind_of(&self, (group, plural): GroupResource) -> Option<&Arc<Kind>> {
        Registry::builtin().resource(group, "v1", plural)
    }
}

impl Reader for CachedObjects {
    fn changed(&self, resource: GroupResource) -> u64 {
        let kind = self.kind_of(resource);
        let cached = kind.and_then(|kind| self.cache.resource(kind).ok());
        cached.map_or(0, |cached| cached.changed())
    }

    fn list(&self, resource: GroupResource) -> Vec<Stored> {
        let Some(kind) = self.kind_of(resource) else {
            return Vec::new();
        };
        let Ok(cached) = self.cache.resource(kind) else {
            return Vec::new();
        };
        let (objects, _) = cached.list(&format!("{}/", kind.storage_prefix), None);
        objects
            .into_iter()
            .map(|object| Stored {
                key: object.key.clone(),
                revision: object.revision,
                json: object.json(),
            })
            .collect()
    }

    fn get(&self, resource: GroupResource, namespace: Option<&str>, name: &str) -> Option<Value> {
        let kind = self.kind_of(resource)?;
        let object = self.cache.resource(kind).ok()?.get(&kind.key(namespace, name))?;
        object.value().ok()
    }

    fn pods_on(&self, node: &str, namespace: &str) -> Vec<Value> {
        let Some(kind) = self.kind_of(("", "pods")) else {
            return Vec::new();
        };
        let Ok(cached) = self.cache.resource(kind) else {
            return Vec::new();
        };
        let (pods, _) = cached.list(&format!("{}/{namespace}/", kind.storage_prefix), None);
        let here = |pod: &Arc<object::Object>| pod.fields.find("spec.nodeName") == Some(node);
        pods.iter()
            .filter(|pod| here(pod))
            .filter_map(|pod| pod.value().ok())
            .collect()
    }
}
