//! The IPAddress object of a Service's address (KEP-1880): what it says, and how it lies in the store.
//!
//! It is what a Service claims: its key says that the address is taken, whoever made it. Refuses to know how addresses
//! are chosen.
use crate::api::{encode_owned, random_id};
use crate::kinds::managed::{self, Writer};
use crate::kinds::view::View;
use crate::kinds::{Registry, mark_deleted, time};
use bytes::Bytes;
use serde_json::{Value, json};
use std::net::IpAddr;

/// What the keys of IPAddresses begin with; the address follows.
pub const KEYS: &str = "/registry/ipaddresses/";
/// Label: the family of the address.
pub const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
/// Label: who keeps the object.
pub const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// The keeper of Services' addresses.
pub const ALLOCATOR: &str = "ipallocator.k8s.io";
/// What an address of a Service refers to.
pub const PARENT: &str = "services";

const GROUP: &str = "networking.k8s.io";
/// Whose the fields of the object are: upstream its API server makes it.
const WRITER: &str = "kube-apiserver";

pub(super) fn key(ip: IpAddr) -> String {
    format!("{KEYS}{ip}")
}

/// As Services and labels name it.
pub fn family(ip: IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// The object for the address of this Service, as a client would send it.
pub fn object(ip: IpAddr, namespace: &str, service: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "IPAddress",
        "metadata": {"name": ip.to_string(), "labels": {FAMILY: family(ip), MANAGED_BY: ALLOCATOR}},
        "spec": {"parentRef": {"resource": PARENT, "namespace": namespace, "name": service}},
    })
}

/// The same as it is stored when it is new, with what every object has.
pub fn stored(ip: IpAddr, namespace: &str, service: &str) -> Bytes {
    let mut object = object(ip, namespace, service);
    let now = time::now();
    object["metadata"]["uid"] = random_id().into();
    object["metadata"]["creationTimestamp"] = now.as_str().into();
    let writer = Writer {
        name: WRITER,
        subresource: "",
        now: &now,
    };
    let kind = Registry::builtin().resource(GROUP, "v1", "ipaddresses");
    let owners = kind.and_then(|kind| {
        kind.prepare_create(&mut object);
        managed::first(kind, writer, &mut object)
    });
    encode_owned(&object, owners.as_deref())
}

/// What becomes of an object whose Service lets go of the address.
#[derive(Debug, PartialEq)]
pub(super) enum Left {
    Nothing,
    /// Finalizers hold it, and with it the address.
    Marked(Bytes),
    /// The same, and it is marked already.
    Same,
}

impl Left {
    /// Of the object as it is stored.
    pub fn of(stored: &[u8]) -> serde_json::Result<Left> {
        let mut object: Value = serde_json::from_slice(stored)?;
        if object.list("metadata.finalizers").is_empty() {
            return Ok(Left::Nothing);
        }
        if object.has("metadata.deletionTimestamp") {
            return Ok(Left::Same);
        }
        mark_deleted(&mut object, &time::now(), 0);
        Ok(Left::Marked(encode_owned(&object, None)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_stored_as_if_it_had_been_created() {
        let bytes = stored("fd00::1".parse().unwrap(), "n", "s");
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        let meta = &value["metadata"];
        assert_eq!(
            (&meta["name"], &meta["labels"]),
            (
                &json!("fd00::1"),
                &json!({FAMILY: "IPv6", MANAGED_BY: "ipallocator.k8s.io"})
            )
        );
        assert_eq!(
            value["spec"]["parentRef"],
            json!({"resource": "services", "namespace": "n", "name": "s"})
        );
        assert!(meta["uid"].as_str().is_some_and(|uid| uid.len() == 36));
        assert!(meta["creationTimestamp"].is_string());
        let owner = &meta["managedFields"][0];
        assert_eq!(
            (&owner["manager"], &owner["operation"]),
            (&json!("kube-apiserver"), &json!("Update"))
        );
        let parent = &owner["fieldsV1"]["f:spec"]["f:parentRef"];
        assert_eq!(
            *parent,
            json!({".": {}, "f:name": {}, "f:namespace": {}, "f:resource": {}})
        );
        let kind = Registry::builtin().resource(GROUP, "v1", "ipaddresses").unwrap();
        assert_eq!(kind.validate_create(&value), []);
    }
}
