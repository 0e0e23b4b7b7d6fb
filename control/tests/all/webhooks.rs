//! Admission webhooks over real HTTPS: good ones, and those that hang or lie.
use super::admission::{held, until};
use super::custom_resources;
use super::plane::{Plane, config_map};
use super::remote;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// What a webhook makes of a request; nothing means that it never answers.
pub type Mind = fn(&Value) -> Option<Value>;

/// Serves a webhook for as long as the test runs; its URL.
pub async fn serve(plane: &Plane, mind: Mind) -> String {
    let answer = move |review: &Value| {
        let mut response = mind(&review["request"])?;
        if response["uid"].is_null() {
            response["uid"] = review["request"]["uid"].clone();
        }
        Some(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
    };
    remote::serve(plane, Arc::new(answer)).await
}

/// Registers the webhook for new ConfigMaps with label `hooked`, and waits until it is known.
pub async fn register(plane: &Plane, kind: &str, name: &str, url: &str, more: Value) {
    let mut webhook = json!({
        "name": format!("{name}.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": url, "caBundle": STANDARD.encode(plane.control.pki().ca_pem())},
        "objectSelector": {"matchLabels": {"hooked": "yes"}},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]});
    for (key, value) in more.as_object().unwrap() {
        webhook[key] = value.clone();
    }
    let body = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "webhooks": [webhook]});
    let path = format!("{GROUP}/{}s", kind.to_lowercase());
    let (code, made) = plane.call(Method::POST, &path, body).await;
    assert_eq!(code, 201, "{made}");
    plane.get(&format!("{path}/{name}")).await;
}

pub fn hooked(name: &str) -> Value {
    let mut map = config_map(name, "1");
    map["metadata"]["labels"] = json!({"hooked": "yes"});
    map
}

pub fn patch(operations: Value) -> Option<Value> {
    let patch = STANDARD.encode(operations.to_string());
    Some(json!({"allowed": true, "patchType": "JSONPatch", "patch": patch}))
}

#[tokio::test]
async fn what_is_posted_below_a_pod_is_shown_as_what_it_is_and_once() {
    let plane = Plane::start().await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    until(&plane, account, |a| a["metadata"]["uid"].is_string()).await;
    let pods = "/api/v1/namespaces/default/pods";
    for name in ["p", "q", "kept"] {
        assert_eq!(plane.call(Method::POST, pods, held(name)).await.0, 201);
    }
    let guard = serve(&plane, |request| {
        let word = |key: &str| request[key].as_str().unwrap_or_default();
        let seen = (
            word("operation"),
            word("subResource"),
            request["kind"]["kind"].as_str(),
        );
        let posted = matches!(
            seen,
            ("CREATE", "eviction", Some("Eviction")) | ("CREATE", "binding" | "", Some("Binding"))
        );
        let good = posted && request["object"]["metadata"]["name"] != "kept";
        Some(json!({"allowed": good, "status": {"code": 418, "message": format!("{seen:?}")}}))
    })
    .await;
    let rules = json!({"objectSelector": {}, "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["pods", "pods/*", "bindings"]}]});
    register(&plane, "ValidatingWebhookConfiguration", "guard", &guard, rules).await;
    let shortens = serve(&plane, |_| {
        patch(json!([{"op": "add", "path": "/deleteOptions", "value": {"gracePeriodSeconds": 7}}]))
    })
    .await;
    let rules = json!({"objectSelector": {}, "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["pods/eviction"]}]});
    register(
        &plane,
        "MutatingWebhookConfiguration",
        "shortens",
        &shortens,
        rules,
    )
    .await;
    let bindings = "/api/v1/namespaces/default/bindings".to_owned();
    for (path, name, code) in [
        (format!("{pods}/p/binding"), "p", 201),
        (bindings, "q", 201),
        (format!("{pods}/kept/binding"), "kept", 418),
        (format!("{pods}/p/eviction"), "p", 201),
        (format!("{pods}/kept/eviction"), "kept", 418),
    ] {
        let mut body = json!({"metadata": {"name": name}});
        if !path.ends_with("eviction") {
            body["target"] = json!({"name": "n"});
        }
        let (is, answer) = plane.call(Method::POST, &path, body).await;
        assert_eq!(is, code, "{path}: {answer}");
    }
    let (_, evicted) = plane.get(&format!("{pods}/p")).await;
    assert_eq!(evicted["metadata"]["deletionGracePeriodSeconds"], 7, "{evicted}");
    let (_, kept) = plane.get(&format!("{pods}/kept")).await;
    assert!(kept["status"]["conditions"].is_null(), "{kept}");
}

#[tokio::test]
async fn webhooks_change_objects_and_refuse_them() {
    let plane = Plane::start().await;
    let adds = serve(&plane, |_| {
        patch(json!([{"op": "add", "path": "/data/b", "value": "2"}]))
    })
    .await;
    register(&plane, "MutatingWebhookConfiguration", "adds", &adds, json!({})).await;
    let judges = serve(&plane, |request| {
        let good = request["object"]["data"]["b"] == "2" && request["userInfo"]["username"] == "system:admin";
        Some(json!({"allowed": good, "status": {"code": 418, "message": "no tea"}}))
    })
    .await;
    register(
        &plane,
        "ValidatingWebhookConfiguration",
        "judges",
        &judges,
        json!({}),
    )
    .await;
    let (code, made) = plane.call(Method::POST, MAPS, hooked("a")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["data"], json!({"a": "1", "b": "2"}));
    let (code, _) = plane.call(Method::POST, MAPS, config_map("plain", "1")).await;
    assert_eq!(code, 201, "the selector passes it over");

    let removes = serve(&plane, |_| patch(json!([{"op": "remove", "path": "/data/b"}]))).await;
    register(
        &plane,
        "MutatingWebhookConfiguration",
        "removes",
        &removes,
        json!({}),
    )
    .await;
    let (code, status) = plane.call(Method::POST, MAPS, hooked("b")).await;
    assert_eq!(code, 418, "{status}");
    assert_eq!(
        status["message"],
        "admission webhook \"judges.example.com\" denied the request: no tea"
    );
}

#[tokio::test]
async fn bad_webhooks_fail_by_their_policy_and_by_name() {
    let plane = Plane::start().await;
    let minds: [(&str, Mind, &str); 4] = [
        ("hangs", |_| None, "context deadline exceeded"),
        (
            "lies",
            |_| Some(json!({"uid": "other", "allowed": true})),
            "expected response.uid=",
        ),
        (
            "renames",
            |_| patch(json!([{"op": "replace", "path": "/metadata/name", "value": "x"}])),
            "its patch changes metadata.name",
        ),
        (
            "types",
            |_| Some(json!({"allowed": true, "patchType": "JSONPatch"})),
            "received invalid webhook response: webhook returned response.patchType but not response.patch",
        ),
    ];
    for (name, mind, why) in minds {
        let named = format!("failed calling webhook \"{name}.example.com\"");
        for (policy, want) in [("Fail", 500), ("Ignore", 201)] {
            let (code, message) = asked_of(&plane, (name, mind), policy).await;
            assert_eq!(code, want, "{message}");
            assert!(
                want == 201 || message.contains(why) && message.contains(&named),
                "{message}"
            );
        }
    }
    // Upstream takes what a patch cannot be applied to for an error of its own.
    let strays: Mind = |_| patch(json!([{"op": "replace", "path": "/spec/nowhere", "value": 1}]));
    let why = r#"Internal error occurred: there is nothing at "/spec/nowhere""#;
    for policy in ["Fail", "Ignore"] {
        let told = asked_of(&plane, ("strays", strays), policy).await;
        assert_eq!(told, (500, why.to_owned()));
    }
}

/// What creating an object comes to with such a webhook, and what is said of it.
async fn asked_of(plane: &Plane, (name, mind): (&str, Mind), policy: &str) -> (u16, String) {
    let url = serve(plane, mind).await;
    let kind = "MutatingWebhookConfiguration";
    let more = json!({"failurePolicy": policy, "timeoutSeconds": if name == "hangs" { 1 } else { 15 }});
    register(plane, kind, name, &url, more).await;
    let object = hooked(&format!("{name}-{}", policy.to_lowercase()));
    let asked = plane.call(Method::POST, MAPS, object);
    let (code, answer) = tokio::time::timeout(Duration::from_secs(20), asked)
        .await
        .unwrap();
    let path = format!("{GROUP}/mutatingwebhookconfigurations/{name}");
    plane.call(Method::DELETE, &path, Value::Null).await;
    let message = answer["message"].as_str().unwrap_or_default();
    (code.as_u16(), message.to_owned())
}

#[tokio::test]
async fn somebody_waits_for_a_webhook_no_longer_than_he_said() {
    let plane = Plane::start().await;
    let url = serve(&plane, |_| None).await;
    let kind = "ValidatingWebhookConfiguration";
    register(&plane, kind, "hangs", &url, json!({"timeoutSeconds": 30})).await;
    let (code, status) = plane
        .call(Method::POST, &format!("{MAPS}?timeout=300ms"), hooked("a"))
        .await;
    assert_eq!(code, 504, "{status}");
    assert_eq!(
        (&status["reason"], &status["message"]),
        (
            &json!("Timeout"),
            &json!("Timeout: request did not complete within the allotted timeout")
        )
    );
}

/// Bodies are shown.
const SHOWN: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Request
  resources: [{resources: [configmaps]}]
- level: None
";

#[tokio::test]
async fn the_audit_log_tells_what_webhooks_did() {
    let plane = Plane::with_audit(SHOWN).await;
    let adds = serve(&plane, |_| {
        let mut response = patch(json!([{"op": "add", "path": "/data/b", "value": "2"}]))?;
        response["auditAnnotations"] = json!({"why": "it was missing", "no key": "x"});
        Some(response)
    })
    .await;
    let lies = serve(&plane, |_| Some(json!({"uid": "other"}))).await;
    let kind = "MutatingWebhookConfiguration";
    register(&plane, kind, "adds", &adds, json!({})).await;
    let ignored = json!({"failurePolicy": "Ignore"});
    register(&plane, kind, "lies", &lies, ignored.clone()).await;
    let kind = "ValidatingWebhookConfiguration";
    register(&plane, kind, "lies", &lies, ignored).await;
    let (code, made) = plane.call(Method::POST, MAPS, hooked("a")).await;
    assert_eq!(code, 201, "{made}");
    let event = plane
        .audited(|line| line["objectRef"]["name"] == "a" && line["verb"] == "create")
        .await;
    let told = event["annotations"].as_object().unwrap();
    for (key, want) in [
        ("adds.example.com/why", Some("it was missing")),
        ("adds.example.com/no key", None),
        (
            "mutation.webhook.admission.k8s.io/round_0_index_0",
            Some(r#"{"configuration":"adds","webhook":"adds.example.com","mutated":true}"#),
        ),
        (
            "patch.webhook.admission.k8s.io/round_0_index_0",
            Some(
                r#"{"configuration":"adds","webhook":"adds.example.com","patch":[{"op":"add","path":"/data/b","value":"2"}],"patchType":"JSONPatch"}"#,
            ),
        ),
        (
            "mutation.webhook.admission.k8s.io/round_0_index_1",
            Some(r#"{"configuration":"lies","webhook":"lies.example.com","mutated":false}"#),
        ),
        (
            "failed-open.mutation.webhook.admission.k8s.io/round_0_index_1",
            Some("lies.example.com"),
        ),
        (
            "failed-open.validating.webhook.admission.k8s.io/round_0_index_0",
            Some("lies.example.com"),
        ),
    ] {
        assert_eq!(told.get(key).and_then(Value::as_str), want, "{key}: {event}");
    }
}

#[tokio::test]
async fn questions_are_shown_to_webhooks_too() {
    let plane = Plane::start().await;
    let rules = json!([{"operations": ["CREATE"], "apiGroups": ["authorization.k8s.io"], "apiVersions": ["v1"],
        "resources": ["*"]}]);
    let more = json!({"objectSelector": {}, "rules": rules});
    let raises = serve(&plane, |_| {
        patch(json!([{"op": "add", "path": "/spec/groups", "value": ["system:masters"]}]))
    })
    .await;
    register(
        &plane,
        "MutatingWebhookConfiguration",
        "raises",
        &raises,
        more.clone(),
    )
    .await;
    let judges = serve(&plane, |request| {
        let good =
            request["object"]["spec"]["user"] != "eve" && request["object"]["status"]["allowed"] == false;
        Some(json!({"allowed": good, "status": {"code": 418}}))
    })
    .await;
    register(&plane, "ValidatingWebhookConfiguration", "judges", &judges, more).await;
    let asked = |user: &str| json!({"spec": {"user": user, "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "nowhere"}}});
    let (all, local) = (
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        "/apis/authorization.k8s.io/v1/namespaces/nowhere/localsubjectaccessreviews",
    );
    for path in [all, local] {
        let (code, answer) = plane.call(Method::POST, path, asked("bob")).await;
        assert_eq!(
            (code.as_u16(), &answer["status"]["allowed"]),
            (201, &json!(true)),
            "{answer}"
        );
        let (code, answer) = plane.call(Method::POST, path, asked("eve")).await;
        assert_eq!(code, 418, "{answer}");
    }
}

#[tokio::test]
async fn match_conditions_choose_what_a_webhook_is_asked_about() {
    let plane = Plane::start().await;
    let refuses = serve(&plane, |_| {
        Some(json!({"allowed": false, "status": {"message": "never"}}))
    })
    .await;
    let kind = "ValidatingWebhookConfiguration";
    let conditions = |expression: &str| json!({"matchConditions": [{"name": "c", "expression": expression}]});
    let names = conditions("object.metadata.name != 'skip' && request.userInfo.username == 'system:admin'");
    register(&plane, kind, "refuses", &refuses, names).await;
    let (code, made) = plane.call(Method::POST, MAPS, hooked("skip")).await;
    assert_eq!(code, 201, "{made}");
    let (code, _) = plane.call(Method::POST, MAPS, hooked("other")).await;
    assert_eq!(code, 400);
    plane
        .call(
            Method::DELETE,
            &format!("{GROUP}/validatingwebhookconfigurations/refuses"),
            json!({}),
        )
        .await;

    register(&plane, kind, "errs", &refuses, conditions("object.nope == 1")).await;
    let (code, refused) = plane.call(Method::POST, MAPS, hooked("a")).await;
    assert_eq!(code, 403, "{refused}");
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains("expression 'object.nope == 1' resulted in error"),
        "{message}"
    );
    let path = format!("{GROUP}/validatingwebhookconfigurations/errs");
    let lenient =
        json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]).to_string();
    let (code, answer) = plane
        .send(Method::PATCH, &path, "application/json-patch+json", lenient)
        .await;
    assert_eq!(code, 200, "{answer}");
    // Admission reads the watch cache, which a read waits for.
    plane.get(&path).await;
    let (code, made) = plane.call(Method::POST, MAPS, hooked("a")).await;
    assert_eq!(code, 201, "{made}");

    let broken =
        json!([{"op": "replace", "path": "/webhooks/0/matchConditions/0/expression", "value": "1 +"}]);
    let (code, refused) = plane
        .send(
            Method::PATCH,
            &path,
            "application/json-patch+json",
            broken.to_string(),
        )
        .await;
    assert_eq!(code, 422, "{refused}");
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains("webhooks[0].matchConditions[0].expression"),
        "{message}"
    );
}

#[tokio::test]
async fn a_webhook_is_told_how_the_object_was_asked_for() {
    let plane = Plane::start().await;
    // It answers with what it is shown, so that what it says can be compared.
    let tells = serve(&plane, |request| {
        let meta = |of: &str, key: &str| request[of]["metadata"][key].as_str().unwrap_or("-").to_owned();
        let version = match meta("object", "resourceVersion") {
            given if given == "-" => "none",
            given if given == meta("oldObject", "resourceVersion") => "current",
            _ => "another",
        };
        let told = json!([
            request["options"],
            request["name"],
            meta("object", "name"),
            version
        ])
        .to_string();
        let status =
            json!({"code": 418, "reason": "Told", "message": told, "details": {"causes": [{"field": "f"}]}});
        Some(json!({"allowed": false, "status": status}))
    })
    .await;
    for name in ["there", "gone"] {
        let made = plane.call(Method::POST, MAPS, config_map(name, "1")).await;
        assert_eq!(made.0, 201);
    }
    let rules =
        json!([{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]);
    let more = json!({"objectSelector": {}, "rules": rules});
    let kind = "MutatingWebhookConfiguration";
    register(&plane, kind, "tells", &tells, more.clone()).await;
    let there = format!("{MAPS}/there");
    let unnamed = json!({"metadata": {"generateName": "a-"}}).to_string();
    let bare = json!({"metadata": {"name": "there"}}).to_string();
    let deletion = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Orphan"}).to_string();
    let merge = "application/merge-patch+json";
    let plain = "application/json";
    let create = json!({"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions", "fieldManager": "me", "dryRun": ["All"]});
    let update =
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "UpdateOptions", "fieldValidation": "Strict"});
    let delete = json!({"apiVersion": "meta.k8s.io/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
        "propagationPolicy": "Orphan"});
    for (method, path, content, body, want) in [
        (
            Method::POST,
            format!("{MAPS}?fieldManager=me&dryRun=All"),
            plain,
            unnamed,
            json!([create, null, "-", "none"]),
        ),
        (
            Method::PUT,
            format!("{there}?fieldValidation=Strict"),
            plain,
            bare,
            json!([update, "there", "there", "none"]),
        ),
        (
            Method::PATCH,
            format!("{there}?fieldValidation=Strict"),
            merge,
            "{}".to_owned(),
            json!([update, "there", "there", "current"]),
        ),
        (
            Method::DELETE,
            format!("{MAPS}/gone"),
            plain,
            deletion,
            json!([delete, "gone", "-", "none"]),
        ),
    ] {
        let (code, answer) = plane.send(method, &path, content, body).await;
        assert_eq!(
            (code.as_u16(), answer["reason"].as_str()),
            (418, Some("Told")),
            "{answer}"
        );
        assert_eq!(answer["details"], json!({"causes": [{"field": "f"}]}));
        let message = answer["message"].as_str().unwrap_or_default();
        let (_, told) = message.split_once("denied the request: ").expect(message);
        assert_eq!(serde_json::from_str::<Value>(told).expect(told), want, "{path}");
    }
    let path = format!("{GROUP}/mutatingwebhookconfigurations/tells");
    plane.call(Method::DELETE, &path, Value::Null).await;
    register(&plane, "ValidatingWebhookConfiguration", "tells", &tells, more).await;
    let bare = json!({"metadata": {"name": "there"}, "data": {"b": "2"}}).to_string();
    let (_, answer) = plane.send(Method::PUT, &there, plain, bare).await;
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(message.ends_with(r#""there","there","current"]"#), "{message}");
}

#[tokio::test]
async fn patches_of_custom_resources_meet_the_numbers_that_are_shown() {
    let plane = Plane::start().await;
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    let version =
        json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
    custom_resources::define_as(&plane, json!({"versions": [version]})).await;
    let copies = serve(&plane, |request| {
        patch(json!([
            {"op": "test", "path": "/spec/n", "value": request["object"]["spec"]["n"]},
            {"op": "test", "path": "/spec/n", "value": 1},
            {"op": "copy", "from": "/spec/n", "path": "/spec/copied"},
        ]))
    })
    .await;
    let rules = json!({"objectSelector": {}, "rules": [{"operations": ["CREATE", "UPDATE"], "resources": ["crontabs"],
        "apiGroups": ["stable.example.com"], "apiVersions": ["v1"]}]});
    register(&plane, "MutatingWebhookConfiguration", "copies", &copies, rules).await;
    let body =
        r#"{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"name":"c"},"spec":{"n":1.0}}"#;
    let (one, all) = (
        custom_resources::path("v1", "c"),
        custom_resources::path("v1", ""),
    );
    for (method, path, content, body) in [
        (Method::POST, all.trim_end_matches('/'), "application/json", body),
        (
            Method::PATCH,
            &*one,
            "application/merge-patch+json",
            r#"{"spec":{"n":1e0,"copied":2}}"#,
        ),
    ] {
        let (code, answer) = plane.send(method, path, content, body.to_owned()).await;
        assert!(code.is_success(), "{answer}");
        assert_eq!(
            answer["spec"].to_string(),
            json!({"n": 1, "copied": 1}).to_string()
        );
    }
}
