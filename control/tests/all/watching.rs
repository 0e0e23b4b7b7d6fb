//! Watches: order, history, selection, initial events, and their end.
use super::plane::{Plane, config_map};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use http::{Method, Request};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The events of a watch that ends by itself.
async fn watch(plane: &Plane, query: &str) -> Vec<Value> {
    watch_path(plane, &format!("{MAPS}?watch=1&{query}")).await
}

async fn watch_path(plane: &Plane, path: &str) -> Vec<Value> {
    // A read waits for the watch cache: what was written is history then, however short the watch.
    plane.get(MAPS).await;
    let request = Request::get(format!("{path}&timeoutSeconds=1"))
        .body(Vec::new())
        .unwrap();
    let lines = plane.client().request_stream(request).await.unwrap().lines();
    lines
        .map_ok(|line| serde_json::from_str(&line).unwrap())
        .try_collect()
        .await
        .unwrap()
}

/// As the Python client asks when it is told no namespace.
#[tokio::test]
async fn an_empty_namespace_in_a_path_is_all_of_them() {
    let plane = Plane::start().await;
    let other = "/api/v1/namespaces/kube-system/configmaps";
    for (path, name) in [(MAPS, "a"), (other, "b")] {
        let (code, made) = plane.call(Method::POST, path, config_map(name, "1")).await;
        assert_eq!(code, 201, "{made}");
    }
    let all = "/api/v1/namespaces//configmaps";
    let (code, list) = plane.get(all).await;
    assert_eq!((code.as_u16(), &list["kind"]), (200, &json!("ConfigMapList")));
    let events = watch_path(&plane, &format!("{all}?watch=1")).await;
    for name in ["a", "b"] {
        let items = list["items"].as_array().unwrap();
        assert!(items.iter().any(|map| map["metadata"]["name"] == name), "{list}");
        assert!(shown(&events).contains(&("ADDED", name)), "{events:?}");
    }
    let (code, refused) = plane.get(&format!("{all}/a")).await;
    assert_eq!(
        (code.as_u16(), &refused["message"]),
        (400, &json!("Namespace parameter required."))
    );
}

fn shown(events: &[Value]) -> Vec<(&str, &str)> {
    events
        .iter()
        .map(|e| {
            (
                e["type"].as_str().unwrap(),
                e["object"]["metadata"]["name"].as_str().unwrap_or_default(),
            )
        })
        .collect()
}

#[tokio::test]
async fn history_is_replayed_in_order() {
    let plane = Plane::start().await;
    let (_, first) = plane.call(Method::POST, MAPS, config_map("a", "1")).await;
    plane.call(Method::POST, MAPS, config_map("b", "1")).await;
    let patch = json!({"data": {"a": "2"}}).to_string();
    plane
        .send(
            Method::PATCH,
            &format!("{MAPS}/a"),
            "application/merge-patch+json",
            patch,
        )
        .await;
    plane
        .call(Method::DELETE, &format!("{MAPS}/b"), Value::Null)
        .await;
    let from = first["metadata"]["resourceVersion"].as_str().unwrap();
    let own = "fieldSelector=metadata.name!%3Dkube-root-ca.crt";
    let events = watch(&plane, &format!("resourceVersion={from}&{own}")).await;
    assert_eq!(
        shown(&events),
        [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]
    );

    // A new process has nothing in memory: the same history comes from the store.
    let plane = plane.restart().await;
    let events = watch(&plane, &format!("resourceVersion={from}&{own}")).await;
    assert_eq!(
        shown(&events),
        [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]
    );
}

#[tokio::test]
async fn the_paths_of_old_watches_still_watch() {
    let plane = Plane::start().await;
    let (_, first) = plane.call(Method::POST, MAPS, config_map("a", "1")).await;
    for name in ["b", "c"] {
        plane.call(Method::POST, MAPS, config_map(name, "1")).await;
    }
    let from = first["metadata"]["resourceVersion"].as_str().unwrap();
    let old = "/api/v1/watch/namespaces/default/configmaps";
    let one = watch_path(&plane, &format!("{old}/c?resourceVersion={from}")).await;
    assert_eq!(shown(&one), [("ADDED", "c")]);
    let own = "fieldSelector=metadata.name!%3Dkube-root-ca.crt";
    let all = watch_path(&plane, &format!("{old}?resourceVersion={from}&{own}")).await;
    assert_eq!(shown(&all), [("ADDED", "b"), ("ADDED", "c")]);
    let (code, _) = plane.call(Method::POST, old, config_map("d", "1")).await;
    assert_eq!(code, 405);
    let (code, _) = plane.get("/api/v1/watch/namespaces/default/pods/p/log").await;
    assert_eq!(code, 404);
    let (_, object) = plane.get(&format!("{MAPS}/a?watch=true")).await;
    assert_eq!(
        object["kind"], "ConfigMap",
        "an object is watched by no other path"
    );
}

#[tokio::test]
async fn leaving_the_selection_is_a_deletion() {
    let plane = Plane::start().await;
    let mut body = config_map("a", "1");
    body["metadata"]["labels"] = json!({"l": "in"});
    let (_, made) = plane.call(Method::POST, MAPS, body).await;
    let from = made["metadata"]["resourceVersion"].as_str().unwrap();
    let patch = json!({"metadata": {"labels": {"l": "out"}}}).to_string();
    plane
        .send(
            Method::PATCH,
            &format!("{MAPS}/a"),
            "application/merge-patch+json",
            patch,
        )
        .await;
    let events = watch(&plane, &format!("resourceVersion={from}&labelSelector=l%3Din")).await;
    assert_eq!(shown(&events), [("DELETED", "a")]);
}

#[tokio::test]
async fn a_watch_list_ends_its_start_with_a_bookmark() {
    let plane = Plane::start().await;
    plane.call(Method::POST, MAPS, config_map("a", "1")).await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true\
                 &fieldSelector=metadata.name%3Da";
    let events = watch(&plane, query).await;
    assert_eq!(shown(&events), [("ADDED", "a"), ("BOOKMARK", "")]);
    assert_eq!(
        events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
}

#[tokio::test]
async fn a_watch_shows_what_is_there_unless_it_is_told_not_to() {
    let plane = Plane::start().await;
    plane.call(Method::POST, MAPS, config_map("a", "1")).await;
    let own = "fieldSelector=metadata.name%3Da";
    for (query, want) in [
        ("allowWatchBookmarks=true", vec![("ADDED", "a"), ("BOOKMARK", "")]),
        ("resourceVersion=0", vec![("ADDED", "a")]),
        (
            "sendInitialEvents=false&resourceVersionMatch=NotOlderThan",
            vec![],
        ),
    ] {
        let events = watch(&plane, &format!("{own}&{query}")).await;
        assert_eq!(shown(&events), want, "{query}");
    }
}

#[tokio::test]
async fn the_kube_crates_watcher_sees_changes_live() {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::{WatchStreamExt, watcher};
    let plane = Plane::start().await;
    let api: kube::Api<ConfigMap> = kube::Api::namespaced(plane.client(), "default");
    let config = watcher::Config::default().fields("metadata.name=live");
    let mut changes = watcher(api.clone(), config).applied_objects().boxed();
    let made: ConfigMap = serde_json::from_value(config_map("live", "1")).unwrap();
    api.create(&Default::default(), &made).await.unwrap();
    let seen = changes.try_next().await.unwrap().unwrap();
    assert_eq!(seen.metadata.name.as_deref(), Some("live"));
}

#[tokio::test]
async fn expired_history_is_told_in_the_stream() {
    let plane = Plane::start().await;
    let (code, status) = plane.get(&format!("{MAPS}?watch=1&resourceVersion=abc")).await;
    assert_eq!((code.as_u16(), &status["kind"]), (400, &json!("Status")));
}

#[tokio::test]
async fn a_bookmark_in_a_table_is_a_row_about_nothing() {
    let plane = Plane::start().await;
    let path = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true\
         &fieldSelector=metadata.name%3Dnone&timeoutSeconds=1"
    );
    let request = Request::get(path).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let request = request.body(Vec::new()).unwrap();
    let lines = plane.client().request_stream(request).await.unwrap().lines();
    let lines: Vec<String> = lines.try_collect().await.unwrap();
    let bookmark: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    let table = &bookmark["object"];
    assert_eq!(table["rows"][0]["cells"], json!(["", 0, "<unknown>"]));
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(
        table["rows"][0]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
}
