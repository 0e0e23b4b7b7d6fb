//! What authentication and authorization read of the cluster. The one way they see objects; refuses to know stores.
use super::node::{References, VolumeSecrets};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;

/// A group and a plural.
pub type GroupResource = (&'static str, &'static str);

/// An object as it is served.
pub struct Stored {
    pub key: Arc<str>,
    pub revision: u64,
    pub json: Bytes,
}

/// Objects as they are now.
pub trait Reader: Send + Sync {
    /// A number that grows with every change of a resource.
    fn changed(&self, resource: GroupResource) -> u64;

    /// All objects of a resource, in the order of their keys.
    fn list(&self, resource: GroupResource) -> Vec<Stored>;

    /// One object.
    fn get(&self, resource: GroupResource, namespace: Option<&str>, name: &str) -> Option<Value>;

    /// What the Pods of a namespace refer to that are bound to a node.
    fn references_on(&self, node: &str, namespace: &str) -> Vec<Arc<References>>;

    /// The claims and secrets of all PersistentVolumes.
    fn volume_secrets(&self) -> Vec<Arc<VolumeSecrets>>;
}
