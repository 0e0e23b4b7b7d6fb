//! What a user may do, by the few fixed rules that there are before RBAC: superusers do everything, a node does what
//! its agent needs, nobody else does anything.
//!
//! The node's rules are upstream's Node authorizer and NodeRestriction as far as one request shows them: reading is
//! by resource; writing is to the node's own Node, Lease, Pods' status, and Events.
use super::identity::{Identity, MASTERS};

/// What a request asks for, as upstream's authorizers see it.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: Option<&'a str>,
    pub namespace: Option<&'a str>,
    pub name: Option<&'a str>,
}

/// Why a request is refused, in upstream's words (without the `x is forbidden: ` in front).
#[derive(Debug, PartialEq, Eq)]
pub struct Denied(pub String);

/// Decides. Pure.
pub fn authorize(who: &Identity, what: &Attributes<'_>) -> Result<(), Denied> {
    let allowed = who.is_in(MASTERS) || who.node().is_some_and(|node| node_may(node, what));
    if allowed {
        Ok(())
    } else {
        Err(Denied(refusal(who, what)))
    }
}

/// Verbs that change nothing.
const READ: [&str; 3] = ["get", "list", "watch"];

fn node_may(node: &str, what: &Attributes<'_>) -> bool {
    let own = what.name == Some(node);
    match (what.group, what.resource, what.subresource) {
        ("", "pods" | "services" | "endpoints" | "nodes" | "namespaces", None)
            if READ.contains(&what.verb) =>
        {
            true
        }
        ("", "configmaps" | "secrets" | "serviceaccounts", None) => READ.contains(&what.verb),
        ("discovery.k8s.io", "endpointslices", None) => READ.contains(&what.verb),
        ("node.k8s.io", "runtimeclasses", None) => READ.contains(&what.verb),
        ("", "nodes", None) if what.verb == "create" => true,
        ("", "nodes", None | Some("status")) => own && matches!(what.verb, "get" | "update" | "patch"),
        ("", "pods", Some("status")) => matches!(what.verb, "get" | "update" | "patch"),
        ("", "pods", None) => what.verb == "delete",
        ("" | "events.k8s.io", "events", None) => matches!(what.verb, "create" | "update" | "patch"),
        ("coordination.k8s.io", "leases", None) => node_may_lease(node, what),
        _ => false,
    }
}

fn node_may_lease(node: &str, what: &Attributes<'_>) -> bool {
    what.namespace == Some("kube-node-lease") && (what.name == Some(node) || what.verb == "create")
}

fn refusal(who: &Identity, what: &Attributes<'_>) -> String {
    let resource = match what.subresource {
        Some(subresource) => format!("{}/{subresource}", what.resource),
        None => what.resource.to_owned(),
    };
    let place = match what.namespace {
        Some(namespace) => format!("in the namespace {namespace:?}"),
        None => "at the cluster scope".to_owned(),
    };
    format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
        who.user, what.verb, what.group
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::identity::NODES;

    fn may(user: &str, group: &str, what: (&str, &str, Option<&str>, Option<&str>, Option<&str>)) -> bool {
        let (verb, resource, subresource, namespace, name) = what;
        let group_of = if resource == "leases" {
            "coordination.k8s.io"
        } else {
            ""
        };
        let what = Attributes {
            verb,
            group: group_of,
            resource,
            subresource,
            namespace,
            name,
        };
        authorize(&Identity::new(user, [group.to_owned()]), &what).is_ok()
    }

    #[test]
    fn table() {
        let node = |what| may("system:node:a", NODES, what);
        assert!(may("root", MASTERS, ("delete", "nodes", None, None, Some("a"))));
        assert!(!may(
            "bob",
            "people",
            ("get", "pods", None, Some("default"), Some("p"))
        ));
        assert!(node(("list", "pods", None, None, None)));
        assert!(node(("patch", "nodes", Some("status"), None, Some("a"))));
        assert!(!node(("patch", "nodes", Some("status"), None, Some("b"))));
        assert!(node((
            "update",
            "leases",
            None,
            Some("kube-node-lease"),
            Some("a")
        )));
        assert!(!node((
            "update",
            "leases",
            None,
            Some("kube-node-lease"),
            Some("b")
        )));
        assert!(!node(("create", "pods", None, Some("default"), None)));
        assert!(!node(("create", "secrets", None, Some("default"), None)));
    }

    #[test]
    fn a_refusal_reads_as_upstreams() {
        let bob = Identity::new("bob", []);
        let what = Attributes {
            verb: "list",
            group: "",
            resource: "pods",
            subresource: None,
            namespace: Some("x"),
            name: None,
        };
        let Err(Denied(text)) = authorize(&bob, &what) else {
            panic!("allowed")
        };
        assert_eq!(
            text,
            "User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"x\""
        );
    }
}
