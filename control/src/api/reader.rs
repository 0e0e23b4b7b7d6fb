//! The watch cache as authentication and authorization see it.
use super::CachedObjects;
use super::cache::Resource;
use super::object::Object;
use crate::auth::{GroupResource, Reader, References, Stored, VolumeSecrets};
use crate::kinds::{Kind, Registry};
use serde_json::Value;
use std::sync::Arc;

impl CachedObjects {
    fn kind_of(&self, (group, plural): GroupResource) -> Option<&Arc<Kind>> {
        Registry::builtin().resource(group, "v1", plural)
    }

    fn all(&self, resource: GroupResource) -> Option<(&Arc<Kind>, Arc<Resource>)> {
        let kind = self.kind_of(resource)?;
        Some((kind, self.cache.resource(kind).ok()?))
    }
}

impl Reader for CachedObjects {
    fn changed(&self, resource: GroupResource) -> u64 {
        self.all(resource).map_or(0, |(_, cached)| cached.changed())
    }

    fn list(&self, resource: GroupResource) -> Vec<Stored> {
        let Some((kind, cached)) = self.all(resource) else {
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
        let (kind, cached) = self.all(resource)?;
        let object = cached.get(&kind.key(namespace, name))?;
        object.value().ok()
    }

    fn references_on(&self, node: &str, namespace: &str) -> Vec<Arc<References>> {
        let Some((kind, cached)) = self.all(("", "pods")) else {
            return Vec::new();
        };
        let pods = cached.indexed(&format!("{}/{namespace}/", kind.storage_prefix), node);
        let of = |pod: &Arc<Object>| pod.made(|pod| References::of(&pod));
        pods.iter().filter_map(of).collect()
    }

    fn volume_secrets(&self) -> Vec<Arc<VolumeSecrets>> {
        let Some((kind, cached)) = self.all(("", "persistentvolumes")) else {
            return Vec::new();
        };
        let (volumes, _) = cached.list(&format!("{}/", kind.storage_prefix), None);
        let of = |volume: &Arc<Object>| volume.made(|volume| VolumeSecrets::of(&volume));
        volumes.iter().filter_map(of).collect()
    }
}
