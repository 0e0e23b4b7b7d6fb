//! Custom resources through the API: from their definition to their end, across a restart and several versions.
use super::plane::Plane;
use http::{Method, Request};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use std::time::Duration;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const NAME: &str = "crontabs.stable.example.com";
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn version(name: &str, storage: bool) -> Value {
    json!({
        "name": name, "served": true, "storage": storage, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "replicas": {"type": "integer", "default": 1, "maximum": 10},
                "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "required": ["name"],
                        "properties": {"name": {"type": "string"}, "size": {"type": "integer"}}}}}},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
    })
}

fn definition(versions: Vec<Value>) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": NAME},
        "spec": {"group": "stable.example.com", "scope": "Namespaced", "versions": versions,
            "names": {"plural": "crontabs", "kind": "CronTab"}},
    })
}

pub fn path(version: &str, name: &str) -> String {
    format!("/apis/stable.example.com/{version}/namespaces/default/crontabs/{name}")
}

fn object(version: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("stable.example.com/{version}"), "kind": "CronTab", "metadata": {"name": "c"}, "spec": spec})
}

async fn define(plane: &Plane, versions: Vec<Value>) {
    define_as(plane, json!({"versions": versions})).await;
}

/// Defines `crontabs` with these parts of the specification, and waits until they are served.
pub async fn define_as(plane: &Plane, more: Value) {
    let mut body = definition(Vec::new());
    json_patch::merge(&mut body["spec"], &more);
    let (code, answer) = plane.call(Method::POST, DEFINITIONS, body).await;
    assert_eq!(code, 201, "{answer}");
    let definitions: Api<CustomResourceDefinition> = Api::all(plane.client());
    let established = await_condition(definitions, NAME, is_crd_established());
    tokio::time::timeout(PATIENCE, established)
        .await
        .expect("established in time")
        .expect("the watch works");
}

#[tokio::test]
async fn a_definition_makes_a_kind_that_survives_a_restart() {
    let plane = Plane::start().await;
    let (code, _) = plane.get("/apis/stable.example.com/v1").await;
    assert_eq!(code, 404);
    define(&plane, vec![version("v1", true)]).await;
    // Of what is none in a group of definitions there is no `Status`.
    for none in ["v7", "v7/crontabs", "v1/nosuch", "v1/namespaces/default/nosuch/c"] {
        let (code, said) = plane.get(&format!("/apis/stable.example.com/{none}")).await;
        assert_eq!(
            (code.as_u16(), said),
            (404, json!("404 page not found\n")),
            "{none}"
        );
    }
    let collection = path("v1", "");
    let collection = collection.trim_end_matches('/');
    let (code, made) = plane
        .call(Method::POST, collection, object("v1", json!({})))
        .await;
    assert_eq!(
        (code.as_u16(), &made["spec"]["replicas"]),
        (201, &json!(1)),
        "{made}"
    );
    let (code, refused) = plane
        .send(
            Method::PATCH,
            &path("v1", "c"),
            "application/merge-patch+json",
            json!({"spec": {"replicas": 11}}).to_string(),
        )
        .await;
    assert_eq!(code, 422);
    assert_eq!(
        refused["message"],
        "CronTab.stable.example.com \"c\" is invalid: spec.replicas: Invalid value: 11: spec.replicas in body should be \
         less than or equal to 10"
    );
    let (code, _) = plane
        .send(
            Method::PATCH,
            &path("v1", "c"),
            "application/strategic-merge-patch+json",
            "{}".into(),
        )
        .await;
    assert_eq!(code, 415);
    let plane = plane.restart().await;
    let (code, read) = plane.get(&path("v1", "c")).await;
    assert_eq!((code.as_u16(), &read), (200, &made));
    let (_, list) = plane.get(collection).await;
    assert_eq!(
        (&list["kind"], &list["items"][0]["kind"]),
        (&json!("CronTabList"), &json!("CronTab"))
    );
}

#[tokio::test]
async fn lists_of_custom_resources_are_applied_by_their_keys() {
    let plane = Plane::start().await;
    define(&plane, vec![version("v1", true)]).await;
    let apply = async |manager: &str, parts: Value| {
        let path = format!("{}?fieldManager={manager}", path("v1", "c"));
        let body = object("v1", json!({"parts": parts})).to_string();
        plane
            .send(Method::PATCH, &path, "application/apply-patch+yaml", body)
            .await
    };
    let (code, answer) = apply("one", json!([{"name": "a", "size": 1}])).await;
    assert_eq!(code, 201, "{answer}");
    let (code, both) = apply("two", json!([{"name": "b", "size": 2}])).await;
    assert_eq!(code, 200, "{both}");
    assert_eq!(both["spec"]["parts"].as_array().map(Vec::len), Some(2));
    let (code, _) = apply("two", json!([{"name": "a", "size": 3}])).await;
    assert_eq!(code, 409);
}

#[tokio::test]
async fn every_version_shows_the_same_object_and_a_write_moves_it_to_the_new_storage() {
    let plane = Plane::start().await;
    define(&plane, vec![version("v1alpha1", true), version("v1", false)]).await;
    let (code, _) = plane
        .call(Method::PUT, &path("v1", "c"), object("v1", json!({})))
        .await;
    assert_eq!(code, 404, "an update does not create");
    let collection = "/apis/stable.example.com/v1/namespaces/default/crontabs";
    let (code, made) = plane
        .call(Method::POST, collection, object("v1", json!({"replicas": 4})))
        .await;
    assert_eq!(code, 201, "{made}");
    let (_, old) = plane.get(&path("v1alpha1", "c")).await;
    assert_eq!(
        (&old["apiVersion"], &old["spec"]["replicas"]),
        (&json!("stable.example.com/v1alpha1"), &json!(4))
    );
    let patch = json!({"spec": {"versions": [version("v1alpha1", false), version("v1", true)]}});
    let (code, defined) = plane
        .send(
            Method::PATCH,
            &format!("{DEFINITIONS}/{NAME}"),
            "application/merge-patch+json",
            patch.to_string(),
        )
        .await;
    assert_eq!(
        (code.as_u16(), &defined["status"]["storedVersions"]),
        (200, &json!(["v1alpha1", "v1"]))
    );
    let (_, before) = plane.get(&path("v1", "c")).await;
    let mut same = before.clone();
    same["metadata"]
        .as_object_mut()
        .expect("metadata")
        .remove("managedFields");
    let (code, after) = plane.call(Method::PUT, &path("v1", "c"), before.clone()).await;
    assert_eq!(code, 200, "{after}");
    assert_eq!(after["apiVersion"], "stable.example.com/v1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_takes_its_objects_with_it() {
    let plane = Plane::start().await;
    define(&plane, vec![version("v1", true)]).await;
    let collection = "/apis/stable.example.com/v1/namespaces/default/crontabs";
    let mut held = object("v1", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let (code, _) = plane.call(Method::POST, collection, held).await;
    assert_eq!(code, 201);
    let (code, leaving) = plane
        .call(Method::DELETE, &format!("{DEFINITIONS}/{NAME}"), Value::Null)
        .await;
    assert_eq!(code, 200);
    assert_eq!(
        leaving["metadata"]["finalizers"],
        json!(["customresourcecleanup.apiextensions.k8s.io"]),
        "{leaving}"
    );
    let mut another = object("v1", json!({}));
    another["metadata"]["name"] = "d".into();
    // The API server follows its definitions: it takes a moment.
    let trial = format!("{collection}?dryRun=All");
    let refused = async {
        loop {
            let (code, answer) = plane.call(Method::POST, &trial, another.clone()).await;
            if code == 403 {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused)
        .await
        .expect("refused in time");
    let why = "crontabs.stable.example.com \"d\" is forbidden: create not allowed while custom resource definition is \
               terminating";
    assert_eq!(refused["message"], why);
    let (apply, body) = (format!("{}?fieldManager=m", path("v1", "d")), another.to_string());
    let (code, answer) = plane
        .send(Method::PATCH, &apply, "application/apply-patch+yaml", body)
        .await;
    assert_eq!((code.as_u16(), &answer["message"]), (403, &json!(why)));
    let (code, _) = plane
        .send(
            Method::PATCH,
            &path("v1", "c"),
            "application/merge-patch+json",
            json!({"metadata": {"finalizers": null}}).to_string(),
        )
        .await;
    assert_eq!(code, 200);
    let definitions: Api<CustomResourceDefinition> = Api::all(plane.client());
    let uid = leaving["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let gone = await_condition(definitions, NAME, kube::runtime::conditions::is_deleted(&uid));
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("gone in time")
        .expect("the watch works");
    let (code, _) = plane.get("/apis/stable.example.com/v1").await;
    assert_eq!(code, 404);
}

#[tokio::test]
async fn hostile_schemas_are_refused() {
    let plane = Plane::start().await;
    for pattern in ["((((a{100}){100}){100}){100}){100}", "(?=a)", "("] {
        let mut version = version("v1", true);
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["s"] =
            json!({"type": "string", "pattern": pattern});
        let (code, answer) = plane
            .call(Method::POST, DEFINITIONS, definition(vec![version]))
            .await;
        assert_eq!(code, 422, "{answer}");
    }
}

/// A default of each item multiplies what was sent: 2 MB once took 17 GB.
#[tokio::test]
async fn defaults_that_multiply_an_object_are_bounded() {
    let plane = Plane::start().await;
    let mut version = version("v1", true);
    version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["many"] = json!({
        "type": "array", "items": {"type": "object", "properties": {"s": {"type": "string", "default": "x".repeat(1_000)}}}
    });
    define(&plane, vec![version]).await;
    let objects = path("v1", "");
    for (items, want) in [(1_000, 201), (10_000, 413), (200_000, 413)] {
        let mut object = object("v1", json!({"many": vec![json!({}); items]}));
        object["metadata"]["name"] = format!("of-{items}").into();
        let (code, answer) = plane
            .call(Method::POST, objects.trim_end_matches('/'), object)
            .await;
        assert_eq!(code, want, "{items}: {}", answer["message"]);
    }
}

#[tokio::test]
async fn a_key_that_comes_twice_in_an_applied_text_is_told_by_its_line() {
    let plane = Plane::start().await;
    define(&plane, vec![version("v1", true)]).await;
    let body = "
apiVersion: stable.example.com/v1
kind: CronTab
metadata:
  name: c
spec:
  replicas: 1
  replicas: 2";
    let apply = async |validation: &str| {
        let path = format!("{}?fieldManager=m&fieldValidation={validation}", path("v1", "c"));
        let apply = "application/apply-patch+yaml";
        plane.send(Method::PATCH, &path, apply, body.into()).await
    };
    let (code, refused) = apply("Strict").await;
    assert_eq!(
        (code.as_u16(), refused["message"].as_str().unwrap()),
        (
            400,
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 8: key \
             \"replicas\" already set in map"
        )
    );
    let (code, made) = apply("Warn").await;
    assert_eq!(
        (code.as_u16(), &made["spec"]["replicas"]),
        (201, &json!(2)),
        "{made}"
    );
    let (code, refused) = plane
        .send(
            Method::POST,
            &format!("{}?fieldValidation=Strict", path("v1", "").trim_end_matches('/')),
            "application/yaml",
            body.replace("name: c", "name: d"),
        )
        .await;
    assert_eq!(code, 400);
    let message = refused["message"].as_str().unwrap();
    let end = "strict decoding error: yaml: unmarshal errors:\n  line 8: key \"replicas\" already set in map";
    assert!(message.ends_with(end), "{message}");
}

#[tokio::test]
async fn who_scales_a_custom_resource_owns_the_number_where_the_object_has_it() {
    let plane = Plane::start().await;
    let mut scaled = version("v1", true);
    let spec = json!({"type": "object", "properties": {"size": {"type": "integer"}}});
    scaled["schema"]["openAPIV3Schema"]["properties"]["spec"] = spec;
    scaled["subresources"]["scale"] =
        json!({"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"});
    define(&plane, vec![scaled]).await;
    let apply = "application/apply-patch+yaml";
    let send = async |path: String, body: Value| {
        let (code, answer) = plane.send(Method::PATCH, &path, apply, body.to_string()).await;
        (code.as_u16(), answer)
    };
    let one = path("v1", "c");
    let scale = |size: i64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "c"}, "spec": {"replicas": size}});
    let object = object("v1", json!({"size": 2}));
    assert_eq!(send(format!("{one}?fieldManager=a"), object.clone()).await.0, 201);
    let (code, refused) = send(format!("{one}/scale?fieldManager=b"), scale(3)).await;
    assert_eq!(code, 409);
    let why = "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas";
    assert_eq!(refused["message"], why);
    let forced = send(format!("{one}/scale?fieldManager=b&force=true"), scale(3)).await;
    assert_eq!(forced.0, 200, "{}", forced.1);
    let (_, now) = plane.get(&one).await;
    let owners = now["metadata"]["managedFields"].as_array().expect("owners");
    assert_eq!((owners.len(), &now["spec"]["size"]), (1, &json!(3)), "{now}");
    assert_eq!(owners[0]["manager"], "b");
    assert_eq!(owners[0]["fieldsV1"], json!({"f:spec": {"f:size": {}}}));
    let (code, refused) = send(format!("{one}?fieldManager=a"), object).await;
    assert_eq!(code, 409);
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(message.ends_with(": .spec.size"), "{message}");
    // Nobody need say which version of it he scales; a number that is none is told of the object.
    let put = async |size: i64| {
        plane
            .call(Method::PUT, &format!("{one}/scale"), scale(size))
            .await
    };
    assert_eq!(put(4).await.0, 200);
    let (code, refused) = put(-1).await;
    let why = "CronTab.stable.example.com \"c\" is invalid: .spec.size: Invalid value: -1: should be a non-negative integer";
    assert_eq!((code.as_u16(), refused["message"].as_str()), (422, Some(why)));
}

#[tokio::test]
async fn numbers_are_served_as_upstream_writes_them() {
    let plane = Plane::start().await;
    define(&plane, vec![version("v1", true)]).await;
    let one = path("v1", "c");
    let collection = path("v1", "");
    let body = r#"{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"name":"c"},
        "spec":{"replicas":2.0,"parts":[{"name":"a","size":1e3}]}}"#;
    let send = async |method: Method, path: &str, kind: &str, body: &str| {
        let (code, answer) = plane.send(method, path, kind, body.to_owned()).await;
        (code.as_u16(), answer)
    };
    let json = "application/json";
    let made = send(Method::POST, collection.trim_end_matches('/'), json, body).await;
    let want = json!({"replicas": 2, "parts": [{"name": "a", "size": 1000}]});
    assert_eq!((made.0, made.1["spec"].to_string()), (201, want.to_string()));
    let merge = "application/merge-patch+json";
    for (kind, patch, served) in [
        (merge, r#"{"spec":{"replicas":3.0}}"#, 3),
        (
            "application/json-patch+json",
            r#"[{"op":"add","path":"/spec/replicas","value":4.0}]"#,
            4,
        ),
        (
            "application/apply-patch+yaml",
            r#"{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"name":"c"},"spec":{"replicas":5.0}}"#,
            5,
        ),
    ] {
        let query = match kind.starts_with("application/apply") {
            true => "?fieldManager=m&force=true",
            false => "",
        };
        let (code, answer) = send(Method::PATCH, &format!("{one}{query}"), kind, patch).await;
        let answer = answer["spec"]["replicas"].to_string();
        assert_eq!((code, answer), (200, served.to_string()), "{kind}");
    }
    let status = r#"{"status":{"n":7.0,"free":{"a":-0}}}"#;
    let (_, answer) = send(Method::PATCH, &format!("{one}/status"), merge, status).await;
    assert_eq!(answer["status"].to_string(), r#"{"free":{"a":0},"n":7}"#);
    let (_, read) = plane.get(&one).await;
    assert_eq!(
        (&read["spec"]["replicas"], &read["status"]["n"]),
        (&json!(5), &json!(7))
    );
}

#[tokio::test]
async fn what_ratcheting_lets_be_is_told() {
    let plane = Plane::start().await;
    define(&plane, vec![version("v1", true)]).await;
    let (code, made) = plane
        .call(
            Method::POST,
            path("v1", "").trim_end_matches('/'),
            object("v1", json!({"replicas": 5})),
        )
        .await;
    assert_eq!(code, 201, "{made}");
    let mut ruled = version("v1", true);
    ruled["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["replicas"]["x-kubernetes-validations"] =
        json!([{"rule": "self < 3", "message": "fewer"}]);
    let versions = json!({"spec": {"versions": [ruled]}});
    let merge = "application/merge-patch+json";
    let definition = format!("{DEFINITIONS}/{NAME}");
    let (code, answer) = plane
        .send(Method::PATCH, &definition, merge, versions.to_string())
        .await;
    assert_eq!(code, 200, "{answer}");
    let told = async {
        for i in 0.. {
            let labels = json!({"metadata": {"labels": {"a": i.to_string()}}}).to_string();
            let request = Request::patch(path("v1", "c"))
                .header("content-type", merge)
                .body(labels.into_bytes())
                .expect("a request");
            let response = plane
                .client()
                .send(request.map(Into::into))
                .await
                .expect("an answer");
            // The rule is known to writers a moment after the definition is written.
            if let Some(warning) = response.headers().get("warning") {
                assert_eq!(response.status(), 200);
                return warning.clone();
            }
        }
        unreachable!("the loop has no end");
    };
    let told = tokio::time::timeout(PATIENCE, told).await.expect("told in time");
    assert_eq!(told, "299 - \"spec.replicas: Invalid value: 5: fewer\"");
}

#[tokio::test]
async fn a_definition_of_a_protected_group_tells_who_approved_it() {
    let plane = Plane::start().await;
    let name = "crontabs.foo.k8s.io";
    let mut body = definition(vec![version("v1", true)]);
    body["metadata"] = json!({"name": name, "annotations": {"api-approved.kubernetes.io": "unapproved, x"}});
    body["spec"]["group"] = "foo.k8s.io".into();
    let (code, answer) = plane.call(Method::POST, DEFINITIONS, body).await;
    assert_eq!(code, 201, "{answer}");
    let definitions: Api<CustomResourceDefinition> = Api::all(plane.client());
    let told = await_condition(definitions, name, |found: Option<&CustomResourceDefinition>| {
        let status = found.and_then(|found| found.status.as_ref());
        let mut conditions = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
        let told = |text: &Option<String>, want: &str| text.as_deref() == Some(want);
        conditions.any(|c| {
            c.type_ == "KubernetesAPIApprovalPolicyConformant"
                && c.status == "False"
                && told(&c.reason, "UnapprovedAnnotation")
                && told(&c.message, "not approved: \"unapproved, x\"")
        })
    });
    tokio::time::timeout(PATIENCE, told)
        .await
        .expect("told in time")
        .expect("the watch works");
}

#[tokio::test]
async fn a_definition_goes_whatever_its_status_says_to_be_stored() {
    let plane = Plane::start().await;
    define(&plane, vec![version("v1", true)]).await;
    let one = format!("{DEFINITIONS}/{NAME}");
    let merge = "application/merge-patch+json";
    for (stored, kept) in [(json!([]), json!(["v1"])), (json!(["v9"]), json!(["v9"]))] {
        let body = json!({"status": {"storedVersions": stored}}).to_string();
        let (code, answer) = plane
            .send(Method::PATCH, &format!("{one}/status"), merge, body)
            .await;
        assert_eq!((code.as_u16(), &answer["status"]["storedVersions"]), (200, &kept));
    }
    assert_eq!(plane.call(Method::DELETE, &one, Value::Null).await.0, 200);
    let gone = async {
        let mut every = tokio::time::interval(Duration::from_millis(20));
        while plane.get(&one).await.0 != 404 {
            every.tick().await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, gone).await.is_ok(),
        "{}",
        plane.get(&one).await.1
    );
}
