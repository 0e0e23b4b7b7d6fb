//! Node affinities of volumes: which change of one says the same by newer names of labels.
use serde_json::Value;

use crate::kinds::view::View;

/// Labels of nodes that have another name since (KEP-1342 and its like).
const RENAMED: [(&str, &str); 5] = [
    (
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/zone",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    (
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
    ),
];

/// Whether both mean the same nodes.
pub(super) fn is_kept(new: &Value, old: &Value) -> bool {
    if new == old {
        return true;
    }
    let mut renamed = old.clone();
    let terms = renamed.pointer_mut("/required/nodeSelectorTerms");
    let terms = terms.and_then(Value::as_array_mut).into_iter().flatten();
    for (was, is) in terms.zip(new.list("required.nodeSelectorTerms")) {
        for key in ["matchExpressions", "matchFields"] {
            let were = was.get_mut(key).and_then(Value::as_array_mut);
            for (was, is) in were.into_iter().flatten().zip(is.list(key)) {
                rename(was, is);
            }
        }
    }
    renamed == *new
}

/// As upstream's table of names answers "" for what it lacks, a key may also be left out.
fn rename(was: &mut Value, is: &Value) {
    let newer = RENAMED.iter().find(|(old, _)| *old == was.text("key"));
    if newer.map_or("", |(_, new)| *new) != is.text("key") {
        return;
    }
    if let Some(was) = was.as_object_mut() {
        match is.get("key") {
            Some(key) => was.insert("key".into(), key.clone()),
            None => was.remove("key"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_names_of_labels_may_be_newer() {
        let affinity = |key: &str, value: &str| {
            let expression = json!({"key": key, "operator": "In", "values": [value]});
            json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}})
        };
        let zone = "failure-domain.beta.kubernetes.io/zone";
        for (old, new, want) in [
            (affinity(zone, "a"), affinity(zone, "a"), true),
            (
                affinity(zone, "a"),
                affinity("topology.kubernetes.io/zone", "a"),
                true,
            ),
            (
                affinity(zone, "a"),
                affinity("topology.kubernetes.io/zone", "b"),
                false,
            ),
            (
                affinity(zone, "a"),
                affinity("topology.kubernetes.io/region", "a"),
                false,
            ),
            (
                affinity("topology.kubernetes.io/zone", "a"),
                affinity(zone, "a"),
                false,
            ),
            (affinity("a", "a"), affinity("b", "a"), false),
            (affinity("a", "a"), Value::Null, false),
        ] {
            assert_eq!(is_kept(&new, &old), want, "{old} -> {new}");
        }
    }
}
