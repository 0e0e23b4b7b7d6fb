//! What the audit log says of requests, in upstream's words.
use super::plane::Plane;
use http::Request;
use kube::Client;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const MERGE: &str = "application/merge-patch+json";
const BOB: &str = "bob";

/// Everything that is known, without who owned which field.
const ALL: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: RequestResponse
  users: [bob, system:admin]
";

/// A request: method, path, content type, body.
type Asked<'a> = (&'a str, &'a str, &'a str, &'a str);

/// Sends it under an id of its own; the status code and the last event of it.
async fn audited(plane: &Plane, client: &Client, id: &str, asked: Asked<'_>) -> (u16, Value) {
    let (method, path, content, body) = asked;
    let request = Request::builder().method(method).uri(path).header("audit-id", id);
    let request = request
        .header("content-type", content)
        .header("x-forwarded-for", "192.0.2.7");
    let request = match content {
        YAML => request.header("accept", YAML),
        _ => request,
    };
    let answer = client
        .send(request.body(body.as_bytes().to_vec().into()).unwrap())
        .await
        .unwrap();
    let event = plane.audited(|line| line["auditID"] == id).await;
    (answer.status().as_u16(), event)
}

#[tokio::test]
async fn bodies_of_any_shape_and_format_are_told() {
    let plane = Plane::with_audit(ALL).await;
    let named = |name: &str| format!("{{\"metadata\":{{\"name\":\"{name}\"}}}}");
    let (a, b) = (named("a"), named("b"));
    let patched = format!("{MAPS}/a");
    let path = "application/json-patch+json";
    let operations = r#"[{"op":"add","path":"/data","value":{"z":"1"}}]"#;
    for (id, asked, code, sent, name) in [
        (
            "created",
            ("POST", MAPS, JSON, a.as_str()),
            201,
            json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a", "namespace": "default"}}),
            "a",
        ),
        (
            "yaml",
            ("POST", MAPS, YAML, b.as_str()),
            201,
            json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "b", "namespace": "default"}}),
            "b",
        ),
        (
            "operations",
            ("PATCH", &patched, path, operations),
            200,
            serde_json::from_str(operations).unwrap(),
            "a",
        ),
        (
            "merged",
            ("PATCH", &patched, MERGE, r#"{"data":{"y":"2"}}"#),
            200,
            json!({"data": {"y": "2"}}),
            "a",
        ),
        ("number", ("POST", MAPS, JSON, "5"), 400, Value::Null, ""),
        ("list", ("POST", MAPS, JSON, "[]"), 400, Value::Null, ""),
    ] {
        let (answered, event) = audited(&plane, &plane.client(), id, asked).await;
        assert_eq!(answered, code, "{id}: {event}");
        assert_eq!(event["requestObject"], sent, "{id}");
        assert_eq!(
            event["objectRef"]["name"].as_str().unwrap_or_default(),
            name,
            "{id}"
        );
        assert_eq!(event["sourceIPs"][0], "192.0.2.7", "{id}");
        if code < 300 {
            assert_eq!(event["responseObject"]["metadata"]["name"], name, "{id}");
        }
    }
}

/// Whether each of these says who owns its fields, and there is one.
fn all_owned<'v>(objects: impl IntoIterator<Item = &'v Value>) -> bool {
    let mut owned = objects
        .into_iter()
        .map(|object| object["metadata"]["managedFields"].is_array());
    owned.next().is_some_and(|first| first && owned.all(|each| each))
}

#[tokio::test]
async fn who_owns_which_field_is_told_unless_the_policy_says_otherwise() {
    let told = ALL.replace("omitManagedFields: true", "");
    // Who sets nothing owns nothing.
    let body = r#"{"metadata":{"name":"a"},"data":{"a":"1"}}"#;
    for (policy, owned) in [(told.as_str(), true), (ALL, false)] {
        let plane = Plane::with_audit(policy).await;
        for (id, method, body) in [("made", "POST", body), ("listed", "GET", "")] {
            let (code, event) = audited(&plane, &plane.client(), id, (method, MAPS, JSON, body)).await;
            assert!(code < 300, "{id}: {event}");
            let answer = &event["responseObject"];
            let objects = match answer["items"].as_array() {
                Some(items) => items.iter().collect(),
                None => vec![answer],
            };
            let names = objects.iter().map(|object| &object["metadata"]["name"]);
            assert!(names.into_iter().any(|name| name == "a"), "{id}: {event}");
            assert_eq!(all_owned(objects), owned, "{id}: {event}");
        }
    }
}

#[tokio::test]
async fn whether_it_is_well_is_asked_by_somebody_too() {
    let plane = Plane::with_audit(ALL).await;
    let (code, event) = audited(&plane, &plane.client(), "well", ("GET", "/livez", JSON, "")).await;
    assert_eq!(
        (code, &event["responseStatus"]["code"]),
        (200, &json!(200)),
        "{event}"
    );
    assert_eq!(event["user"]["username"], "system:admin", "{event}");
}

/// The policy that upstream's users begin with, of all stages.
const METADATA: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
rules: [{level: Metadata}]
";

#[tokio::test]
async fn what_is_wrong_with_a_timeout_is_told_before_who_asks_is_known() {
    let plane = Plane::with_audit(METADATA).await;
    let stranger = super::auth::bearer(&plane, "forged");
    let log = "/api/v1/namespaces/n/pods/p/log?timeout=x";
    let why = "invalid timeout specified in the request URL - time: invalid duration \"x\"";
    for (id, path) in [
        ("open", "/livez?timeout=x"),
        ("path", "/version?timeout=x"),
        ("map", "/api/v1/namespaces/default/configmaps/x?timeout=x"),
        ("served elsewhere", "/apis/nowhere.io/v1/things?timeout=x"),
    ] {
        let (code, event) = audited(&plane, &stranger, id, ("GET", path, JSON, "")).await;
        assert_eq!(code, 400, "{event}");
        assert_eq!(event["stage"], "ResponseStarted", "{event}");
        assert_eq!(event["user"], json!({}), "{event}");
        let status =
            json!({"metadata": {}, "status": "Failure", "reason": "BadRequest", "code": 400, "message": why});
        assert_eq!(event["responseStatus"], status);
    }
    let (code, _) = audited(&plane, &plane.client(), "no end", ("GET", log, JSON, "")).await;
    assert_eq!(code, 404, "what has no end has no timeout");
    for query in [
        "timeout=0",
        "timeout=-1s",
        "timeout=2h",
        "timeout=",
        "timeout=59s",
    ] {
        let path = format!("/version?{query}");
        let (code, event) = audited(&plane, &plane.client(), query, ("GET", &path, JSON, "")).await;
        assert_eq!(code, 200, "{event}");
    }
}

/// What an event is about, in a line.
fn about(event: &Value) -> String {
    let about = &event["objectRef"];
    let keys = [
        "apiGroup",
        "apiVersion",
        "resource",
        "subresource",
        "namespace",
        "name",
        "uid",
        "resourceVersion",
    ];
    let parts = keys.iter().map(|key| about[key].as_str().unwrap_or("-"));
    let parts: Vec<&str> = parts.collect();
    format!(
        "{} {}",
        event["verb"].as_str().unwrap_or_default(),
        parts.join(" ")
    )
}

#[tokio::test]
async fn what_a_request_is_about_is_told_whatever_becomes_of_it() {
    let plane = Plane::with_audit(ALL).await;
    let put = r#"{"metadata":{"name":"x","uid":"u","resourceVersion":"7"}}"#;
    for (id, method, path, body, code, want) in [
        (
            "below",
            "GET",
            "/api/v1/namespaces/n/configmaps/a/zork",
            "",
            404,
            "get - v1 configmaps zork n a - -",
        ),
        (
            "group",
            "GET",
            "/apis/zork.io/v2/namespaces/n/zorks",
            "",
            404,
            "list zork.io v2 zorks - n - - -",
        ),
        (
            "method",
            "PUT",
            MAPS,
            "{}",
            405,
            "update - v1 configmaps - default - - -",
        ),
        (
            "watched",
            "GET",
            "/api/v1/watch/namespaces/n/zorks",
            "",
            404,
            "watch - v1 zorks - n - - -",
        ),
        (
            "named",
            "PUT",
            &format!("{MAPS}/x"),
            put,
            404,
            "update - v1 configmaps - default x u 7",
        ),
        ("path", "GET", "/apis/apps", "", 200, "get - - - - - - - -"),
    ] {
        let (answered, event) = audited(&plane, &plane.client(), id, (method, path, JSON, body)).await;
        assert_eq!((answered, about(&event).as_str()), (code, want), "{id}: {event}");
    }
    let generated = ("POST", MAPS, JSON, r#"{"metadata":{"generateName":"g-"}}"#);
    let (_, event) = audited(&plane, &plane.client(), "generated", generated).await;
    let name = event["objectRef"]["name"].as_str().unwrap_or_default();
    assert_eq!((&name[..2], name.len()), ("g-", 7));
}

#[tokio::test]
async fn why_somebody_may_is_told() {
    let plane = Plane::with_audit(ALL).await;
    let group = "/apis/rbac.authorization.k8s.io/v1";
    let rules =
        json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["configmaps", "namespaces"]}]);
    let role = json!({"metadata": {"name": "reader"}, "rules": rules}).to_string();
    let binding = json!({"metadata": {"name": "viewer"}, "subjects": [{"kind": "User", "name": BOB}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"}});
    let (admin, bob) = (plane.client(), plane.control.client_as(BOB, &[]));
    let (roles, bindings) = (
        format!("{group}/clusterroles"),
        format!("{group}/clusterrolebindings"),
    );
    let granted = "RBAC: allowed by ClusterRoleBinding \"viewer\" of ClusterRole \"reader\" to User \"bob\"";
    let listed = format!("{MAPS}?fieldSelector=metadata.name=q");
    for (id, client, asked, decision, reason, want) in [
        (
            "role",
            &admin,
            ("POST", roles.as_str(), JSON, role.as_str()),
            "allow",
            "",
            "create rbac.authorization.k8s.io v1 clusterroles - - reader - -",
        ),
        (
            "binding",
            &admin,
            ("POST", &bindings, JSON, &binding.to_string()),
            "allow",
            "",
            "create rbac.authorization.k8s.io v1 clusterrolebindings - - viewer - -",
        ),
        // The watch cache has both when this is answered.
        (
            "fresh",
            &admin,
            ("GET", &bindings, JSON, ""),
            "allow",
            "",
            "list rbac.authorization.k8s.io v1 clusterrolebindings - - - - -",
        ),
        (
            "selected",
            &bob,
            ("GET", &listed, JSON, ""),
            "allow",
            granted,
            "list - v1 configmaps - default q - -",
        ),
        (
            "itself",
            &bob,
            ("GET", "/api/v1/namespaces/default", JSON, ""),
            "allow",
            granted,
            "get - v1 namespaces - default default - -",
        ),
        (
            "unknown",
            &bob,
            ("GET", "/apis/zork.io/v1/zorks/x", JSON, ""),
            "forbid",
            "",
            "get zork.io v1 zorks - - x - -",
        ),
    ] {
        let (_, event) = audited(&plane, client, id, asked).await;
        let annotations =
            json!({"authorization.k8s.io/decision": decision, "authorization.k8s.io/reason": reason});
        assert_eq!(event["annotations"], annotations, "{id}: {event}");
        assert_eq!(about(&event), want, "{id}");
    }
}

#[tokio::test]
async fn which_token_was_given_is_told() {
    let plane = Plane::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let robot = json!({"metadata": {"name": "robot"}});
    assert_eq!(plane.call(http::Method::POST, accounts, robot).await.0, 201);
    let (code, _) = super::auth::token(&plane, json!({})).await;
    assert_eq!(code, 201);
    let event = plane
        .audited(|line| line["objectRef"]["subresource"] == "token" && line["stage"] == "ResponseComplete")
        .await;
    let id = event["annotations"]["authentication.kubernetes.io/issued-credential-id"].as_str();
    assert!(id.is_some_and(|id| id.starts_with("JTI=")), "{event}");
}

/// The event of a request for a Secret by somebody who is not let in.
async fn refused(plane: &Plane, client: &Client, id: &str) -> Value {
    let asked = ("GET", "/api/v1/namespaces/n/secrets/x", JSON, "");
    let (code, event) = audited(plane, client, id, asked).await;
    assert_eq!(code, 401, "{event}");
    event
}

#[tokio::test]
async fn whom_nobody_knows_is_told_with_what_he_asked_for() {
    let plane = Plane::start().await;
    let event = refused(&plane, &super::auth::bearer(&plane, "forged"), "forged").await;
    assert_eq!(event["stage"], "ResponseStarted", "{event}");
    assert_eq!((&event["verb"], &event["user"]), (&json!("get"), &json!({})));
    let about = json!({"resource": "secrets", "namespace": "n", "name": "x", "apiVersion": "v1"});
    assert_eq!(event["objectRef"], about);
    let status = json!({"metadata": {}, "status": "Failure", "code": 401, "message": "Unauthorized",
        "reason": "Unauthorized"});
    assert_eq!(event["responseStatus"], status);
}

#[tokio::test]
async fn a_certificate_that_is_refused_is_told() {
    let (plane, other) = (Plane::start().await, Plane::start().await);
    for (id, token) in [("shown", None), ("both", Some("forged"))] {
        let client = super::https::stranger(&plane, &other, token).await;
        let event = refused(&plane, &client, id).await;
        assert_eq!(event["responseStatus"]["reason"], "Unauthorized", "{event}");
        let open = Request::get("/livez").body(Vec::new().into()).unwrap();
        assert_eq!(client.send(open).await.unwrap().status(), 401, "{id}");
    }
}

/// A `Status` is told at every level, also of success; what may last is told when it begins, also where it fails.
#[tokio::test]
async fn how_it_ended_is_told_without_objects() {
    let plane = Plane::with_audit(&ALL.replace("RequestResponse", "Metadata")).await;
    let client = plane.client();
    let made = ("POST", MAPS, JSON, r#"{"metadata":{"name":"a"}}"#);
    let (_, event) = audited(&plane, &client, "made", made).await;
    assert_eq!(event["responseStatus"], json!({"metadata": {}, "code": 201}));
    let path = format!("{MAPS}/a");
    let (_, event) = audited(&plane, &client, "gone", ("DELETE", &path, JSON, "")).await;
    let status = &event["responseStatus"];
    assert_eq!(
        (&status["status"], &status["code"]),
        (&json!("Success"), &json!(200))
    );
    assert_eq!(
        (&status["details"]["name"], &status["details"]["kind"]),
        (&json!("a"), &json!("configmaps"))
    );
    let log = "/api/v1/namespaces/default/pods/none/log";
    let (code, event) = audited(&plane, &client, "log", ("GET", log, JSON, "")).await;
    assert_eq!(code, 404, "{event}");
    let started = |line: &Value| line["auditID"] == "log" && line["stage"] == "ResponseStarted";
    let event = plane.audited(started).await;
    assert_eq!(event["responseStatus"]["reason"], "NotFound", "{event}");
    let ended = |line: &Value| line["auditID"] == "log" && line["stage"] == "ResponseComplete";
    plane.audited(ended).await;
}

/// What is shown of what was sent is what it was understood as; what was not understood is not shown.
#[tokio::test]
async fn what_was_sent_is_told_as_it_was_understood() {
    let plane = Plane::with_audit(ALL).await;
    let client = plane.client();
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = r#"{"metadata":{"name":"s"},"stringData":{"a":"b"}}"#;
    let (code, event) = audited(&plane, &client, "secret", ("POST", secrets, JSON, secret)).await;
    let sent = &event["requestObject"];
    assert_eq!(
        (code, &sent["type"], &sent["data"]["a"]),
        (201, &json!("Opaque"), &json!("Yg=="))
    );
    assert!(sent["stringData"].is_null(), "{event}");
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let unknown = r#"{"metadata":{"name":"m"},"foo":1}"#;
    let (code, event) = audited(&plane, &client, "strict", ("POST", &strict, JSON, unknown)).await;
    assert_eq!((code, &event["requestObject"]), (400, &Value::Null), "{event}");
    let away = format!("{MAPS}/away");
    let put = r#"{"metadata":{"name":"away"}}"#;
    let (code, event) = audited(&plane, &client, "away", ("PUT", &away, JSON, put)).await;
    assert_eq!(
        (code, &event["requestObject"]["metadata"]["name"]),
        (404, &json!("away")),
        "{event}"
    );
}

/// What nobody is asked for is allowed; what should not be used any more is marked; who takes no form of an answer is told
/// of by his code alone; what was answered to whom nobody knows is shown.
#[tokio::test]
async fn what_is_special_about_a_request_is_told() {
    let plane = Plane::with_audit(&ALL.replace("  users: [bob, system:admin]\n", "")).await;
    let client = plane.client();
    let (_, event) = audited(&plane, &client, "health", ("GET", "/healthz", JSON, "")).await;
    let allowed = json!({"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""});
    assert_eq!(event["annotations"], allowed, "{event}");
    for (id, path) in [
        ("components", "/api/v1/componentstatuses"),
        ("endpoints", "/api/v1/endpoints"),
    ] {
        let (_, event) = audited(&plane, &client, id, ("GET", path, JSON, "")).await;
        assert_eq!(event["annotations"]["k8s.io/deprecated"], "true", "{event}");
    }
    let request = Request::get(MAPS)
        .header("audit-id", "form")
        .header("accept", "text/html");
    let answer = client
        .send(request.body(Vec::new().into()).unwrap())
        .await
        .unwrap();
    assert_eq!(answer.status(), 406);
    let event = plane.audited(|line| line["auditID"] == "form").await;
    assert_eq!(event["responseStatus"], json!({"metadata": {}, "code": 406}));
    assert!(event["responseObject"].is_null(), "{event}");
    let event = refused(&plane, &super::auth::bearer(&plane, "forged"), "forged").await;
    assert_eq!(event["responseObject"]["reason"], "Unauthorized", "{event}");
}
