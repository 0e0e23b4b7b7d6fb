//! Webhooks, policies, parameters and owners of fields that know another version of a resource than the request: with a
//! real converter between the two.
use super::conversion::{converting, create, v1};
use super::custom_resources::path;
use super::plane::Plane;
use super::remote;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

#[tokio::test]
async fn a_webhook_sees_the_version_that_its_rules_name() {
    let (plane, _) = converting().await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let mind = move |review: &Value| {
        let request = &review["request"];
        seen.lock().unwrap().push(request.clone());
        let patch = json!([{"op": "replace", "path": "/spec/address", "value": "changed:7"}]);
        let response = json!({"uid": request["uid"], "allowed": true, "patchType": "JSONPatch",
            "patch": STANDARD.encode(patch.to_string())});
        Some(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
    };
    let url = remote::serve(&plane, Arc::new(mind)).await;
    let webhook = json!({"name": "w.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": url, "caBundle": STANDARD.encode(plane.control.pki().ca_pem())},
        "rules": [{"operations": ["CREATE"], "apiGroups": ["stable.example.com"], "apiVersions": ["v2"],
            "resources": ["crontabs"]}]});
    let configurations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    let body = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "w"}, "webhooks": [webhook]});
    let (code, made) = plane.call(Method::POST, configurations, body).await;
    assert_eq!(code, 201, "{made}");
    plane.get(&format!("{configurations}/w")).await;
    let made = create(&plane, "v1", "w", v1(1)).await;
    assert_eq!(made["spec"], json!({"host": "changed", "port": 7}));
    plane.control.shutdown(std::time::Duration::from_secs(10)).await;
    let asked = asked.lock().unwrap();
    let version = |key: &str| asked[0][key]["version"].clone();
    assert_eq!(
        (version("kind"), version("requestKind")),
        (json!("v2"), json!("v1"))
    );
    assert_eq!(asked[0]["object"]["spec"], json!({"address": "h:1"}));
    assert_eq!(asked[0]["object"]["apiVersion"], "stable.example.com/v2");
}

/// A policy of the sort on v2 of the resource, and its binding.
async fn policy(plane: &Plane, sort: &str, mut spec: Value, binding: Value) {
    let version = "admissionregistration.k8s.io/v1";
    spec["matchConstraints"] = json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"],
        "apiGroups": ["stable.example.com"], "apiVersions": ["v2"], "resources": ["crontabs"]}]});
    let mut bound = json!({"policyName": "p"});
    json_patch::merge(&mut bound, &binding);
    for (kind, spec) in [(sort.to_owned(), spec), (format!("{sort}Binding"), bound)] {
        let plural = match kind.strip_suffix('y') {
            Some(stem) => format!("{stem}ies").to_lowercase(),
            None => format!("{kind}s").to_lowercase(),
        };
        let collection = format!("/apis/{version}/{plural}");
        let body = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "p"}, "spec": spec});
        let (code, made) = plane.call(Method::POST, &collection, body).await;
        assert_eq!(code, 201, "{made}");
        plane.get(&format!("{collection}/p")).await;
    }
}

async fn denial(plane: &Plane, spec: Value) -> Value {
    let object = json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "no"}, "spec": spec});
    let collection = path("v1", "");
    let (code, refused) = plane
        .call(Method::POST, collection.trim_end_matches('/'), object)
        .await;
    assert_eq!(code, 422, "{refused}");
    refused["message"].clone()
}

#[tokio::test]
async fn policies_judge_the_version_that_they_name_by_parameters_of_the_version_that_they_name() {
    let (plane, _) = converting().await;
    create(&plane, "v1", "limit", v1(13)).await;
    let spec = json!({
        "paramKind": {"apiVersion": "stable.example.com/v2", "kind": "CronTab"},
        "validations": [{
            "expression": "request.kind.version == 'v2' && object.spec.address != params.spec.address",
            "messageExpression": "object.apiVersion + ' ' + object.spec.address"}]});
    let binding = json!({"validationActions": ["Deny"],
        "paramRef": {"name": "limit", "parameterNotFoundAction": "Deny"}});
    policy(&plane, "ValidatingAdmissionPolicy", spec, binding).await;
    let refused = denial(&plane, v1(13)).await;
    let want = "crontabs.stable.example.com \"no\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p' denied \
                request: stable.example.com/v2 h:13";
    assert_eq!(refused, want);
    create(&plane, "v1", "yes", v1(12)).await;
    let broken = denial(&plane, json!({"host": "broken", "port": 1})).await;
    let broken = broken.as_str().unwrap();
    assert!(
        broken.contains(
            "failed to configure binding: failed to convert object version: conversion webhook for"
        ),
        "{broken}"
    );
    plane.control.shutdown(std::time::Duration::from_secs(10)).await;
}

#[tokio::test]
async fn policies_change_the_version_that_they_name() {
    let (plane, _) = converting().await;
    let apply = json!({"expression": "Object{spec: Object.spec{address: object.spec.address + '0'}}"});
    let spec = json!({"reinvocationPolicy": "Never", "failurePolicy": "Fail",
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": apply}]});
    policy(&plane, "MutatingAdmissionPolicy", spec, json!({})).await;
    let made = create(&plane, "v1", "a", v1(4)).await;
    assert_eq!(made["spec"], v1(40));
    plane.control.shutdown(std::time::Duration::from_secs(10)).await;
}

async fn apply(plane: &Plane, version: &str, manager: &str, spec: Value) -> (u16, Value) {
    let body = json!({"apiVersion": format!("stable.example.com/{version}"), "kind": "CronTab",
        "metadata": {"name": "a"}, "spec": spec});
    let path = format!("{}?fieldManager={manager}", path(version, "a"));
    let sent = plane.send(
        Method::PATCH,
        &path,
        "application/apply-patch+yaml",
        body.to_string(),
    );
    let (code, answer) = sent.await;
    (code.as_u16(), answer)
}

fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    let mine = entries.iter().find(|entry| entry["manager"] == manager);
    mine.map_or(Value::Null, |entry| {
        json!([entry["apiVersion"], entry["fieldsV1"]["f:spec"]])
    })
}

#[tokio::test]
async fn fields_are_owned_in_the_version_in_which_they_were_applied() {
    let (plane, _) = converting().await;
    let (code, made) = apply(&plane, "v1", "one", v1(1)).await;
    assert_eq!(code, 201, "{made}");
    let fields = json!(["stable.example.com/v1", {"f:host": {}, "f:port": {}}]);
    assert_eq!(owned(&made, "one"), fields);

    let (code, refused) = apply(&plane, "v2", "two", json!({"address": "h:2"})).await;
    assert_eq!(code, 409, "{refused}");
    let cause = &refused["details"]["causes"][0];
    assert_eq!(
        (&cause["message"], &cause["field"]),
        (&json!("conflict with \"one\""), &json!(".spec.port"))
    );

    let (code, shared) = apply(&plane, "v2", "two", json!({"address": "h:1"})).await;
    assert_eq!(code, 200, "{shared}");
    assert_eq!(owned(&shared, "one"), fields);
    let address = json!(["stable.example.com/v2", {"f:address": {}}]);
    assert_eq!(owned(&shared, "two"), address);

    // One, who changes to the other version, keeps what it applies there.
    let (code, moved) = apply(&plane, "v2", "one", json!({"address": "h:1"})).await;
    assert_eq!(
        (code, &moved["spec"]),
        (200, &json!({"address": "h:1"})),
        "{moved}"
    );
    assert_eq!(owned(&moved, "one"), address);

    // An update in v1 takes from both what it changes.
    let patch = json!({"spec": {"port": 9}}).to_string();
    let (code, patched) = plane
        .send(
            Method::PATCH,
            &path("v1", "a"),
            "application/merge-patch+json",
            patch,
        )
        .await;
    assert_eq!((code.as_u16(), &patched["spec"]), (200, &v1(9)), "{patched}");
    assert_eq!(
        (owned(&patched, "one"), owned(&patched, "two")),
        (Value::Null, Value::Null)
    );
    plane.control.shutdown(std::time::Duration::from_secs(10)).await;
}
