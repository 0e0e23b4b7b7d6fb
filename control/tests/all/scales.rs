//! Bodies and patches of Scales: what is no Scale scales nothing.
use crate::plane::Plane;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const GONGS: &str = "/apis/sound.example.com/v1/namespaces/default/gongs";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const PUT: &str = "application/json";

/// A plane with two ReplicaSets and two custom resources, of which one says no number.
async fn plane() -> Plane {
    let plane = Plane::start().await;
    let set = json!({"metadata": {"name": "d"}, "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}});
    let definition = json!({"metadata": {"name": "gongs.sound.example.com"}, "spec": {"group": "sound.example.com",
        "scope": "Namespaced", "names": {"plural": "gongs", "kind": "Gong"}, "versions": [{"name": "v1", "served": true,
        "storage": true, "schema": {"openAPIV3Schema": schema}, "subresources": {"scale": {
        "specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}}}]}});
    let gong = |name: &str, spec: Value| json!({"apiVersion": "sound.example.com/v1", "kind": "Gong", "metadata": {"name": name}, "spec": spec});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    for (path, object) in [(SETS, set), (definitions, definition)] {
        let (code, made) = plane.call(Method::POST, path, object).await;
        assert_eq!(code, 201, "{made}");
    }
    for object in [gong("d", json!({"size": 0})), gong("silent", json!({}))] {
        create(&plane, object).await;
    }
    for path in [SETS, GONGS] {
        let (code, scaled) = send(&plane, PUT, &format!("{path}/d/scale"), &scale(json!(2))).await;
        assert_eq!(code, 200, "{scaled}");
    }
    plane
}

/// Creates a custom resource as soon as it is served.
async fn create(plane: &Plane, object: Value) {
    let made = async {
        let mut every = tokio::time::interval(Duration::from_millis(20));
        while plane.call(Method::POST, GONGS, object.clone()).await.0 != 201 {
            every.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), made)
        .await
        .expect("served");
}

fn scale(replicas: Value) -> Value {
    json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": replicas}})
}

async fn send(plane: &Plane, content: &str, path: &str, body: &Value) -> (u16, Value) {
    let method = if content == PUT {
        Method::PUT
    } else {
        Method::PATCH
    };
    let (code, answer) = plane.send(method, path, content, body.to_string()).await;
    (code.as_u16(), answer)
}

/// How many each of the two wants.
async fn wanted(plane: &Plane) -> (Value, Value) {
    let (_, set) = plane.get(&format!("{SETS}/d")).await;
    let (_, gong) = plane.get(&format!("{GONGS}/d")).await;
    (set["spec"]["replicas"].clone(), gong["spec"]["size"].clone())
}

#[tokio::test]
async fn replicas_that_are_no_integer_scale_nothing() {
    let plane = plane().await;
    for (wrong, why) in [
        (json!("x"), "string"),
        (json!("3"), "string"),
        (json!(1.5), "number 1.5"),
        (json!(true), "bool"),
        (json!(99_999_999_999_i64), "number 99999999999"),
        (json!([]), "array"),
        (json!({}), "object"),
    ] {
        let why = format!(
            "json: cannot unmarshal {why} into Go struct field ScaleSpec.spec.replicas of type int32"
        );
        let of_converter = match wrong.is_number() {
            true => " to int32",
            false => "unrecognized type: int32",
        };
        let of_schema = match wrong.is_number() {
            true => why.clone(),
            false => format!(".spec.replicas: expected numeric (int or float), got &{{{wrong}}}"),
        };
        let operation = json!([{"op": "replace", "path": "/spec/replicas", "value": wrong}]);
        let member = json!({"spec": {"replicas": wrong}});
        for (content, query, body, code, why) in [
            (MERGE, "", &member, 422, why.as_str()),
            (JSON, "", &operation, 422, &why),
            (STRATEGIC, "", &member, 422, of_converter),
            (PUT, "", &scale(wrong.clone()), 400, &why),
            (PUT, "?fieldValidation=Strict", &scale(wrong.clone()), 400, &why),
            (
                APPLY,
                "?fieldManager=m&force=true",
                &scale(wrong.clone()),
                400,
                &of_schema,
            ),
        ] {
            let of_gong = match content {
                STRATEGIC => (
                    415,
                    "include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
                ),
                _ => (code, why),
            };
            for (path, (code, why)) in [(SETS, (code, why)), (GONGS, of_gong)] {
                let (found, refused) = send(&plane, content, &format!("{path}/d/scale{query}"), body).await;
                assert_eq!(found, code, "{path} {content} {body} {refused}");
                let message = refused["message"].as_str().unwrap_or_default();
                assert!(message.ends_with(why), "{path} {content} {body} {message}");
            }
        }
    }
    assert_eq!(wanted(&plane).await, (json!(2), json!(2)));
}

#[tokio::test]
async fn a_scale_is_an_object_of_its_kind() {
    let plane = plane().await;
    let put = |change: Value| {
        let mut body = scale(json!(1));
        json_patch::merge(&mut body, &change);
        body
    };
    let strict = "?fieldValidation=Strict";
    let spec = "cannot unmarshal string into Go struct field Scale.spec of type v1.ScaleSpec";
    for (content, query, body, code, why) in [
        (MERGE, "", json!({"spec": "x"}), 422, spec),
        (
            MERGE,
            "",
            json!({"spec": []}),
            422,
            "field Scale.spec of type v1.ScaleSpec",
        ),
        (PUT, "", put(json!({"spec": "x"})), 400, spec),
        (
            PUT,
            "",
            put(json!({"kind": "Deployment", "apiVersion": "apps/v1"})),
            400,
            "Deployment in version \"v1\" cannot be handled as a Scale: converting (v1.Deployment) to \
             (autoscaling.Scale): unknown conversion",
        ),
        (
            PUT,
            "",
            put(json!({"apiVersion": "extensions/v1beta1"})),
            400,
            "the API version in the data (extensions/v1beta1) does not match the expected API version (autoscaling/v1)",
        ),
        (
            PUT,
            "",
            put(json!({"metadata": {"namespace": "other"}})),
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            PUT,
            "",
            put(json!({"metadata": {"name": "e"}})),
            400,
            "the name of the object (e) does not match the name on the URL (d)",
        ),
        (
            PUT,
            "",
            put(json!({"metadata": {"labels": {"a": 1}}})),
            400,
            "cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            PUT,
            strict,
            put(json!({"spec": {"zork": 1}})),
            400,
            "Scale in version \"v1\" cannot be handled as a Scale: strict decoding error: unknown field \"spec.zork\"",
        ),
        (
            MERGE,
            strict,
            json!({"spec": {"zork": 1}}),
            422,
            "strict decoding error: unknown field \"spec.zork\"",
        ),
        (
            MERGE,
            "",
            json!({"metadata": {"namespace": "other"}}),
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            APPLY,
            "?fieldManager=m",
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "d"}}),
            400,
            "invalid object type: apps/v1, Kind=ReplicaSet",
        ),
    ] {
        for path in [SETS, GONGS] {
            let (got, refused) = send(&plane, content, &format!("{path}/d/scale{query}"), &body).await;
            assert_eq!(got, code, "{path} {content} {body} {refused}");
            let message = refused["message"].as_str().unwrap_or_default();
            assert!(message.ends_with(why), "{path} {content} {body} {message}");
        }
    }
    assert_eq!(wanted(&plane).await, (json!(2), json!(2)));
}

#[tokio::test]
async fn who_scales_may_say_little() {
    let plane = plane().await;
    for (content, body, want) in [
        (
            PUT,
            json!({"metadata": {"name": "d"}, "spec": {"replicas": 1}}),
            1,
        ),
        (
            PUT,
            json!({"metadata": {"name": "d"}, "spec": {"replicas": 3, "zork": 1}}),
            3,
        ),
        (MERGE, json!({"metadata": {"labels": {"a": "1"}}}), 3),
        (
            JSON,
            json!([{"op": "replace", "path": "/spec/replicas", "value": 2}]),
            2,
        ),
        (MERGE, json!({"spec": {"replicas": null}}), 0),
    ] {
        for path in [SETS, GONGS] {
            let (code, scaled) = send(&plane, content, &format!("{path}/d/scale"), &body).await;
            assert_eq!(code, 200, "{scaled}");
        }
        assert_eq!(wanted(&plane).await, (json!(want), json!(want)), "{body}");
    }
}

#[tokio::test]
async fn a_patch_must_say_the_number_that_a_custom_resource_does_not() {
    let plane = plane().await;
    let path = format!("{GONGS}/silent/scale");
    let (code, refused) = plane.get(&path).await;
    assert_eq!(
        (code.as_u16(), &refused["message"], &refused["reason"]),
        (
            500,
            &json!("Internal error occurred: the spec replicas field \".spec.size\" does not exist"),
            &json!("InternalError")
        )
    );
    let labels = json!({"metadata": {"labels": {"a": "1"}}});
    let (code, refused) = send(&plane, MERGE, &path, &labels).await;
    assert_eq!(code, 400, "{refused}");
    assert_eq!(
        refused["message"],
        "the spec replicas field \".spec.size\" cannot be empty"
    );
    let (code, scaled) = send(&plane, MERGE, &path, &json!({"spec": {"replicas": 4}})).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(4)));
}

/// Those who own the replicas of `path` by its Scale.
async fn scalers(plane: &Plane, path: &str) -> Vec<Value> {
    let (_, object) = plane.get(path).await;
    let entries = object["metadata"]["managedFields"].as_array().cloned();
    let by_scale = |entry: &Value| entry["subresource"] == "scale";
    let entries = entries.into_iter().flatten().filter(by_scale);
    entries.map(|entry| entry["manager"].clone()).collect()
}

/// As for all that is applied: what its manager alone set goes with the configuration that no longer says it.
#[tokio::test]
async fn who_applies_a_scale_without_its_number_gives_it_up() {
    const APPLY: &str = "application/apply-patch+yaml";
    let plane = plane().await;
    let silent = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}});
    for path in [SETS, GONGS] {
        let path = format!("{path}/d");
        let by = |who: &str| format!("{path}/scale?fieldManager={who}");
        let (code, kept) = send(&plane, APPLY, &by("quiet"), &silent).await;
        assert_eq!((code, &kept["spec"]["replicas"]), (200, &json!(2)), "{kept}");
        let (code, refused) = send(&plane, APPLY, &by("sa"), &scale(json!(1))).await;
        assert_eq!(code, 409, "{refused}");
        let why = refused["message"].to_string();
        assert!(why.contains("using autoscaling/v1"), "{why}");
        let (code, taken) = send(
            &plane,
            APPLY,
            &format!("{}&force=true", by("sa")),
            &scale(json!(1)),
        )
        .await;
        assert_eq!((code, &taken["spec"]["replicas"]), (200, &json!(1)), "{taken}");
        assert_eq!(scalers(&plane, &path).await, ["sa"]);
        let (code, given_up) = send(&plane, APPLY, &by("sa"), &silent).await;
        assert_eq!((code, &given_up["spec"]), (200, &json!({})), "{given_up}");
        assert_eq!(scalers(&plane, &path).await, Vec::<Value>::new());
    }
    assert_eq!(wanted(&plane).await, (json!(0), json!(0)));
}
