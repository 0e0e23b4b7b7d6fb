//! Protobuf, as upstream's own programs speak it: bodies, answers, lists and watches over real HTTPS.
use super::custom_resources::define_as;
use super::plane::{Plane, config_map};
use amphipod_control::kinds::protobuf;
use futures::AsyncReadExt;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The code, content type and body of an answer.
async fn ask(
    plane: &Plane,
    method: Method,
    path: &str,
    accept: &str,
    body: &Value,
) -> (StatusCode, String, Vec<u8>) {
    let bytes = match body {
        Value::Null => Vec::new(),
        body => protobuf::encode(body).unwrap(),
    };
    let request = Request::builder().method(method).uri(path);
    let request = request.header("content-type", PROTOBUF).header("accept", accept);
    let response = plane
        .client()
        .send(request.body(bytes.into()).unwrap())
        .await
        .unwrap();
    let (code, content) = (response.status(), response.headers()["content-type"].clone());
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap();
    (
        code,
        content.to_str().unwrap().to_owned(),
        body.to_bytes().to_vec(),
    )
}

fn read(body: &[u8]) -> Value {
    protobuf::decode(body, ("", "")).unwrap()
}

#[tokio::test]
async fn objects_and_lists_go_in_and_out() {
    let plane = Plane::start().await;
    let body = config_map("a", "1");
    let (code, content, made) = ask(&plane, Method::POST, MAPS, PROTOBUF, &body).await;
    assert_eq!((code.as_u16(), content.as_str()), (201, PROTOBUF));
    let made = read(&made);
    let (_, want) = plane.get(&format!("{MAPS}/a")).await;
    assert_eq!(made, want);
    let (_, _, list) = ask(&plane, Method::GET, MAPS, PROTOBUF, &Value::Null).await;
    let list = read(&list);
    assert_eq!(list["kind"], "ConfigMapList");
    assert!(list["metadata"]["resourceVersion"].is_string());
    let mut items = list["items"].as_array().unwrap().iter();
    let mut item = made;
    for key in ["apiVersion", "kind"] {
        item.as_object_mut().unwrap().remove(key);
    }
    assert!(items.any(|found| *found == item), "{list}");
    let (code, content, gone) = ask(
        &plane,
        Method::DELETE,
        &format!("{MAPS}/a"),
        PROTOBUF,
        &Value::Null,
    )
    .await;
    assert_eq!((code.as_u16(), content.as_str()), (200, PROTOBUF));
    assert_eq!(read(&gone)["status"], "Success");
    let away = format!("{MAPS}/a");
    let (code, content, missing) = ask(&plane, Method::GET, &away, PROTOBUF, &Value::Null).await;
    assert_eq!((code.as_u16(), content.as_str()), (404, PROTOBUF));
    assert_eq!(read(&missing)["reason"], "NotFound");
    plane.control.shutdown(std::time::Duration::from_secs(10)).await;
}

#[tokio::test]
async fn who_takes_json_too_gets_it_where_there_is_no_other_form() {
    let plane = Plane::start().await;
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": schema});
    define_as(&plane, json!({"versions": [version]})).await;
    let path = "/apis/stable.example.com/v1/namespaces/default/crontabs";
    let object = json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "c"}});
    let (code, made) = plane.call(Method::POST, path, object).await;
    assert_eq!(code, 201, "{made}");
    let both = format!("{PROTOBUF},application/json");
    let (_, content, _) = ask(&plane, Method::GET, path, &both, &Value::Null).await;
    assert_eq!(content, "application/json");
    let (code, content, _) = ask(&plane, Method::GET, path, PROTOBUF, &Value::Null).await;
    assert_eq!((code.as_u16(), content.as_str()), (406, "application/json"));
    let metadata = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let (code, content, list) = ask(&plane, Method::GET, path, &metadata, &Value::Null).await;
    assert_eq!((code.as_u16(), content.as_str()), (200, PROTOBUF));
    let uid = made["metadata"]["uid"].as_str().unwrap();
    assert!(list.windows(uid.len()).any(|part| part == uid.as_bytes()));
    plane.control.shutdown(std::time::Duration::from_secs(10)).await;
}

/// The next event of a stream: its type and object.
async fn event(stream: &mut (impl futures::AsyncRead + Unpin)) -> (String, Value) {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.unwrap();
    let mut event = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut event).await.unwrap();
    // A WatchEvent: its type in field 1, and an extension with the body in field 2.
    assert_eq!(event[0], 0x0a);
    let word = String::from_utf8(event[2..2 + usize::from(event[1])].to_vec()).unwrap();
    let start = event.windows(4).position(|part| part == b"k8s\0").unwrap();
    (word, read(&event[start..]))
}

#[tokio::test]
async fn a_watch_has_frames() {
    let plane = Plane::start().await;
    let query = format!("{MAPS}?watch=true&fieldSelector=metadata.name%3Dw&timeoutSeconds=60");
    let request = Request::get(query).header("accept", format!("{PROTOBUF};stream=watch"));
    let mut stream = plane
        .client()
        .request_stream(request.body(Vec::new()).unwrap())
        .await
        .unwrap();
    for data in ["1", "2"] {
        let path = if data == "1" {
            MAPS.to_owned()
        } else {
            format!("{MAPS}/w")
        };
        let method = if data == "1" { Method::POST } else { Method::PUT };
        let (code, _, _) = ask(&plane, method, &path, PROTOBUF, &config_map("w", data)).await;
        assert!(code.is_success());
    }
    plane
        .call(Method::DELETE, &format!("{MAPS}/w"), Value::Null)
        .await;
    let (_, first) = event(&mut stream).await;
    assert_eq!(first["metadata"]["name"], "w");
    assert_eq!(event(&mut stream).await.0, "MODIFIED");
    let (word, last) = event(&mut stream).await;
    assert_eq!((word.as_str(), &last["kind"]), ("DELETED", &json!("ConfigMap")));
    plane.control.shutdown(std::time::Duration::from_secs(10)).await;
}
