//! TaintNodesByCondition: nobody is put on a new node before it is known to be ready. The node controller takes the taint
//! away.
use super::{Action, Review};
use crate::kinds::view::View;
use serde_json::{Value, json};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const EFFECT: &str = "NoSchedule";

pub(super) fn taint(review: &Review<'_>, node: &mut Value) {
    let is = |taint: &Value| taint.text("key") == NOT_READY && taint.text("effect") == EFFECT;
    if !matches!(review.action, Action::Create) || node.list("spec.taints").iter().any(is) {
        return;
    }
    let mut taints = node.list("spec.taints").to_vec();
    taints.push(json!({"key": NOT_READY, "effect": EFFECT}));
    node["spec"]["taints"] = taints.into();
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::review;
    use super::*;

    #[test]
    fn a_new_node_is_tainted_once() {
        let new = review("nodes", Action::Create);
        let mut node = json!({"spec": {"taints": [{"key": "mine", "effect": "NoExecute"}]}});
        for _ in 0..2 {
            taint(&new, &mut node);
            assert_eq!(
                node["spec"]["taints"],
                json!([{"key": "mine", "effect": "NoExecute"}, {"key": NOT_READY, "effect": EFFECT}])
            );
        }
        let mut old = json!({"spec": {}});
        taint(&review("nodes", Action::Update { old: &old.clone() }), &mut old);
        assert_eq!(old, json!({"spec": {}}));
    }
}
