//! Apply and update against what upstream does with the same requests.
use super::{ApplyError, Convert, Writer, apply, update};
use crate::kinds::{Kind, Registry};
use serde_json::{Value, json};
use std::sync::Arc;

fn kind(group: &str, plural: &str) -> Arc<Kind> {
    Registry::builtin().resource(group, "v1", plural).unwrap().clone()
}

fn same_version(kind: &Arc<Kind>) -> impl Fn(&Value, &str) -> Option<(Arc<Kind>, Value)> + Send + Sync {
    let kind = kind.clone();
    move |value, version| (version == kind.api_version()).then(|| (kind.clone(), value.clone()))
}

fn writer(name: &str) -> Writer<'_> {
    Writer {
        name,
        subresource: "",
        now: "2026-01-01T00:00:00Z",
    }
}

/// A stored object after an apply.
fn applied(
    kind: &Arc<Kind>,
    name: &str,
    force: bool,
    old: Option<&Value>,
    config: Value,
) -> Result<Value, ApplyError> {
    let mut config = config;
    config["apiVersion"] = kind.api_version().into();
    config["kind"] = kind.kind.clone().into();
    let convert = same_version(kind);
    let convert: &Convert<'_> = &convert;
    let mut new = apply(kind, writer(name), force, old, &config, convert)?;
    kind.prune(&mut new).unwrap();
    kind.default(&mut new);
    kind.normalise(&mut new);
    Ok(new)
}

fn updated(kind: &Arc<Kind>, name: &str, old: Option<&Value>, new: Value) -> Value {
    let mut new = new;
    kind.default(&mut new);
    update(kind, writer(name), old, &mut new, &same_version(kind));
    new
}

fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array();
    let mut found = entries.into_iter().flatten().filter(|e| e["manager"] == manager);
    found.next().map_or(Value::Null, |e| e["fieldsV1"].clone())
}

fn map(data: Value) -> Value {
    json!({"metadata": {"name": "c", "namespace": "n"}, "data": data})
}

#[test]
fn two_appliers_share_a_config_map() {
    let kind = kind("", "configmaps");
    let one = applied(&kind, "one", false, None, map(json!({"a": "1"}))).unwrap();
    assert_eq!(owned(&one, "one"), json!({"f:data": {"f:a": {}}}));
    let two = applied(&kind, "two", false, Some(&one), map(json!({"b": "2"}))).unwrap();
    assert_eq!(two["data"], json!({"a": "1", "b": "2"}));
    let Err(ApplyError::Conflicts(conflicts, _)) =
        applied(&kind, "two", false, Some(&two), map(json!({"a": "9"})))
    else {
        panic!("applied over another's field")
    };
    assert_eq!(
        (
            conflicts[0].field().as_str(),
            conflicts[0].manager.shown().as_str()
        ),
        (".data.a", "\"one\"")
    );
    let forced = applied(&kind, "two", true, Some(&two), map(json!({"a": "9"}))).unwrap();
    assert_eq!(forced["data"], json!({"a": "9"}));
    assert_eq!(owned(&forced, "one"), Value::Null);
    let again = applied(&kind, "one", false, Some(&forced), map(json!({"z": "1"}))).unwrap();
    assert_eq!(again["data"], json!({"a": "9", "z": "1"}));
}

#[test]
fn ports_are_told_apart_by_their_keys() {
    let kind = kind("", "services");
    let service =
        |ports: Value| json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"ports": ports}});
    let one = applied(
        &kind,
        "one",
        false,
        None,
        service(json!([{"port": 80, "name": "a"}])),
    )
    .unwrap();
    let key = "k:{\"port\":80,\"protocol\":\"TCP\"}";
    assert_eq!(
        owned(&one, "one"),
        json!({"f:spec": {"f:ports": {key: {".": {}, "f:name": {}, "f:port": {}}}}})
    );
    let two = applied(
        &kind,
        "two",
        false,
        Some(&one),
        service(json!([{"port": 81, "name": "b"}])),
    )
    .unwrap();
    assert_eq!(two["spec"]["ports"].as_array().map(Vec::len), Some(2));
    let gone = applied(&kind, "one", false, Some(&two), service(json!([]))).unwrap();
    assert_eq!(gone["spec"]["ports"].as_array().map(Vec::len), Some(1));
    assert_eq!(gone["spec"]["ports"][0]["port"], 81);
}

#[test]
fn what_an_updater_set_stays_when_the_applier_lets_go() {
    let kind = kind("", "configmaps");
    let one = applied(&kind, "one", false, None, map(json!({"a": "1", "b": "1"}))).unwrap();
    let mut edited = one.clone();
    edited["data"]["a"] = "2".into();
    let edited = updated(&kind, "editor", Some(&one), edited);
    assert_eq!(owned(&edited, "editor"), json!({"f:data": {"f:a": {}}}));
    assert_eq!(owned(&edited, "one"), json!({"f:data": {"f:b": {}}}));
    let without = applied(&kind, "one", false, Some(&edited), map(json!({}))).unwrap();
    assert_eq!(without["data"], json!({"a": "2"}));
}

#[test]
fn a_created_pod_is_owned_as_upstream_says() {
    let kind = kind("", "pods");
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "finalizers": ["x.io/a"]},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]}});
    let pod = updated(&kind, "unknown", None, pod);
    assert_eq!(
        owned(&pod, "unknown"),
        json!({"f:metadata": {"f:finalizers": {".": {}, "v:\"x.io/a\"": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:imagePullPolicy": {},
            "f:name": {}, "f:resources": {}, "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {}}},
            "f:dnsPolicy": {}, "f:enableServiceLinks": {}, "f:restartPolicy": {}, "f:schedulerName": {},
            "f:securityContext": {}, "f:terminationGracePeriodSeconds": {}}})
    );
}

#[test]
fn unknown_fields_and_repeated_items_are_refused() {
    let kind = kind("", "pods");
    let pod = |spec: Value| json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
    for (spec, want) in [
        (json!({"nope": 1}), ".spec.nope: field not declared in schema"),
        (
            json!({"containers": [{"name": "c"}, {"name": "c"}]}),
            ".spec.containers: duplicate entries for key [name=\"c\"]",
        ),
        (
            json!({"containers": [{"name": "c", "args": "x"}]}),
            ".spec.containers[name=\"c\"].args: expected list, got &{\"x\"}",
        ),
    ] {
        let error = applied(&kind, "one", false, None, pod(spec)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("failed to create typed patch object (n/p; /v1, Kind=Pod): {want}")
        );
    }
}

#[test]
fn items_need_what_tells_them_apart() {
    let error = applied(
        &kind("", "configmaps"),
        "one",
        false,
        None,
        json!({"metadata": {"name": "c", "namespace": "n", "finalizers": [null]}}),
    );
    assert!(error.unwrap_err().to_string().ends_with(
        ".metadata.finalizers: element 0: associative list without keys has an element that's an explicit null"
    ));
}

#[test]
fn an_object_without_owners_begins_with_one() {
    let kind = kind("", "configmaps");
    let mut old = map(json!({"a": "1"}));
    kind.normalise(&mut old);
    let new = applied(&kind, "one", false, Some(&old), map(json!({"b": "2"}))).unwrap();
    assert_eq!(
        owned(&new, "before-first-apply"),
        json!({"f:data": {".": {}, "f:a": {}}})
    );
    let refused = applied(&kind, "one", false, Some(&old), map(json!({"a": "2"})));
    assert!(matches!(refused, Err(ApplyError::Conflicts(..))));
}

#[test]
fn kubectl_does_not_conflict_with_its_own_past() {
    let kind = kind("", "configmaps");
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    let mut config = map(json!({"a": "1"}));
    config["apiVersion"] = "v1".into();
    config["kind"] = "ConfigMap".into();
    let mut object = config.clone();
    object["metadata"]["annotations"][annotation] = config.to_string().into();
    let object = updated(&kind, "kubectl-client-side-apply", None, object);
    let new = applied(&kind, "kubectl", false, Some(&object), map(json!({"a": "2"}))).unwrap();
    assert_eq!(new["data"]["a"], "2");
    let kept = new["metadata"]["annotations"][annotation].as_str().unwrap();
    assert!(kept.contains("\"a\":\"2\""), "{kept}");
    let refused = applied(&kind, "other", false, Some(&object), map(json!({"a": "2"})));
    assert!(matches!(refused, Err(ApplyError::Conflicts(..))));
}

#[test]
fn ownership_can_be_forgotten_and_nothing_changes_for_nothing() {
    let kind = kind("", "configmaps");
    let old = updated(&kind, "one", None, map(json!({"a": "1"})));
    let mut same = old.clone();
    same["metadata"].as_object_mut().unwrap().remove("managedFields");
    assert_eq!(updated(&kind, "two", Some(&old), same), old);
    for reset in [json!([]), json!([{}])] {
        let mut new = old.clone();
        new["metadata"]["managedFields"] = reset;
        let new = updated(&kind, "two", Some(&old), new);
        assert!(new["metadata"].get("managedFields").is_none());
    }
}

#[test]
fn the_oldest_updaters_become_one() {
    let kind = kind("", "configmaps");
    let mut object = updated(&kind, "m00", None, map(json!({"k00": "1"})));
    for i in 1..14 {
        let mut next = object.clone();
        next["data"][format!("k{i:02}")] = "1".into();
        object = updated(&kind, &format!("m{i:02}"), Some(&object), next);
    }
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    let ancient = owned(&object, "ancient-changes");
    assert!(
        ancient["f:data"]
            .as_object()
            .is_some_and(|f| f.contains_key("f:k00")),
        "{ancient}"
    );
}

#[test]
fn a_duplicate_port_is_owned_as_one() {
    let kind = kind("", "pods");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "env": [
        {"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}]}});
    let pod = updated(&kind, "one", None, pod);
    let env = &owned(&pod, "one")["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"]["f:env"];
    assert_eq!(env["k:{\"name\":\"A\"}"], json!({}));
}
