//! Creating, changing and deleting, and what goes wrong with it.
use super::plane::{Plane, config_map};
use http::Method;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn at(path: &str, name: &str) -> String {
    format!("{path}/{name}")
}

fn reason(answer: &(http::StatusCode, Value)) -> (u16, &str) {
    (answer.0.as_u16(), answer.1["reason"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn a_life() {
    let plane = Plane::start().await;
    let (code, made) = plane.call(Method::POST, MAPS, config_map("c", "1")).await;
    assert_eq!(code, 201);
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string());
    assert_eq!(
        reason(&plane.call(Method::POST, MAPS, config_map("c", "1")).await),
        (409, "AlreadyExists")
    );

    let mut changed = made.clone();
    changed["data"]["a"] = "2".into();
    let (code, after) = plane.call(Method::PUT, &at(MAPS, "c"), changed.clone()).await;
    assert_eq!((code.as_u16(), &after["data"]["a"]), (200, &json!("2")));
    changed["data"]["a"] = "3".into();
    assert_eq!(
        reason(&plane.call(Method::PUT, &at(MAPS, "c"), changed).await),
        (409, "Conflict")
    );
    let (_, same) = plane.call(Method::PUT, &at(MAPS, "c"), after.clone()).await;
    assert_eq!(
        same["metadata"]["resourceVersion"],
        after["metadata"]["resourceVersion"]
    );

    let (code, status) = plane.call(Method::DELETE, &at(MAPS, "c"), Value::Null).await;
    assert_eq!(
        (code.as_u16(), &status["status"], &status["details"]["kind"]),
        (200, &json!("Success"), &json!("configmaps"))
    );
    let gone = plane.get(&at(MAPS, "c")).await;
    assert_eq!(gone.1["message"], "configmaps \"c\" not found");
}

#[tokio::test]
async fn the_systems_own_priority_classes_are_not_deleted() {
    let plane = Plane::start().await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let own = json!({"metadata": {"name": "own"}, "value": 5});
    assert_eq!(plane.call(Method::POST, classes, own).await.0, 201);
    for name in ["system-node-critical", "system-cluster-critical"] {
        let (code, answer) = plane.call(Method::DELETE, &at(classes, name), Value::Null).await;
        assert_eq!(code, 403, "{answer}");
        assert_eq!(
            answer["message"],
            format!(
                "priorityclasses.scheduling.k8s.io \"{name}\" is forbidden: this is a system priority class and cannot \
                 be deleted"
            )
        );
        assert_eq!(plane.get(&at(classes, name)).await.0, 200);
    }
    assert_eq!(
        plane
            .call(Method::DELETE, &at(classes, "own"), Value::Null)
            .await
            .0,
        200
    );
}

#[tokio::test]
async fn patches() {
    let plane = Plane::start().await;
    plane.call(Method::POST, MAPS, config_map("c", "1")).await;
    let patch = async |kind: &str, body: Value| {
        let content = format!("application/{kind}+json");
        plane
            .send(Method::PATCH, &at(MAPS, "c"), &content, body.to_string())
            .await
    };
    let (_, merged) = patch("merge-patch", json!({"data": {"b": "2", "a": null}})).await;
    assert_eq!(merged["data"], json!({"b": "2"}));
    let (_, listed) = patch(
        "json-patch",
        json!([{"op": "add", "path": "/data/c", "value": "3"}]),
    )
    .await;
    assert_eq!(listed["data"], json!({"b": "2", "c": "3"}));
    let (_, strategic) = patch(
        "strategic-merge-patch",
        json!({"metadata": {"labels": {"x": "y"}}}),
    )
    .await;
    assert_eq!(strategic["metadata"]["labels"]["x"], "y");
    assert_eq!(
        patch("merge-patch", json!({"metadata": {"resourceVersion": "1"}}))
            .await
            .0,
        409
    );
    assert_eq!(
        plane
            .send(
                Method::PATCH,
                &at(MAPS, "c"),
                "application/apply-patch+cbor",
                "{}".into()
            )
            .await
            .0,
        415
    );
}

#[tokio::test]
async fn finalizers_hold_an_object() {
    let plane = Plane::start().await;
    let mut body = config_map("c", "1");
    body["metadata"]["finalizers"] = json!(["x.io/hold"]);
    plane.call(Method::POST, MAPS, body).await;
    let (_, marked) = plane.call(Method::DELETE, &at(MAPS, "c"), Value::Null).await;
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let release = json!({"metadata": {"finalizers": null}}).to_string();
    let (code, _) = plane
        .send(
            Method::PATCH,
            &at(MAPS, "c"),
            "application/merge-patch+json",
            release,
        )
        .await;
    assert_eq!(code, 200);
    assert_eq!(plane.get(&at(MAPS, "c")).await.0, 404);
}

#[tokio::test]
async fn names_can_be_generated() {
    let plane = Plane::start().await;
    let body = json!({"metadata": {"generateName": "g-"}});
    let (code, made) = plane.call(Method::POST, MAPS, body).await;
    let name = made["metadata"]["name"].as_str().unwrap();
    assert_eq!((code.as_u16(), name.len(), &name[..2]), (201, 7, "g-"));
}

#[tokio::test]
async fn bad_requests_get_their_status() {
    let plane = Plane::start().await;
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let mut unknown = config_map("c", "1");
    unknown["nope"] = 1.into();
    for (method, path, body, want) in [
        (Method::POST, MAPS, json!([]).to_string(), 400),
        (Method::POST, MAPS, "[".repeat(100_000), 400),
        (Method::POST, MAPS, format!("\"{}\"", "x".repeat(4 << 20)), 413),
        (Method::POST, strict.as_str(), unknown.to_string(), 400),
        (
            Method::POST,
            "/api/v1/namespaces/missing/configmaps",
            config_map("c", "1").to_string(),
            404,
        ),
        (
            Method::POST,
            &at(MAPS, "x"),
            config_map("x", "1").to_string(),
            405,
        ),
        (Method::PUT, MAPS, config_map("x", "1").to_string(), 405),
        (Method::PUT, &at(MAPS, "x"), config_map("y", "1").to_string(), 400),
        (Method::PUT, &at(MAPS, "x"), json!({"data": {}}).to_string(), 400),
        (
            Method::PUT,
            &at(MAPS, "kube-root-ca.crt"),
            json!({"data": {}}).to_string(),
            400,
        ),
        (
            Method::DELETE,
            &at(MAPS, "x"),
            json!({"gracePeriodSeconds": "1"}).to_string(),
            400,
        ),
        (Method::GET, "/api/v1/nosuch", String::new(), 404),
        (
            Method::GET,
            "/api/v1/namespaces/..%2f../configmaps",
            String::new(),
            400,
        ),
        (
            Method::GET,
            &format!("{MAPS}?fieldSelector=spec.x=1"),
            String::new(),
            400,
        ),
        (
            Method::GET,
            &format!("{MAPS}?labelSelector=a%20b"),
            String::new(),
            400,
        ),
        (
            Method::GET,
            &format!("{MAPS}?resourceVersion=abc"),
            String::new(),
            400,
        ),
        (
            Method::GET,
            &format!("{MAPS}?continue=forged"),
            String::new(),
            400,
        ),
        (
            Method::GET,
            &format!("{MAPS}?resourceVersion=99999999"),
            String::new(),
            504,
        ),
        (Method::DELETE, "/api/v1/namespaces/default", String::new(), 403),
    ] {
        let (code, status) = plane.send(method, path, "application/json", body).await;
        assert_eq!(code, want, "{path}: {status}");
        assert_eq!(status["kind"], "Status", "{path}");
    }
}

#[tokio::test]
async fn tables_and_metadata() {
    let plane = Plane::start().await;
    let ask = async |accept: &str| {
        let request = http::Request::get("/api/v1/namespaces").header("accept", accept);
        let text = plane
            .client()
            .request_text(request.body(Vec::new()).unwrap())
            .await
            .unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let table = ask("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await;
    assert_eq!(
        (&table["kind"], &table["columnDefinitions"][0]["name"]),
        (&json!("Table"), &json!("Name"))
    );
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let metadata = ask("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await;
    assert_eq!(metadata["items"].as_array().unwrap().len(), 4);
    let table = ask("application/json;as=Table;v=v1beta1;g=meta.k8s.io").await;
    let beta = json!("meta.k8s.io/v1beta1");
    assert_eq!(
        (&table["apiVersion"], &table["rows"][0]["object"]["apiVersion"]),
        (&beta, &beta)
    );
    let metadata = ask("application/json;as=PartialObjectMetadataList;v=v1beta1;g=meta.k8s.io").await;
    assert_eq!(
        (&metadata["apiVersion"], &metadata["items"][0]["apiVersion"]),
        (&beta, &beta)
    );
}

#[tokio::test]
async fn discovery_says_what_resources_are_stored_as() {
    let plane = Plane::start().await;
    for (path, resource, want) in [
        ("/api/v1", "pods", json!("xPOwRZ+Yhw8=")),
        ("/apis/events.k8s.io/v1", "events", json!("r2yiGXH7wu8=")),
        (
            "/apis/autoscaling/v1",
            "horizontalpodautoscalers",
            json!("qwQve8ut294="),
        ),
        ("/api/v1", "pods/status", Value::Null),
        (
            "/apis/authorization.k8s.io/v1",
            "subjectaccessreviews",
            Value::Null,
        ),
    ] {
        let (_, list) = plane.get(path).await;
        let mut all = list["resources"].as_array().unwrap().iter();
        let found = all.find(|entry| entry["name"] == resource).unwrap();
        assert_eq!(found["storageVersionHash"], want, "{path} {resource}");
    }
}

#[tokio::test]
async fn what_is_in_no_namespace_may_be_sent_with_one() {
    let plane = Plane::start().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let role = json!({"metadata": {"name": "r", "namespace": "elsewhere"}, "rules": []});
    for (method, path) in [
        (Method::POST, roles.to_owned()),
        (Method::PUT, format!("{roles}/r")),
    ] {
        let (code, made) = plane.call(method.clone(), &path, role.clone()).await;
        assert!(code.is_success(), "{method}: {made}");
        assert!(made["metadata"]["namespace"].is_null(), "{made}");
    }
}

#[tokio::test]
async fn what_is_updated_by_its_version_only_is_so() {
    let plane = Plane::start().await;
    let classes = [
        ("/apis/storage.k8s.io/v1/csidrivers", json!({}), 422),
        ("/apis/storage.k8s.io/v1/csinodes", json!({"drivers": []}), 422),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", json!({}), 200),
    ];
    for (path, spec, want) in classes {
        let body = json!({"metadata": {"name": "x"}, "spec": spec});
        let (code, made) = plane.call(Method::POST, path, body.clone()).await;
        assert_eq!(code, 201, "{made}");
        let (code, answer) = plane.call(Method::PUT, &format!("{path}/x"), body).await;
        assert_eq!(code, want, "{answer}");
    }
}

#[tokio::test]
async fn a_name_that_is_just_leaving_is_told_of_so() {
    let plane = Plane::start().await;
    let mut held = config_map("held", "1");
    held["metadata"]["finalizers"] = json!(["example.com/held"]);
    let create = async || plane.call(Method::POST, MAPS, held.clone()).await;
    assert_eq!(create().await.0, 201);
    let there = "configmaps \"held\" already exists";
    assert_eq!(create().await.1["message"], there);
    assert_eq!(
        plane.call(Method::DELETE, &at(MAPS, "held"), Value::Null).await.0,
        200
    );
    let leaving = format!("object is being deleted: {there}");
    assert_eq!(create().await.1["message"], leaving);
}

#[tokio::test]
async fn a_generation_is_kept_where_nothing_counts_it() {
    let plane = Plane::start().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"a": "b"});
    let template =
        json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (path, more, wanted) in [
        (MAPS, json!({}), json!(7)),
        (roles, json!({"rules": []}), json!(7)),
        (
            deployments,
            json!({"spec": {"selector": {"matchLabels": labels}, "template": template}}),
            json!(1),
        ),
    ] {
        let mut object = json!({"metadata": {"name": "g", "generation": 7}});
        json_patch::merge(&mut object, &more);
        let (code, made) = plane.call(Method::POST, path, object).await;
        assert_eq!(code, 201, "{made}");
        assert_eq!(made["metadata"]["generation"], wanted, "{path}");
    }
}

#[tokio::test]
async fn what_is_no_object_is_no_options_of_a_deletion() {
    let plane = Plane::start().await;
    plane.call(Method::POST, MAPS, config_map("d", "1")).await;
    let one = format!("{MAPS}/d");
    for (body, why) in [
        ("[]", "json: cannot unmarshal array into Go value of type struct"),
        ("5", "json: cannot unmarshal number into Go value of type struct"),
        ("{\"a\":", "unexpected end of JSON input"),
    ] {
        let answer = plane.send(Method::DELETE, &one, "application/json", body.to_owned());
        let (code, answer) = answer.await;
        let message = answer["message"].as_str().unwrap_or_default();
        let start = format!("couldn't get version/kind; json parse error: {why}");
        assert_eq!(code, 400, "{answer}");
        assert!(
            message.starts_with(&start) && !message.ends_with(')'),
            "{message}"
        );
    }
    assert_eq!(plane.get(&one).await.0, 200);
}

#[tokio::test]
async fn a_limit_range_needs_no_name() {
    let plane = Plane::start().await;
    let ranges = "/api/v1/namespaces/default/limitranges";
    let limits = json!({"limits": [{"type": "Container", "max": {"cpu": "1"}}]});
    let (code, made) = plane.call(Method::POST, ranges, json!({"spec": limits})).await;
    let name = made["metadata"]["name"].as_str().unwrap_or_default();
    assert_eq!(
        (code.as_u16(), name.len(), name.split('-').count()),
        (201, 36, 5),
        "{made}"
    );
    let (code, _) = plane.get(&format!("{ranges}/{name}")).await;
    assert_eq!(code, 200);
    let begun = json!({"metadata": {"generateName": "begun-"}, "spec": limits});
    let (_, made) = plane.call(Method::POST, ranges, begun).await;
    let name = made["metadata"]["name"].as_str().unwrap_or_default();
    assert!(name.starts_with("begun-"), "{made}");
    let (code, _) = plane
        .call(Method::POST, "/api/v1/namespaces/default/configmaps", json!({}))
        .await;
    assert_eq!(code, 422);
}
