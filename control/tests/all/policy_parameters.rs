//! Parameters of admission policies through the API: kinds that nobody serves, and where those of Namespaces are.
use super::plane::{Plane, config_map};
use super::policies::{GROUP, MAPS, bind, create, policy};
use http::Method;
use serde_json::json;

const NOBODYS: &str =
    "failed to configure policy: failed to find resource referenced by paramKind: '/v1, Kind=Foo'";

#[tokio::test]
async fn a_kind_that_nobody_serves_denies_whatever_bindings_say() {
    let plane = Plane::start().await;
    let validating = format!("{GROUP}/validatingadmissionpolicies");
    let spec = |failure: &str| {
        json!({"paramKind": {"apiVersion": "v1", "kind": "Foo"}, "failurePolicy": failure,
            "validations": [{"expression": "true"}]})
    };
    create(&plane, &validating, policy("unbound", spec("Fail"))).await;
    create(&plane, &validating, policy("lenient", spec("Ignore"))).await;
    bind(
        &plane,
        "lenient",
        json!({"paramRef": {"name": "a", "parameterNotFoundAction": "Deny"}}),
    )
    .await;
    create(&plane, MAPS, config_map("c1", "x")).await;
    create(&plane, &validating, policy("strict", spec("Fail"))).await;
    // Neither that it names no parameter nor that it does not concern the request is asked.
    let pods = json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
        "resources": ["pods"]}]});
    bind(
        &plane,
        "strict",
        json!({"validationActions": ["Warn"], "matchResources": pods}),
    )
    .await;
    let (code, refused) = plane.call(Method::POST, MAPS, config_map("c2", "x")).await;
    assert_eq!(code, 422, "{refused}");
    let told = format!(
        "configmaps \"c2\" is forbidden: ValidatingAdmissionPolicy 'strict' denied request: {NOBODYS}"
    );
    assert_eq!(refused["message"], told);
}

#[tokio::test]
async fn a_mutating_policy_with_such_a_kind_is_told_of_once() {
    let plane = Plane::start().await;
    let mut mutating = policy(
        "adds",
        json!({"paramKind": {"apiVersion": "v1", "kind": "Foo"}, "matchConditions": null,
        "reinvocationPolicy": "Never", "mutations": [{"patchType": "ApplyConfiguration",
            "applyConfiguration": {"expression": "Object{}"}}]}),
    );
    mutating["kind"] = "MutatingAdmissionPolicy".into();
    mutating["spec"]["matchConstraints"]["resourceRules"][0]["operations"] = json!(["CREATE"]);
    create(&plane, &format!("{GROUP}/mutatingadmissionpolicies"), mutating).await;
    let bindings = format!("{GROUP}/mutatingadmissionpolicybindings");
    for name in ["a", "b"] {
        let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name}, "spec": {"policyName": "adds"}});
        create(&plane, &bindings, binding).await;
    }
    plane.get(&bindings).await;
    let (code, refused) = plane.call(Method::POST, MAPS, config_map("c", "x")).await;
    assert_eq!(code, 403, "{refused}");
    let told = format!("policy \"adds\" denied request: {NOBODYS}");
    assert_eq!(refused["message"], told);
    assert_eq!(refused["details"]["causes"], json!([{"message": told}]));
}

#[tokio::test]
async fn a_namespace_is_in_itself() {
    let plane = Plane::start().await;
    let namespaces = "/api/v1/namespaces";
    create(&plane, namespaces, json!({"metadata": {"name": "a"}})).await;
    create(
        &plane,
        "/api/v1/namespaces/a/configmaps",
        config_map("limit", "good"),
    )
    .await;
    let spec = json!({
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["CREATE", "UPDATE"], "resources": ["namespaces"]}]},
        "matchConditions": null, "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.metadata.labels.is == params.data.a && request.namespace == request.name"}],
    });
    create(
        &plane,
        &format!("{GROUP}/validatingadmissionpolicies"),
        policy("labelled", spec),
    )
    .await;
    bind(
        &plane,
        "labelled",
        json!({"paramRef": {"name": "limit", "parameterNotFoundAction": "Allow"}}),
    )
    .await;
    for (label, want) in [("bad", 422), ("good", 200)] {
        let patch = json!({"metadata": {"labels": {"is": label}}}).to_string();
        let path = format!("{namespaces}/a");
        let (code, said) = plane
            .send(Method::PATCH, &path, "application/merge-patch+json", patch)
            .await;
        assert_eq!(code, want, "{said}");
    }
    // There is nothing in a namespace that is to be.
    create(&plane, namespaces, json!({"metadata": {"name": "b"}})).await;
}
