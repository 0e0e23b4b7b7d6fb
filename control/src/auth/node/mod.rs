//! The Node authorizer: a node reads what its own Pods need, and writes what its agent has to (upstream's
//! `plugin/pkg/auth/authorizer/node`, the reference "Using Node Authorization").
//!
//! What one request cannot show (whose Pod a status is of) is left to NodeRestriction, which sees the objects.
mod related;

use super::attributes::{Attributes, Resource, What};
use super::defaults;
use super::identity::Identity;
use super::rbac::Rule;
use super::reader::Reader;
use related::Relation;
pub use related::{References, VolumeSecrets};
use std::sync::Arc;

/// Where nodes renew their leases.
pub const LEASES: &str = "kube-node-lease";

/// The rules for nodes, and sight of what runs where.
pub struct NodeAuthorizer {
    reader: Arc<dyn Reader>,
    rules: Vec<Rule>,
}

/// Why a node may not; empty when there is nothing to say beyond that.
type Opinion = Result<(), String>;

fn no(why: impl Into<String>) -> Opinion {
    Err(why.into())
}

impl NodeAuthorizer {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        NodeAuthorizer {
            reader,
            rules: defaults::node_rules(),
        }
    }

    /// `Ok` when the user is a node that may do this.
    pub fn authorize(&self, who: &Identity, what: &Attributes<'_>) -> Opinion {
        let Some(node) = who.node() else { return no("") };
        match &what.what {
            What::Resource(resource) => self.resource(node, what, resource),
            What::Path(_) => self.by_rule(what),
        }
    }

    fn resource(&self, node: &str, what: &Attributes<'_>, resource: &Resource<'_>) -> Opinion {
        let verb = what.verb;
        match (resource.group, resource.resource) {
            ("", "secrets") => self.read(node, verb, resource, Relation::Secret),
            ("", "configmaps") => self.read(node, verb, resource, Relation::ConfigMap),
            ("", "persistentvolumeclaims") if resource.subresource == Some("status") => match verb {
                "update" | "patch" => self.related(node, resource, Relation::Claim),
                _ => no("can only get/update/patch this type"),
            },
            ("", "persistentvolumeclaims") => self.get(node, verb, resource, Relation::Claim),
            ("", "persistentvolumes") => self.get(node, verb, resource, Relation::Volume),
            ("resource.k8s.io", "resourceclaims") => self.get(node, verb, resource, Relation::ResourceClaim),
            ("", "serviceaccounts") => self.service_account(node, verb, resource),
            ("coordination.k8s.io", "leases") => lease(node, verb, resource),
            ("storage.k8s.io", "csinodes") => csi_node(node, verb, resource),
            ("", "nodes") => node_object(node, verb, resource),
            ("", "pods") => self.pod(node, verb, resource),
            ("storage.k8s.io", "volumeattachments") => self.get(node, verb, resource, Relation::Attachment),
            ("resource.k8s.io", "resourceslices") => self.slice(node, verb, resource),
            ("certificates.k8s.io", "podcertificaterequests") => no(""),
            _ => self.by_rule(what),
        }
    }

    fn by_rule(&self, what: &Attributes<'_>) -> Opinion {
        match self.rules.iter().any(|rule| rule.allows(what)) {
            true => Ok(()),
            false => no(""),
        }
    }

    /// Reading of one object, also by a list or a watch of that name.
    fn read(&self, node: &str, verb: &str, resource: &Resource<'_>, relation: Relation) -> Opinion {
        if !matches!(verb, "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if resource.subresource.is_some() {
            return no("cannot read subresource");
        }
        if resource.namespace.is_none() {
            return no("can only read namespaced object of this type");
        }
        self.related(node, resource, relation)
    }

    fn get(&self, node: &str, verb: &str, resource: &Resource<'_>, relation: Relation) -> Opinion {
        if verb != "get" {
            return no("can only get individual resources of this type");
        }
        if resource.subresource.is_some() {
            return no("cannot get subresource");
        }
        self.related(node, resource, relation)
    }

    fn related(&self, node: &str, resource: &Resource<'_>, relation: Relation) -> Opinion {
        let Some(name) = resource.name.filter(|name| !name.is_empty()) else {
            return no("No Object name found");
        };
        let namespace = resource.namespace.unwrap_or_default();
        match related::exists(self.reader.as_ref(), node, relation, namespace, name) {
            true => Ok(()),
            false => no(unrelated(node)),
        }
    }

    fn service_account(&self, node: &str, verb: &str, resource: &Resource<'_>) -> Opinion {
        if verb == "get" && resource.subresource.is_none() {
            return self.read(node, verb, resource, Relation::ServiceAccount);
        }
        if verb != "create" || resource.name.is_none_or(str::is_empty) {
            return no("can only create tokens for individual service accounts");
        }
        if resource.subresource != Some("token") {
            return no("can only create token subresource of serviceaccount");
        }
        self.related(node, resource, Relation::ServiceAccount)
    }

    /// What devices a node has: whose a new slice is, NodeRestriction sees.
    fn slice(&self, node: &str, verb: &str, resource: &Resource<'_>) -> Opinion {
        match verb {
            _ if resource.subresource.is_some() => no("cannot authorize ResourceSlice subresources"),
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(node, resource, Relation::Slice),
            "watch" | "list" | "deletecollection" if resource.on_node == Some(node) => Ok(()),
            "watch" | "list" | "deletecollection" => {
                no("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
                 delete, deletecollection",
            ),
        }
    }

    fn pod(&self, node: &str, verb: &str, resource: &Resource<'_>) -> Opinion {
        match (resource.subresource, verb) {
            (None, "get") => self.get(node, verb, resource, Relation::Pod),
            (None, "list" | "watch") if resource.on_node == Some(node) => Ok(()),
            (None, "list" | "watch") if resource.name.is_some() => {
                self.related(node, resource, Relation::Pod)
            }
            (None, "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
            (None, "create" | "delete")
            | (Some("status"), "update" | "patch")
            | (Some("eviction"), "create") => Ok(()),
            _ => no(""),
        }
    }
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

fn node_object(node: &str, verb: &str, resource: &Resource<'_>) -> Opinion {
    match (resource.subresource, verb) {
        (None, "create" | "update" | "patch") | (Some("status"), "update" | "patch") => Ok(()),
        (None, "get" | "list" | "watch") => match resource.name.unwrap_or_default() {
            name if name == node => Ok(()),
            "" => no(format!(
                "node '{node}' cannot read all nodes, only its own Node object"
            )),
            other => no(format!(
                "node '{node}' cannot read '{other}', only its own Node object"
            )),
        },
        _ => no(""),
    }
}

fn lease(node: &str, verb: &str, resource: &Resource<'_>) -> Opinion {
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if resource.namespace != Some(LEASES) {
        return no(format!(
            "can only access leases in the {LEASES:?} system namespace"
        ));
    }
    // The name of a new lease is not in the path; NodeRestriction sees it.
    if verb != "create" && resource.name != Some(node) {
        return no("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn csi_node(node: &str, verb: &str, resource: &Resource<'_>) -> Opinion {
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if resource.subresource.is_some() {
        return no("cannot authorize CSINode subresources");
    }
    if verb != "create" && resource.name != Some(node) {
        return no("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::identity::NODES;
    use crate::auth::reader::{GroupResource, Stored};
    use serde_json::{Value, json};

    /// One Pod, `p` in `n`, on node `a`, with a claim that a volume is bound to.
    struct OnePod;

    impl Reader for OnePod {
        fn changed(&self, _: GroupResource) -> u64 {
            0
        }

        fn list(&self, _: GroupResource) -> Vec<Stored> {
            Vec::new()
        }

        fn get(&self, resource: GroupResource, namespace: Option<&str>, name: &str) -> Option<Value> {
            match (resource, name) {
                (("", "persistentvolumes"), "vol") => Some(bound_volume()),
                (("", "pods"), "p") if namespace == Some("n") => Some(json!({"spec": {"nodeName": "a"}})),
                (("storage.k8s.io", "volumeattachments"), "csi-1")
                | (("resource.k8s.io", "resourceslices"), "gpus") => Some(json!({"spec": {"nodeName": "a"}})),
                _ => None,
            }
        }

        fn volume_secrets(&self) -> Vec<Arc<VolumeSecrets>> {
            vec![Arc::new(VolumeSecrets::of(&bound_volume()))]
        }

        fn references_on(&self, node: &str, namespace: &str) -> Vec<Arc<References>> {
            let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "robot",
                "imagePullSecrets": [{"name": "pull"}],
                "volumes": [{"name": "s", "secret": {"secretName": "vols"}}, {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
                    {"name": "p", "projected": {"sources": [{"configMap": {"name": "projected"}}]}}],
                "containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}],
                    "envFrom": [{"configMapRef": {"name": "from"}}]}]}});
            if (node, namespace) == ("a", "n") {
                vec![Arc::new(References::of(&pod))]
            } else {
                Vec::new()
            }
        }
    }

    fn bound_volume() -> Value {
        json!({"spec": {"claimRef": {"namespace": "n", "name": "claim"},
            "csi": {"nodeStageSecretRef": {"namespace": "drivers", "name": "stage"},
                "controllerPublishSecretRef": {"namespace": "drivers", "name": "controller"}}}})
    }

    fn may(node: &str, verb: &str, path: &str) -> bool {
        let parts: Vec<&str> = path.split(' ').collect();
        let some = |text: &'static str| (!text.is_empty()).then_some(text);
        let leaked: Vec<&'static str> = parts
            .iter()
            .map(|p| &*Box::leak(p.to_string().into_boxed_str()))
            .collect();
        let (resource, subresource) = leaked[1]
            .split_once('/')
            .map_or((leaked[1], None), |(r, s)| (r, Some(s)));
        let resource = Resource {
            group: if leaked[0] == "core" { "" } else { leaked[0] },
            resource,
            subresource,
            namespace: some(leaked[2]),
            name: leaked.get(3).copied().and_then(some),
            on_node: leaked.get(4).copied(),
        };
        let who = Identity::new(&format!("system:node:{node}"), [NODES.to_owned()]);
        NodeAuthorizer::new(Arc::new(OnePod))
            .authorize(&who, &Attributes::resource(verb, resource))
            .is_ok()
    }

    #[test]
    fn what_its_pods_refer_to() {
        for (name, resource) in [
            ("pull", "secrets"),
            ("vols", "secrets"),
            ("env", "secrets"),
            ("projected", "configmaps"),
            ("from", "configmaps"),
            ("claim", "persistentvolumeclaims"),
            ("p", "pods"),
        ] {
            assert!(may("a", "get", &format!("core {resource} n {name}")), "{name}");
            assert!(!may("b", "get", &format!("core {resource} n {name}")), "{name}");
            assert!(!may("a", "get", &format!("core {resource} m {name}")), "{name}");
        }
        assert!(may("a", "watch", "core secrets n env"));
        assert!(!may("a", "list", "core secrets n"));
        assert!(!may("a", "update", "core secrets n env"));
        assert!(may("a", "get", "core persistentvolumes  vol"));
        assert!(may("a", "get", "core secrets drivers stage"));
        assert!(!may("b", "get", "core secrets drivers stage"));
        assert!(!may("a", "get", "core secrets n stage"));
        assert!(!may("a", "get", "core secrets drivers controller"));
        let attachment = "storage.k8s.io volumeattachments  csi-1";
        assert!(may("a", "get", attachment));
        assert!(!may("b", "get", attachment));
        assert!(!may("a", "watch", attachment));
        assert!(!may("a", "get", "storage.k8s.io volumeattachments  csi-2"));
        for verb in ["get", "update", "patch", "delete"] {
            assert!(may("a", verb, "resource.k8s.io resourceslices  gpus"));
            assert!(!may("b", verb, "resource.k8s.io resourceslices  gpus"));
        }
        for verb in ["list", "watch", "deletecollection"] {
            assert!(may("a", verb, "resource.k8s.io resourceslices   a"));
            assert!(!may("a", verb, "resource.k8s.io resourceslices "));
        }
        assert!(may("a", "create", "resource.k8s.io resourceslices "));
        assert!(may("a", "create", "core serviceaccounts/token n robot"));
        assert!(!may("b", "create", "core serviceaccounts/token n robot"));
        assert!(!may("a", "create", "core serviceaccounts/token n other"));
    }

    #[test]
    fn itself_and_its_pods() {
        assert!(may("a", "list", "core pods   a"));
        assert!(!may("a", "list", "core pods   b"));
        assert!(!may("a", "list", "core pods n"));
        assert!(may("a", "get", "core nodes  a"));
        assert!(!may("a", "get", "core nodes  b"));
        assert!(may("a", "update", "coordination.k8s.io leases kube-node-lease a"));
        assert!(!may(
            "a",
            "update",
            "coordination.k8s.io leases kube-node-lease b"
        ));
        assert!(!may("a", "create", "coordination.k8s.io leases n a"));
        assert!(may("a", "create", "core events n"));
        assert!(!may("a", "create", "core configmaps n"));
    }
}
