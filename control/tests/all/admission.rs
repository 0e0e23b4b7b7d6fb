//! What admission adds to objects, and what it refuses, on a whole control plane.
use super::plane::Plane;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

const NAMESPACES: &str = "/api/v1/namespaces";
const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "x"}]}})
}

/// Asks until the answer is as wanted.
pub async fn until(plane: &Plane, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let asked = async {
        loop {
            let (_, object) = plane.get(path).await;
            if wanted(&object) {
                return object;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asked)
        .await
        .expect("the object became as wanted")
}

/// By the class that they are asked for, whether they are there or not.
#[tokio::test]
async fn a_quota_counts_devices() {
    let plane = Plane::start().await;
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let claim = |name: &str, count: i64| {
        let exactly = json!({"deviceClassName": "d", "count": count});
        json!({"metadata": {"name": name}, "spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}}})
    };
    let class = json!({"metadata": {"name": "d"}, "spec": {"extendedResourceName": "example.com/gpu"}});
    let classes = "/apis/resource.k8s.io/v1/deviceclasses";
    let (code, made) = plane.call(Method::POST, classes, class).await;
    assert_eq!(code, 201, "{made}");
    let (code, made) = plane.call(Method::POST, claims, claim("a", 2)).await;
    assert_eq!(code, 201, "{made}");
    let name = "d.deviceclass.resource.k8s.io/devices";
    // Also by the names that Pods have for them.
    let extended = [
        "requests.example.com/gpu",
        "requests.deviceclass.resource.kubernetes.io/d",
    ];
    let hard = json!({name: "5", "services.foo/bar": "1", extended[0]: "9", extended[1]: "9"});
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
    let (code, made) = plane.call(Method::POST, QUOTAS, quota).await;
    assert_eq!(code, 201, "{made}");
    let path = format!("{QUOTAS}/q");
    let counted = until(&plane, &path, |q| q["status"]["used"].is_object()).await;
    assert_eq!(
        counted["status"]["used"],
        json!({name: "2", extended[0]: "2", extended[1]: "2"})
    );
    let (code, refused) = plane.call(Method::POST, claims, claim("b", 4)).await;
    assert_eq!(code, 403, "{refused}");
    let why = format!("exceeded quota: q, requested: {name}=4, used: {name}=2, limited: {name}=5");
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(message.ends_with(&why), "{message}");
    let (code, made) = plane.call(Method::POST, claims, claim("b", 3)).await;
    assert_eq!(code, 201, "{made}");
    let used = plane.get(&path).await.1["status"]["used"].clone();
    assert_eq!(used, json!({name: "5", extended[0]: "5", extended[1]: "5"}));
}

#[tokio::test]
async fn a_quota_is_never_overcommitted() {
    let plane = Plane::start().await;
    until(
        &plane,
        "/api/v1/namespaces/default/serviceaccounts/default",
        |a| a["metadata"]["uid"].is_string(),
    )
    .await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "5"}}});
    plane.call(Method::POST, QUOTAS, quota).await;
    let path = format!("{QUOTAS}/q");
    until(&plane, &path, |q| q["status"]["used"]["pods"] == "0").await;
    let plane = &plane;
    let made = (0..20).map(|i| async move { plane.call(Method::POST, PODS, pod(&format!("p{i}"))).await });
    let answers = futures::future::join_all(made).await;
    assert_eq!(answers.iter().filter(|(code, _)| *code == 201).count(), 5);
    let refused = answers.iter().find(|(code, _)| *code == 403).expect("refused");
    let message = refused.1["message"].as_str().unwrap_or_default();
    let want = "is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5";
    assert!(message.ends_with(want), "{message}");
    assert_eq!(until(plane, &path, |_| true).await["status"]["used"]["pods"], "5");

    let name = answers
        .iter()
        .find(|(code, _)| *code == 201)
        .map(|(_, p)| p["metadata"]["name"].clone());
    let gone = format!(
        "{PODS}/{}",
        name.and_then(|n| n.as_str().map(str::to_owned)).expect("a name")
    );
    plane.call(Method::DELETE, &gone, Value::Null).await;
    until(plane, &path, |q| q["status"]["used"]["pods"] == "4").await;
}

#[tokio::test]
async fn labels_of_a_namespace_refuse_and_warn() {
    let plane = Plane::start().await;
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b", "labels": labels}});
    plane.call(Method::POST, NAMESPACES, namespace).await;
    until(&plane, "/api/v1/namespaces/b/serviceaccounts/default", |a| {
        a["metadata"]["uid"].is_string()
    })
    .await;
    for (key, value) in [
        ("hostPID", json!(true)),
        ("volumes", json!([{"name": "v", "hostPath": {"path": "/"}}])),
    ] {
        let mut bad = pod("bad");
        bad["spec"][key] = value;
        let (code, status) = plane.call(Method::POST, "/api/v1/namespaces/b/pods", bad).await;
        assert_eq!(code, 403, "{status}");
        let message = status["message"].as_str().unwrap_or_default();
        assert!(
            message.contains("violates PodSecurity \"baseline:latest\""),
            "{message}"
        );
    }
    let (code, _) = plane
        .call(Method::POST, "/api/v1/namespaces/b/pods", pod("good"))
        .await;
    assert_eq!(code, 201);
}

#[tokio::test]
async fn classes_and_limits_complete_a_pod() {
    let plane = Plane::start().await;
    until(
        &plane,
        "/api/v1/namespaces/default/serviceaccounts/default",
        |a| a["metadata"]["uid"].is_string(),
    )
    .await;
    let limits = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "1", "memory": "64Mi"}}]}});
    let ranges = "/api/v1/namespaces/default/limitranges";
    plane.call(Method::POST, ranges, limits).await;
    // Admission reads the watch cache, which a read waits for.
    plane.get(ranges).await;
    let mut critical = pod("p");
    critical["spec"]["priorityClassName"] = "system-node-critical".into();
    let (code, made) = plane.call(Method::POST, PODS, critical).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["priority"], 2_000_001_000);
    assert_eq!(made["status"]["qosClass"], "Guaranteed");
}

#[tokio::test]
async fn a_deleted_volume_is_let_go_when_nothing_binds_it() {
    let plane = Plane::start().await;
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}});
    let all = "/api/v1/persistentvolumes";
    let (code, made) = plane.call(Method::POST, all, volume).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        made["metadata"]["finalizers"],
        json!(["kubernetes.io/pv-protection"])
    );
    let one = format!("{all}/v");
    plane.call(Method::DELETE, &one, Value::Null).await;
    until(&plane, &one, |answer| answer["code"] == 404).await;
}

#[tokio::test]
async fn autoscalers_are_one_object_in_two_versions() {
    let plane = Plane::start().await;
    let old = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let new = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let made = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    let (code, answer) = plane.call(Method::POST, old, made).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["spec"]["targetCPUUtilizationPercentage"], 50);
    let (_, newer) = plane.get(&format!("{new}/h")).await;
    assert_eq!(
        newer["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
        50
    );
    assert_eq!(newer["metadata"]["uid"], answer["metadata"]["uid"]);
}

#[tokio::test]
async fn a_disruption_budget_holds_an_eviction() {
    let plane = Plane::start().await;
    until(
        &plane,
        "/api/v1/namespaces/default/serviceaccounts/default",
        |a| a["metadata"]["uid"].is_string(),
    )
    .await;
    let mut guarded = pod("p");
    guarded["metadata"]["labels"] = json!({"a": "b"});
    plane.call(Method::POST, PODS, guarded).await;
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    plane
        .send(
            Method::PATCH,
            &format!("{PODS}/p/status"),
            "application/merge-patch+json",
            ready.to_string(),
        )
        .await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    plane.call(Method::POST, budgets, budget).await;
    until(&plane, &format!("{budgets}/b"), |b| {
        b["status"]["currentHealthy"] == 1 && b["status"]["observedGeneration"] == 1
    })
    .await;
    let evict = async || {
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
        plane
            .call(Method::POST, &format!("{PODS}/p/eviction"), body)
            .await
    };
    let (code, status) = evict().await;
    assert_eq!(code, 429, "{status}");
    assert_eq!(
        status["details"]["causes"][0]["message"],
        "The disruption budget b needs 1 healthy pods and has 1 currently"
    );
    plane
        .call(Method::DELETE, &format!("{budgets}/b"), Value::Null)
        .await;
    assert_eq!(evict().await.0, 201);
}

/// A Pod that nothing schedules and that stays when it is deleted.
pub fn held(name: &str) -> Value {
    let mut held = pod(name);
    held["metadata"]["finalizers"] = json!(["example.com/held"]);
    held["spec"]["schedulerName"] = "none".into();
    held
}

#[tokio::test]
async fn an_eviction_is_of_the_pod_it_names_and_says_so_on_it() {
    let plane = Plane::start().await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    until(&plane, account, |a| a["metadata"]["uid"].is_string()).await;
    let (code, made) = plane.call(Method::POST, PODS, held("p")).await;
    assert_eq!(code, 201, "{made}");
    let path = format!("{PODS}/p/eviction");
    let body =
        |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    for name in ["", "q"] {
        let (code, status) = plane.call(Method::POST, &path, body(name)).await;
        assert_eq!(
            (code.as_u16(), status["message"].as_str()),
            (400, Some("name in URL does not match name in Eviction object"))
        );
    }
    let dry = format!("{path}?dryRun=All");
    assert_eq!(plane.call(Method::POST, &dry, body("p")).await.0, 201);
    assert_eq!(
        plane.get(&format!("{PODS}/p")).await.1["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    let mut stale = body("p");
    stale["deleteOptions"] = json!({"preconditions": {"resourceVersion": "1"}});
    assert_eq!(plane.call(Method::POST, &path, stale.clone()).await.0, 409);
    stale["deleteOptions"]["preconditions"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    assert_eq!(plane.call(Method::POST, &path, stale).await.0, 201);
    let (_, gone) = plane.get(&format!("{PODS}/p")).await;
    assert!(gone["metadata"]["deletionTimestamp"].is_string(), "{gone}");
    assert_eq!(
        gone["metadata"]["managedFields"],
        made["metadata"]["managedFields"]
    );
    let conditions = gone["status"]["conditions"].as_array().unwrap();
    let target = conditions
        .iter()
        .find(|c| c["type"] == "DisruptionTarget")
        .unwrap();
    assert_eq!(
        (&target["status"], &target["reason"], &target["message"]),
        (
            &json!("True"),
            &json!("EvictionByEvictionAPI"),
            &json!("Eviction API: evicting")
        )
    );
}

#[tokio::test]
async fn a_binding_is_of_the_pod_it_names() {
    let plane = Plane::start().await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    until(&plane, account, |a| a["metadata"]["uid"].is_string()).await;
    for name in ["p", "q"] {
        assert_eq!(plane.call(Method::POST, PODS, held(name)).await.0, 201);
    }
    let below = format!("{PODS}/p/binding");
    let bindings = "/api/v1/namespaces/default/bindings";
    let body = |name: &str, node: &str| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"name": node}});
    let watches = [
        format!("{bindings}/q?watch=true"),
        "/api/v1/watch/namespaces/default/bindings/q".into(),
    ];
    for path in watches {
        let (is, answer) = plane.call(Method::GET, &path, body("q", "another")).await;
        assert_eq!(is, 404, "who may watch may not bind: {path}: {answer}");
    }
    for (path, name, node, code) in [
        (below.as_str(), "q", "n", 400),
        (below.as_str(), "", "n", 400),
        (below.as_str(), "p", "", 500),
        (below.as_str(), "p", "n", 201),
        (bindings, "", "n", 400),
        (bindings, "a/b", "n", 400),
        (bindings, "nosuch", "n", 404),
        (bindings, "p", "n", 409),
        (bindings, "q", "", 500),
        (bindings, "q", "n", 201),
    ] {
        let (is, answer) = plane.call(Method::POST, path, body(name, node)).await;
        assert_eq!(is, code, "{path} {name:?} {node:?}: {answer}");
    }
    for name in ["p", "q"] {
        let (_, bound) = plane.get(&format!("{PODS}/{name}")).await;
        assert_eq!(bound["spec"]["nodeName"], "n", "{name}");
    }
    assert_eq!(plane.get(bindings).await.0, 405);
}

#[tokio::test]
async fn what_is_posted_below_a_pod_is_what_it_should_be() {
    let plane = Plane::start().await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    until(&plane, account, |a| a["metadata"]["uid"].is_string()).await;
    let (code, made) = plane.call(Method::POST, PODS, held("p")).await;
    assert_eq!(code, 201, "{made}");
    let (eviction, binding) = (format!("{PODS}/p/eviction"), format!("{PODS}/p/binding"));
    let bindings = "/api/v1/namespaces/default/bindings";
    let other =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "p"}, "target": {"name": "n"}});
    let target = json!({"metadata": {"name": "p"}, "target": {"name": 7}});
    let guard =
        json!({"metadata": {"name": "p"}, "deleteOptions": {"preconditions": {"resourceVersion": 7}}});
    for (path, body) in [
        (eviction.as_str(), other.clone()),
        (&binding, other.clone()),
        (bindings, other),
        (&eviction, guard),
        (&binding, target.clone()),
        (bindings, target),
    ] {
        let (code, answer) = plane.call(Method::POST, path, body.clone()).await;
        assert_eq!(code, 400, "{path} {body}: {answer}");
    }
    for metadata in [json!(5), json!("p"), json!(true), json!(["p"])] {
        for path in [eviction.as_str(), &binding, bindings] {
            let body = json!({"metadata": metadata, "target": {"name": "n"}});
            let (code, answer) = plane.call(Method::POST, path, body).await;
            assert_eq!(code, 400, "{path} {metadata}: {answer}");
        }
    }
    let (_, is) = plane.get(&format!("{PODS}/p")).await;
    assert_eq!(
        is["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
}

#[tokio::test]
async fn a_deletion_takes_no_body_but_options() {
    let plane = Plane::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    assert_eq!(plane.call(Method::POST, maps, map.clone()).await.0, 201);
    let one = format!("{maps}/m");
    assert_eq!(plane.call(Method::DELETE, &one, map.clone()).await.0, 400);
    assert_eq!(plane.call(Method::DELETE, maps, map).await.0, 400);
    assert_eq!(plane.get(&one).await.0, 200);
}

#[tokio::test]
async fn fields_that_are_unknown_below_an_object_are_told_of() {
    let plane = Plane::start().await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    until(&plane, account, |a| a["metadata"]["uid"].is_string()).await;
    let (code, made) = plane.call(Method::POST, PODS, held("p")).await;
    assert_eq!(code, 201, "{made}");
    for (path, kind) in [
        (format!("{PODS}/p/eviction"), "Eviction"),
        (format!("{PODS}/p/binding"), "Binding"),
        (format!("{account}/token"), "TokenRequest"),
    ] {
        let name = if kind == "TokenRequest" { "default" } else { "p" };
        let body = json!({"metadata": {"name": name, "b": 1}, "a": 1, "target": {"name": "n"}, "spec": {}});
        let path = format!("{path}?fieldValidation=Strict&dryRun=All");
        let (code, answer) = plane.call(Method::POST, &path, body).await;
        let message = answer["message"].as_str().unwrap();
        assert_eq!(code, 400, "{answer}");
        let start =
            format!("{kind} in version \"v1\" cannot be handled as a {kind}: strict decoding error: ");
        assert!(
            message.starts_with(&start) && message.contains("unknown field \"metadata.b\""),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_pod_bears_the_zone_of_the_node_it_is_bound_to() {
    let plane = Plane::start().await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    until(&plane, account, |a| a["metadata"]["uid"].is_string()).await;
    let labels = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "x": "y"});
    let node = json!({"metadata": {"name": "n", "labels": labels}});
    assert_eq!(plane.call(Method::POST, "/api/v1/nodes", node).await.0, 201);
    assert_eq!(plane.call(Method::POST, PODS, held("p")).await.0, 201);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let (code, answer) = plane
        .call(Method::POST, &format!("{PODS}/p/binding"), binding)
        .await;
    assert_eq!(code, 201, "{answer}");
    let (_, bound) = plane.get(&format!("{PODS}/p")).await;
    let labels = &bound["metadata"]["labels"];
    assert_eq!(
        (
            &labels["topology.kubernetes.io/zone"],
            &labels["topology.kubernetes.io/region"]
        ),
        (&json!("z"), &json!("r"))
    );
    assert!(labels.get("x").is_none(), "{labels}");
}

/// Upstream's DefaultIngressClass.
#[tokio::test]
async fn an_ingress_without_a_class_is_of_the_default_one() {
    let plane = Plane::start().await;
    let classes = "/apis/networking.k8s.io/v1/ingressclasses";
    let ingresses = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    for (name, is_default) in [("usual", "true"), ("other", "false")] {
        let marks = json!({"ingressclass.kubernetes.io/is-default-class": is_default});
        let class =
            json!({"metadata": {"name": name, "annotations": marks}, "spec": {"controller": "e.com/c"}});
        assert_eq!(plane.call(Method::POST, classes, class).await.0, 201);
    }
    for (name, annotations, class, wanted) in [
        ("plain", json!({}), Value::Null, json!("usual")),
        ("named", json!({}), json!("other"), json!("other")),
        (
            "old",
            json!({"kubernetes.io/ingress.class": "x"}),
            Value::Null,
            Value::Null,
        ),
    ] {
        let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
        let ingress = json!({"metadata": {"name": name, "annotations": annotations},
            "spec": {"defaultBackend": backend, "ingressClassName": class}});
        let (code, made) = plane.call(Method::POST, ingresses, ingress).await;
        assert_eq!(code, 201, "{made}");
        assert_eq!(made["spec"]["ingressClassName"], wanted, "{name}");
    }
}

/// KEP-5018.
#[tokio::test]
async fn admin_access_to_devices_is_for_namespaces_that_are_marked() {
    const WHY: &str = "Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` \
        label on the containing namespace";
    let plane = Plane::start().await;
    let marked = json!({"resource.kubernetes.io/admin-access": "true"});
    for (name, labels) in [("plain", json!({})), ("marked", marked)] {
        let namespace = json!({"metadata": {"name": name, "labels": labels}});
        assert_eq!(plane.call(Method::POST, NAMESPACES, namespace).await.0, 201);
    }
    let exactly = |admin: bool| json!({"deviceClassName": "c.e.com", "adminAccess": admin});
    let spec = |admin| json!({"devices": {"requests": [{"name": "r", "exactly": exactly(admin)}]}});
    let claim = |name, admin| json!({"metadata": {"name": name}, "spec": spec(admin)});
    let template = json!({"metadata": {"name": "t"}, "spec": {"spec": spec(true)}});
    let result =
        json!({"request": "r", "driver": "d.e.com", "pool": "p", "device": "x", "adminAccess": true});
    let allocated = json!({"status": {"allocation": {"devices": {"results": [result]}}}});
    let spec_field = "spec.devices.requests[0].adminAccess";
    let status_field = "status.allocation.devices.results[0].adminAccess";
    for (namespace, refused) in [("plain", true), ("marked", false)] {
        let at = |rest: &str| format!("/apis/resource.k8s.io/v1/namespaces/{namespace}/{rest}");
        for (method, path, body, refusal) in [
            (Method::POST, at("resourceclaims"), claim("mine", false), None),
            (
                Method::POST,
                at("resourceclaims"),
                claim("admin", true),
                Some(spec_field),
            ),
            (
                Method::POST,
                at("resourceclaimtemplates"),
                template.clone(),
                Some(spec_field),
            ),
            (
                Method::PATCH,
                at("resourceclaims/mine/status"),
                allocated.clone(),
                Some(status_field),
            ),
        ] {
            let content = match method {
                Method::PATCH => "application/merge-patch+json",
                _ => "application/json",
            };
            let (code, answer) = plane.send(method, &path, content, body.to_string()).await;
            let message = answer["message"].as_str().unwrap_or_default();
            match refusal.filter(|_| refused) {
                Some(field) => {
                    assert_eq!(code, 422, "{path}: {answer}");
                    assert!(
                        message.ends_with(&format!("is invalid: {field}: {WHY}")),
                        "{message}"
                    );
                }
                None => assert!(code.is_success(), "{path}: {answer}"),
            }
        }
    }
}

#[tokio::test]
async fn system_priorities_are_there_from_the_start_and_after_each() {
    let plane = Plane::start().await.restart().await;
    for (name, value) in [
        ("system-cluster-critical", 2_000_000_000),
        ("system-node-critical", 2_000_001_000),
    ] {
        let class = format!("/apis/scheduling.k8s.io/v1/priorityclasses/{name}");
        assert_eq!(
            until(&plane, &class, |c| c["value"].is_i64()).await["value"],
            value
        );
    }
}
