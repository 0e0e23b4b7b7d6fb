//! Watches over WebSocket, as browsers make them.
use super::plane::{Plane, config_map};
use super::tls;
use futures::StreamExt;
use http::Method;
use serde_json::Value;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn each_event_of_a_watch_is_a_message() {
    let plane = Plane::start().await;
    plane.call(Method::POST, MAPS, config_map("a", "1")).await;
    let url = format!(
        "wss://{}{MAPS}?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Da",
        plane.control.local_addr()
    );
    let connection = tls::connect(&plane, b"http/1.1").await;
    let (mut socket, response) = client_async(url, connection).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut seen = Vec::new();
    while let Some(message) = socket.next().await {
        if let Message::Text(text) = message.unwrap() {
            let event: Value = serde_json::from_str(&text).unwrap();
            seen.push((event["type"].clone(), event["object"]["metadata"]["name"].clone()));
        }
    }
    assert_eq!(seen, [("ADDED".into(), "a".into())]);
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused_as_ever() {
    let plane = Plane::start().await;
    let url = format!("wss://{}/api/v1/nothings?watch=1", plane.control.local_addr());
    let connection = tls::connect(&plane, b"http/1.1").await;
    let Err(tokio_tungstenite::tungstenite::Error::Http(response)) = client_async(url, connection).await
    else {
        panic!("accepted");
    };
    assert_eq!(response.status(), 404);
}
