//! PodResizeValidator (Kubernetes 1.36): a resize that the Pod's node can never give is refused at once. What the node has left
//! is not its business: the node judges that, and may put the resize off.
use super::{Action, Denial, Objects, ResourceName, Review};
use crate::kinds::quantity::Quantity;
use crate::kinds::resources::{self, List};
use crate::kinds::view::View;
use serde_json::Value;

const NODES: ResourceName<'_> = ("", "v1", "nodes");
const SYSTEM: &str = "kubernetes.io/os";

pub(super) fn check(objects: &dyn Objects, review: &Review<'_>, pod: &Value) -> Result<(), Denial> {
    let Action::Update { old } = review.action else {
        return Ok(());
    };
    let name = pod.text("spec.nodeName");
    if name.is_empty() || old.at("spec") == pod.at("spec") {
        return Ok(());
    }
    let Some(node) = objects.get(NODES, None, name) else {
        return Err(Denial::Forbidden(format!("node {name:?} not found")));
    };
    let asked = resources::with_overhead(pod, resources::pod(pod, "requests"));
    let there = resources::list(node.at("status.allocatable"));
    let short = ["cpu", "memory"].map(|resource| shortage(resource, &asked, &there));
    let short: Vec<String> = short.into_iter().flatten().collect();
    if !short.is_empty() {
        return Err(Denial::Forbidden(format!(
            "Node didn't have enough allocatable resources: {}",
            short.join("; ")
        )));
    }
    let system = node.at("metadata.labels").get(SYSTEM).and_then(Value::as_str);
    match system.unwrap_or_default() {
        "linux" => Ok(()),
        other => Err(Denial::Forbidden(format!(
            "pod resize is only supported on linux nodes, node {name:?} is {other:?}"
        ))),
    }
}

/// In thousandths of processors and in bytes, as upstream tells it.
fn shortage(resource: &str, asked: &List, there: &List) -> Option<String> {
    let amount = |list: &List| list.get(resource).map_or(0, |amount| counted(resource, amount));
    let (asked, there) = (amount(asked), amount(there));
    (asked > there).then(|| format!("{resource}, requested: {asked}, allocatable: {there}"))
}

fn counted(resource: &str, amount: &Quantity) -> i128 {
    match resource {
        "cpu" => amount.milli_value(),
        _ => amount.value(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::fixtures::{Fixed, review};
    use serde_json::json;

    fn node(name: &str, system: &str) -> (&'static str, Value) {
        let node = json!({"metadata": {"name": name, "labels": {SYSTEM: system}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}});
        ("nodes", node)
    }

    fn pod(node: &str, cpu: &str, memory: &str) -> Value {
        json!({"metadata": {"name": "o", "namespace": "n"}, "spec": {"nodeName": node, "overhead": {"cpu": "100m"},
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}})
    }

    #[test]
    fn a_resize_that_the_node_can_never_give_is_refused() {
        let objects = Fixed(vec![node("linux", "linux"), node("other", "windows")]);
        let said = |old: &Value, pod: &Value| {
            let mut review = review("pods", Action::Update { old });
            review.subresource = Some("resize");
            match check(&objects, &review, pod) {
                Err(Denial::Forbidden(why)) => why,
                Err(_) => "refused otherwise".to_owned(),
                Ok(()) => String::new(),
            }
        };
        let short = "Node didn't have enough allocatable resources: ";
        for (node, cpu, memory, expected) in [
            ("linux", "1900m", "1Gi", String::new()),
            (
                "linux",
                "2",
                "1Mi",
                format!("{short}cpu, requested: 2100, allocatable: 2000"),
            ),
            (
                "linux",
                "3",
                "2Gi",
                format!(
                    "{short}cpu, requested: 3100, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824"
                ),
            ),
            ("", "3", "1Mi", String::new()),
            ("gone", "2m", "1Mi", "node \"gone\" not found".to_owned()),
            (
                "other",
                "2m",
                "1Mi",
                "pod resize is only supported on linux nodes, node \"other\" is \"windows\"".to_owned(),
            ),
        ] {
            assert_eq!(
                said(&pod(node, "1m", "1Mi"), &pod(node, cpu, memory)),
                expected,
                "{node} {cpu} {memory}"
            );
        }
        let same = pod("gone", "1m", "1Mi");
        assert_eq!(said(&same, &same), "", "nothing changes");
    }
}
