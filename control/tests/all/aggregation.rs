//! A group served by another server: a real HTTPS one, which lets nobody in but the API server's front proxy.
use super::cluster::until_one;
use super::observing::soon;
use super::plane::Plane;
use super::remote::acceptor_for;
use amphipod_control::auth::pki::CertRequest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{AsyncBufReadExt, StreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Api;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1.ext.example.com";

type Body = BoxBody<Bytes, Infallible>;

fn body(value: &Value) -> Body {
    http_body_util::Full::new(Bytes::from(value.to_string())).boxed()
}

/// Says what it was asked, and by whom.
fn answer(request: &Request<Incoming>) -> Response<Body> {
    let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "ext.example.com/v1", "resources": [
        {"name": "foos", "singularName": "foo", "namespaced": true, "kind": "Foo", "verbs": ["get", "list", "watch"]}]});
    let document = json!({"paths": {"apis/ext.example.com/v1": {"serverRelativeURL": "/openapi/v3/apis/ext.example.com/v1?hash=1"}}});
    match request.uri().path() {
        "/apis/ext.example.com/v1" => Response::new(body(&list)),
        "/openapi/v2" => Response::new(body(&json!({
            "paths": {"/apis/ext.example.com/v1/foos": {"get": {"schema": {"$ref": "#/definitions/com.example.Foo"}}},
                "/version/": {"get": {}}},
            "definitions": {"com.example.Foo": {"description": "A foo."}, "com.example.Other": {}}}))),
        "/openapi/v3" => Response::new(body(&document)),
        "/openapi/v3/apis/ext.example.com/v1" => Response::new(body(&json!({"openapi": "3.0.0"}))),
        "/apis/ext.example.com/v1/namespaces/default/nowhere" => {
            let refused = Response::builder().status(300);
            refused.body(body(&json!("no place"))).unwrap()
        }
        "/apis/ext.example.com/v1/namespaces/default/teapot" => {
            let refused = Response::builder().status(418);
            refused.body(body(&json!("short and stout"))).unwrap()
        }
        "/apis/ext.example.com/v1/namespaces/default/elsewhere" => {
            let away = Response::builder()
                .status(302)
                .header("location", "https://192.0.2.1/");
            away.body(body(&json!(null))).unwrap()
        }
        _ if request.uri().query() == Some("watch=true") => {
            // The stream stays open: what is read of it was passed on as it came.
            let first = futures::stream::iter([Ok(Frame::data(Bytes::from("{\"type\":\"ADDED\"}\n")))]);
            Response::new(BodyExt::boxed(StreamBody::new(
                first.chain(futures::stream::pending()),
            )))
        }
        path => {
            let header = |name: &str| {
                let values = request.headers().get_all(name).into_iter();
                values.map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>()
            };
            Response::new(body(
                &json!({"path": path, "user": header("x-remote-user"), "groups": header("x-remote-group"),
                "token": header("authorization"), "as": header("impersonate-user"),
                "id": header("audit-id"), "uri": header("x-forwarded-uri")}),
            ))
        }
    }
}

/// The extension server; its port, and what ends it.
async fn serve(plane: &Plane) -> (u16, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let request = CertRequest {
        cn: "ext".into(),
        dns: vec!["ext.default.svc".into()],
        server: true,
        ..CertRequest::default()
    };
    let proxy = std::fs::read_to_string(plane.dir.path().join("control/pki/front-proxy-ca.crt")).unwrap();
    let acceptor = acceptor_for(plane, &request, Some(&proxy));
    let stop = CancellationToken::new();
    let ended = stop.clone();
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, ended) = (acceptor.clone(), ended.clone());
            tokio::spawn(ended.run_until_cancelled_owned(async move {
                let Ok(tls) = acceptor.accept(tcp).await else {
                    return;
                };
                let service = service_fn(|request| async move { Ok::<_, Infallible>(answer(&request)) });
                let http = hyper::server::conn::http1::Builder::new();
                drop(http.serve_connection(TokioIo::new(tls), service).await);
            }));
        }
    }));
    (port, stop)
}

/// Registers the server and waits until it counts as available.
async fn aggregated() -> (Plane, CancellationToken) {
    let plane = Plane::start().await;
    let (port, stop) = serve(&plane).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "ext"},
        "spec": {"type": "ExternalName", "externalName": "localhost"}});
    let (code, made) = plane
        .call(Method::POST, "/api/v1/namespaces/default/services", service)
        .await;
    assert_eq!(code, 201, "{made}");
    let bundle = STANDARD.encode(plane.control.pki().ca_pem());
    let object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": NAME},
        "spec": {"group": "ext.example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10,
            "caBundle": bundle, "service": {"namespace": "default", "name": "ext", "port": port}}});
    let (code, made) = plane.call(Method::POST, SERVICES, object).await;
    assert_eq!(code, 201, "{made}");
    until_reason(&plane, NAME, "Passed").await;
    (plane, stop)
}

async fn until_reason(plane: &Plane, name: &str, reason: &str) -> APIService {
    let services: Api<APIService> = Api::all(plane.client());
    let said = |service: &APIService| {
        let conditions = service.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions
            .into_iter()
            .any(|c| c.reason.as_deref() == Some(reason))
    };
    until_one(&services, name, &format!("APIService {name}: {reason}"), said).await
}

#[tokio::test]
async fn requests_reach_the_other_server_with_their_user() {
    let (plane, _server) = aggregated().await;
    let (code, seen) = plane
        .get("/apis/ext.example.com/v1/namespaces/default/foos/a")
        .await;
    assert_eq!(code, 200, "{seen}");
    assert_eq!(seen["user"], json!(["system:admin"]));
    assert_eq!(seen["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(
        seen["uri"],
        json!(["/apis/ext.example.com/v1/namespaces/default/foos/a"])
    );
    let id = seen["id"][0].clone();
    plane
        .audited(|event| event["auditID"] == id && event["stage"] == "ResponseComplete")
        .await;

    let request = Request::get("/apis/ext.example.com/v1/namespaces/default/foos/a")
        .header("impersonate-user", "jane")
        .header("x-remote-user", "root")
        .body(Vec::new());
    let refused = plane
        .client()
        .request_text(request.unwrap())
        .await
        .unwrap_err()
        .to_string();
    let why = "User \"jane\" cannot get resource \"foos\" in API group \"ext.example.com\"";
    assert!(refused.contains(why), "{refused}");

    let request =
        Request::get("/apis/ext.example.com/v1/namespaces/default/foos?watch=true").body(Vec::new());
    let mut lines = plane
        .client()
        .request_stream(request.unwrap())
        .await
        .unwrap()
        .lines();
    assert_eq!(lines.next().await.unwrap().unwrap(), "{\"type\":\"ADDED\"}");

    let (code, said) = plane
        .get("/apis/ext.example.com/v1/namespaces/default/elsewhere")
        .await;
    assert_eq!(code, StatusCode::BAD_GATEWAY, "{said}");
    // What leads nowhere is no redirection.
    let (code, said) = plane
        .get("/apis/ext.example.com/v1/namespaces/default/nowhere")
        .await;
    assert_eq!((code.as_u16(), said), (300, json!("no place")));
    plane.control.shutdown(Duration::from_secs(10)).await;
}

/// What comes of asking for another protocol below the extension server's namespace.
async fn upgraded(plane: &Plane, path: &str) -> (u16, String, Option<String>) {
    let connection = TokioIo::new(super::tls::connect(plane, b"http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(connection).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(format!("/apis/ext.example.com/v1/namespaces/default/{path}"))
        .header("host", "api")
        .header("connection", "Upgrade")
        .header("upgrade", "tea/1");
    let request = request.body(http_body_util::Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let connection = answer.headers().get("connection");
    let connection = connection.map(|said| said.to_str().unwrap().to_owned());
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8(body.to_vec()).unwrap(), connection)
}

#[tokio::test]
async fn another_protocol_is_spoken_or_refused() {
    let (plane, _server) = aggregated().await;
    for (path, code) in [("foos", 200), ("elsewhere", 302), ("nowhere", 300)] {
        let (answered, said, _) = upgraded(&plane, path).await;
        let want = format!("invalid upgrade response: status code {code}\n");
        assert_eq!((answered, said), (503, want), "{path}");
    }
    let (code, said, connection) = upgraded(&plane, "teapot").await;
    assert_eq!((code, said.as_str()), (418, "\"short and stout\""));
    assert_eq!(connection.as_deref(), Some("close"));
}

/// The groups of aggregated discovery.
async fn aggregated_groups(plane: &Plane) -> Vec<Value> {
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let request = Request::get("/apis").header("accept", accept).body(Vec::new());
    let text = plane.client().request_text(request.unwrap()).await.unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    all["items"].as_array().unwrap().clone()
}

async fn aggregated_discovery(plane: &Plane) -> Value {
    let groups = aggregated_groups(plane).await;
    let found = groups.iter().find(|g| g["metadata"]["name"] == "ext.example.com");
    found.unwrap()["versions"][0].clone()
}

/// Groups of `example.com` among others, each with its versions.
fn ours(groups: &[Value], name: &str) -> Vec<(String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of = groups.iter().map(|group| {
        let versions = group["versions"].as_array().unwrap().iter();
        let versions = versions.map(|version| text(&version["version"])).collect();
        (text(group.pointer(name).unwrap()), versions)
    });
    of.filter(|(group, _)| group.ends_with(".order.example.com"))
        .collect()
}

#[tokio::test]
async fn of_one_priority_names_and_versions_decide_as_upstream() {
    let plane = Plane::start().await;
    for (group, version) in [
        ("aaa", "v1alpha1"),
        ("zzz", "v1beta1"),
        ("zzz", "v2"),
        ("zzz", "foo"),
        ("zzz", "v10"),
        ("zzz", "v1"),
        ("bbb", "v1alpha1"),
    ] {
        let group = format!("{group}.order.example.com");
        let object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": format!("{version}.{group}")},
            "spec": {"group": group, "version": version, "groupPriorityMinimum": 3000, "versionPriority": 10,
                "service": {"namespace": "default", "name": "nowhere"}}});
        let (code, answer) = plane.call(Method::POST, SERVICES, object).await;
        assert_eq!(code, 201, "{answer}");
    }
    let group = |name: &str, versions: &[&str]| {
        let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
        (format!("{name}.order.example.com"), versions)
    };
    let first = group("aaa", &["v1alpha1"]);
    let second = group("bbb", &["v1alpha1"]);
    let last = group("zzz", &["v10", "v2", "v1", "v1beta1", "foo"]);
    // The list goes by the names of APIServices, which begin with the version; aggregated discovery by those of groups.
    let (_, list) = plane.get("/apis").await;
    let listed = ours(list["groups"].as_array().unwrap(), "/name");
    assert_eq!(listed, [last.clone(), first.clone(), second.clone()]);
    let all = aggregated_groups(&plane).await;
    assert_eq!(ours(&all, "/metadata/name"), [first, second, last]);
    let (_, one) = plane.get("/apis/zzz.order.example.com").await;
    assert_eq!(one["preferredVersion"]["version"], "v10");
    plane.control.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn discovery_and_openapi_show_it_among_ours_also_when_it_is_away() {
    let (plane, server) = aggregated().await;
    let (_, groups) = plane.get("/apis").await;
    let mut groups = groups["groups"].as_array().unwrap().iter();
    assert!(groups.any(|g| g["name"] == "ext.example.com"));
    let (_, group) = plane.get("/apis/ext.example.com").await;
    assert_eq!(group["preferredVersion"]["groupVersion"], "ext.example.com/v1");
    let found = aggregated_discovery(&plane).await;
    assert_eq!(
        (&found["freshness"], &found["resources"][0]["resource"]),
        (&json!("Current"), &json!("foos"))
    );
    let (_, index) = plane.get("/openapi/v3").await;
    let entry = &index["paths"]["apis/ext.example.com/v1"]["serverRelativeURL"];
    assert_eq!(entry, "/openapi/v3/apis/ext.example.com/v1?hash=1");
    let (_, document) = plane.get(entry.as_str().unwrap()).await;
    assert_eq!(document["openapi"], "3.0.0");
    let (_, merged) = plane.get("/openapi/v2").await;
    let schema = &merged["paths"]["/apis/ext.example.com/v1/foos"]["get"]["schema"];
    assert_eq!(schema["$ref"], "#/definitions/com.example.Foo");
    assert_eq!(merged["definitions"]["com.example.Foo"]["description"], "A foo.");
    assert!(merged["definitions"].get("com.example.Other").is_none());
    assert!(merged["paths"]["/api/v1/pods"].is_object());

    server.cancel();
    // A change of the specification is looked at at once.
    let patch = json!({"spec": {"versionPriority": 11}}).to_string();
    let path = format!("{SERVICES}/{NAME}");
    plane
        .send(Method::PATCH, &path, "application/merge-patch+json", patch)
        .await;
    until_reason(&plane, NAME, "FailedDiscoveryCheck").await;
    let labels = ["name=v1.ext.example.com", "reason=FailedDiscoveryCheck"];
    soon(
        &plane,
        "aggregator_unavailable_apiservice_total",
        &labels,
        |count| count == 1.0,
    )
    .await;
    let (code, said) = plane
        .get("/apis/ext.example.com/v1/namespaces/default/foos")
        .await;
    assert_eq!((code.as_u16(), said), (503, json!("service unavailable\n")));
    let found = aggregated_discovery(&plane).await;
    assert_eq!(
        (&found["freshness"], &found["resources"][0]["resource"]),
        (&json!("Stale"), &json!("foos"))
    );
    plane.control.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn what_is_served_here_is_registered_and_extension_servers_learn_whom_to_believe() {
    let plane = Plane::start().await;
    let apps = until_reason(&plane, "v1.apps", "Local").await;
    assert_eq!(apps.spec.unwrap().group_priority_minimum, 17800);
    let (_, map) = plane
        .get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication")
        .await;
    assert_eq!(
        map["data"]["requestheader-allowed-names"],
        "[\"front-proxy-client\"]"
    );
    assert_eq!(map["data"]["client-ca-file"], plane.control.pki().ca_pem());
    let local = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v7.apps"},
        "spec": {"group": "apps", "version": "v7", "groupPriorityMinimum": 1, "versionPriority": 1}});
    let (code, answer) = plane.call(Method::POST, SERVICES, local).await;
    assert_eq!(code, 201, "{answer}");
    let versions = |group: &Value| {
        let versions = group["versions"].as_array().unwrap().iter();
        versions
            .map(|version| version["version"].clone())
            .collect::<Value>()
    };
    let (_, apps) = plane.get("/apis/apps").await;
    assert_eq!(versions(&apps), json!(["v1", "v7"]), "{apps}");
    let (code, _) = plane.get("/apis/apps/v7").await;
    assert_eq!(code, 404);
    let missing = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": NAME},
        "spec": {"group": "ext.example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10,
            "service": {"namespace": "default", "name": "nowhere"}}});
    plane.call(Method::POST, SERVICES, missing).await;
    let service = until_reason(&plane, NAME, "ServiceNotFound").await;
    let message = service.status.unwrap().conditions.unwrap()[0].message.clone();
    assert_eq!(
        message.as_deref(),
        Some("service/nowhere in \"default\" is not present")
    );
    plane.control.shutdown(Duration::from_secs(10)).await;
}
