//! What writers are told about objects that are valid and odd.
use serde_json::{Value, json};

use crate::kinds::Registry;

fn told(group: &str, plural: &str, object: Value) -> Vec<String> {
    let kind = Registry::builtin().resource(group, "v1", plural).expect("served");
    let mut object = object;
    kind.default(&mut object);
    kind.warnings(&object, None)
}

fn pod(spec: Value) -> Vec<String> {
    told("", "pods", json!({"metadata": {"name": "p"}, "spec": spec}))
}

#[test]
fn pods() {
    for (spec, want) in [
        (
            json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
            vec![
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            ],
        ),
        (
            json!({"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"},
            {"name": "A", "value": "$(A) 3"}]}]}),
            vec![
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            ],
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"name": "x", "containerPort": 1}]},
            {"name": "b", "ports": [{"name": "x", "containerPort": 1, "protocol": "UDP"}]}]}),
            vec![
                "spec.containers[1].ports[0]: duplicate port name \"x\" with spec.containers[0].ports[0], services and \
                probes that select ports by name will use spec.containers[0].ports[0]",
            ],
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 1}, {"containerPort": 1}]}]}),
            vec!["spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]"],
        ),
        // It has become 1 by now; a template keeps what it says.
        (json!({"terminationGracePeriodSeconds": -1}), vec![]),
        (
            json!({"volumes": [{"name": "v", "gitRepo": {"repository": "r"}}]}),
            vec!["spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"],
        ),
        (
            json!({"volumes": [{"name": "v", "configMap": {"name": "m", "items": [
            {"key": "a", "path": "x"}, {"key": "b", "path": "x/y"}]}}]}),
            vec!["volume \"v\" (ConfigMap \"m\"): overlapping paths: \"x/y\" with \"x\""],
        ),
        (
            json!({"imagePullSecrets": [{}]}),
            vec!["spec.imagePullSecrets[0].name: invalid empty name \"\""],
        ),
        (
            json!({"containers": [{"name": "c", "resources": {"limits": {"memory": "100m"}}}]}),
            vec![
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an \
                integer",
                "spec.containers[0].resources.requests[memory]: fractional byte value \"100m\" is invalid, must be an \
                integer",
            ],
        ),
        (json!({"containers": [{"name": "c"}]}), vec![]),
    ] {
        assert_eq!(pod(spec.clone()), want, "{spec}");
    }
}

#[test]
fn templates_of_pods() {
    let spec = json!({"terminationGracePeriodSeconds": -1, "containers": [{"name": "c"}]});
    let object = json!({"metadata": {"name": "p"}, "template": {"spec": spec}});
    let want = "template.spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1";
    assert_eq!(told("", "podtemplates", object), [want]);
}

#[test]
fn others() {
    let deployment = told("apps", "deployments", json!({"metadata": {"name": "a.b"}}));
    assert!(
        deployment[0].starts_with("metadata.name: this is used in Pod names and hostnames"),
        "{deployment:?}"
    );
    let service = told(
        "",
        "services",
        json!({"spec": {"externalName": "x", "trafficDistribution": "PreferClose"}}),
    );
    assert_eq!(service.len(), 2, "{service:?}");
    let ingress = json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "x"}}});
    assert_eq!(
        told("networking.k8s.io", "ingresses", ingress),
        [
            "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
        ]
    );
    let kind = Registry::builtin()
        .resource("", "v1", "endpoints")
        .expect("served");
    assert!(
        kind.warning()
            .is_some_and(|w| w.starts_with("v1 Endpoints is deprecated in v1.33+"))
    );
}

#[test]
fn a_template_is_told_of_when_it_is_new() {
    let kind = Registry::builtin()
        .resource("apps", "v1", "deployments")
        .expect("served");
    let set = |generation: i64| {
        json!({"metadata": {"name": "d", "generation": generation},
            "spec": {"template": {"spec": {"nodeSelector": {"beta.kubernetes.io/os": "x"}}}}})
    };
    assert_eq!(kind.warnings(&set(1), Some(&set(1))), [""; 0]);
    let told = kind.warnings(&set(2), Some(&set(1)));
    assert!(
        told[0].starts_with("spec.template.spec.nodeSelector[beta.kubernetes.io/os]"),
        "{told:?}"
    );
}
