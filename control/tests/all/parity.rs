//! Small things by which a client could tell this API server from upstream's.
use super::cluster::until_one;
use super::plane::Plane;
use futures::{AsyncBufReadExt, TryStreamExt};
use http::{Method, Request};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use serde_json::{Value, json};

/// The texts of the `Warning` headers of an answer.
async fn warnings(plane: &Plane, method: Method, path: &str, body: Value) -> Vec<String> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json");
    let body = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let answer = plane
        .client()
        .send(request.body(body.into()).unwrap())
        .await
        .unwrap();
    let headers = answer.headers().get_all("warning").iter();
    headers.map(|value| value.to_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn writers_are_told_what_is_odd() {
    let plane = Plane::start().await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i",
        "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}]}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 0,
        "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let told = warnings(
        &plane,
        Method::POST,
        "/apis/apps/v1/namespaces/default/deployments",
        deployment,
    )
    .await;
    assert_eq!(
        told,
        [
            "299 - \"spec.template.spec.containers[0].env[1]: hides previous definition of \\\"A\\\", which may be dropped \
          when using apply\""
        ]
    );
    let told = warnings(&plane, Method::GET, "/api/v1/endpoints", Value::Null).await;
    assert_eq!(
        told,
        ["299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""]
    );
}

/// The annotation of the version before becomes the field, and who wrote it is told.
#[tokio::test]
async fn what_a_new_pod_says_otherwise_is_carried_into_its_fields() {
    let plane = Plane::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let annotation = "container.apparmor.security.beta.kubernetes.io/c";
    let hash = json!({"key": "hash", "operator": "In", "values": ["abc"]});
    let spread = |keys: Value| {
        json!([{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "x"}}, "matchLabelKeys": keys}])
    };
    let pod = |name: &str, keys: Value| {
        json!({"metadata": {"name": name, "labels": {"app": "x", "hash": "abc"}, "annotations": {annotation: "unconfined"}},
            "spec": {"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}},
                "topologySpreadConstraints": spread(keys), "containers": [{"name": "c", "image": "i"}]}})
    };
    let told = warnings(&plane, Method::POST, pods, pod("p.q", json!(["hash"]))).await;
    assert_eq!(
        told,
        [
            format!(
                "299 - \"metadata.annotations[{annotation}]: deprecated since v1.30; use the \\\"appArmorProfile\\\" field \
                 instead\""
            ),
            "299 - \"metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label \
             is recommended: [must not contain dots]\""
                .to_owned()
        ]
    );
    let stored = plane.get(&format!("{pods}/p.q")).await.1;
    let container = &stored["spec"]["containers"][0];
    assert_eq!(
        container["securityContext"]["appArmorProfile"],
        json!({"type": "Unconfined"})
    );
    let selector = &stored["spec"]["topologySpreadConstraints"][0]["labelSelector"];
    assert_eq!(selector["matchExpressions"], json!([hash]));
    let twice = plane.call(Method::POST, pods, pod("q", json!(["app"]))).await;
    assert_eq!(twice.0, 422);
    assert_eq!(
        twice.1["message"],
        "Pod \"q\" is invalid: spec.topologySpreadConstraints[0][0]: Invalid value: \"app\": exists in both matchLabelKeys \
         and labelSelector"
    );
}

#[tokio::test]
async fn a_binding_of_a_pod_that_was_before_conflicts_with_the_pod() {
    let plane = Plane::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"schedulingGates": [{"name": "e.com/g"}],
        "containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(plane.call(Method::POST, pods, pod).await.0, 201);
    let binding =
        json!({"metadata": {"name": "p", "uid": "before"}, "target": {"kind": "Node", "name": "n"}});
    let (code, refused) = plane
        .call(Method::POST, &format!("{pods}/p/binding"), binding)
        .await;
    assert_eq!(
        (code.as_u16(), &refused["details"]["kind"]),
        (409, &json!("pods"))
    );
}

#[tokio::test]
async fn an_owner_is_named_once() {
    let plane = Plane::start().await;
    let (maps, map) = (
        "/api/v1/namespaces/default/configmaps",
        "/api/v1/namespaces/default/configmaps/m",
    );
    let owner = |uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid});
    let owned = json!({"metadata": {"name": "m", "ownerReferences": [owner("u"), owner("v"), owner("u")]}});
    for (method, path) in [(Method::POST, maps), (Method::PUT, map)] {
        let told = warnings(&plane, method, path, owned.clone()).await;
        assert!(
            told[0].contains("contains duplicate entries; API server dedups"),
            "{told:?}"
        );
        assert!(told[0].ends_with("duplicate UID(s) observed: u\""), "{told:?}");
        assert_eq!(told.len(), 1);
    }
    let patch =
        json!([{"op": "add", "path": "/metadata/ownerReferences/-", "value": owner("v")}]).to_string();
    let (code, patched) = plane
        .send(Method::PATCH, map, "application/json-patch+json", patch)
        .await;
    assert_eq!(code, 200, "{patched}");
    assert_eq!(
        patched["metadata"]["ownerReferences"],
        json!([owner("u"), owner("v")])
    );
}

#[tokio::test]
async fn the_refused_are_warned_too() {
    let plane = Plane::start().await;
    let odd = json!({"metadata": {"name": "A_"}, "foo": 1});
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(
        warnings(&plane, Method::POST, maps, odd).await,
        ["299 - \"unknown field \\\"foo\\\"\""]
    );
}

/// Each request, of a ConfigMap that is there, and what it is answered with.
#[tokio::test]
async fn preconditions_are_kept_as_upstreams() {
    let plane = Plane::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let of =
        |name: &str, meta: Value| json!({"metadata": {"name": name, meta[0].as_str().unwrap(): meta[1]}});
    let kept = json!({"metadata": {"name": "c"}, "data": {"a": "1"}});
    assert_eq!(plane.call(Method::POST, maps, kept).await.0, 201);
    let (map, lease) = (format!("{maps}/c"), format!("{leases}/l"));
    for (method, path, content, body, code) in [
        (Method::DELETE, format!("{map}?uid=x"), "json", String::new(), 409),
        (
            Method::DELETE,
            format!("{map}?resourceVersion=1"),
            "json",
            String::new(),
            409,
        ),
        (
            Method::PUT,
            map.clone(),
            "json",
            of("c", json!(["resourceVersion", "0"])).to_string(),
            200,
        ),
        (
            Method::PUT,
            map.clone(),
            "json",
            of("c", json!(["uid", "x"])).to_string(),
            409,
        ),
        (
            Method::PATCH,
            map.clone(),
            "merge-patch+json",
            of("c", json!(["uid", "x"])).to_string(),
            422,
        ),
        (
            Method::PUT,
            lease.clone(),
            "json",
            of("l", json!(["uid", "x"])).to_string(),
            409,
        ),
        (
            Method::PUT,
            lease,
            "json",
            of("l", json!(["resourceVersion", "5"])).to_string(),
            201,
        ),
        (
            Method::PATCH,
            map.clone(),
            "json-patch+json",
            "null".to_owned(),
            200,
        ),
        (
            Method::PATCH,
            map.clone(),
            "json-patch+json",
            "[null]".to_owned(),
            422,
        ),
        (Method::DELETE, map, "json", "null".to_owned(), 200),
    ] {
        let content = format!("application/{content}");
        let (got, answer) = plane.send(method.clone(), &path, &content, body.clone()).await;
        assert_eq!(got, code, "{method} {path} {body}: {answer}");
    }
}

#[tokio::test]
async fn components_are_well() {
    let plane = Plane::start().await;
    let (code, list) = plane.get("/api/v1/componentstatuses").await;
    assert_eq!(
        (code.as_u16(), &list["kind"]),
        (200, &json!("ComponentStatusList"))
    );
    let names: Vec<&Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["metadata"]["name"])
        .collect();
    assert_eq!(names, ["controller-manager", "etcd-0", "scheduler"]);
    let (_, one) = plane.get("/api/v1/componentstatuses/etcd-0").await;
    assert_eq!(
        one["conditions"],
        json!([{"type": "Healthy", "status": "True", "message": "ok"}])
    );
    let (code, _) = plane
        .call(Method::DELETE, "/api/v1/componentstatuses/etcd-0", Value::Null)
        .await;
    assert_eq!(code, 405);
}

#[tokio::test]
async fn strictness_errors_come_in_the_order_of_the_document() {
    let plane = Plane::start().await;
    let body = r#"{"metadata":{"name":"c","zzz":1},"data":{"a":"1"},"nope":1,"data":{"a":"2"},"aaa":1}"#;
    let path = "/api/v1/namespaces/default/configmaps?fieldValidation=Strict";
    let (code, status) = plane
        .send(Method::POST, path, "application/json", body.to_owned())
        .await;
    assert_eq!(code, 400);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.ends_with(
            "strict decoding error: unknown field \"metadata.zzz\", unknown field \"nope\", duplicate field \"data\", \
             unknown field \"aaa\""
        ),
        "{message}"
    );
}

#[tokio::test]
async fn a_pod_without_grace_is_announced_before_it_is_gone() {
    let plane = Plane::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 300,
        "containers": [{"name": "c", "image": "i"}]}});
    let accounts = Api::<ServiceAccount>::default_namespaced(plane.client());
    until_one(&accounts, "default", "to be there", |_| true).await;
    let (code, made) = plane.call(Method::POST, pods, pod).await;
    assert_eq!(code, 201, "{made}");
    let path = format!("{pods}/p?gracePeriodSeconds=0");
    assert_eq!(plane.call(Method::DELETE, &path, Value::Null).await.0, 200);
    // A read waits for the watch cache: both events are history for the short watch below.
    plane.get(pods).await;
    let from = made["metadata"]["resourceVersion"].as_str().unwrap();
    let watch =
        format!("{pods}?watch=1&timeoutSeconds=1&resourceVersion={from}&fieldSelector=metadata.name%3Dp");
    let request = Request::get(watch).body(Vec::new()).unwrap();
    let lines = plane.client().request_stream(request).await.unwrap().lines();
    let events: Vec<String> = lines.try_collect().await.unwrap();
    let shown = events.iter().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        let grace = event["object"]["metadata"]["deletionGracePeriodSeconds"].clone();
        (event["type"].as_str().unwrap().to_owned(), grace)
    });
    assert_eq!(
        shown.collect::<Vec<_>>(),
        [
            ("MODIFIED".to_owned(), json!(0)),
            ("DELETED".to_owned(), json!(0))
        ]
    );
}

#[tokio::test]
async fn nothing_is_to_be_cached() {
    let plane = Plane::start().await;
    for path in ["/healthz", "/api", "/api/v1/pods", "/nosuch"] {
        let request = Request::builder().uri(path).body(Vec::new().into());
        let answer = plane.client().send(request.unwrap()).await.unwrap();
        let said = answer
            .headers()
            .get("cache-control")
            .map(|value| value.to_str().unwrap());
        assert_eq!(said, Some("no-cache, private"), "{path}");
    }
}

#[tokio::test]
async fn a_patch_is_to_blame_for_what_it_makes() {
    let plane = Plane::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    assert_eq!(plane.call(Method::POST, maps, map).await.0, 201);
    let path = format!("{maps}/m?fieldValidation=Strict");
    let foo = "no kind \"Foo\" is registered for version \"v1\" in scheme";
    let kind = json!({"kind": "Foo"});
    for (patch, body, want) in [
        ("merge", json!({"data": 1}), Some("json: cannot unmarshal")),
        (
            "strategic-merge",
            json!({"data": {"a": 1}}),
            Some("cannot convert int64 to string"),
        ),
        (
            "merge",
            json!({"x": 1}),
            Some("strict decoding error: unknown field \"x\""),
        ),
        ("merge", kind.clone(), Some(foo)),
        (
            "json",
            json!([{"op": "replace", "path": "/kind", "value": "Foo"}]),
            Some(foo),
        ),
        (
            "merge",
            json!({"apiVersion": "v2"}),
            Some("no kind \"ConfigMap\" is registered for version \"v2\" in scheme"),
        ),
        ("strategic-merge", kind, None),
        ("merge", json!({"kind": null}), None),
    ] {
        let content = match patch {
            "json" => "application/json-patch+json".to_owned(),
            patch => format!("application/{patch}-patch+json"),
        };
        let (code, answer) = plane.send(Method::PATCH, &path, &content, body.to_string()).await;
        assert_eq!(code, if want.is_some() { 422 } else { 200 }, "{body}: {answer}");
        if let Some(want) = want {
            let message = answer["message"].as_str().unwrap();
            let shown = match patch {
                "strategic-merge" => "map[data:map[a:1]]",
                _ => "{",
            };
            assert!(
                message.starts_with(&format!(" \"\" is invalid: patch: Invalid value: \"{shown}")),
                "{message}"
            );
            assert_eq!(
                message.contains("\\\"x\\\":1"),
                body == json!({"x": 1}),
                "{message}"
            );
            assert!(message.contains(&format!(": {want}")), "{message}");
            assert_eq!(answer["details"]["causes"][0]["field"], "patch");
        }
    }
}
