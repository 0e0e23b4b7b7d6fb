//! How documents are written, for programs and for people, and in which formats there are such of discovery.
use super::plane::{Plane, config_map};
use http::{Method, Request};
use serde_json::{Value, json};

/// What is answered to a reader with these headers: code, type and text.
async fn read(plane: &Plane, path: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Vec::new().into()).unwrap();
    let answer = plane.client().send(request).await.unwrap();
    let (code, content) = (answer.status(), answer.headers().get("content-type").cloned());
    let body = http_body_util::BodyExt::collect(answer.into_body())
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    (
        code.as_u16(),
        content.map_or_else(String::new, |content| content.to_str().unwrap().to_owned()),
        text,
    )
}

#[tokio::test]
async fn items_of_a_list_in_yaml_say_no_more_of_their_kind_than_in_json() {
    let plane = Plane::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    plane.call(Method::POST, maps, config_map("c", "1")).await;
    let (code, _, text) = read(&plane, maps, &[("accept", "application/yaml")]).await;
    assert_eq!((code, text.matches("kind:").count()), (200, 1), "{text}");
    assert!(text.contains("kind: ConfigMapList"), "{text}");
}

#[tokio::test]
async fn a_bookmark_of_a_table_is_a_row() {
    let plane = Plane::start().await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1\
                 &fieldSelector=metadata.name%3Dnone";
    let path = format!("/api/v1/namespaces/default/configmaps?{query}");
    let (_, _, text) = read(
        &plane,
        &path,
        &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")],
    )
    .await;
    let event: Value = serde_json::from_str(text.lines().next().unwrap_or_default()).unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["rows"][0]["cells"]),
        (&Value::from("BOOKMARK"), &json!(["", 0, "<unknown>"])),
        "{text}"
    );
}

#[tokio::test]
async fn people_read_indented_documents_and_programs_lines() {
    let plane = Plane::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    plane
        .call(Method::POST, maps, config_map("c", "a: {\"b\": [1]}"))
        .await;
    let one = format!("{maps}/c");
    for (path, headers, indented) in [
        (one.as_str(), &[][..], false),
        (&one, &[("user-agent", "curl/8.5.0")], true),
        (&one, &[("user-agent", "Mozilla/5.0 (X11)")], true),
        (&one, &[("accept", "application/json;pretty=1")], true),
        (&format!("{one}?pretty=true"), &[], true),
        (&format!("{one}?pretty=0"), &[("user-agent", "curl/8.5.0")], false),
        (&format!("{one}?pretty=nonsense"), &[], false),
        (&format!("{maps}?pretty=1"), &[], true),
        (maps, &[], false),
        ("/apis/apps/v1?pretty=1", &[], true),
        ("/apis", &[], false),
        ("/version", &[], true),
        (&format!("{maps}/none"), &[], false),
        (&format!("{maps}/none"), &[("accept", "text/plain")], true),
        (
            &format!(
                "{maps}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1&pretty=1"
            ),
            &[],
            false,
        ),
    ] {
        let (_, _, text) = read(&plane, path, headers).await;
        assert_eq!(text.contains("\n  \""), indented, "{path} {headers:?}: {text}");
        assert_eq!(text.ends_with('\n'), !indented, "{path} {headers:?}: {text}");
    }
    let lines: Value = serde_json::from_str(&read(&plane, &one, &[]).await.2).unwrap();
    let (_, _, indented) = read(&plane, &format!("{one}?pretty=1"), &[]).await;
    assert!(
        indented.starts_with("{\n  \"kind\": \"ConfigMap\",\n  \"apiVersion\": \"v1\",\n"),
        "{indented}"
    );
    assert_eq!(serde_json::from_str::<Value>(&indented).unwrap(), lines);
}

#[tokio::test]
async fn what_is_asked_for_in_no_form_that_there_is_is_refused() {
    let plane = Plane::start().await;
    let accept = |text| [("accept", text)];
    for (path, text, wanted) in [
        ("/version", "application/json;q=0.1", 200),
        ("/version", "text/html, */*", 200),
        ("/version", "application/yaml", 406),
        ("/version", "application/vnd.kubernetes.protobuf", 406),
        ("/openapi/v2", "application/vnd.kubernetes.protobuf", 406),
        ("/openapi/v2", "application/vnd.kubernetes.protobuf, */*", 200),
        (
            "/api/v1/namespaces",
            "application/vnd.kubernetes.protobuf;v=v1",
            406,
        ),
        ("/api/v1/namespaces", "application/json;q=0", 200),
    ] {
        let (code, _, answer) = read(&plane, path, &accept(text)).await;
        assert_eq!(code, wanted, "{path} {text}: {answer:.200}");
    }
}

#[tokio::test]
async fn a_claim_of_a_volume_without_a_capacity_has_none() {
    let plane = Plane::start().await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "x", "volumeName": "v",
        "resources": {"requests": {"storage": "1Gi"}}});
    let claim = json!({"metadata": {"name": "c"}, "spec": spec});
    assert_eq!(plane.call(Method::POST, claims, claim).await.0, 201);
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let (_, _, text) = read(&plane, &format!("{claims}/c"), &table).await;
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["rows"][0]["cells"][3], "0", "{found}");
}

#[tokio::test]
async fn discovery_is_written_as_it_is_accepted() {
    let plane = Plane::start().await;
    let all = "as=APIGroupDiscoveryList;g=apidiscovery.k8s.io;v=v2";
    for (path, accept, code, content) in [
        ("/api", "application/yaml", 200, "application/yaml"),
        (
            "/apis/apps",
            "application/yaml;q=0.5,text/html",
            200,
            "application/yaml",
        ),
        (
            "/apis/apps/v1",
            "application/vnd.kubernetes.protobuf",
            200,
            "application/vnd.kubernetes.protobuf",
        ),
        ("/apis", "text/html", 406, "application/json"),
        (
            "/apis",
            &format!("application/yaml;{all}"),
            200,
            &format!("application/yaml;{}", sorted(all)),
        ),
        (
            "/apis",
            &format!("application/json;{all}beta1,application/json"),
            200,
            "application/json",
        ),
        ("/apis/none", "application/json", 404, "text/plain; charset=utf-8"),
        (
            "/apis/none/v1",
            "application/json",
            404,
            "text/plain; charset=utf-8",
        ),
        ("/apis/apps/v9", "application/json", 404, "application/json"),
        ("//", "*/*", 404, "text/plain; charset=utf-8"),
        ("/statusz", "*/*", 200, "text/plain; charset=utf-8"),
        ("/flagz", "*/*", 200, "text/plain; charset=utf-8"),
        ("/flagz", "application/json", 406, "application/json"),
        ("/livez/etcd", "*/*", 200, "text/plain; charset=utf-8"),
    ] {
        let (found, of, text) = read(&plane, path, &[("accept", accept)]).await;
        assert_eq!((found, of.as_str()), (code, content), "{path} {accept}: {text}");
    }
    let (_, _, index) = read(&plane, "/", &[]).await;
    for path in [
        "/apis/apps/v1",
        "/flagz",
        "/livez/store",
        "/metrics/slis",
        "/openapi/v3/apis/apps/v1",
        "/statusz",
    ] {
        assert!(index.contains(&format!("\n    \"{path}\"")), "{path} in {index}");
    }
}

/// The parameters of a type as answers have them: `g`, `v`, `as`.
fn sorted(parameters: &str) -> String {
    let mut parts: Vec<&str> = parameters.split(';').collect();
    parts.rotate_left(1);
    parts.join(";")
}

#[tokio::test]
async fn shapes_fit_what_they_are_of() {
    let plane = Plane::start().await;
    let of = "g=meta.k8s.io;v=v1";
    let (one, many) = ("/api/v1/namespaces/default", "/apis/apps/v1/deployments");
    let table = format!("application/json;as=Table;{of}");
    let metadata = format!("application/json;as=PartialObjectMetadata;{of}");
    let list = format!("application/json;as=PartialObjectMetadataList;{of}");
    for (path, accept, code, message) in [
        (one, &metadata, 200, ""),
        (many, &list, 200, ""),
        (
            many,
            &metadata,
            406,
            "you requested PartialObjectMetadata, but the requested object is a list (*apps.DeploymentList)",
        ),
        (
            one,
            &list,
            406,
            "you requested PartialObjectMetadataList, but the requested object is not a list (*core.Namespace)",
        ),
        (&format!("{one}?includeObject=All"), &metadata, 200, ""),
        (
            &format!("{one}?includeObject=All"),
            &table,
            400,
            "Unable to convert to Table as requested: includeObject: Invalid value: \\\"All\\\": must be 'Metadata', \
             'Object', 'None', or empty",
        ),
    ] {
        let (found, _, text) = read(&plane, path, &[("accept", accept)]).await;
        assert_eq!(found, code, "{path} {accept}: {text}");
        assert!(text.contains(message), "{path} {accept}: {text}");
    }
}

#[tokio::test]
async fn items_of_a_list_in_yaml_are_as_in_json() {
    let plane = Plane::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    plane.call(Method::POST, maps, config_map("c", "1")).await;
    let accept = [("accept", "application/yaml")];
    let (_, _, text) = read(&plane, maps, &accept).await;
    assert!(
        text.contains("kind: ConfigMapList") && text.contains("name: c\n"),
        "{text}"
    );
    assert!(!text.contains("kind: ConfigMap\n"), "{text}");
    let (_, _, text) = read(&plane, &format!("{maps}/c"), &accept).await;
    assert!(text.contains("kind: ConfigMap\n"), "{text}");
}

#[tokio::test]
async fn what_is_empty_is_null_where_upstream_starts_from_nothing() {
    let plane = Plane::start().await;
    let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let beta = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1beta1";
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let secrets = "/api/v1/namespaces/default/secrets";
    let limits = "/api/v1/limitranges";
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    for (path, accept, part, want) in [
        (secrets, "application/json", "items", json!([])),
        (secrets, metadata, "items", Value::Null),
        (secrets, beta, "items", Value::Null),
        (secrets, table, "rows", json!([])),
        (limits, "application/json", "items", json!([])),
        (limits, table, "rows", Value::Null),
        (definitions, table, "rows", Value::Null),
        (definitions, metadata, "items", Value::Null),
        ("/apis/events.k8s.io/v1/events", metadata, "items", Value::Null),
    ] {
        let (code, _, text) = read(&plane, path, &[("accept", accept)]).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (code, answer.get(part)),
            (200, Some(&want)),
            "{path} {accept}: {text}"
        );
    }
}

#[tokio::test]
async fn flags_are_told_to_people_and_to_programs() {
    let plane = Plane::start().await;
    let (_, _, page) = read(&plane, "/flagz", &[]).await;
    assert!(page.starts_with("\napiserver flagz\n"), "{page}");
    assert!(page.contains("\nservice-cidr=10."), "{page}");
    let accept = "application/json;as=Flagz;g=config.k8s.io;v=v1beta1";
    let (code, _, text) = read(&plane, "/flagz", &[("accept", accept)]).await;
    let flagz: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &flagz["kind"], &flagz["apiVersion"], &flagz["metadata"]),
        (
            200,
            &json!("Flagz"),
            &json!("config.k8s.io/v1beta1"),
            &json!({"name": "apiserver"})
        )
    );
    assert!(
        flagz["flags"]["listen"]
            .as_str()
            .is_some_and(|listen| !listen.is_empty()),
        "{text}"
    );
    let (code, _, text) = read(&plane, "/flagz", &[("accept", "application/json")]).await;
    let offered = "Available representations: application/json, application/yaml, text/plain";
    assert!(code == 406 && text.contains(offered), "{text}");
}
