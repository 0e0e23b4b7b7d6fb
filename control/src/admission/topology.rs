//! PodTopologyLabels: a Pod bears the zone and the region of its node, from its binding on or, when it is made on a node, from
//! its creation (KEP-4742).
use super::{Action, Objects, ResourceName, Review};
use crate::kinds::view::View;
use serde_json::Value;

const NODES: ResourceName<'_> = ("", "v1", "nodes");
const LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

/// A Pod that is made on a node.
pub(super) fn pod(objects: &dyn Objects, review: &Review<'_>, pod: &mut Value) {
    if matches!(review.action, Action::Create) {
        let node = pod.text("spec.nodeName").to_owned();
        copy(objects, &node, pod);
    }
}

/// A Binding, whose labels its Pod gets.
pub(super) fn binding(objects: &dyn Objects, review: &Review<'_>, binding: &mut Value) {
    if matches!(review.action, Action::Post { .. }) && binding.text("target.kind") == "Node" {
        let node = binding.text("target.name").to_owned();
        copy(objects, &node, binding);
    }
}

/// What the object says itself is no obstacle: where it runs is the node's to say. A node that is not known says nothing.
fn copy(objects: &dyn Objects, node: &str, object: &mut Value) {
    if node.is_empty() {
        return;
    }
    let node = objects.get(NODES, None, node).unwrap_or_default();
    let own = LABELS.map(|label| (label, node.at("metadata.labels").get(label)));
    for (label, value) in own {
        if let Some(value) = value {
            object["metadata"]["labels"][label] = value.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Fixed, review};
    use super::*;
    use crate::kinds::posted::BINDING;
    use serde_json::json;

    fn nodes() -> Fixed {
        let labels =
            json!({"topology.kubernetes.io/zone": "a", "topology.kubernetes.io/region": "r", "other": "x"});
        let node =
            |name: &str, labels: Value| ("nodes", json!({"metadata": {"name": name, "labels": labels}}));
        Fixed(vec![node("there", labels), node("plain", Value::Null)])
    }

    #[test]
    fn a_binding_gets_the_labels_of_its_node() {
        let labels =
            json!({"topology.kubernetes.io/zone": "a", "topology.kubernetes.io/region": "r", "mine": "y"});
        let mine = json!({"topology.kubernetes.io/zone": "b", "mine": "y"});
        for (target, want) in [
            (json!({"kind": "Node", "name": "there"}), &labels),
            (json!({"kind": "Node", "name": "plain"}), &mine),
            (json!({"kind": "Node", "name": "gone"}), &mine),
            (json!({"name": "there"}), &mine),
        ] {
            let mut object = json!({"metadata": {"labels": mine}, "target": target});
            let posted = Action::Post { kind: &BINDING };
            binding(&nodes(), &review("pods", posted), &mut object);
            assert_eq!(object["metadata"]["labels"], *want, "{target}");
        }
    }

    #[test]
    fn a_pod_gets_them_only_when_it_is_made() {
        let fresh = json!({"metadata": {}, "spec": {"nodeName": "there"}});
        let mut made = fresh.clone();
        pod(&nodes(), &review("pods", Action::Create), &mut made);
        assert_eq!(made["metadata"]["labels"]["topology.kubernetes.io/zone"], "a");
        let mut updated = fresh.clone();
        pod(
            &nodes(),
            &review("pods", Action::Update { old: &fresh }),
            &mut updated,
        );
        assert_eq!(updated, fresh);
    }
}
