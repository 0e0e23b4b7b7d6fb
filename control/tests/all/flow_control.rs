//! API Priority and Fairness through the API: which schema takes a request, what a level without seats does, and what is
//! kept of what every cluster begins with.
use std::collections::BTreeMap;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::cluster::until;
use super::plane::Plane;

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A level with these seats, or none at all, and a schema that takes what a user does.
async fn level_of(plane: &Plane, user: &str, limited: Value) -> (String, String) {
    let level = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": user}, "spec": {"type": "Limited", "limited": limited}});
    let levels = format!("{GROUP}/prioritylevelconfigurations");
    let (code, level) = plane.call(Method::POST, &levels, level).await;
    assert_eq!(code, 201, "{level}");
    let rule = json!({
        "subjects": [{"kind": "User", "user": {"name": user}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true,
            "namespaces": ["*"]}],
    });
    let schema = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": user},
        "spec": {"matchingPrecedence": 900, "priorityLevelConfiguration": {"name": user}, "rules": [rule]}});
    let (code, schema) = plane
        .call(Method::POST, &format!("{GROUP}/flowschemas"), schema)
        .await;
    assert_eq!(code, 201, "{schema}");
    dangling(plane, user, "False").await;
    let uid = |object: &Value| object["metadata"]["uid"].as_str().unwrap().to_owned();
    (uid(&schema), uid(&level))
}

/// Waits until a schema says so of its level.
async fn dangling(plane: &Plane, schema: &str, state: &str) {
    let schemas: Api<FlowSchema> = Api::all(plane.client());
    let said = |all: &BTreeMap<String, FlowSchema>| {
        let status = all.get(schema)?.status.as_ref()?;
        let mut conditions = status.conditions.iter().flatten();
        let found = conditions.find(|condition| condition.type_.as_deref() == Some("Dangling"))?;
        (found.status.as_deref() == Some(state)).then_some(())
    };
    until(&schemas, &format!("Dangling {state} of {schema}"), said).await;
}

/// A list of Pods as another user: code, the schema's and the level's uid, and when to come back.
async fn list_as(plane: &Plane, user: &str) -> (StatusCode, [Option<String>; 3]) {
    let request = Request::get(PODS).header("impersonate-user", user);
    let request = request.body(Vec::new().into()).unwrap();
    let response = plane.client().send(request).await.unwrap();
    let names = [
        "x-kubernetes-pf-flowschema-uid",
        "x-kubernetes-pf-prioritylevel-uid",
        "retry-after",
    ];
    let header = |name| response.headers().get(name)?.to_str().ok().map(str::to_owned);
    (response.status(), names.map(header))
}

/// Lets a user read.
async fn allow(plane: &Plane, user: &str) {
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": user}, "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let (code, answer) = plane.call(Method::POST, bindings, binding).await;
    assert_eq!(code, 201, "{answer}");
}

#[tokio::test]
async fn a_request_goes_to_the_level_of_its_schema() {
    let plane = Plane::start().await;
    let (schema, level) = level_of(
        &plane,
        "noxu",
        json!({"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}),
    )
    .await;
    // Who may not is told who decided, too.
    let (code, headers) = list_as(&plane, "noxu").await;
    assert_eq!(code, 403);
    assert_eq!(headers, [Some(schema.clone()), Some(level.clone()), None]);
    // So is who asks for what cannot be, and whether the server is well.
    for (method, path) in [
        (Method::HEAD, "/healthz"),
        (Method::HEAD, PODS),
        (Method::PUT, PODS),
    ] {
        let request = Request::builder().method(method.clone()).uri(path);
        let request = request.body(Vec::new().into()).unwrap();
        let answer = plane.client().send(request).await.unwrap();
        let told = answer.headers().contains_key("x-kubernetes-pf-flowschema-uid");
        assert!(told, "{method} {path}: {:?}", answer.headers());
    }
    let (_, others) = list_as(&plane, "foo").await;
    assert!(
        others[0].is_some() && others[0].as_ref() != Some(&schema),
        "{others:?}"
    );
    assert!(
        others[1].is_some() && others[1].as_ref() != Some(&level),
        "{others:?}"
    );

    let levels = format!("{GROUP}/prioritylevelconfigurations/noxu");
    let (code, answer) = plane.call(Method::DELETE, &levels, Value::Null).await;
    assert_eq!(code, 200, "{answer}");
    dangling(&plane, "noxu", "True").await;
    let (_, left) = list_as(&plane, "noxu").await;
    assert_eq!(left[..2], others[..2], "as anybody, once its level is gone");
    plane.control.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn a_level_without_seats_sends_back_and_nobody_else() {
    let plane = Plane::start().await;
    let nothing = json!({"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}});
    for user in ["none", "some"] {
        allow(&plane, user).await;
    }
    level_of(&plane, "none", nothing).await;
    let (code, headers) = list_as(&plane, "none").await;
    assert_eq!(code, 429);
    assert_eq!(headers[2].as_deref(), Some("1"));
    assert_eq!(list_as(&plane, "some").await.0, 200);
    let (_, text) = plane.get("/metrics").await;
    let text = text.as_str().unwrap_or_default();
    let none = "{flow_schema=\"none\",priority_level=\"none\"";
    for line in [
        format!("rejected_requests_total{none},reason=\"concurrency-limit\"}} 1\n"),
        format!("dispatched_requests_total{none}}} 0\n"),
        format!("current_inqueue_requests{none}}} 0\n"),
        format!("current_executing_seats{none}}} 0\n"),
        "nominal_limit_seats{priority_level=\"none\"} 0\n".to_owned(),
        "current_executing_requests{flow_schema=\"exempt\",priority_level=\"exempt\"} ".to_owned(),
        "request_wait_duration_seconds_bucket{execute=\"true\",flow_schema=\"global-default\",\
         priority_level=\"global-default\",le=\"0\"} "
            .to_owned(),
    ] {
        let line = format!("\napiserver_flowcontrol_{line}");
        assert!(text.contains(&line), "{line} in {text}");
    }
    plane.control.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn what_requests_need_to_go_anywhere_cannot_be_changed() {
    let plane = Plane::start().await;
    let merge = "application/merge-patch+json";
    let precedence = json!({"spec": {"matchingPrecedence": 7}});
    let shares = |of: &str| json!({"spec": {of: {"nominalConcurrencyShares": 7}}});
    let fixed = |name: &str| format!("spec of '{name}' must equal the fixed value");
    for (path, patch, why) in [
        ("flowschemas/exempt", &precedence, fixed("exempt")),
        ("flowschemas/catch-all", &precedence, fixed("catch-all")),
        (
            "prioritylevelconfigurations/catch-all",
            &shares("limited"),
            fixed("catch-all"),
        ),
    ] {
        let path = format!("{GROUP}/{path}");
        let (code, answer) = plane.send(Method::PATCH, &path, merge, patch.to_string()).await;
        assert_eq!(code, 422, "{answer}");
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.ends_with(&why), "{message}");
    }
    for (path, patch) in [
        ("prioritylevelconfigurations/exempt", shares("exempt")),
        ("flowschemas/probes", precedence),
        ("flowschemas/exempt", json!({"metadata": {"labels": {"a": "b"}}})),
    ] {
        let path = format!("{GROUP}/{path}");
        let (code, answer) = plane.send(Method::PATCH, &path, merge, patch.to_string()).await;
        assert_eq!(code, 200, "{answer}");
    }
    plane.control.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn what_every_cluster_begins_with_comes_back() {
    let plane = Plane::start().await;
    let levels: Api<PriorityLevelConfiguration> = Api::all(plane.client());
    let uid = levels.get("catch-all").await.unwrap().uid();
    levels.delete("catch-all", &Default::default()).await.unwrap();
    let again = |all: &BTreeMap<String, PriorityLevelConfiguration>| {
        let found = all.get("catch-all")?;
        (found.uid() != uid).then_some(())
    };
    until(&levels, "catch-all again", again).await;

    let path = format!("{GROUP}/prioritylevelconfigurations/workload-low");
    let patch = |marked: &str, shares: i32| {
        json!({"metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": marked}},
            "spec": {"limited": {"nominalConcurrencyShares": shares}}})
    };
    let merge = "application/merge-patch+json";
    // What is marked as theirs stays; when it is given back, it is as it was.
    for (marked, want) in [("false", 7), ("true", 100)] {
        let (code, answer) = plane
            .send(Method::PATCH, &path, merge, patch(marked, 7).to_string())
            .await;
        assert_eq!(code, 200, "{answer}");
        let has = |all: &BTreeMap<String, PriorityLevelConfiguration>| {
            let limited = all.get("workload-low")?.spec.as_ref()?.limited.as_ref()?;
            (limited.nominal_concurrency_shares == Some(want)).then_some(())
        };
        until(&levels, &format!("{want} shares"), has).await;
    }
    plane.control.shutdown(Duration::from_secs(10)).await;
}
