//! Tables of what makes objects invalid, beyond the recorded answers.
use serde_json::{Value, json};

use crate::kinds::Registry;
use crate::kinds::error::join;

/// Errors of creating an object that was decoded and defaulted, without those of its metadata.
pub(super) fn errors(group: &str, plural: &str, body: Value) -> String {
    let kind = Registry::builtin().resource(group, "v1", plural).expect("served");
    let mut object = body;
    object["metadata"] = json!({"name": "x", "namespace": "n"});
    if !kind.namespaced {
        object["metadata"] = json!({"name": "x"});
    }
    kind.prune(&mut object).expect("decodes");
    kind.default(&mut object);
    kind.prepare_create(&mut object);
    join(&kind.validate_create(&object))
}

pub(super) fn pod(spec: Value) -> String {
    errors("", "pods", json!({"spec": spec}))
}

pub(super) fn container(mut container: Value) -> String {
    container["name"] = "c".into();
    container["image"] = "i".into();
    pod(json!({"containers": [container], "volumes": [{"name": "v"}]}))
}

const GOOD: &str = "[]";

#[test]
fn mounts() {
    let mounts = |mounts: Value| container(json!({"volumeMounts": mounts}));
    let at = "spec.containers[0].volumeMounts";
    assert_eq!(mounts(json!([{"name": "v", "mountPath": "/a"}])), GOOD);
    assert_eq!(
        mounts(json!([{"name": "w", "mountPath": "/a"}])),
        format!("{at}[0].name: Not found: \"w\"")
    );
    assert_eq!(
        mounts(json!([{"name": "v"}])),
        format!("{at}[0].mountPath: Required value")
    );
    assert_eq!(
        mounts(json!([{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}])),
        format!("{at}[1].mountPath: Invalid value: \"/a\": must be unique")
    );
    assert_eq!(
        mounts(json!([{"name": "v", "mountPath": "/a", "subPath": "../../etc"}])),
        format!("{at}.subPath: Invalid value: \"../../etc\": must not contain '..'")
    );
}

#[test]
fn environments() {
    let env = |env: Value| container(json!({"env": [env]}));
    let at = "spec.containers[0].env[0]";
    assert_eq!(env(json!({"name": "A", "value": "x"})), GOOD);
    assert!(env(json!({"name": "a=b"})).starts_with(&format!("{at}.name: Invalid value: \"a=b\"")));
    assert_eq!(
        env(json!({"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})),
        format!("{at}.valueFrom: Invalid value: \"\": may not be specified when `value` is not empty")
    );
    assert_eq!(
        env(json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}})),
        format!(
            "{at}.valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nope\": error converting fieldPath: field label not supported: spec.nope"
        )
    );
    assert_eq!(
        env(json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}})),
        GOOD
    );
    assert_eq!(
        env(json!({"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}})),
        format!("{at}.valueFrom.secretKeyRef.key: Required value")
    );
}

#[test]
fn probes_and_hooks() {
    let probe = |probe: Value| container(json!({"livenessProbe": probe}));
    let at = "spec.containers[0].livenessProbe";
    assert_eq!(probe(json!({"httpGet": {"port": "http"}})), GOOD);
    assert_eq!(
        probe(json!({})),
        format!("{at}: Required value: must specify a handler type")
    );
    assert_eq!(
        probe(json!({"tcpSocket": {"port": 0}})),
        format!("{at}.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive")
    );
    assert_eq!(
        probe(json!({"exec": {"command": ["x"]}, "successThreshold": 2})),
        format!("{at}.successThreshold: Invalid value: 2: must be 1")
    );
    assert_eq!(
        probe(json!({"exec": {"command": ["x"]}, "grpc": {"port": 1}})),
        format!("{at}.grpc: Forbidden: may not specify more than 1 handler type")
    );
}

#[test]
fn resources() {
    let resources = |resources: Value| container(json!({"resources": resources}));
    let at = "spec.containers[0].resources";
    assert_eq!(
        resources(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}})),
        GOOD
    );
    assert_eq!(
        resources(json!({"requests": {"cpu": "3"}, "limits": {"cpu": "2"}})),
        format!("{at}.requests: Invalid value: \"3\": must be less than or equal to cpu limit of 2")
    );
    assert_eq!(
        resources(json!({"limits": {"gpu": "1"}})),
        format!(
            "[{at}.limits[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified, \
             {at}.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers, \
             {at}.requests[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified, \
             {at}.requests[gpu]: Invalid value: \"gpu\": must be a standard resource for containers]"
        )
    );
    assert_eq!(resources(json!({"limits": {"example.com/gpu": "1"}})), GOOD);
}

#[test]
fn volumes() {
    let volumes =
        |volumes: Value| pod(json!({"containers": [{"name": "c", "image": "i"}], "volumes": volumes}));
    assert_eq!(
        volumes(json!([{"name": "a", "emptyDir": {}}, {"name": "b", "configMap": {"name": "c"}}])),
        GOOD
    );
    assert_eq!(
        volumes(json!([{"name": "a", "emptyDir": {}, "hostPath": {"path": "/x"}}])),
        "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"
    );
    assert_eq!(
        volumes(json!([{"name": "a"}, {"name": "a"}])),
        "spec.volumes[1].name: Duplicate value: \"a\""
    );
    assert_eq!(
        volumes(json!([{"name": "a", "secret": {}}])),
        "spec.volumes[0].secret.secretName: Required value"
    );
    assert_eq!(
        volumes(json!([{"name": "a", "configMap": {"name": "c", "items": [{"key": "k", "path": "../x"}]}}])),
        "spec.volumes[0].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'"
    );
}

#[test]
fn init_containers() {
    let pod =
        |init: Value| pod(json!({"containers": [{"name": "c", "image": "i"}], "initContainers": [init]}));
    let at = "spec.initContainers[0]";
    assert_eq!(
        pod(
            json!({"name": "i", "image": "i", "restartPolicy": "Always", "livenessProbe": {"exec": {"command": ["x"]}}})
        ),
        GOOD
    );
    assert_eq!(
        pod(json!({"name": "c", "image": "i"})),
        format!("{at}.name: Duplicate value: \"c\"")
    );
    assert_eq!(
        pod(json!({"name": "i", "image": "i", "livenessProbe": {"exec": {"command": ["x"]}}})),
        format!(
            "{at}.livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"
        )
    );
}

#[test]
fn services() {
    let service = |spec: Value| errors("", "services", json!({"spec": spec}));
    assert_eq!(service(json!({"ports": [{"port": 80}]})), GOOD);
    assert_eq!(service(json!({})), "spec.ports: Required value");
    assert_eq!(service(json!({"clusterIP": "None"})), GOOD);
    assert_eq!(
        service(json!({"ports": [{"port": 80}, {"port": 81}]})),
        "[spec.ports[0].name: Required value, spec.ports[1].name: Required value]"
    );
    assert_eq!(
        service(json!({"ports": [{"port": 80, "nodePort": 30000}]})),
        "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"
    );
    assert_eq!(
        service(json!({"type": "X", "ports": [{"port": 80}]})),
        "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\""
    );
    assert_eq!(
        service(json!({"type": "ExternalName"})),
        "spec.externalName: Required value"
    );
}

#[test]
fn nodes_endpoints_leases_and_events() {
    assert_eq!(
        errors(
            "",
            "nodes",
            json!({"spec": {"taints": [{"key": "a", "effect": "Never"}]}})
        ),
        "metadata.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\""
    );
    assert_eq!(
        errors(
            "",
            "nodes",
            json!({"status": {"declaredFeatures": ["B/one", "A", "A", "b"]}})
        ),
        "[status.declaredFeatures[1]: Invalid value: \"A\": list must be sorted alphabetically, \
         status.declaredFeatures[2]: Duplicate value: \"A\", status.declaredFeatures[3]: Invalid value: \"b\": invalid \
         feature name \"b\": must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., \
         MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes]"
    );
    assert_eq!(
        errors(
            "discovery.k8s.io",
            "endpointslices",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["x"]}]})
        ),
        "endpoints[0].addresses[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
    );
    assert_eq!(
        errors(
            "",
            "endpoints",
            json!({"subsets": [{"addresses": [{"ip": "010.0.0.1"}]}]})
        ),
        "subsets[0].addresses[0].ip: Invalid value: \"010.0.0.1\": must not have leading 0s"
    );
    assert_eq!(
        errors(
            "coordination.k8s.io",
            "leases",
            json!({"spec": {"leaseDurationSeconds": 0}})
        ),
        "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"
    );
    assert_eq!(
        errors("", "events", json!({"involvedObject": {"namespace": "other"}})),
        "involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"
    );
    assert_eq!(
        errors("events.k8s.io", "events", json!({"type": "Normal"})),
        "[involvedObject.namespace: Invalid value: \"\": does not match event.namespace, eventTime: Required value]"
    );
}
