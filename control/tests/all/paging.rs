//! Lists in pages, at one revision.
use super::plane::{Plane, config_map};
use http::Method;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn names(list: &Value) -> Vec<&str> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn pages_are_of_one_moment() {
    let plane = Plane::start().await;
    for name in ["a", "b", "c", "d"] {
        plane
            .call(Method::POST, &format!("{MAPS}?x"), with_label(name))
            .await;
    }
    let (_, first) = plane.get(&format!("{MAPS}?limit=2&labelSelector=t%3D1")).await;
    assert_eq!(names(&first), ["a", "b"]);
    plane
        .call(Method::DELETE, &format!("{MAPS}/c"), Value::Null)
        .await;
    plane.call(Method::POST, MAPS, with_label("e")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = plane
        .get(&format!("{MAPS}?limit=5&labelSelector=t%3D1&continue={token}"))
        .await;
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    assert!(second["metadata"].get("continue").is_none());
    let (code, _) = plane
        .get(&format!("/api/v1/namespaces/default/secrets?continue={token}"))
        .await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn a_list_can_be_of_the_past() {
    let plane = Plane::start().await;
    let (_, made) = plane.call(Method::POST, MAPS, with_label("a")).await;
    plane.call(Method::POST, MAPS, with_label("b")).await;
    let then = made["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{MAPS}?resourceVersion={then}&resourceVersionMatch=Exact&labelSelector=t");
    assert_eq!(names(&plane.get(&path).await.1), ["a"]);
}

fn with_label(name: &str) -> Value {
    let mut body = config_map(name, "1");
    body["metadata"]["labels"]["t"] = "1".into();
    body
}

#[tokio::test]
async fn a_list_of_whatever_is_in_memory_is_whole() {
    let plane = Plane::start().await;
    let events = "/api/v1/namespaces/default/events";
    for name in ["a", "b", "c"] {
        plane.call(Method::POST, MAPS, with_label(name)).await;
        let event = json!({"metadata": {"name": name}, "involvedObject": {"namespace": "default"}});
        let (code, _) = plane.call(Method::POST, events, event).await;
        assert_eq!(code, 201);
    }
    for (path, shown, goes_on) in [
        (format!("{MAPS}?labelSelector=t&limit=2"), 2, true),
        (
            format!("{MAPS}?labelSelector=t&limit=2&resourceVersion=0"),
            3,
            false,
        ),
        (
            format!("{MAPS}?labelSelector=t&limit=2&resourceVersion=0&resourceVersionMatch=NotOlderThan"),
            3,
            false,
        ),
        // Upstream's cache has no Events.
        (format!("{events}?limit=2&resourceVersion=0"), 2, true),
        (
            "/apis/events.k8s.io/v1/events?limit=2&resourceVersion=0".to_owned(),
            2,
            true,
        ),
    ] {
        let (code, list) = plane.get(&path).await;
        assert_eq!(code, 200, "{path}: {list}");
        let found = list["items"].as_array().map_or(0, Vec::len);
        let token = list["metadata"]["continue"].as_str();
        assert_eq!((found, token.is_some()), (shown, goes_on), "{path}: {list}");
        if let Some(token) = token {
            let rest = plane.get(&format!("{path}&continue={token}")).await;
            assert_eq!(
                rest.1["items"].as_array().map_or(0, Vec::len),
                1,
                "{path}: {rest:?}"
            );
        }
    }
}
