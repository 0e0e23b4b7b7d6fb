//! Custom resources in two versions with a converter: a real HTTPS server that turns `spec.host` and `spec.port` of v1
//! into `spec.address` of v2, and back.
use super::admission::until;
use super::custom_resources::{define_as, path};
use super::plane::Plane;
use super::remote;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{AsyncBufReadExt, StreamExt};
use http::{Method, Request};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const DEFINITION: &str =
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/crontabs.stable.example.com";
const MERGE: &str = "application/merge-patch+json";

/// How many objects each call was about. Controllers ask, too.
pub type Calls = Mutex<Vec<usize>>;

fn convert(object: &Value, wanted: &str) -> Value {
    let mut after = object.clone();
    after["apiVersion"] = wanted.into();
    let spec = &object["spec"];
    let address = || {
        let (host, port) = spec["address"].as_str()?.split_once(':')?;
        Some(json!({"host": host, "port": port.parse::<i64>().ok()?}))
    };
    after["spec"] = match (wanted.ends_with("v2"), spec["host"].as_str()) {
        (true, Some(host)) => json!({"address": format!("{host}:{}", spec["port"])}),
        (true, None) => json!({}),
        (false, _) => address().unwrap_or_else(|| json!({})),
    };
    after["metadata"]["annotations"] = json!({"converted": wanted});
    // Not a converter's to change: put back by the server.
    after["metadata"]["finalizers"] = json!(["e.com/nonsense"]);
    after
}

fn answer(review: &Value, calls: &Calls) -> Value {
    let request = &review["request"];
    let wanted = request["desiredAPIVersion"].as_str().unwrap();
    let objects = request["objects"].as_array().unwrap();
    calls.lock().unwrap().push(objects.len());
    let broken = objects.iter().any(|o| o["spec"]["host"] == "broken");
    let result = match broken {
        true => json!({"status": "Failed", "message": "broken host"}),
        false => json!({"status": "Success"}),
    };
    let converted: Vec<Value> = match broken {
        true => vec![],
        false => objects.iter().map(|o| convert(o, wanted)).collect(),
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
        "response": {"uid": request["uid"], "result": result, "convertedObjects": converted}})
}

fn version(name: &str, storage: bool, properties: Value, selectable: &str) -> Value {
    let spec = json!({"type": "object", "properties": properties});
    json!({"name": name, "served": true, "storage": storage,
        "selectableFields": [{"jsonPath": selectable}],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}})
}

fn versions(stored: &str) -> Value {
    let text = || json!({"type": "string"});
    json!([
        version(
            "v1",
            stored == "v1",
            json!({"host": text(), "port": {"type": "integer"}}),
            ".spec.host"
        ),
        version("v2", stored == "v2", json!({"address": text()}), ".spec.address"),
    ])
}

/// A plane with the definition, v1 stored; and what its converter was asked.
pub async fn converting() -> (Plane, Arc<Calls>) {
    converting_while(Arc::new(AtomicBool::new(true))).await
}

/// The same, whose converter answers as long as it is `up`.
async fn converting_while(up: Arc<AtomicBool>) -> (Plane, Arc<Calls>) {
    let plane = Plane::start().await;
    let calls = Arc::new(Calls::default());
    let counted = calls.clone();
    let url = remote::serve(
        &plane,
        Arc::new(move |review| match up.load(Ordering::SeqCst) {
            true => Some(answer(review, &counted)),
            false => Some(json!({})),
        }),
    )
    .await;
    let bundle = STANDARD.encode(plane.control.pki().ca_pem());
    let conversion = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": url, "caBundle": bundle}}});
    define_as(
        &plane,
        json!({"versions": versions("v1"), "conversion": conversion}),
    )
    .await;
    (plane, calls)
}

pub async fn create(plane: &Plane, version: &str, name: &str, spec: Value) -> Value {
    let collection = path(version, "");
    let object = json!({"apiVersion": format!("stable.example.com/{version}"), "kind": "CronTab",
        "metadata": {"name": name}, "spec": spec});
    let (code, made) = plane
        .call(Method::POST, collection.trim_end_matches('/'), object)
        .await;
    assert_eq!(code, 201, "{made}");
    made
}

pub fn v1(port: i64) -> Value {
    json!({"host": "h", "port": port})
}

#[tokio::test]
async fn every_verb_shows_the_version_that_was_asked_for() {
    let (plane, _) = converting().await;
    create(&plane, "v1", "a", v1(1)).await;
    let made = create(&plane, "v2", "b", json!({"address": "h:2"})).await;
    assert_eq!(made["spec"], json!({"address": "h:2"}));
    assert_eq!(
        made["metadata"]["annotations"]["converted"], "stable.example.com/v2",
        "what is stored is shown, not what was sent: {made}"
    );
    let collection = format!("{}?dryRun=All", path("v2", "").trim_end_matches('/'));
    let tried = json!({"apiVersion": "stable.example.com/v2", "kind": "CronTab", "metadata": {"name": "t"}});
    let (code, tried) = plane.call(Method::POST, &collection, tried).await;
    let converted = &tried["metadata"]["annotations"]["converted"];
    assert_eq!(
        (code.as_u16(), converted),
        (201, &json!("stable.example.com/v2")),
        "{tried}"
    );

    let (_, read) = plane.get(&path("v2", "a")).await;
    assert_eq!(read["apiVersion"], "stable.example.com/v2");
    assert_eq!(read["spec"], json!({"address": "h:1"}));
    assert_eq!(
        read["metadata"]["annotations"]["converted"],
        "stable.example.com/v2"
    );
    assert!(read["metadata"]["finalizers"].is_null());
    let (_, read) = plane.get(&path("v1", "b")).await;
    assert_eq!(read["spec"], v1(2));

    let patch = json!({"spec": {"address": "h:10"}}).to_string();
    let (code, patched) = plane.send(Method::PATCH, &path("v2", "a"), MERGE, patch).await;
    assert_eq!(
        (code.as_u16(), &patched["spec"]),
        (200, &json!({"address": "h:10"})),
        "{patched}"
    );
    let (_, read) = plane.get(&path("v1", "a")).await;
    assert_eq!(read["spec"], v1(10));

    let applied =
        "apiVersion: stable.example.com/v2\nkind: CronTab\nmetadata: {name: a}\nspec: {address: 'h:11'}";
    let (code, applied) = plane
        .send(
            Method::PATCH,
            &format!("{}?fieldManager=me&force=true", path("v2", "a")),
            "application/apply-patch+yaml",
            applied.to_owned(),
        )
        .await;
    assert_eq!(
        (code.as_u16(), &applied["spec"]),
        (200, &json!({"address": "h:11"})),
        "{applied}"
    );

    let (code, gone) = plane.call(Method::DELETE, &path("v2", "a"), json!({})).await;
    assert_eq!(code, 200, "{gone}");
    plane.control.shutdown(std::time::Duration::from_secs(10)).await;
}

#[tokio::test]
async fn a_list_is_converted_at_once_and_selected_by_what_it_shows() {
    let up = Arc::new(AtomicBool::new(true));
    let (plane, _) = converting_while(up.clone()).await;
    for i in 0..5 {
        create(&plane, "v1", &format!("a{i}"), v1(i)).await;
    }
    let collection = path("v2", "").trim_end_matches('/').to_owned();
    let (_, list) = plane.get(&collection).await;
    let shown: Vec<&Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| &i["spec"]["address"])
        .collect();
    assert_eq!(shown, ["h:0", "h:1", "h:2", "h:3", "h:4"]);
    let (_, list) = plane
        .get(&format!("{collection}?fieldSelector=spec.address%3Dh:3"))
        .await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(list["items"][0]["metadata"]["name"], "a3");

    // What was converted once is listed and watched while the converter is away; what was not is not.
    up.store(false, Ordering::SeqCst);
    assert_eq!(plane.get(&collection).await.0, 200);
    assert_eq!(plane.get(&path("v2", "a3")).await.0, 500);
    let query = format!("{collection}?watch=true&fieldSelector=spec.address%3Dh:3&timeoutSeconds=5");
    let request = Request::get(query).body(Vec::new()).unwrap();
    let mut lines = plane.client().request_stream(request).await.unwrap().lines();
    assert_eq!(event(lines.next().await)["object"]["metadata"]["name"], "a3");
    create(&plane, "v1", "a5", v1(5)).await;
    assert_eq!(plane.get(&collection).await.0, 500);
    up.store(true, Ordering::SeqCst);
    let (_, list) = plane.get(&collection).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 6);
    plane.control.shutdown(std::time::Duration::from_secs(10)).await;
}

fn event(line: Option<std::io::Result<String>>) -> Value {
    serde_json::from_str(&line.unwrap().unwrap()).unwrap()
}

#[tokio::test]
async fn a_watch_shows_converted_objects_as_they_come_and_go() {
    let (plane, _) = converting().await;
    create(&plane, "v1", "a", v1(1)).await;
    create(&plane, "v1", "other", v1(7)).await;
    let collection = path("v2", "").trim_end_matches('/').to_owned();
    let query = format!("{collection}?watch=true&fieldSelector=spec.address%3Dh:1");
    let request = Request::get(query).body(Vec::new()).unwrap();
    let mut lines = plane.client().request_stream(request).await.unwrap().lines();
    let event = event(lines.next().await);
    assert_eq!(
        (&event["type"], &event["object"]["spec"]["address"]),
        (&json!("ADDED"), &json!("h:1"))
    );
    let patch = json!({"spec": {"port": 2}}).to_string();
    plane.send(Method::PATCH, &path("v1", "a"), MERGE, patch).await;
    let event = self::event(lines.next().await);
    assert_eq!(event["type"], "DELETED", "it is not selected any more: {event}");
    assert_eq!(event["object"]["apiVersion"], "stable.example.com/v2");
    plane.control.shutdown(std::time::Duration::from_secs(10)).await;
}

#[tokio::test]
async fn storage_moves_on_object_by_object() {
    let (plane, _) = converting().await;
    create(&plane, "v1", "a", v1(1)).await;
    create(&plane, "v1", "b", json!({"host": "broken", "port": 1})).await;
    let moved = json!({"spec": {"versions": versions("v2")}}).to_string();
    let (code, definition) = plane.send(Method::PATCH, DEFINITION, MERGE, moved).await;
    assert_eq!(code, 200, "{definition}");
    assert_eq!(definition["status"]["storedVersions"], json!(["v1", "v2"]));

    let (code, refused) = plane.get(&path("v2", "b")).await;
    assert_eq!(code, 500, "{refused}");
    let why = "conversion webhook for stable.example.com/v1, Kind=CronTab failed: broken host";
    assert_eq!(refused["message"], why);
    let (code, _) = plane.get(&path("v1", "b")).await;
    assert_eq!(code, 200, "it still lies there in v1");

    // A write that changes nothing rewrites what lies there in the old version.
    // The version to store is known to writers a moment after the definition is written.
    let rewritten = async {
        loop {
            let (_, read) = plane.get(&path("v2", "a")).await;
            let before = read["metadata"]["resourceVersion"].clone();
            let (code, written) = plane.call(Method::PUT, &path("v2", "a"), read).await;
            assert_eq!(code, 200, "{written}");
            if written["metadata"]["resourceVersion"] != before {
                return;
            }
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), rewritten).await;
    assert!(waited.is_ok(), "it still lies there in v1");
    let (_, read) = plane.get(&path("v2", "a")).await;
    assert_eq!(read["spec"], json!({"address": "h:1"}));

    let (code, _) = plane.call(Method::DELETE, &path("v1", "b"), json!({})).await;
    assert_eq!(code, 200);
    let forgotten = json!({"status": {"storedVersions": ["v2"]}}).to_string();
    let (code, definition) = plane
        .send(Method::PATCH, &format!("{DEFINITION}/status"), MERGE, forgotten)
        .await;
    assert_eq!(
        (code.as_u16(), &definition["status"]["storedVersions"]),
        (200, &json!(["v2"])),
        "{definition}"
    );
    plane.control.shutdown(std::time::Duration::from_secs(10)).await;
}

#[tokio::test]
async fn a_definition_is_established_when_its_converter_can_be_trusted_and_then_keeps_to_that() {
    let (plane, _) = converting().await;
    let bundle = |bundle: &str| {
        let client = json!({"url": "https://c", "service": null, "caBundle": STANDARD.encode(bundle)});
        json!({"spec": {"conversion": {"webhook": {"clientConfig": client}}}})
    };
    let (code, refused) = plane
        .send(Method::PATCH, DEFINITION, MERGE, bundle("none").to_string())
        .await;
    let why = "spec.conversion.webhookClientConfig.caBundle: Invalid value: \"bm9uZQ==\": unable to load root certificates: \
        unable to parse bytes as PEM block";
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(code == 422 && message.ends_with(why), "{refused}");

    let (_, good) = plane.get(DEFINITION).await;
    let mut other = json!({"metadata": {"name": "gongs.stable.example.com"}, "spec": good["spec"]});
    other["spec"]["names"] = json!({"plural": "gongs", "kind": "Gong"});
    json_patch::merge(&mut other, &bundle("none"));
    let (all, _) = DEFINITION.rsplit_once('/').expect("a path");
    let (code, made) = plane.call(Method::POST, all, other).await;
    assert_eq!(code, 201, "{made}");
    let one = format!("{all}/gongs.stable.example.com");
    let has = |reason: &'static str| {
        move |definition: &Value| {
            let conditions = definition["status"]["conditions"].as_array();
            conditions.is_some_and(|all| all.iter().any(|condition| condition["reason"] == reason))
        }
    };
    until(&plane, &one, has("InvalidCABundle")).await;
    let mended = bundle(plane.control.pki().ca_pem()).to_string();
    let (code, answer) = plane.send(Method::PATCH, &one, MERGE, mended).await;
    assert_eq!(code, 200, "{answer}");
    until(&plane, &one, has("InitialNamesAccepted")).await;
    plane.control.shutdown(std::time::Duration::from_secs(10)).await;
}
