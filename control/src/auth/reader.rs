//! What authentication and authorization read of the cluster. The one way they see objects; refuses to know stores.
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

    /// The Pods of a namespace that are bound to a node.
    fn pods_on(&self, node: &str, namespace: &str) -> Vec<Value>;
}
