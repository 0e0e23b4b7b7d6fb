//! Server-side apply through the API, and who owns what after other writes.
use super::plane::{Plane, config_map};
use http::{Method, StatusCode};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MAP: &str = "/api/v1/namespaces/default/configmaps/c";

async fn apply(plane: &Plane, query: &str, body: Value) -> (StatusCode, Value) {
    plane
        .send(
            Method::PATCH,
            &format!("{MAP}?{query}"),
            "application/apply-patch+yaml",
            body.to_string(),
        )
        .await
}

/// `manager` or `manager/subresource` of each entry, with the fields it owns of the data.
fn owners(object: &Value) -> Vec<(String, Vec<String>)> {
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let fields = |entry: &Value| {
        let data = entry["fieldsV1"]["f:data"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        data.keys()
            .filter(|k| *k != ".")
            .map(|k| k["f:".len()..].to_owned())
            .collect()
    };
    let named = |e: &Value| e["manager"].as_str().unwrap_or_default().to_owned();
    entries.iter().map(|e| (named(e), fields(e))).collect()
}

#[tokio::test]
async fn apply_creates_merges_conflicts_and_is_forced() {
    let plane = Plane::start().await;
    let (code, made) = apply(&plane, "fieldManager=one", config_map("c", "1")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(owners(&made), [("one".to_owned(), vec!["a".to_owned()])]);

    let (code, refused) = apply(&plane, "fieldManager=two", config_map("c", "2")).await;
    assert_eq!(code, 409);
    assert_eq!(
        refused["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .data.a"
    );
    assert_eq!(
        refused["details"]["causes"][0],
        json!({"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.a"})
    );

    let (_, tried) = apply(
        &plane,
        "fieldManager=two&force=true&dryRun=All",
        config_map("c", "2"),
    )
    .await;
    assert_eq!(tried["data"]["a"], "2");
    let (_, same) = plane.get(MAP).await;
    assert_eq!(same, made, "a dry run leaves no trace");

    let (code, forced) = apply(&plane, "fieldManager=two&force=true", config_map("c", "2")).await;
    assert_eq!((code.as_u16(), &forced["data"]["a"]), (200, &json!("2")));
    assert_eq!(owners(&forced), [("two".to_owned(), vec!["a".to_owned()])]);
    let (_, again) = apply(&plane, "fieldManager=two", config_map("c", "2")).await;
    assert_eq!(again, forced, "an apply that changes nothing writes nothing");
}

#[tokio::test]
async fn what_cannot_be_applied_is_told() {
    let plane = Plane::start().await;
    let strange = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "nope": 1});
    let with = |key: &str, value: Value| {
        let mut map = config_map("c", "1");
        map["metadata"][key] = value;
        map
    };
    for (query, body, code, message) in [
        (
            "",
            config_map("c", "1"),
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        (
            "fieldManager=a",
            json!({"apiVersion": "v2", "kind": "ConfigMap"}),
            400,
            "invalid object type: /v2, Kind=ConfigMap",
        ),
        (
            "fieldManager=a",
            strange,
            400,
            "failed to create typed patch object (/c; /v1, Kind=ConfigMap): .nope: field not declared in schema",
        ),
        (
            "fieldManager=a",
            with("managedFields", json!([])),
            400,
            "metadata.managedFields must be nil",
        ),
        (
            "fieldManager=a",
            config_map("d", "1"),
            400,
            "the name of the object (d) does not match the name on the URL (c)",
        ),
    ] {
        let (status, answer) = apply(&plane, query, body).await;
        assert_eq!(
            (status.as_u16(), answer["message"].as_str()),
            (code, Some(message))
        );
    }
    let forced = plane
        .send(
            Method::PATCH,
            &format!("{MAP}?force=true"),
            "application/merge-patch+json",
            "{}".into(),
        )
        .await;
    assert_eq!(forced.0, 422);
    let long = format!("{MAPS}?fieldManager={}", "x".repeat(129));
    assert_eq!(plane.call(Method::POST, &long, config_map("c", "1")).await.0, 422);
}

#[tokio::test]
async fn every_write_says_who_owns_what() {
    let plane = Plane::start().await;
    let create = format!("{MAPS}?fieldManager=maker");
    let (_, made) = plane.call(Method::POST, &create, config_map("c", "1")).await;
    assert_eq!(owners(&made), [("maker".to_owned(), vec!["a".to_owned()])]);
    let patch = format!("{MAP}?fieldManager=patcher");
    let body = json!({"data": {"b": "2"}}).to_string();
    let (_, patched) = plane
        .send(Method::PATCH, &patch, "application/merge-patch+json", body)
        .await;
    let mut found = owners(&patched);
    found.sort();
    let want = [("maker", "a"), ("patcher", "b")].map(|(m, f)| (m.to_owned(), vec![f.to_owned()]));
    assert_eq!(found, want);
    let mut reset = patched.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    let (_, reset) = plane.call(Method::PUT, MAP, reset).await;
    assert!(owners(&reset).is_empty(), "{reset}");
    let (_, applied) = apply(&plane, "fieldManager=one", config_map("c", "1")).await;
    let names: Vec<String> = owners(&applied).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["one", "before-first-apply"]);
}

#[tokio::test]
async fn replicas_change_hands_by_the_scale() {
    let plane = Plane::start().await;
    let path = "/apis/apps/v1/namespaces/default/replicasets";
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "r"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let (code, made) = plane
        .call(Method::POST, &format!("{path}?fieldManager=maker"), set)
        .await;
    assert_eq!(code, 201, "{made}");
    let scale = format!("{path}/r/scale");
    let wanted = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "r"}, "spec": {"replicas": 0}});
    let more = |n: i64| {
        let mut wanted = wanted.clone();
        wanted["spec"]["replicas"] = n.into();
        wanted
    };
    plane
        .call(Method::PUT, &format!("{scale}?fieldManager=scaler"), more(1))
        .await;
    let (_, found) = plane.get(&format!("{path}/r")).await;
    let entries = found["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let of = |name: &str| {
        entries
            .iter()
            .find(|e| e["manager"] == name)
            .cloned()
            .unwrap_or_default()
    };
    assert_eq!(of("scaler")["subresource"], "scale");
    assert_eq!(of("scaler")["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert!(of("maker")["fieldsV1"]["f:spec"].get("f:replicas").is_none());
    let apply = async |query: &str| {
        plane
            .send(
                Method::PATCH,
                &format!("{scale}?{query}"),
                "application/apply-patch+yaml",
                more(2).to_string(),
            )
            .await
    };
    let (code, refused) = apply("fieldManager=applier").await;
    assert_eq!(code, 409, "{refused}");
    assert_eq!(
        apply("fieldManager=applier&force=true").await.1["spec"]["replicas"],
        2
    );
}

fn definition() -> Value {
    let member = json!({"type": "object", "required": ["name"],
        "properties": {"name": {"type": "string"}, "size": {"type": "integer"}}});
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "members": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": member},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "steps": {"type": "array", "items": {"type": "string"}}}},
        "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "teams.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "teams", "singular": "team", "kind": "Team", "listKind": "TeamList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": schema}}]}})
}

#[tokio::test]
async fn custom_resources_are_applied_by_their_schema() {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    use kube::runtime::wait::{await_condition, conditions};
    let plane = Plane::start().await;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, made) = plane.call(Method::POST, definitions, definition()).await;
    assert_eq!(code, 201, "{made}");
    let api: kube::Api<CustomResourceDefinition> = kube::Api::all(plane.client());
    await_condition(api, "teams.example.com", conditions::is_crd_established())
        .await
        .unwrap();

    let path = "/apis/example.com/v1/namespaces/default/teams/t";
    let apply = async |who: &str, spec: Value| {
        let body =
            json!({"apiVersion": "example.com/v1", "kind": "Team", "metadata": {"name": "t"}, "spec": spec});
        let query = format!("{path}?fieldManager={who}");
        plane
            .send(
                Method::PATCH,
                &query,
                "application/apply-patch+yaml",
                body.to_string(),
            )
            .await
    };
    let (code, one) = apply(
        "one",
        json!({"members": [{"name": "a", "size": 1}], "tags": ["x"], "steps": ["s"]}),
    )
    .await;
    assert_eq!(code, 201, "{one}");
    let (_, two) = apply(
        "two",
        json!({"members": [{"name": "b", "size": 2}], "tags": ["y"]}),
    )
    .await;
    assert_eq!(
        two["spec"]["members"],
        json!([{"name": "a", "size": 1}, {"name": "b", "size": 2}])
    );
    assert_eq!(two["spec"]["tags"], json!(["x", "y"]));
    let (code, refused) = apply("two", json!({"steps": ["t"]})).await;
    assert_eq!(
        (code.as_u16(), &refused["details"]["causes"][0]["field"]),
        (409, &json!(".spec.steps"))
    );
    let (_, less) = apply("one", json!({"steps": ["s"]})).await;
    assert_eq!(
        less["spec"],
        json!({"members": [{"name": "b", "size": 2}], "steps": ["s"], "tags": ["y"]})
    );
    let (code, unknown) = apply("one", json!({"nope": 1})).await;
    assert_eq!(code, 400, "{unknown}");

    let (code, nothing) = apply("one", json!({"steps": null})).await;
    assert_eq!(code, 422, "{nothing}");
    let message = nothing["message"].as_str().unwrap_or_default();
    let why = "spec.steps: Invalid value: \"null\": spec.steps in body must be of type array: \"null\"";
    assert!(message.contains(why), "{message}");
    let (code, nothing) = apply("one", json!({"members": null, "tags": null, "steps": ["s"]})).await;
    assert_eq!((code.as_u16(), &nothing["spec"]), (200, &less["spec"]));

    let status = json!({"status": {"ready": true}, "spec": {"tags": ["z"]}}).to_string();
    let query = format!("{path}/status?fieldManager=three");
    let (_, after) = plane
        .send(Method::PATCH, &query, "application/merge-patch+json", status)
        .await;
    let entries = after["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mine = entries
        .iter()
        .find(|e| e["manager"] == "three")
        .cloned()
        .unwrap_or_default();
    assert_eq!(
        mine["fieldsV1"],
        json!({"f:status": {".": {}, "f:ready": {}}}),
        "{after}"
    );
}

#[tokio::test]
async fn a_request_for_a_token_says_who_asked_for_what() {
    let plane = Plane::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let (code, _) = plane
        .call(Method::POST, accounts, json!({"metadata": {"name": "robot"}}))
        .await;
    assert_eq!(code, 201);
    for (body, owned) in [
        (json!({}), json!({"f:spec": {"f:expirationSeconds": {}}})),
        (
            json!({"spec": {"audiences": ["a"], "expirationSeconds": 700}}),
            json!({"f:spec": {"f:audiences": {}, "f:expirationSeconds": {}}}),
        ),
    ] {
        let path = format!("{accounts}/robot/token?fieldManager=me");
        let (code, answer) = plane.call(Method::POST, &path, body).await;
        let mut entry = answer["metadata"]["managedFields"][0].clone();
        entry["time"].take();
        let want = json!({"manager": "me", "operation": "Update", "apiVersion": "authentication.k8s.io/v1", "time": null,
            "fieldsType": "FieldsV1", "fieldsV1": owned, "subresource": "token"});
        assert_eq!((code.as_u16(), &entry), (201, &want), "{answer}");
        assert!(
            answer["status"]["token"]
                .as_str()
                .is_some_and(|token| !token.is_empty())
        );
    }
}
