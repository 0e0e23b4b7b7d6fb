//! Tables of environments.

use super::*;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use serde_json::{Value, json};

use crate::pods::view::PodView;

fn objects() -> Objects {
    let map: ConfigMap = serde_json::from_value(json!({"data": {"k": "from-map", "other": "x"}})).unwrap();
    let secret: Secret = serde_json::from_value(json!({"data": {"p": "c2VjcmV0"}})).unwrap();
    Objects::new([("m".into(), map)].into(), [("s".into(), secret)].into())
}

fn services() -> Vec<std::sync::Arc<Service>> {
    let service = |namespace: &str, name: &str, ip: &str| {
        let object = json!({"metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 443, "protocol": "TCP"}]}});
        std::sync::Arc::new(serde_json::from_value(object).unwrap())
    };
    vec![
        service("default", "kubernetes", "10.43.0.1"),
        service("ns", "my-web", "10.43.0.2"),
        service("ns", "headless", "None"),
        service("elsewhere", "hidden", "10.43.0.3"),
    ]
}

fn make(container: Value, spec: Value) -> Result<Environment, EnvError> {
    make_with(Path::new("/nonexistent"), container, spec)
}

fn make_with(volumes: &Path, container: Value, spec: Value) -> Result<Environment, EnvError> {
    let mut spec = spec;
    spec["containers"] = json!([container]);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a/b": "c"}}, "spec": spec}))
    .unwrap();
    let view = PodView::new(&pod).unwrap();
    let facts = PodFacts {
        pod: view,
        pod_ips: &["10.42.0.5".parse().unwrap()],
        host_ips: &["192.0.2.1".parse().unwrap()],
        node_name: "n",
        allocatable: &[("cpu".to_owned(), Quantity("2".into()))].into(),
    };
    let sources = Sources {
        facts: &facts,
        objects: &objects(),
        services: &services(),
        volumes,
    };
    environment(&view.spec.containers[0], &sources)
}

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

fn value_of(variable: Value) -> Result<Option<String>, EnvError> {
    let mut variable = variable;
    variable["name"] = json!("V");
    let container = json!({"name": "c", "env": [{"name": "A", "value": "a"}, variable],
        "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}});
    make(container, json!({})).map(|e| e.get("V").map(str::to_owned))
}

#[test]
fn a_pods_limit_is_that_of_a_container_without_one() {
    let limit = |own: Value, whole: Value| {
        let variable = |name: &str, resource: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource}}});
        let env = [variable("CPU", "limits.cpu"), variable("MEMORY", "limits.memory")];
        let container = json!({"name": "c", "env": env, "resources": {"limits": own}});
        let made = make(container, json!({"resources": {"limits": whole}})).unwrap();
        ["CPU", "MEMORY"].map(|name| made.get(name).unwrap().to_owned())
    };
    let whole = json!({"cpu": "1", "memory": "64Mi"});
    assert_eq!(limit(json!({}), whole.clone()), ["1", "67108864"]);
    assert_eq!(limit(json!({"memory": "1Mi"}), whole), ["1", "1048576"]);
    assert_eq!(limit(json!({}), json!({"memory": "64Mi"})), ["2", "67108864"]);
}

#[test]
fn sources_of_values() {
    let ok = |text: &str| -> Result<Option<String>, &str> { Ok(Some(text.to_owned())) };
    for (variable, expected) in [
        (
            json!({"value": "$(A)-$(V)-$(MY_WEB_SERVICE_HOST)"}),
            ok("a-$(V)-10.43.0.2"),
        ),
        (
            json!({"valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}),
            ok("from-map"),
        ),
        (
            json!({"valueFrom": {"configMapKeyRef": {"name": "m", "key": "no", "optional": true}}}),
            Ok(None),
        ),
        (
            json!({"valueFrom": {"configMapKeyRef": {"name": "no", "key": "k", "optional": true}}}),
            Ok(None),
        ),
        (
            json!({"valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}}),
            ok("secret"),
        ),
        (
            json!({"valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}}),
            ok("c"),
        ),
        (
            json!({"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}),
            ok("10.42.0.5"),
        ),
        (
            json!({"valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}),
            ok("n"),
        ),
        (
            json!({"valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}}),
            ok("67108864"),
        ),
        (
            json!({"valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}}),
            ok("64"),
        ),
        (
            json!({"valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}}),
            ok("1"),
        ),
        (
            json!({"valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}}),
            ok("250"),
        ),
        (
            json!({"valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}),
            ok("2"),
        ),
        (
            json!({"valueFrom": {"configMapKeyRef": {"name": "no", "key": "k"}}}),
            Err("configmap \"no\" not found"),
        ),
        (
            json!({"valueFrom": {"secretKeyRef": {"name": "no", "key": "k"}}}),
            Err("secret \"no\" not found"),
        ),
        (
            json!({"valueFrom": {"configMapKeyRef": {"name": "m", "key": "no"}}}),
            Err("couldn't find key no in ConfigMap ns/m"),
        ),
        (
            json!({"valueFrom": {"secretKeyRef": {"name": "s", "key": "no"}}}),
            Err("couldn't find key no in Secret ns/s"),
        ),
    ] {
        let found = value_of(variable.clone()).map_err(|e| e.to_string());
        assert_eq!(found, expected.map_err(str::to_owned), "{variable}");
    }
}

#[test]
fn whole_maps_come_with_a_prefix_and_env_overrides_them() {
    let container = json!({"name": "c", "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}],
        "env": [{"name": "P_k", "value": "mine"}]});
    let made = make(container, json!({"enableServiceLinks": false})).unwrap();
    let all: Vec<_> = made
        .iter()
        .filter(|(name, _)| !name.starts_with("KUBERNETES_"))
        .collect();
    assert_eq!(all, [("P_k", "mine"), ("P_other", "x")]);
}

#[test]
fn services_of_the_namespace_and_the_api_server() {
    let made = make(json!({"name": "c"}), json!({})).unwrap();
    for (name, value) in [
        ("KUBERNETES_SERVICE_HOST", Some("10.43.0.1")),
        ("KUBERNETES_SERVICE_PORT", Some("443")),
        ("MY_WEB_SERVICE_PORT_HTTP", Some("443")),
        ("MY_WEB_PORT", Some("tcp://10.43.0.2:443")),
        ("MY_WEB_PORT_443_TCP_ADDR", Some("10.43.0.2")),
        ("HEADLESS_SERVICE_HOST", None),
        ("HIDDEN_SERVICE_HOST", None),
    ] {
        assert_eq!(made.get(name), value, "{name}");
    }
    let without = make(json!({"name": "c"}), json!({"enableServiceLinks": false})).unwrap();
    assert_eq!(without.get("MY_WEB_SERVICE_HOST"), None);
    assert_eq!(without.get("KUBERNETES_SERVICE_HOST"), Some("10.43.0.1"));
}

#[test]
fn over_the_image() {
    let made = make(
        json!({"name": "c", "env": [{"name": "PATH", "value": "/x"}]}),
        json!({"enableServiceLinks": false}),
    )
    .unwrap();
    let words = made.over(&["PATH=/bin".into(), "LANG=C".into()]);
    assert_eq!(words[..2], ["PATH=/x", "LANG=C"]);
}

#[test]
fn values_from_files_of_the_pods_own() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("v");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("f"), "A='a'\nEMPTY=''\n").unwrap();
    std::fs::write(dir.path().join("outside"), "A='secret'\n").unwrap();
    std::os::unix::fs::symlink("f", volume.join("link")).unwrap();
    std::os::unix::fs::symlink("../outside", volume.join("out")).unwrap();
    nix::unistd::mkfifo(&volume.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let missing = |key: &str| {
        let file = volume.join("f");
        format!("environment variable key {key:?} not found in file {file:?}")
    };
    let unread = "couldn't parse env file".to_owned();
    let nowhere = |name: &str| {
        Err(format!(
            "cannot find the volume {name:?} referenced by FileKeyRef"
        ))
    };
    for (volume, path, key, optional, expected) in [
        ("v", "f", "A", false, Ok(Some("a".to_owned()))),
        ("v", "link", "A", false, Ok(Some("a".to_owned()))),
        ("v", "f", "EMPTY", false, Err(missing("EMPTY"))),
        ("v", "f", "NOPE", false, Err(missing("NOPE"))),
        ("v", "f", "NOPE", true, Ok(None)),
        ("v", "none", "A", true, Err(unread.clone())),
        ("v", "out", "A", false, Err(unread.clone())),
        ("v", "pipe", "A", false, Err(unread)),
        ("h", "f", "A", false, nowhere("h")),
        // No container shows it.
        ("u", "f", "A", true, nowhere("u")),
    ] {
        let reference = json!({"volumeName": volume, "path": path, "key": key, "optional": optional});
        let mounts = ["v", "h"].map(|name| json!({"name": name, "mountPath": format!("/{name}")}));
        let container = json!({"name": "c", "volumeMounts": mounts, "env": [{"name": "V", "valueFrom": {"fileKeyRef": reference}}]});
        let volumes = json!([{"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/"}}, {"name": "u", "emptyDir": {}}]);
        let made = make_with(dir.path(), container, json!({"volumes": volumes}));
        let found = made
            .map(|e| e.get("V").map(str::to_owned))
            .map_err(|e| e.to_string());
        assert_eq!(found, expected, "{path} {key}");
    }
}
