//! What several ValidatingAdmissionPolicies come to together: all are asked, each says what it has to say, the first denies.
use super::plane::{Plane, config_map};
use http::{Method, Request};
use serde_json::{Value, json};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";

/// What became of a request: code, body, `Warning` headers.
type Answer = (u16, Value, Vec<String>);

async fn ask(plane: &Plane, id: &str, method: Method, path: &str, body: Value) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .header("audit-id", id);
    let body = match body.is_null() {
        true => Vec::new(),
        false => body.to_string().into_bytes(),
    };
    let request = request.body(body.into()).unwrap();
    let answer = plane.client().send(request).await.unwrap();
    let code = answer.status().as_u16();
    let headers = answer.headers().get_all("warning").iter();
    let warnings = headers.map(|value| value.to_str().unwrap().to_owned()).collect();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await;
    let body = serde_json::from_slice(&body.unwrap().to_bytes()).unwrap_or_default();
    (code, body, warnings)
}

/// The annotations of the request's event.
async fn annotations(plane: &Plane, id: &str) -> Value {
    let event = plane.audited(|line| line["auditID"] == id).await;
    event["annotations"].clone()
}

async fn create(plane: &Plane, path: &str, body: Value) {
    let (code, answer) = plane.call(Method::POST, path, body).await;
    assert_eq!(code, 201, "{answer}");
}

/// A policy on ConfigMaps whose names begin with `c`.
async fn policy(plane: &Plane, name: &str, spec: Value) {
    let mut whole = json!({
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["CREATE", "DELETE"], "resources": ["configmaps"]}]},
        "matchConditions": [{"name": "ours", "expression": "request.name.startsWith('c')"}],
    });
    json_patch::merge(&mut whole, &spec);
    let policy = json!({"metadata": {"name": name}, "spec": whole});
    create(plane, &format!("{GROUP}/validatingadmissionpolicies"), policy).await;
}

async fn bind(plane: &Plane, name: &str, spec: Value) {
    let bindings = format!("{GROUP}/validatingadmissionpolicybindings");
    create(
        plane,
        &bindings,
        json!({"metadata": {"name": name}, "spec": spec}),
    )
    .await;
    // Admission reads the watch cache, which a list waits for.
    plane.get(&bindings).await;
}

#[tokio::test]
async fn all_policies_are_asked_and_the_first_denies() {
    let plane = Plane::start().await;
    let says = |message: &str| json!({"validations": [{"expression": "false", "message": message}]});
    for (name, action, spec) in [
        ("a", "Deny", says("a says no")),
        ("b", "Deny", says("b says no")),
        ("c", "Warn", says("c is odd")),
        (
            "d",
            "Audit",
            json!({"validations": [{"expression": "true"}, {"expression": "false", "message": "first"},
                {"expression": "false", "message": "second"}],
            "auditAnnotations": [{"key": "said", "valueExpression": "' ' + object.data.a"}]}),
        ),
        ("e", "Audit", says("last")),
    ] {
        policy(&plane, name, spec).await;
        bind(
            &plane,
            name,
            json!({"policyName": name, "validationActions": [action]}),
        )
        .await;
    }
    let asked = ask(&plane, "denied", Method::POST, MAPS, config_map("c", "left")).await;
    let (code, refused, warnings) = asked;
    let why = "ValidatingAdmissionPolicy 'a' with binding 'a' denied request: a says no";
    assert_eq!(code, 422, "{refused}");
    assert_eq!(
        refused["message"],
        format!("configmaps \"c\" is forbidden: {why}")
    );
    assert_eq!(refused["details"]["causes"], json!([{"message": why}]));
    let warned = "Validation failed for ValidatingAdmissionPolicy 'c' with binding 'c': c is odd";
    assert_eq!(warnings, [format!("299 - \"{warned}\"")]);
    let found = annotations(&plane, "denied").await;
    assert_eq!(found["d/said"], "left", "{found}");
    let failure = r#"[{"message":"first","policy":"d","binding":"d","expressionIndex":1,"validationActions":["Audit"]}]"#;
    assert_eq!(found[FAILURE], failure, "the first of all: {found}");
}

#[tokio::test]
async fn what_a_policy_says_with_several_bindings_is_told_together() {
    let plane = Plane::start().await;
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "auditAnnotations": [{"key": "said", "valueExpression": "string(params.data.a)"}]});
    policy(&plane, "p", spec).await;
    for (name, word) in [("l1", "left"), ("l2", "left"), ("r", "right")] {
        create(&plane, MAPS, config_map(name, word)).await;
        let reference = json!({"name": name, "namespace": "default", "parameterNotFoundAction": "Deny"});
        let spec = json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": reference});
        bind(&plane, name, spec).await;
    }
    let (code, made, _) = ask(&plane, "both", Method::POST, MAPS, config_map("c", "x")).await;
    assert_eq!(code, 201, "{made}");
    let found = annotations(&plane, "both").await;
    assert_eq!(found["p/said"], "left, right", "{found}");
}

#[tokio::test]
async fn an_annotation_that_cannot_be_had_denies() {
    let plane = Plane::start().await;
    let missing = "expression 'string(object.data.nix)' resulted in error: no such key: nix";
    for (i, (source, failure, want)) in [
        ("string(object.data.nix)", "Fail", Err(missing)),
        ("string(object.data.nix)", "Ignore", Ok(None)),
        ("null", "Fail", Ok(None)),
        ("'  '", "Fail", Ok(None)),
        ("' a ' ", "Fail", Ok(Some("a".to_owned()))),
        ("string(object.data.a)", "Fail", Ok(Some("é".repeat(5 << 10)))),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("case-{i}");
        let said = json!([{"key": "said", "valueExpression": source}]);
        let spec = json!({"failurePolicy": failure, "auditAnnotations": said});
        policy(&plane, &name, spec).await;
        // Whatever is to be done with what does not hold.
        let spec = json!({"policyName": name, "validationActions": ["Audit"]});
        bind(&plane, &name, spec).await;
        let map = config_map(&name, &"é".repeat(6 << 10));
        let (code, answer, _) = ask(&plane, &name, Method::POST, MAPS, map).await;
        let found = annotations(&plane, &name).await;
        match want {
            Ok(value) => {
                assert_eq!(code, 201, "{source}: {answer}");
                assert_eq!(
                    found[format!("{name}/said")].as_str(),
                    value.as_deref(),
                    "{source}"
                );
            }
            Err(why) => {
                let bound = format!("ValidatingAdmissionPolicy '{name}' with binding '{name}'");
                let why = format!("configmaps \"{name}\" is forbidden: {bound} denied request: {why}");
                assert_eq!((code, &answer["message"]), (422, &json!(why)), "{source}");
            }
        }
        let binding = format!("{GROUP}/validatingadmissionpolicybindings/{name}");
        plane.call(Method::DELETE, &binding, Value::Null).await;
        plane
            .get(&format!("{GROUP}/validatingadmissionpolicybindings"))
            .await;
    }
}

/// A deletion, of one or of many, has warnings as well, whatever it comes to.
#[tokio::test]
async fn deletions_are_warned_of() {
    let plane = Plane::start().await;
    create(&plane, MAPS, config_map("c", "x")).await;
    let spec = json!({"matchConditions": [{"name": "ours", "expression":
            "request.operation == 'DELETE' && oldObject.metadata.name == 'c'"}],
        "validations": [{"expression": "false", "message": "odd"}]});
    policy(&plane, "a", spec.clone()).await;
    policy(&plane, "b", spec).await;
    for (name, action) in [("a", "Warn"), ("b", "Deny")] {
        let spec = json!({"policyName": name, "validationActions": [action]});
        bind(&plane, name, spec).await;
    }
    let warned =
        ["299 - \"Validation failed for ValidatingAdmissionPolicy 'a' with binding 'a': odd\"".to_owned()];
    let one = format!("{MAPS}/c");
    for path in [one.as_str(), MAPS] {
        let (code, refused, warnings) = ask(&plane, "denied", Method::DELETE, path, Value::Null).await;
        assert_eq!((code, &warnings[..]), (422, &warned[..]), "{path}: {refused}");
    }
    let binding = format!("{GROUP}/validatingadmissionpolicybindings/b");
    plane.call(Method::DELETE, &binding, Value::Null).await;
    plane
        .get(&format!("{GROUP}/validatingadmissionpolicybindings"))
        .await;
    for path in [one.as_str(), MAPS] {
        let (code, gone, warnings) = ask(&plane, "gone", Method::DELETE, path, Value::Null).await;
        assert_eq!((code, &warnings[..]), (200, &warned[..]), "{path}: {gone}");
        plane.call(Method::POST, MAPS, config_map("c", "x")).await;
    }
}
