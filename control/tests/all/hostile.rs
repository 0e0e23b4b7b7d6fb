//! Broken and hostile requests, and what each must get; the server answers others all the while.
use super::plane::{Plane, config_map};
use super::tls;
use http::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MAP: &str = "/api/v1/namespaces/default/configmaps/c";

async fn code(
    plane: &Plane,
    method: Method,
    path: &str,
    content: &str,
    body: impl Into<String>,
) -> (u16, Value) {
    let (code, answer) = plane.send(method, path, content, body.into()).await;
    (code.as_u16(), answer)
}

#[tokio::test]
async fn bodies_that_are_too_much() {
    let plane = Plane::start().await;
    plane.call(Method::POST, MAPS, config_map("c", "1")).await;
    let json = "application/json";
    let large = json!({"data": {"a": "x".repeat(3 << 20)}}).to_string();
    assert_eq!(code(&plane, Method::POST, MAPS, json, large).await.0, 413);
    let nested = format!("{{\"data\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(code(&plane, Method::POST, MAPS, json, nested).await.0, 400);

    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x]\n");
    for pair in "abcdefghijkl".as_bytes().windows(2) {
        let (from, to) = (char::from(pair[0]), char::from(pair[1]));
        bomb.push_str(&format!(
            "{to}: &{to} [{}]\n",
            [format!("*{from}").as_str(); 9].join(", ")
        ));
    }
    let (status, answer) = code(&plane, Method::POST, MAPS, "application/yaml", bomb.clone()).await;
    assert_eq!(status, 400, "{answer}");
    let apply = format!("{MAP}?fieldManager=x");
    let (status, _) = code(
        &plane,
        Method::PATCH,
        &apply,
        "application/apply-patch+yaml",
        bomb,
    )
    .await;
    assert_eq!(status, 400);

    let patch = "application/json-patch+json";
    let many = json!(vec![
        json!({"op": "test", "path": "/data/a", "value": "1"});
        10_001
    ]);
    assert_eq!(
        code(&plane, Method::PATCH, MAP, patch, many.to_string()).await.0,
        413
    );
    let copy = |i: usize| json!({"op": "copy", "from": "/data", "path": format!("/data/b{i}")});
    let double: Value = (0..64).map(copy).collect();
    assert_eq!(
        code(&plane, Method::PATCH, MAP, patch, double.to_string())
            .await
            .0,
        422
    );
    assert_eq!(plane.get("/readyz").await.0, 200);
}

#[tokio::test]
async fn what_is_stored_can_be_read_again_however_deep() {
    let plane = Plane::start().await;
    let revisions = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let mut codes = Vec::new();
    for levels in (90..127).step_by(3) {
        let data = format!("{}1{}", "{\"n\":".repeat(levels), "}".repeat(levels));
        let name = format!("r{levels}");
        let object = format!(
            r#"{{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{{"name":"{name}"}},"revision":1,"data":{data}}}"#
        );
        for (method, path, content) in [
            (Method::POST, revisions.to_owned(), "application/json"),
            (
                Method::PATCH,
                format!("{revisions}/{name}?fieldManager=x"),
                "application/apply-patch+yaml",
            ),
        ] {
            let (status, answer) = code(&plane, method, &path, content, object.clone()).await;
            codes.push(status);
            let one = format!("{revisions}/{name}");
            let (there, gone) = match status {
                201 => (200, 200),
                400 => (404, 404),
                _ => panic!("{levels}: {answer}"),
            };
            assert_eq!(plane.get(&one).await.0, there, "{levels}");
            assert_eq!(
                plane.call(Method::DELETE, &one, json!({})).await.0,
                gone,
                "{levels}"
            );
        }
    }
    assert!(codes.contains(&201) && codes.contains(&400), "{codes:?}");
}

#[tokio::test]
async fn patches_that_wrap_an_object_again_and_again() {
    let plane = Plane::start().await;
    plane.call(Method::POST, MAPS, config_map("c", "1")).await;
    let round = [
        json!({"op": "move", "from": "/data", "path": "/x"}),
        json!({"op": "add", "path": "/data", "value": {}}),
        json!({"op": "move", "from": "/x", "path": "/data/n"}),
    ];
    let wraps: Value = round.iter().cycle().take(9_900).cloned().collect();
    let patch = "application/json-patch+json";
    let (status, answer) = code(&plane, Method::PATCH, MAP, patch, wraps.to_string()).await;
    assert_eq!(status, 422, "{answer}");
    assert_eq!(plane.get("/readyz").await.0, 200);
}

#[tokio::test]
async fn strict_decoding_names_the_path() {
    let plane = Plane::start().await;
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let refused = |what: &str| {
        format!("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: {what}")
    };
    for (body, what) in [
        (
            r#"{"metadata":{"name":"c","name":"d"}}"#,
            "duplicate field \"metadata.name\"",
        ),
        (
            r#"{"metadata":{"name":"c","x":1}}"#,
            "unknown field \"metadata.x\"",
        ),
    ] {
        let (status, answer) = code(&plane, Method::POST, &strict, "application/json", body).await;
        assert_eq!(
            (status, answer["message"].as_str()),
            (400, Some(refused(what).as_str()))
        );
    }
}

#[tokio::test]
async fn what_is_wrong_is_told_to_an_end() {
    let plane = Plane::start().await;
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let unknown: serde_json::Map<String, Value> = (0..300).map(|n| (format!("x{n:03}"), json!(n))).collect();
    let (status, answer) = code(
        &plane,
        Method::POST,
        &strict,
        "application/json",
        Value::from(unknown).to_string(),
    )
    .await;
    let message = answer["message"].as_str().unwrap();
    assert_eq!((status, message.matches("unknown field").count()), (400, 100));
    assert!(message.ends_with("unknown field \"x099\""), "{message}");

    let gates = vec![json!({"conditionType": "-"}); 20_000];
    let pod = json!({"metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}], "readinessGates": gates}});
    let pods = "/api/v1/namespaces/default/pods";
    let (status, answer) = code(&plane, Method::POST, pods, "application/json", pod.to_string()).await;
    let causes = answer["details"]["causes"].as_array().unwrap();
    assert_eq!((status, causes.len()), (422, 10_001));
    let more = "too many errors: further ones are not told";
    assert_eq!(causes[10_000]["message"], format!("Invalid value: null: {more}"));
}

#[tokio::test]
async fn names_are_never_paths() {
    let plane = Plane::start().await;
    let long = format!("{MAPS}/{}", "x".repeat(300));
    for path in [
        "/api/v1/namespaces/..%2f..%2fsecrets/configmaps",
        "/api/v1/namespaces/default/configmaps/%00",
        "/api/v1/namespaces/default/configmaps/..",
        "/api/v1/namespaces/default/configmaps/..%2f..%2fsecrets",
        long.as_str(),
    ] {
        let (status, answer) = code(&plane, Method::GET, path, "application/json", "").await;
        assert!([400, 404, 422].contains(&status), "{path}: {status} {answer}");
    }
    for name in ["../x", "a\u{0}b", &"x".repeat(300)] {
        let (status, _) = plane.call(Method::POST, MAPS, config_map(name, "1")).await;
        assert_eq!(status, 422, "{name}");
    }
    assert_eq!(
        code(&plane, Method::GET, &long, "application/json", "").await.0,
        404
    );
}

#[tokio::test]
async fn revisions_that_are_wrong() {
    let plane = Plane::start().await;
    plane.call(Method::POST, MAPS, config_map("c", "1")).await;
    let mut stale = config_map("c", "2");
    stale["metadata"]["resourceVersion"] = "1".into();
    assert_eq!(plane.call(Method::PUT, MAP, stale).await.0, 409);
    for (query, want) in [
        ("watch=1&resourceVersion=abc&timeoutSeconds=1", 400),
        ("resourceVersion=999999999", 504),
        ("continue=forged", 400),
        ("limit=many", 400),
        ("resourceVersionMatch=Exact", 422),
    ] {
        let (status, answer) = code(
            &plane,
            Method::GET,
            &format!("{MAPS}?{query}"),
            "application/json",
            "",
        )
        .await;
        assert_eq!(status, want, "{query}: {answer}");
    }
    let wrong = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "no"}});
    assert_eq!(plane.call(Method::DELETE, MAP, wrong).await.0, 409);
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
    assert_eq!(plane.call(Method::DELETE, MAP, both).await.0, 422);
}

#[tokio::test]
async fn what_is_being_deleted_gets_no_new_finalizers() {
    let plane = Plane::start().await;
    let mut held = config_map("c", "1");
    held["metadata"]["finalizers"] = json!(["x.io/a"]);
    plane.call(Method::POST, MAPS, held).await;
    let dry = json!({"dryRun": ["All"]});
    let (_, tried) = plane.call(Method::DELETE, MAP, dry).await;
    assert!(tried["metadata"]["deletionTimestamp"].is_string());
    assert!(
        plane.get(MAP).await.1["metadata"]
            .get("deletionTimestamp")
            .is_none()
    );
    plane.call(Method::DELETE, MAP, Value::Null).await;
    let more = json!({"metadata": {"finalizers": ["x.io/a", "x.io/b"]}}).to_string();
    assert_eq!(
        code(&plane, Method::PATCH, MAP, "application/merge-patch+json", more)
            .await
            .0,
        422
    );
}

#[tokio::test]
async fn selectors_are_bounded() {
    let plane = Plane::start().await;
    let terms = |count: usize| -> String {
        let terms: Vec<String> = (0..count).map(|i| format!("k{i}%3Dv")).collect();
        format!("{MAPS}?labelSelector={}", terms.join(","))
    };
    let begun = Instant::now();
    let (status, _) = code(&plane, Method::GET, &terms(5000), "application/json", "").await;
    assert!([200, 400].contains(&status), "{status}");
    let mut stream = tls::connect(&plane, b"http/1.1").await;
    let request = format!(
        "GET {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        terms(10_000)
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 200"),
        "{answer}"
    );
    assert!(begun.elapsed() < Duration::from_secs(60));
    let (status, answer) = code(
        &plane,
        Method::GET,
        &format!("{MAPS}?fieldSelector=data.a%3D1"),
        "application/json",
        "",
    )
    .await;
    assert_eq!(
        (status, answer["message"].as_str()),
        (
            400,
            Some(r#""data.a" is not a known field selector: only "metadata.name", "metadata.namespace""#)
        )
    );
}

#[tokio::test]
async fn objects_are_selected_by_the_fields_that_upstream_has() {
    let plane = Plane::start().await;
    let known = "is not a known field selector: only \"metadata.name\", \"metadata.namespace\"";
    for (path, selector, wanted) in [
        ("/api/v1/pods", "status.podIPs=1", None),
        (
            "/api/v1/pods",
            "spec.x=1",
            Some("field label not supported: spec.x".to_owned()),
        ),
        (
            "/apis/apps/v1/replicasets",
            "status.replicas=1",
            Some(format!("\"status.replicas\" {known}")),
        ),
        ("/api/v1/replicationcontrollers", "status.replicas=1", None),
        (
            "/api/v1/namespaces",
            "name=x",
            Some("field label not supported: name".to_owned()),
        ),
        (
            "/api/v1/namespaces",
            "metadata.namespace=x",
            Some("field label not supported: metadata.namespace".to_owned()),
        ),
        ("/api/v1/persistentvolumes", "metadata.namespace=x", None),
    ] {
        let (code, answer) = plane.get(&format!("{path}?fieldSelector={selector}")).await;
        let told = answer["message"].as_str().map(str::to_owned);
        assert_eq!(
            code.as_u16(),
            if wanted.is_some() { 400 } else { 200 },
            "{answer}"
        );
        assert_eq!(told, wanted, "{path} {selector}");
        if code == 200 {
            assert_eq!(answer["items"], json!([]), "{path} {selector}");
        }
    }
}

/// A proxy in front of the server tells each group of a user in a line of its own.
#[tokio::test]
async fn hundreds_of_header_lines_are_read() {
    let plane = Plane::start().await;
    for (lines, want) in [(500, "HTTP/1.1 200"), (2_000, "HTTP/1.1 431")] {
        let mut stream = tls::connect(&plane, b"http/1.1").await;
        let group = "impersonate-group: g\r\n".repeat(lines);
        let request = format!("GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{group}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(want), "{lines}: {answer}");
    }
}

#[tokio::test]
async fn endless_headers_end_the_connection() {
    let plane = Plane::start().await;
    let mut stream = tls::connect(&plane, b"http/1.1").await;
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n")
        .await
        .unwrap();
    let line = format!("x-a: {}\r\n", "y".repeat(1000));
    let mut sent = 0;
    while sent < (8 << 20) && stream.write_all(line.as_bytes()).await.is_ok() {
        sent += line.len();
    }
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer))
        .await
        .unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    assert_eq!(plane.get("/livez").await.0, 200);
}
