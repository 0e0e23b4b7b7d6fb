//! What changes in a definition counts for what is written as soon as it is seen in what is read.
use super::custom_resources::{define_as, path};
use super::plane::Plane;
use http::Method;
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// So many others that reading them takes longer than a request.
const OTHERS: usize = 60;
const ROUNDS: usize = 20;

fn versions(default: Option<&str>) -> Value {
    let mut size = json!({"type": "string"});
    if let Some(default) = default {
        size["default"] = default.into();
    }
    json!([{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"size": size}}}}])
}

fn other(number: usize) -> Value {
    let (kind, plural) = (format!("Other{number}"), format!("other{number}s"));
    let properties: Value = (0..50)
        .map(|n| (format!("p{n}"), json!({"type": "string", "pattern": "^[a-z]+$"})))
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.others.example.com")},
        "spec": {"group": "others.example.com", "scope": "Namespaced", "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}}]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_that_is_seen_is_given_to_what_is_written_next() {
    let plane = Plane::start().await;
    for number in 0..OTHERS {
        let (code, answer) = plane.call(Method::POST, DEFINITIONS, other(number)).await;
        assert_eq!(code, 201, "{answer}");
    }
    define_as(&plane, json!({"versions": versions(None)})).await;
    let made = |name: &str| json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}});
    let collection = path("v1", "");
    let collection = collection.trim_end_matches('/');
    let (code, answer) = plane.call(Method::POST, collection, made("first")).await;
    assert_eq!(code, 201, "{answer}");
    let own = format!("{DEFINITIONS}/crontabs.stable.example.com");
    for round in 0..ROUNDS {
        let default = format!("size-{round}");
        let (_, mut definition) = plane.get(&own).await;
        definition["spec"]["versions"] = versions(Some(&default));
        let (code, answer) = plane.call(Method::PUT, &own, definition).await;
        assert_eq!(code, 200, "{answer}");
        while plane.get(&path("v1", "first")).await.1["size"] != *default {}
        let next = format!("next-{round}");
        let (_, written) = plane.call(Method::POST, collection, made(&next)).await;
        assert_eq!(written["size"], *default, "{written}");
    }
}
