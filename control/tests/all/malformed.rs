//! Requests that are not what they seem: numbers, texts, options and expressions that others have tripped over.
use super::plane::{Plane, config_map};
use amphipod_control::store::{RedbStore, Store, Txn};
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";
/// For a body of 3 MB; a hundredth of it is usual.
const LONG: Duration = Duration::from_secs(15);

/// Processor time of this thread, on which the server answers too: others may have the processors in between.
fn worked() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

async fn post(plane: &Plane, path: &str, content: &str, body: impl Into<Vec<u8>>) -> (u16, Value) {
    let request = http::Request::post(path).header("content-type", content);
    let request = request.body(body.into().into()).unwrap();
    let response = plane.client().send(request).await.unwrap();
    let code = response.status().as_u16();
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap();
    (code, serde_json::from_slice(&body.to_bytes()).unwrap_or_default())
}

#[tokio::test]
async fn numbers_that_do_not_fit() {
    let plane = Plane::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    for replicas in [
        "1.5",
        "1e400",
        "-1e400",
        "NaN",
        "Infinity",
        "2147483648",
        "99999999999999999999999999",
        "\"1\"",
        "true",
        "01",
        "0x1",
        "+1",
        ".5",
        "1.",
    ] {
        let body = format!(r#"{{"metadata":{{"name":"d"}},"spec":{{"replicas":{replicas}}}}}"#);
        let (code, answer) = post(&plane, path, JSON, body).await;
        assert_eq!(
            (code, &answer["reason"]),
            (400, &json!("BadRequest")),
            "{replicas}: {answer}"
        );
    }
    let negative = json!({"metadata": {"name": "d"}, "spec": {"replicas": -1}});
    assert_eq!(post(&plane, path, JSON, negative.to_string()).await.0, 422);
}

#[tokio::test]
async fn amounts_that_do_not_fit_name_their_field() {
    let plane = Plane::start().await;
    let pods = "/api/v1/namespaces/default/pods?dryRun=All";
    let pod = |container: Value| json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}});
    let limits = |name: &str, amount: &str| json!({"name": "c", "image": "i", "resources": {"limits": {name: amount}}});
    for (container, field) in [
        (
            limits("memory", "-1"),
            "spec.containers[0].resources.limits[memory]",
        ),
        (
            json!({"name": "c", "image": "i", "ports": [{"containerPort": 70_000}]}),
            "spec.containers[0].ports[0].containerPort",
        ),
    ] {
        let (code, answer) = post(&plane, pods, JSON, pod(container).to_string()).await;
        assert_eq!(code, 422, "{answer}");
        assert!(
            answer["message"].as_str().unwrap_or_default().contains(field),
            "{answer}"
        );
    }
    let (code, answer) = post(&plane, pods, JSON, pod(limits("cpu", "1e99")).to_string()).await;
    assert!([400, 422, 201].contains(&code), "{answer}");
    let many: Vec<Value> = (0..10_000)
        .map(|i| json!({"name": format!("c{}", i % 7), "image": "i"}))
        .collect();
    let many = json!({"metadata": {"name": "p"}, "spec": {"containers": many}});
    let begun = worked();
    let (code, _) = post(&plane, pods, JSON, many.to_string()).await;
    assert_eq!(code, 422);
    assert!(worked() - begun < LONG, "{:?}", worked() - begun);
    // What is right but for their number: 0.3 MiB as it is sent, 5 MiB with defaults and who owns what.
    let many: Vec<Value> = (0..10_000)
        .map(|i| json!({"name": format!("c{i}"), "image": "i"}))
        .collect();
    let many = json!({"metadata": {"name": "p"}, "spec": {"containers": many}});
    let (code, answer) = post(&plane, pods, JSON, many.to_string()).await;
    let why = "spec.containers: Too many: 10000: must have at most 4096 items";
    assert!(
        code == 422 && answer["message"].to_string().contains(why),
        "{answer}"
    );
    // With the record of its owners it would be too large, without it is not: upstream stores it without.
    let keys: serde_json::Map<String, Value> = (0..70_000).map(|i| (format!("key{i}"), json!("v"))).collect();
    let map = json!({"metadata": {"name": "keys"}, "data": keys});
    let (code, stored) = post(&plane, MAPS, JSON, map.to_string()).await;
    assert_eq!(code, 201, "{}", stored["message"]);
    assert!(stored["metadata"]["managedFields"].is_null());
    for size in [2 << 20, 4 << 20] {
        let env = json!({"name": "c", "image": "i", "env": [{"name": "A", "value": "x".repeat(size)}]});
        assert_eq!(post(&plane, pods, JSON, pod(env).to_string()).await.0, 413);
    }
}

#[tokio::test]
async fn texts_that_are_no_texts() {
    let plane = Plane::start().await;
    // Upstream's decoder puts U+FFFD for what is no UTF-8.
    let body = b"{\"metadata\":{\"name\":\"c\"},\"data\":{\"a\":\"x\xff\xfey\"}}";
    let (code, answer) = post(&plane, MAPS, JSON, body.as_slice()).await;
    assert_eq!(
        (code, &answer["data"]["a"]),
        (201, &json!("x\u{fffd}\u{fffd}y")),
        "{answer}"
    );
    for (name, body) in [
        (
            "a name of such bytes",
            b"{\"metadata\":{\"name\":\"\xff\"}}".as_slice(),
        ),
        (
            "a name with a NUL",
            b"{\"metadata\":{\"name\":\"a\\u0000b\"}}".as_slice(),
        ),
    ] {
        assert_eq!(post(&plane, MAPS, JSON, body).await.0, 422, "{name}");
    }
    for (name, body) in [
        ("nothing", b"".as_slice()),
        ("null", b"null".as_slice()),
        ("a list", b"[]".as_slice()),
        ("two values", b"{}{}".as_slice()),
        ("a byte order mark", b"\xef\xbb\xbf{}".as_slice()),
        ("an open text", b"{\"a\":\"".as_slice()),
        ("a control character", b"{\"a\":\"\x01\"}".as_slice()),
        ("gzip", b"\x1f\x8b\x08\x00".as_slice()),
    ] {
        let (code, answer) = post(&plane, MAPS, JSON, body).await;
        assert_eq!(
            (code, &answer["kind"]),
            (400, &json!("Status")),
            "{name}: {answer}"
        );
    }
    for (content, body) in [
        (
            "application/vnd.kubernetes.protobuf",
            b"k8s\0\xff\xff\xff\xff\xff".as_slice(),
        ),
        ("application/vnd.kubernetes.protobuf", b"not k8s".as_slice()),
        ("application/yaml", b"a: [\xff]".as_slice()),
        ("application/yaml", b"a: &a [*a]".as_slice()),
        ("application/yaml", b"? [[[[\n".as_slice()),
    ] {
        let (code, answer) = post(&plane, MAPS, content, body).await;
        assert_eq!(code, 400, "{content}: {answer}");
    }
    assert_eq!(post(&plane, MAPS, "text/html", b"{}".as_slice()).await.0, 415);
}

#[tokio::test]
async fn what_is_deep_or_wide_takes_no_time() {
    let plane = Plane::start().await;
    let deep =
        |open: &str, close: &str, by: usize| format!("{{\"data\":{}1{}}}", open.repeat(by), close.repeat(by));
    let wide: Vec<String> = (0..200_000).map(|i| format!("\"k{i}\":\"\"")).collect();
    let bodies = [
        ("lists", JSON, deep("[", "]", 1_000_000), [400, 400]),
        ("objects", JSON, deep("{\"a\":", "}", 500_000), [400, 413]),
        ("an open list", JSON, "[".repeat(3_000_000), [400, 400]),
        ("flow lists", "application/yaml", "[".repeat(100_000), [400, 400]),
        (
            "keys",
            JSON,
            format!(
                "{{\"metadata\":{{\"name\":\"c\"}},\"data\":{{{}}}}}",
                wide.join(",")
            ),
            [413, 413],
        ),
        (
            "labels",
            JSON,
            format!(
                "{{\"metadata\":{{\"name\":\"l\",\"labels\":{{{}}}}}}}",
                wide[..20_000].join(",")
            ),
            [201, 422],
        ),
    ];
    for (name, content, body, want) in bodies {
        let begun = worked();
        let (code, answer) = post(&plane, MAPS, content, body).await;
        assert!(want.contains(&code), "{name}: {code} {}", answer["message"]);
        let took = worked() - begun;
        assert!(took < LONG, "{name}: {took:?}");
    }
    let variables: Vec<_> = (0..120_000).map(|i| json!({"name": format!("k{i}")})).collect();
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i", "env": variables}]}}}});
    let begun = worked();
    let path = "/apis/apps/v1/namespaces/default/deployments?dryRun=All";
    let (code, answer) = plane.call(Method::POST, path, deployment).await;
    assert_eq!(code, 201, "{}", answer["message"]);
    let took = worked() - begun;
    assert!(took < LONG, "variables: {took:?}");
    let mut large = config_map("a", "1");
    large["metadata"]["annotations"] = json!({"a": "x".repeat(300 << 10)});
    assert_eq!(plane.call(Method::POST, MAPS, large).await.0, 422);
    let mut long = config_map("a", "1");
    long["metadata"]["labels"] = json!({"a": "x".repeat(64)});
    assert_eq!(plane.call(Method::POST, MAPS, long).await.0, 422);
    assert_eq!(plane.get("/livez").await.0, 200);
}

#[tokio::test]
async fn options_that_make_no_sense() {
    let plane = Plane::start().await;
    for (query, want) in [
        ("limit=-1", [200, 400]),
        ("limit=99999999999999999999", [400, 400]),
        ("limit=1e3", [400, 400]),
        ("timeoutSeconds=x&watch=1", [400, 400]),
        ("timeout=abc", [400, 400]),
        ("labelSelector=a%20b", [400, 400]),
        ("labelSelector=%ff", [400, 400]),
        ("labelSelector=a%20in%20(", [400, 400]),
        ("fieldSelector=metadata.name", [400, 400]),
        ("fieldSelector=spec.nodeName=x", [400, 400]),
        ("continue=%00", [400, 400]),
        ("resourceVersion=-1", [400, 400]),
        ("resourceVersion=18446744073709551616", [400, 400]),
        ("resourceVersionMatch=Nope&resourceVersion=1", [422, 422]),
        ("watch=1&allowWatchBookmarks=x&timeoutSeconds=1", [200, 400]),
        // Only a Table asks which objects are in it.
        ("includeObject=Nope", [200, 200]),
    ] {
        let (code, answer) = plane.get(&format!("{MAPS}?{query}")).await;
        assert!(want.contains(&code.as_u16()), "{query}: {code} {answer}");
        assert!(code == 200 || answer["kind"] == "Status", "{query}: {answer}");
    }
}

#[tokio::test]
async fn history_that_is_gone_is_told() {
    let plane = Plane::start().await;
    let (dir, control) = (plane.dir, plane.control);
    control.shutdown(Duration::from_secs(10)).await;
    {
        let store = RedbStore::open(&dir.path().join("control/store.redb")).unwrap();
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c", "namespace": "default"}});
        let txn = Txn::create("/registry/configmaps/default/c", object.to_string());
        store.txn(txn).await.unwrap();
        store.compact(store.revision().await.unwrap()).await.unwrap();
    }
    let plane = Plane::again(dir).await;
    let (code, answer) = plane
        .get(&format!("{MAPS}?watch=1&resourceVersion=2&timeoutSeconds=5"))
        .await;
    assert_eq!(code, 200);
    assert_eq!(
        (&answer["type"], &answer["object"]["code"]),
        (&json!("ERROR"), &json!(410)),
        "{answer}"
    );
    assert_eq!(answer["object"]["reason"], "Expired");
    // Of what has changed since, and of what has not.
    for list in [MAPS, "/api/v1/namespaces/default/podtemplates"] {
        let exact = format!("{list}?resourceVersion=2&resourceVersionMatch=Exact");
        let (code, answer) = plane.get(&exact).await;
        assert_eq!(
            (code.as_u16(), &answer["reason"]),
            (410, &json!("Expired")),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn rules_that_would_take_for_ever_are_refused_by_their_cost() {
    let plane = Plane::start().await;
    let rule = "self.all(a, self.all(b, self.all(c, self.all(d, a + b + c + d != 'x'))))";
    let list =
        json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": [{"rule": rule}]});
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {"list": list}}}}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "bombs.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "bombs", "singular": "bomb", "kind": "Bomb", "listKind": "BombList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]},
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, answer) = plane.call(Method::POST, path, definition).await;
    assert_eq!(code, 422, "{answer}");
    assert!(
        answer["message"].as_str().unwrap_or_default().contains("cost"),
        "{answer}"
    );
}

#[tokio::test]
async fn expressions_that_are_deep_or_double_take_nothing_down() {
    let plane = Plane::start().await;
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    // Each nests a little in every way there is: their products are deep.
    let sums = (0..5).fold("1".to_owned(), |s, _| format!("({s}{})", "+1".repeat(127)));
    let calls = (0..7).fold("[1]".to_owned(), |s, _| {
        format!("[{s}{}[0]]", ".reverse()".repeat(120))
    });
    let typed = format!("[1]{} == []", ".map(x,[[[[[[[[x]]]]]]]])".repeat(100));
    let doubled: String = (0..50)
        .map(|i| format!("[{{x{i}:x{i}}}].exists(x{},", i + 1))
        .collect();
    let doubled = format!("[{{1:1}}].exists(x0,{doubled}x50==x50{}", ")".repeat(51));
    for (name, expression, want) in [
        ("sums", sums + " == 1", 422),
        ("calls", calls + " == []", 422),
        ("types", typed, 422),
        ("keys", doubled, 201),
    ] {
        let selector = json!({"cel": {"expression": expression}});
        let exactly = json!({"deviceClassName": "c", "selectors": [selector]});
        let claim = json!({"metadata": {"name": name}, "spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}}});
        let begun = worked();
        let (code, answer) = post(&plane, claims, JSON, claim.to_string()).await;
        assert_eq!(code, want, "{name}: {answer}");
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(
            code == 201 || message.contains("recursion limit exceeded"),
            "{name}: {answer}"
        );
        assert!(worked() - begun < LONG, "{name}: {:?}", worked() - begun);
    }
    assert_eq!(plane.get("/livez").await.0, 200);
}

#[tokio::test]
async fn an_alias_bomb_is_refused_at_once() {
    let plane = Plane::start().await;
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x]\n");
    for pair in "abcdefghijklmnopqrstuvwxyz".as_bytes().windows(2) {
        let (from, to) = (char::from(pair[0]), char::from(pair[1]));
        bomb.push_str(&format!(
            "{to}: &{to} [{}]\n",
            [format!("*{from}").as_str(); 9].join(", ")
        ));
    }
    let begun = worked();
    assert_eq!(post(&plane, MAPS, "application/yaml", bomb).await.0, 400);
    let took = worked() - begun;
    assert!(took < LONG, "{took:?}");
}
