//! Brings the default roles and bindings about, and back: what a newer version adds is added, what an administrator
//! added stays, what he marked `autoupdate: "false"` is left alone ("Auto-reconciliation" of the RBAC reference).
use crate::auth::defaults::{self, AUTOUPDATE};
use crate::auth::rbac::{GROUP, Rule, missing};
use futures::{StreamExt, TryStreamExt, stream};
use http::{Method, Request};
use kube::Client;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Writes under way at once: they share commits.
const AT_ONCE: usize = 32;

/// What to do about one object.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    Create,
    /// A binding to another role than it should be, which cannot be changed in place.
    Replace,
    /// A merge patch.
    Patch(Value),
}

pub(super) async fn reconcile(client: &Client) -> Result<(), kube::Error> {
    let mut there = HashMap::new();
    for plural in ["clusterroles", "clusterrolebindings", "roles", "rolebindings"] {
        let path = format!("/apis/{GROUP}/v1/{plural}");
        let list = call(client, Method::GET, &path, &Value::Null).await?;
        let items = list["items"].as_array().into_iter().flatten();
        there.extend(items.map(|item| (path_of(plural, item, true), item.clone())));
    }
    stream::iter(defaults::objects())
        .map(|wanted| ensure(client, &there, wanted))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|()| async { Ok(()) })
        .await
}

async fn ensure(client: &Client, there: &HashMap<String, Value>, wanted: Value) -> Result<(), kube::Error> {
    let plural = format!("{}s", wanted["kind"].as_str().unwrap_or_default().to_lowercase());
    let (object, collection) = (path_of(&plural, &wanted, true), path_of(&plural, &wanted, false));
    match plan(there.get(&object), &wanted) {
        Step::Nothing => {}
        Step::Create => drop(call(client, Method::POST, &collection, &wanted).await?),
        Step::Replace => {
            call(client, Method::DELETE, &object, &Value::Null).await?;
            call(client, Method::POST, &collection, &wanted).await?;
        }
        Step::Patch(patch) => drop(call(client, Method::PATCH, &object, &patch).await?),
    }
    Ok(())
}

fn path_of(plural: &str, object: &Value, named: bool) -> String {
    let meta = &object["metadata"];
    let mut path = format!("/apis/{GROUP}/v1/");
    if let Some(namespace) = meta["namespace"].as_str() {
        path.push_str(&format!("namespaces/{namespace}/"));
    }
    path.push_str(plural);
    if named {
        path.push('/');
        path.push_str(meta["name"].as_str().unwrap_or_default());
    }
    path
}

/// One request to the API.
pub(super) async fn call(
    client: &Client,
    method: Method,
    path: &str,
    body: &Value,
) -> Result<Value, kube::Error> {
    let content = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let bytes = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content);
    client
        .request(request.body(bytes).map_err(kube::Error::HttpError)?)
        .await
}

/// Decides. Pure.
fn plan(there: Option<&Value>, wanted: &Value) -> Step {
    let Some(there) = there else { return Step::Create };
    if there["metadata"]["annotations"].get(AUTOUPDATE) == Some(&json!("false")) {
        return Step::Nothing;
    }
    if wanted["roleRef"].is_object() && there["roleRef"] != wanted["roleRef"] {
        return Step::Replace;
    }
    let mut patch = Map::new();
    for key in ["labels", "annotations"] {
        add_members(&mut patch, key, &there["metadata"], &wanted["metadata"]);
    }
    let mut patch = match patch.is_empty() {
        true => Map::new(),
        false => Map::from_iter([("metadata".to_owned(), Value::Object(patch))]),
    };
    add_items(&mut patch, "subjects", there, wanted);
    if wanted["aggregationRule"].is_object() {
        add_selectors(&mut patch, there, wanted);
    } else {
        add_rules(&mut patch, there, wanted);
    }
    match patch.is_empty() {
        true => Step::Nothing,
        false => Step::Patch(Value::Object(patch)),
    }
}

/// Members of a map that are not there, or have another value.
fn add_members(patch: &mut Map<String, Value>, key: &str, there: &Value, wanted: &Value) {
    let members = wanted[key].as_object().into_iter().flatten();
    let lacking = members.filter(|(name, value)| there[key].get(name) != Some(value));
    let lacking: Map<String, Value> = lacking
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !lacking.is_empty() {
        patch.insert(key.to_owned(), lacking.into());
    }
}

/// The list there with what it lacks at its end; none when it lacks nothing.
fn completed(there: &Value, wanted: &Value) -> Option<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut all = list(there);
    let lacking: Vec<Value> = list(wanted)
        .into_iter()
        .filter(|item| !all.contains(item))
        .collect();
    let lacks = !lacking.is_empty();
    all.extend(lacking);
    lacks.then_some(all.into())
}

fn add_items(patch: &mut Map<String, Value>, key: &str, there: &Value, wanted: &Value) {
    if let Some(all) = completed(&there[key], &wanted[key]) {
        patch.insert(key.to_owned(), all);
    }
}

fn add_selectors(patch: &mut Map<String, Value>, there: &Value, wanted: &Value) {
    let of = |role: &Value| role["aggregationRule"]["clusterRoleSelectors"].clone();
    if let Some(all) = completed(&of(there), &of(wanted)) {
        patch.insert(
            "aggregationRule".to_owned(),
            json!({ "clusterRoleSelectors": all }),
        );
    }
}

fn add_rules(patch: &mut Map<String, Value>, there: &Value, wanted: &Value) {
    let (mut rules, wanted) = (Rule::read_all(there), Rule::read_all(wanted));
    let lacking = missing(&rules, &wanted);
    if !lacking.is_empty() {
        rules.extend(lacking);
        patch.insert("rules".to_owned(), rules.iter().map(Rule::show).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(verbs: &[&str], extra: Value) -> Value {
        let mut role = json!({"kind": "ClusterRole", "metadata": {"name": "r", "annotations": {AUTOUPDATE: "true"}},
            "rules": [{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}]});
        json_patch::merge(&mut role, &extra);
        role
    }

    #[test]
    fn only_what_lacks_is_added() {
        let wanted = role(&["get", "list"], json!({}));
        assert_eq!(plan(None, &wanted), Step::Create);
        assert_eq!(
            plan(Some(&role(&["list", "get", "watch"], json!({}))), &wanted),
            Step::Nothing
        );
        let Step::Patch(patch) = plan(Some(&role(&["list"], json!({}))), &wanted) else {
            panic!()
        };
        assert_eq!(patch["rules"][1]["verbs"], json!(["get"]));
        assert_eq!(patch["rules"].as_array().unwrap().len(), 2);
        let own = role(&[], json!({"metadata": {"annotations": {AUTOUPDATE: "false"}}}));
        assert_eq!(plan(Some(&own), &wanted), Step::Nothing);
    }

    #[test]
    fn a_binding_to_another_role_is_replaced() {
        let of = |role: &str| json!({"kind": "ClusterRoleBinding", "metadata": {"name": "b"}, "roleRef": {"name": role}, "subjects": []});
        assert_eq!(plan(Some(&of("a")), &of("b")), Step::Replace);
        assert_eq!(plan(Some(&of("a")), &of("a")), Step::Nothing);
    }
}
