//! The second round of what changes objects.
use super::admission::{held, until};
use super::plane::Plane;
use super::webhooks::{MAPS, hooked, patch, register, serve};
use http::Method;
use serde_json::json;

#[tokio::test]
async fn a_webhook_is_asked_again_after_later_changes() {
    let plane = Plane::start().await;
    let adds = serve(&plane, |_| {
        patch(json!([{"op": "add", "path": "/data/b", "value": "2"}]))
    })
    .await;
    let removes = serve(&plane, |_| patch(json!([{"op": "remove", "path": "/data/b"}]))).await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    register(&plane, "MutatingWebhookConfiguration", "adds", &adds, again).await;
    register(
        &plane,
        "MutatingWebhookConfiguration",
        "removes",
        &removes,
        json!({}),
    )
    .await;
    let (_, made) = plane.call(Method::POST, MAPS, hooked("a")).await;
    assert_eq!(made["data"], json!({"a": "1", "b": "2"}));
}

/// Webhooks on Pods of one label, in the order of their names, whether they ask to be called again, and what the one that
/// notes down the priorities that it is shown has noted in the end.
#[tokio::test]
async fn plugins_complete_before_a_webhook_is_asked_again() {
    let plane = Plane::start().await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    until(&plane, account, |a| a["metadata"]["uid"].is_string()).await;
    let class = json!({"metadata": {"name": "big"}, "value": 1000});
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    assert_eq!(plane.call(Method::POST, classes, class).await.0, 201);
    let notes = serve(&plane, |request| {
        let pod = &request["object"];
        let before = pod["metadata"]["annotations"]["seen"]
            .as_str()
            .unwrap_or_default();
        let seen = json!({"seen": format!("{before}{};", pod["spec"]["priority"])});
        patch(json!([{"op": "add", "path": "/metadata/annotations", "value": seen}]))
    })
    .await;
    let ranks = serve(
        &plane,
        |request| match request["object"]["spec"]["priorityClassName"].as_str() {
            Some("big") => Some(json!({"allowed": true})),
            _ => patch(json!([{"op": "remove", "path": "/spec/priority"},
            {"op": "add", "path": "/spec/priorityClassName", "value": "big"}])),
        },
    )
    .await;
    for (case, hooks, want) in [
        (
            "never",
            vec![("a", &notes, "Never"), ("b", &ranks, "Never")],
            "0;",
        ),
        (
            "earlier",
            vec![("a", &notes, "IfNeeded"), ("b", &ranks, "Never")],
            "0;1000;",
        ),
        (
            "later",
            vec![("b", &ranks, "Never"), ("c", &notes, "IfNeeded")],
            "null;1000;",
        ),
        (
            "later-never",
            vec![("b", &ranks, "IfNeeded"), ("c", &notes, "Never")],
            "null;",
        ),
        ("alone", vec![("a", &notes, "IfNeeded")], "0;"),
        (
            "both",
            vec![("a", &notes, "IfNeeded"), ("b", &notes, "IfNeeded")],
            "0;0;0;0;",
        ),
    ] {
        for (name, url, again) in hooks {
            let more = json!({"reinvocationPolicy": again, "objectSelector": {"matchLabels": {"case": case}},
                "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
            let name = format!("{name}-{case}");
            register(&plane, "MutatingWebhookConfiguration", &name, url, more).await;
        }
        let mut pod = held(case);
        pod["metadata"]["labels"] = json!({"case": case});
        let pods = "/api/v1/namespaces/default/pods";
        let (code, made) = plane.call(Method::POST, pods, pod).await;
        assert_eq!(code, 201, "{case}: {made}");
        assert_eq!(made["metadata"]["annotations"]["seen"], want, "{case}: {made}");
    }
}
