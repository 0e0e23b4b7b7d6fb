//! `pods/binding`: puts a Pod on a node, once.
use super::super::render::{self, Style};
use super::super::status::{self, ApiError, Result};
use super::super::write::{self, Options};
use super::super::{Call, decode, negotiate};
use crate::kinds::{FieldError, Kind, time};
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

pub(super) async fn serve(call: &Call, name: &str, style: Style) -> Result<Response> {
    let options = Options::of(&call.query, "CreateOptions")?;
    let body = decode::object("Binding", negotiate::body(&call.headers)?, &call.body)?.value;
    let node = target(&body, name)?;
    let change = |pod: &Value| Ok((bound(&call.target.kind, name, pod, &body, &node)?, Vec::new()));
    write::update(call, options, name, &change).await?;
    render::respond(
        style.accepted.format,
        StatusCode::CREATED,
        &status::success(StatusCode::CREATED),
    )
}

/// The node that a Binding names.
fn target(binding: &Value, name: &str) -> Result<String> {
    let target = &binding["target"];
    let kind = target["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        let errors = vec![FieldError::not_supported(
            "target.kind",
            kind,
            &["Node", "<empty>"],
        )];
        return Err(ApiError::invalid("Binding", "", name, &errors));
    }
    match target["name"].as_str() {
        Some(node) if !node.is_empty() => Ok(node.to_owned()),
        _ => Err(ApiError::invalid(
            "Binding",
            "",
            name,
            &vec![FieldError::required("target.name", "")],
        )),
    }
}

fn bound(kind: &Kind, name: &str, pod: &Value, binding: &Value, node: &str) -> Result<Value> {
    let meta = &pod["metadata"];
    let conflict = |why: String| Err(ApiError::conflict_at(kind, "binding", name, &why));
    let uid = binding["metadata"]["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && meta["uid"] != uid {
        let is = meta["uid"].as_str().unwrap_or_default();
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {is}"
        ));
    }
    if meta["deletionTimestamp"].is_string() {
        return conflict(format!(
            "pod {name} is being deleted, cannot be assigned to a host"
        ));
    }
    if let Some(is) = pod["spec"]["nodeName"].as_str().filter(|is| !is.is_empty()) {
        return conflict(format!("pod {name} is already assigned to node {is:?}"));
    }
    if pod["spec"]["schedulingGates"]
        .as_array()
        .is_some_and(|gates| !gates.is_empty())
    {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut pod = pod.clone();
    pod["spec"]["nodeName"] = node.into();
    for (key, value) in binding["metadata"]["annotations"]
        .as_object()
        .into_iter()
        .flatten()
    {
        pod["metadata"]["annotations"][key] = value.clone();
    }
    scheduled(&mut pod);
    Ok(pod)
}

/// Sets the condition `PodScheduled`.
fn scheduled(pod: &mut Value) {
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": time::now()});
    let mut conditions = pod["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    match conditions.iter_mut().find(|c| c["type"] == "PodScheduled") {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
    pod["status"]["conditions"] = conditions.into();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    fn bind(pod: Value) -> Result<Value> {
        let kind = Registry::builtin().resource("", "v1", "pods").unwrap();
        bound(kind, "p", &pod, &json!({"metadata": {"uid": "u"}}), "n1")
    }

    #[test]
    fn a_free_pod_is_bound() {
        let pod = bind(json!({"metadata": {"uid": "u"}, "spec": {}})).unwrap();
        assert_eq!(pod["spec"]["nodeName"], "n1");
        assert_eq!(pod["status"]["conditions"][0]["status"], "True");
    }

    #[test]
    fn others_are_conflicts() {
        for pod in [
            json!({"metadata": {"uid": "other"}, "spec": {}}),
            json!({"metadata": {"uid": "u"}, "spec": {"nodeName": "n2"}}),
            json!({"metadata": {"uid": "u", "deletionTimestamp": "x"}, "spec": {}}),
            json!({"metadata": {"uid": "u"}, "spec": {"schedulingGates": [{"name": "g"}]}}),
        ] {
            assert_eq!(bind(pod).unwrap_err().code, 409);
        }
    }
}
