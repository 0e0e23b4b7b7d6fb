//! NodeRestriction: a node changes its own Node, Lease and Pods' status, and nothing of another's (upstream's
//! admission plugin of that name, whose words these are).
use super::{Operation, Refused, Write, forbidden};
use super::{audiences, certificates, labels};
use crate::auth::node::LEASES;
use crate::auth::{Authorizer, Reader};
use serde_json::Value;

const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) type Judgement = Result<(), Refused>;

pub(super) fn check(
    authorizer: &Authorizer,
    reader: &dyn Reader,
    node: &str,
    write: &Write<'_>,
) -> Judgement {
    match (write.group, write.resource, write.subresource) {
        ("", "pods", None) => pod(reader, node, write),
        ("", "pods", Some("status")) => pod_status(node, write),
        ("", "pods", Some("eviction")) => match write.old["spec"]["nodeName"] == node {
            true => Ok(()),
            false => forbidden(format!(
                "node {node} can only evict pods with spec.nodeName set to itself"
            )),
        },
        ("", "pods", Some(other)) => forbidden(format!(
            "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
        )),
        ("", "nodes", _) => node_object(node, write),
        ("", "persistentvolumeclaims", Some("status")) => claim_status(node, write),
        ("", "persistentvolumeclaims", _) => forbidden("may only update PVC status"),
        ("", "serviceaccounts", Some("token")) => token(authorizer, reader, node, write),
        ("coordination.k8s.io", "leases", _) => lease(node, write),
        ("storage.k8s.io", "csinodes", _) if name(write) != node => {
            forbidden("can only access CSINode with the same name as the requesting node")
        }
        ("resource.k8s.io", "resourceslices", _) => slice(node, write),
        (certificates::GROUP, "certificatesigningrequests", None) if write.operation == Operation::Create => {
            certificates::of_node(node, write.new)
        }
        _ => Ok(()),
    }
}

/// Of a new object its own, else that of the request.
fn name<'a>(write: &Write<'a>) -> &'a str {
    match write.operation {
        Operation::Create => write.new["metadata"]["name"].as_str().unwrap_or_default(),
        Operation::Update | Operation::Delete => write.name,
    }
}

fn pod(reader: &dyn Reader, node: &str, write: &Write<'_>) -> Judgement {
    match write.operation {
        Operation::Create => mirror_pod(reader, node, write.new),
        Operation::Delete if write.old["spec"]["nodeName"] == node => Ok(()),
        Operation::Delete => forbidden(format!(
            "node {node:?} can only delete pods with spec.nodeName set to itself"
        )),
        Operation::Update => forbidden(format!(
            "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
        )),
    }
}

fn mirror_pod(reader: &dyn Reader, node: &str, pod: &Value) -> Judgement {
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        return forbidden(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return forbidden(format!(
            "node {node:?} can only create pods with spec.nodeName set to itself"
        ));
    }
    mirror_owner(reader, node, &pod["metadata"]["ownerReferences"])?;
    match reference(&pod["spec"]) {
        None => Ok(()),
        Some(what) => forbidden(format!("node {node:?} can not create pods that reference {what}")),
    }
}

fn mirror_owner(reader: &dyn Reader, node: &str, owners: &Value) -> Judgement {
    let own = format!("node {node:?} can only create pods with an owner reference set to itself");
    let owner = match owners.as_array().map(Vec::as_slice) {
        Some([owner]) => owner,
        Some([_, _, ..]) => {
            return forbidden(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
        _ => return forbidden(own),
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return forbidden(own);
    }
    if owner["controller"] != true {
        return forbidden(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner["blockOwnerDeletion"] == true {
        return forbidden(format!(
            "node {node:?} must not set blockOwnerDeletion on an owner reference"
        ));
    }
    let Some(object) = reader.get(("", "nodes"), None, node) else {
        return Err(Refused::NotFound("nodes", node.to_owned()));
    };
    let (said, is) = (&owner["uid"], &object["metadata"]["uid"]);
    match said == is {
        true => Ok(()),
        false => forbidden(format!("node {node} UID mismatch: expected {said} got {is}")),
    }
}

/// Another API object that a Pod refers to; a mirror Pod has none.
fn reference(spec: &Value) -> Option<&'static str> {
    let filled = |value: &Value| value.as_array().is_some_and(|list| !list.is_empty());
    if spec["serviceAccountName"]
        .as_str()
        .is_some_and(|name| !name.is_empty())
    {
        return Some("serviceaccounts");
    }
    if filled(&spec["imagePullSecrets"]) {
        return Some("secrets");
    }
    if filled(&spec["resourceClaims"]) {
        return Some("resourceclaims");
    }
    let local = ["emptyDir", "hostPath", "downwardAPI", "image", "gitRepo"];
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let foreign = |volume: &Value| !local.iter().any(|kind| volume[*kind].is_object());
    if volumes.into_iter().any(foreign) {
        return Some("API objects in volumes");
    }
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let mut containers = lists
        .iter()
        .flat_map(|list| spec[*list].as_array().into_iter().flatten());
    let from_objects = |container: &Value| {
        let env = container["env"].as_array().into_iter().flatten();
        let by_key = |entry: &Value| {
            entry["valueFrom"]["secretKeyRef"].is_object()
                || entry["valueFrom"]["configMapKeyRef"].is_object()
        };
        filled(&container["envFrom"]) || env.into_iter().any(by_key)
    };
    containers
        .any(from_objects)
        .then_some("secrets or configmaps in the environment")
}

fn pod_status(node: &str, write: &Write<'_>) -> Judgement {
    let (old, new) = (write.old, write.new);
    if old["spec"]["nodeName"] != node {
        return forbidden(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if members(&old["metadata"]["labels"]) != members(&new["metadata"]["labels"]) {
        return forbidden(format!("node {node:?} cannot update labels through pod status"));
    }
    if old["status"]["resourceClaimStatuses"] != new["status"]["resourceClaimStatuses"] {
        return forbidden(format!("node {node:?} cannot update resource claim statues"));
    }
    Ok(())
}

/// A map, where none and an empty one are the same.
fn members(map: &Value) -> Option<&serde_json::Map<String, Value>> {
    map.as_object().filter(|map| !map.is_empty())
}

fn node_object(node: &str, write: &Write<'_>) -> Judgement {
    let requested = name(write);
    if requested != node {
        return forbidden(format!(
            "node {node:?} is not allowed to modify node {requested:?}"
        ));
    }
    match write.operation {
        Operation::Create => match labels::forbidden(write.new, &Value::Null) {
            None => Ok(()),
            Some(bad) => forbidden(format!(
                "node {node:?} is not allowed to set the following labels: {bad}"
            )),
        },
        Operation::Update => node_update(node, write.new, write.old),
        Operation::Delete => Ok(()),
    }
}

fn node_update(node: &str, new: &Value, old: &Value) -> Judgement {
    let list = |object: &Value, part: &str, key: &str| {
        let list = object[part][key].as_array().cloned();
        list.filter(|list| !list.is_empty())
    };
    if list(new, "spec", "taints") != list(old, "spec", "taints") {
        return forbidden(format!("node {node:?} is not allowed to modify taints"));
    }
    if list(new, "metadata", "ownerReferences") != list(old, "metadata", "ownerReferences") {
        return forbidden(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    match labels::forbidden(new, old) {
        None => Ok(()),
        Some(bad) => forbidden(format!("is not allowed to modify labels: {bad}")),
    }
}

/// Only how large a claim is and how it is doing.
fn claim_status(node: &str, write: &Write<'_>) -> Judgement {
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        for (part, keys) in [
            ("metadata", &["resourceVersion", "managedFields"][..]),
            (
                "status",
                &[
                    "capacity",
                    "conditions",
                    "allocatedResourceStatuses",
                    "allocatedResources",
                ],
            ),
        ] {
            if let Some(map) = claim[part].as_object_mut() {
                keys.iter().for_each(|key| drop(map.remove(*key)));
            }
        }
        claim
    };
    match rest(write.old) == rest(write.new) {
        true => Ok(()),
        false => forbidden(format!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
        )),
    }
}

fn lease(node: &str, write: &Write<'_>) -> Judgement {
    if write.namespace != Some(LEASES) {
        return forbidden(format!(
            "can only access leases in the {LEASES:?} system namespace"
        ));
    }
    match name(write) == node {
        true => Ok(()),
        false => forbidden("can only access node lease with the same name as the requesting node"),
    }
}

fn slice(node: &str, write: &Write<'_>) -> Judgement {
    match write.operation {
        Operation::Create if write.new["spec"]["nodeName"] != node => {
            forbidden("can only create ResourceSlice with the same NodeName as the requesting node")
        }
        Operation::Delete if write.old["spec"]["nodeName"] != node => {
            forbidden("can only delete ResourceSlice with the same NodeName as the requesting node")
        }
        _ => Ok(()),
    }
}

/// A token for a Pod that runs on the node, of an audience that the Pod's volumes ask for.
fn token(authorizer: &Authorizer, reader: &dyn Reader, node: &str, write: &Write<'_>) -> Judgement {
    let bound = &write.new["spec"]["boundObjectRef"];
    let text = |key: &str| bound[key].as_str().unwrap_or_default();
    if text("apiVersion") != "v1" || text("kind") != "Pod" || text("name").is_empty() {
        return forbidden("node requested token not bound to a pod");
    }
    let uid = text("uid");
    if uid.is_empty() {
        return forbidden("node requested token with a pod binding without a uid");
    }
    let Some(pod) = reader.get(("", "pods"), write.namespace, text("name")) else {
        return Err(Refused::NotFound("pods", text("name").to_owned()));
    };
    if pod["metadata"]["uid"] != uid {
        return forbidden(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return forbidden("node requested token bound to a pod scheduled on a different node");
    }
    audiences::check(authorizer, reader, write, &pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of<'a>(
        resource: (&'a str, &'a str, Option<&'a str>),
        objects: (&'a Value, &'a Value),
        who: &'a crate::auth::Identity,
    ) -> Write<'a> {
        let operation = match objects {
            (Value::Null, _) => Operation::Create,
            (_, Value::Null) => Operation::Delete,
            _ => Operation::Update,
        };
        Write {
            who,
            operation,
            group: resource.0,
            resource: resource.1,
            subresource: resource.2,
            namespace: None,
            name: "a",
            old: objects.0,
            new: objects.1,
        }
    }

    fn refused(judgement: Judgement) -> String {
        match judgement {
            Err(Refused::Forbidden(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_node_leaves_its_owners_and_taints_alone() {
        let who = crate::auth::Identity::new("system:node:a", []);
        let old = json!({"metadata": {"name": "a", "ownerReferences": []}});
        let owned = json!({"metadata": {"name": "a", "ownerReferences": [{"name": "x"}]}});
        let tainted = json!({"metadata": {"name": "a"}, "spec": {"taints": [{"key": "x"}]}});
        let nodes = ("", "nodes", None);
        assert_eq!(
            refused(node_object("a", &of(nodes, (&old, &owned), &who))),
            "node \"a\" is not allowed to modify ownerReferences"
        );
        assert_eq!(
            refused(node_object("a", &of(nodes, (&old, &tainted), &who))),
            "node \"a\" is not allowed to modify taints"
        );
        assert_eq!(
            node_object("a", &of(nodes, (&old, &json!({"metadata": {"name": "a"}})), &who)),
            Ok(())
        );
        assert_eq!(
            refused(node_object("b", &of(nodes, (&old, &old), &who))),
            "node \"b\" is not allowed to modify node \"a\""
        );
    }

    #[test]
    fn pods_of_others_are_out_of_reach() {
        let who = crate::auth::Identity::new("system:node:a", []);
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "b"}});
        let status = of(("", "pods", Some("status")), (&pod, &pod), &who);
        assert_eq!(
            refused(pod_status("a", &status)),
            "node \"a\" can only update pod status for pods with spec.nodeName set to itself"
        );
        assert_eq!(pod_status("b", &status), Ok(()));
        assert_eq!(
            reference(&json!({"volumes": [{"secret": {}}]})),
            Some("API objects in volumes")
        );
        assert_eq!(
            reference(&json!({"volumes": [{"hostPath": {}}], "containers": [{}]})),
            None
        );
    }
}
