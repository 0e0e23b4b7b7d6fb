//! ValidatingAdmissionPolicy through the API: deny, warn, parameters, conditions, deletions.
use super::admission::{held, until};
use super::observing::figure;
use super::plane::{Plane, config_map};
use http::Method;
use serde_json::{Value, json};

pub const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub async fn create(plane: &Plane, path: &str, body: Value) {
    let (code, answer) = plane.call(Method::POST, path, body).await;
    assert_eq!(code, 201, "{answer}");
}

pub fn policy(name: &str, spec: Value) -> Value {
    let mut whole = json!({
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["CREATE", "UPDATE", "DELETE"], "resources": ["configmaps"]}]},
        "matchConditions": [{"name": "ours", "expression": "request.name.startsWith('c')"}],
    });
    json_patch::merge(&mut whole, &spec);
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name}, "spec": whole})
}

pub async fn bind(plane: &Plane, name: &str, spec: Value) {
    let mut whole = json!({"policyName": name, "validationActions": ["Deny"]});
    json_patch::merge(&mut whole, &spec);
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": format!("{name}-binding")}, "spec": whole});
    let bindings = format!("{GROUP}/validatingadmissionpolicybindings");
    create(plane, &bindings, binding).await;
    // Admission reads the watch cache, which a list waits for.
    let (code, listed) = plane.call(Method::GET, &bindings, Value::Null).await;
    assert_eq!(code, 200, "{listed}");
}

#[tokio::test]
async fn a_policy_denies_what_its_validations_do_not_hold_for() {
    let plane = Plane::start().await;
    let spec = json!({
        "variables": [{"name": "a", "expression": "object.data.a"}],
        "validations": [
            {"expression": "request.operation == 'DELETE' || variables.a.size() < 3",
             "messageExpression": "'a is ' + variables.a"},
            {"expression": "request.operation != 'DELETE' || !has(oldObject.data.keep)", "message": "kept",
             "reason": "Forbidden"},
        ],
    });
    create(
        &plane,
        &format!("{GROUP}/validatingadmissionpolicies"),
        policy("short", spec),
    )
    .await;
    bind(&plane, "short", json!({})).await;

    let (code, refused) = plane.call(Method::POST, MAPS, config_map("c", "long")).await;
    assert_eq!(code, 422, "{refused}");
    let labels = [
        "enforcement_action=deny",
        "error_type=invalid_error",
        "policy=short",
        "policy_binding=short-binding",
    ];
    for name in ["check_total", "check_duration_seconds_count"] {
        let name = format!("apiserver_validating_admission_policy_{name}");
        assert_eq!(figure(&plane, &name, &labels).await, Some(1.0));
    }
    assert_eq!(refused["reason"], "Invalid");
    assert_eq!(
        refused["message"],
        "configmaps \"c\" is forbidden: ValidatingAdmissionPolicy 'short' with binding 'short-binding' denied request: a \
         is long"
    );
    let mut kept = config_map("c", "ok");
    kept["data"]["keep"] = "yes".into();
    create(&plane, MAPS, kept).await;
    let (code, refused) = plane
        .call(Method::DELETE, &format!("{MAPS}/c"), Value::Null)
        .await;
    assert_eq!(
        (code.as_u16(), &refused["reason"]),
        (403, &json!("Forbidden")),
        "{refused}"
    );
    create(&plane, MAPS, config_map("other", "not concerned")).await;
}

#[tokio::test]
async fn a_policy_writes_into_the_audit_log() {
    let plane = Plane::start().await;
    let spec = json!({
        "validations": [{"expression": "object.data.a == 'right'", "message": "wrong"}],
        "auditAnnotations": [{"key": "said", "valueExpression": "'a was ' + object.data.a"}],
    });
    create(
        &plane,
        &format!("{GROUP}/validatingadmissionpolicies"),
        policy("heard", spec),
    )
    .await;
    bind(&plane, "heard", json!({"validationActions": ["Audit"]})).await;
    create(&plane, MAPS, config_map("c", "left")).await;
    let line = plane
        .audited(|line| line["annotations"]["heard/said"].is_string())
        .await;
    let annotations = &line["annotations"];
    assert_eq!(annotations["heard/said"], "a was left", "{line}");
    let failures = annotations["validation.policy.admission.k8s.io/validation_failure"]
        .as_str()
        .unwrap_or_default();
    assert!(failures.contains("\"message\":\"wrong\""), "{line}");
    assert!(failures.contains("\"expressionIndex\":0"), "a number: {line}");
}

#[tokio::test]
async fn a_binding_brings_parameters() {
    let plane = Plane::start().await;
    create(&plane, MAPS, config_map("limit", "4")).await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.data.a.size() <= int(params.data.a)"}],
    });
    create(
        &plane,
        &format!("{GROUP}/validatingadmissionpolicies"),
        policy("sized", spec),
    )
    .await;
    bind(
        &plane,
        "sized",
        json!({"paramRef": {"name": "limit", "parameterNotFoundAction": "Deny"}}),
    )
    .await;
    create(&plane, MAPS, config_map("c1", "four")).await;
    let (code, refused) = plane.call(Method::POST, MAPS, config_map("c2", "fives")).await;
    assert_eq!(code, 422, "{refused}");
    let (code, _) = plane
        .call(Method::DELETE, &format!("{MAPS}/limit"), Value::Null)
        .await;
    assert_eq!(code, 200);
    plane.get(MAPS).await;
    let (code, refused) = plane.call(Method::POST, MAPS, config_map("c3", "x")).await;
    assert_eq!(code, 422, "{refused}");
    assert!(
        refused["message"]
            .as_str()
            .is_some_and(|m| m.contains("no params found")),
        "{refused}"
    );
}

#[tokio::test]
async fn an_expression_that_does_not_compile_is_refused() {
    let plane = Plane::start().await;
    let spec = json!({"validations": [{"expression": "object.data.a +"}]});
    let path = format!("{GROUP}/validatingadmissionpolicies");
    let (code, refused) = plane.call(Method::POST, &path, policy("broken", spec)).await;
    assert_eq!(code, 422, "{refused}");
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("spec.validations[0].expression: Invalid value"),
        "{message}"
    );
    assert!(message.contains("Syntax error"), "{message}");
}

#[tokio::test]
async fn mutating_policies_change_what_is_stored() {
    let plane = Plane::start().await;
    let definition = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
    "metadata": {"name": "adds"}, "spec": {
        "reinvocationPolicy": "Never",
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["CREATE"], "resources": ["configmaps"]}]},
        "matchConditions": [{"name": "ours", "expression": "request.name.startsWith('c')"}],
        "variables": [{"name": "word", "expression": "params.data.a"}],
        "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{metadata: Object.metadata{labels: {'policy': variables.word}}}"}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression":
                "[JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('b.c'), value: object.metadata.labels.policy}]"}},
        ]}});
    create(&plane, &format!("{GROUP}/mutatingadmissionpolicies"), definition).await;
    create(&plane, MAPS, config_map("word", "hello")).await;
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": "adds"}, "spec": {"policyName": "adds",
            "paramRef": {"name": "word", "namespace": "default", "parameterNotFoundAction": "Deny"}}});
    create(
        &plane,
        &format!("{GROUP}/mutatingadmissionpolicybindings"),
        binding,
    )
    .await;
    plane
        .get(&format!("{GROUP}/mutatingadmissionpolicybindings/adds"))
        .await;

    let (code, made) = plane.call(Method::POST, MAPS, config_map("c", "1")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["labels"], json!({"policy": "hello"}));
    assert_eq!(made["data"], json!({"a": "1", "b.c": "hello"}));

    plane
        .call(Method::DELETE, &format!("{MAPS}/word"), Value::Null)
        .await;
    plane.get(MAPS).await;
    let (code, refused) = plane.call(Method::POST, MAPS, config_map("c2", "1")).await;
    assert_eq!(code, 403, "{refused}");
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.starts_with("policy 'adds' with binding 'adds' denied request: "),
        "{message}"
    );
    assert_eq!(refused["details"]["causes"][0]["message"], message);
    let (code, _) = plane.call(Method::POST, MAPS, config_map("other", "1")).await;
    assert_eq!(code, 403, "parameters are looked for before conditions");
}

#[tokio::test]
async fn a_token_is_asked_for_before_a_policy_as_what_it_is() {
    let plane = Plane::start().await;
    let spec = json!({
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
            "resources": ["serviceaccounts/token"]}]},
        "matchConditions": [{"name": "ours", "expression": "request.kind.kind == 'TokenRequest'"}],
        "validations": [{"expression": "object.spec.expirationSeconds <= 3600",
            "messageExpression": "object.metadata.name + ' in ' + request.namespace + ' by ' + request.subResource"}],
    });
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    create(&plane, accounts, json!({"metadata": {"name": "a"}})).await;
    create(
        &plane,
        &format!("{GROUP}/validatingadmissionpolicies"),
        policy("life", spec),
    )
    .await;
    bind(&plane, "life", json!({})).await;
    let token = format!("{accounts}/a/token");
    create(&plane, &token, json!({"spec": {}})).await;
    let long = json!({"spec": {"expirationSeconds": 7200}});
    let (code, refused) = plane.call(Method::POST, &token, long).await;
    assert_eq!(code, 422, "{refused}");
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.ends_with("denied request: a in default by token"),
        "{message}"
    );
}

/// A MutatingAdmissionPolicy of that name, at work: what is posted there and what it makes of it.
async fn mutates(plane: &Plane, name: &str, resource: &str, mutations: Value) {
    let definition = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name}, "spec": {"reinvocationPolicy": "Never", "mutations": mutations,
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
                "operations": ["CREATE", "CONNECT"], "resources": [resource]}]}}});
    create(plane, &format!("{GROUP}/mutatingadmissionpolicies"), definition).await;
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": name}, "spec": {"policyName": name}});
    let bindings = format!("{GROUP}/mutatingadmissionpolicybindings");
    create(plane, &bindings, binding).await;
    plane.get(&format!("{bindings}/{name}")).await;
}

fn lays(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn patches(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

/// What an optional does not have is not set.
#[tokio::test]
async fn optional_fields_are_set_where_they_have_a_value() {
    let plane = Plane::start().await;
    let taken = lays("Object{?immutable: object.?immutable, data: {'q': 'x'}}");
    let none = lays("Object{immutable: optional.none()}");
    for (name, mutation, immutable) in [
        ("taken", &taken, Value::Null),
        ("kept", &taken, json!(true)),
        ("none", &none, Value::Null),
    ] {
        mutates(&plane, name, "configmaps", json!([mutation])).await;
        let mut map = config_map(name, "1");
        map["immutable"] = immutable.clone();
        let (code, made) = plane.call(Method::POST, MAPS, map).await;
        assert_eq!((code.as_u16(), &made["immutable"]), (201, &immutable), "{made}");
        let binding = format!("{GROUP}/mutatingadmissionpolicybindings/{name}");
        plane.call(Method::DELETE, &binding, Value::Null).await;
    }
}

/// An object stays where it was sent to, whatever a policy makes of it.
#[tokio::test]
async fn a_policy_moves_nothing_to_another_namespace() {
    let plane = Plane::start().await;
    let moves = patches("[JSONPatch{op: 'add', path: '/metadata/namespace', value: 'kube-system'}]");
    mutates(&plane, "moves", "configmaps", json!([moves])).await;
    let (code, refused) = plane.call(Method::POST, MAPS, config_map("c", "1")).await;
    let why = "the namespace of the provided object does not match the namespace sent on the request";
    assert_eq!(
        (code.as_u16(), refused["message"].as_str()),
        (400, Some(why)),
        "{refused}"
    );
    assert_eq!(plane.get(&format!("{MAPS}/c")).await.0, 404);
}

#[tokio::test]
async fn what_is_posted_below_an_object_is_changed_as_what_it_is() {
    let plane = Plane::start().await;
    let (pods, accounts) = (
        "/api/v1/namespaces/default/pods",
        "/api/v1/namespaces/default/serviceaccounts",
    );
    create(&plane, accounts, json!({"metadata": {"name": "a"}})).await;
    let account = format!("{accounts}/default");
    until(&plane, &account, |a| a["metadata"]["uid"].is_string()).await;
    create(&plane, pods, held("p")).await;
    let by = lays("Object{metadata: Object.metadata{annotations: {'by': request.kind.kind}}}");
    let moved = patches("[JSONPatch{op: 'replace', path: '/target/name', value: object.target.name + '2'}]");
    mutates(&plane, "binds", "pods/binding", json!([by, moved])).await;
    let options = "Object.deleteOptions{gracePeriodSeconds: 7}";
    let grace = patches(&format!(
        "[JSONPatch{{op: 'add', path: '/deleteOptions', value: {options}}}]"
    ));
    mutates(&plane, "evicts", "pods/eviction", json!([grace])).await;
    let twice = "object.spec.expirationSeconds * 2";
    let doubles = patches(&format!(
        "[JSONPatch{{op: 'add', path: '/spec/expirationSeconds', value: {twice}}}]"
    ));
    let audience = patches("[JSONPatch{op: 'add', path: '/spec/audiences', value: ['mine']}]");
    mutates(
        &plane,
        "asks",
        "serviceaccounts/token",
        json!([doubles, audience]),
    )
    .await;

    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    create(&plane, &format!("{pods}/p/binding"), binding).await;
    let (_, pod) = plane.get(&format!("{pods}/p")).await;
    assert_eq!(pod["spec"]["nodeName"], "n2", "{pod}");
    assert_eq!(pod["metadata"]["annotations"], json!({"by": "Binding"}));
    create(
        &plane,
        &format!("{pods}/p/eviction"),
        json!({"metadata": {"name": "p"}}),
    )
    .await;
    let (_, pod) = plane.get(&format!("{pods}/p")).await;
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 7, "{pod}");
    let token = plane
        .call(Method::POST, &format!("{accounts}/a/token"), json!({}))
        .await;
    assert_eq!(token.1["spec"]["expirationSeconds"], 7200, "{token:?}");
    assert_eq!(token.1["spec"]["audiences"], json!(["mine"]));
}

#[tokio::test]
async fn what_is_asked_of_a_connection_is_changed_before_it_is_judged() {
    let plane = Plane::start().await;
    let named = patches("[JSONPatch{op: 'add', path: '/command', value: ['env']}]");
    mutates(&plane, "names", "pods/exec", json!([named])).await;
    let spec = json!({
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CONNECT"],
            "resources": ["pods/exec"]}]},
        "matchConditions": [{"name": "exec", "expression": "request.kind.kind == 'PodExecOptions'"}],
        "validations": [{"expression": "false", "messageExpression": "object.command[0] + ' ' + string(object.stdin)"}],
    });
    let policies = format!("{GROUP}/validatingadmissionpolicies");
    create(&plane, &policies, policy("tells", spec)).await;
    bind(&plane, "tells", json!({})).await;
    let path = "/api/v1/namespaces/default/pods/p/exec?command=sh&stdin=true";
    let (code, refused) = plane.call(Method::POST, path, Value::Null).await;
    assert_eq!(code, 422, "{refused}");
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(message.ends_with("denied request: env true"), "{message}");
}

#[tokio::test]
async fn what_a_policy_makes_must_fit() {
    let plane = Plane::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let eviction = (format!("{pods}/p/eviction"), json!({"metadata": {"name": "p"}}));
    let exec = (format!("{pods}/p/exec"), Value::Null);
    let map = (MAPS.to_owned(), config_map("c", "1"));
    let unknown = patches("[JSONPatch{op: 'add', path: '/nope', value: 'x'}]");
    let grace = lays("Object{deleteOptions: Object.deleteOptions{gracePeriodSeconds: 7}}");
    let untyped = "object to typed object: no corresponding type for";
    for (i, (resource, (path, body), mutation, code, why)) in [
        (
            "pods/eviction",
            &eviction,
            &grace,
            403,
            format!("{untyped} policy/v1, Kind=Eviction"),
        ),
        (
            "pods/eviction",
            &eviction,
            &unknown,
            500,
            "unknown field \"nope\"".to_owned(),
        ),
        (
            "pods/exec",
            &exec,
            &lays("Object{container: 'c'}"),
            403,
            format!("{untyped} /v1, Kind=PodExecOptions"),
        ),
        (
            "pods/exec",
            &exec,
            &unknown,
            500,
            "unknown field \"nope\"".to_owned(),
        ),
        (
            "configmaps",
            &map,
            &unknown,
            500,
            "unknown field \"nope\"".to_owned(),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("case-{i}");
        mutates(&plane, &name, resource, json!([mutation])).await;
        let (is, refused) = plane.call(Method::POST, path, body.clone()).await;
        assert_eq!(is, code, "{resource}: {refused}");
        let message = refused["message"].as_str().unwrap_or_default();
        assert!(message.ends_with(&why), "{message}");
        let binding = format!("{GROUP}/mutatingadmissionpolicybindings/{name}");
        plane.call(Method::DELETE, &binding, Value::Null).await;
        plane
            .get(&format!("{GROUP}/mutatingadmissionpolicybindings"))
            .await;
    }
}
