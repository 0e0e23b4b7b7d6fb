//! `pods/binding`, and `bindings` as it was before there were subresources: puts a Pod on a node, once.
use super::super::Call;
use super::super::posted::Form;
use super::super::render::{self, Style};
use super::super::route::{self, Target};
use super::super::status::{self, ApiError, Result};
use super::super::write::{self, Options};
use super::condition;
use crate::kinds::view::View;
use crate::kinds::{FieldError, FieldErrors, Kind, time};
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

const FORM: Form = Form {
    kind: "Binding",
    versions: &["v1"],
    definition: "io.k8s.api.core.v1.Binding",
    hub: "core.Binding",
};

pub(super) async fn serve(call: &Call, name: &str, style: Style) -> Result<Response> {
    let binding = read(call)?;
    super::check_name("Binding", name, &binding)?;
    bind(call, name, style, &binding).await
}

/// A Binding that was posted to `bindings`: of the Pod that has its name.
pub(super) async fn serve_named(call: &Call, style: Style) -> Result<Response> {
    let binding = read(call)?;
    let name = binding.text("metadata.name");
    node(&binding, name)?;
    if name.is_empty() {
        return Err(ApiError::bad_request("Name parameter required."));
    }
    route::check_segment(name)?;
    let kinds = call.api.kinds.load();
    let pods = kinds
        .resource("", "v1", "pods")
        .ok_or_else(ApiError::no_resource)?;
    let pod = call.about(Target {
        kind: pods.clone(),
        namespace: call.target.namespace.clone(),
        name: Some(name.to_owned()),
        subresource: Some("binding".into()),
    });
    bind(&pod, name, style, &binding).await
}

fn read(call: &Call) -> Result<Value> {
    let mut binding = FORM.read(call)?;
    write::place(call, &mut binding)?;
    Ok(binding)
}

async fn bind(call: &Call, name: &str, style: Style, binding: &Value) -> Result<Response> {
    let options = Options::of(&call.query, "CreateOptions")?;
    let node = node(binding, name)?;
    let change = |pod: &Value| Ok((bound(&call.target.kind, name, pod, binding, node)?, Vec::new()));
    write::update(call, options, name, &change).await?;
    render::respond(
        style.accepted.format,
        StatusCode::CREATED,
        &status::success(StatusCode::CREATED),
    )
}

/// The node that a Binding names.
fn node<'b>(binding: &'b Value, name: &str) -> Result<&'b str> {
    let mut errors = FieldErrors::new();
    let kind = binding.text("target.kind");
    if !matches!(kind, "" | "Node") {
        let known = ["Node", "<empty>"];
        errors.push(FieldError::not_supported("target.kind", kind, &known));
    }
    let node = binding.text("target.name");
    if node.is_empty() {
        errors.push(FieldError::required("target.name", ""));
    }
    match errors.is_empty() {
        true => Ok(node),
        false => Err(ApiError::invalid("Binding", "", name, &errors)),
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
    let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": time::now()});
    condition::set(&mut pod, scheduled);
    Ok(pod)
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

    #[test]
    fn all_that_is_wrong_with_a_binding_is_told() {
        let told = |target: Value| {
            node(&json!({ "target": target }), "p")
                .err()
                .map(|e| e.message().to_owned())
        };
        let kind = r#"target.kind: Unsupported value: "Pod": supported values: "Node", "<empty>""#;
        let name = "target.name: Required value";
        let invalid = |what: &str| Some(format!("Binding \"p\" is invalid: {what}"));
        for (target, want) in [
            (json!({"name": "n"}), None),
            (json!({"kind": "Node", "name": "n"}), None),
            (json!({"kind": "Pod", "name": "n"}), invalid(kind)),
            (json!({"kind": "Node"}), invalid(name)),
            (json!({"kind": "Pod"}), invalid(&format!("[{kind}, {name}]"))),
        ] {
            assert_eq!(told(target.clone()), want, "{target}");
        }
    }
}
