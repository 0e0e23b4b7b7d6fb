//! `pods/binding`, and `bindings` as it was before there were subresources: puts a Pod on a node, once.
use super::super::posted::Form;
use super::super::render::{self, Style};
use super::super::route::{self, Target};
use super::super::status::{ApiError, Result, success};
use super::super::write::{self, Options};
use super::super::{Call, precondition};
use super::condition;
use crate::kinds::view::View;
use crate::kinds::{FieldError, FieldErrors, Kind, posted, time};
use axum::response::Response;
use serde_json::{Value, json};

const FORM: Form = Form {
    kind: &posted::BINDING,
    versions: &["v1"],
    hub: "core.Binding",
};

pub(super) async fn serve(call: &Call, name: &str, style: Style) -> Result<Response> {
    let admitted = admitted(call, name, read(call)?).await?;
    bind(call, name, style, admitted).await
}

/// A Binding that was posted to `bindings`: of the Pod that has its name.
pub(super) async fn serve_named(call: &Call, style: Style) -> Result<Response> {
    let (binding, warnings) = read(call)?;
    let name = binding.text("metadata.name");
    if name.is_empty() {
        node(&binding)?;
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
    let admitted = admitted(call, name, (binding.clone(), warnings)).await?;
    bind(&pod, name, style, admitted).await
}

/// The Binding, with what to warn of.
fn read(call: &Call) -> Result<(Value, Vec<String>)> {
    let (mut binding, warnings) = FORM.read(call)?;
    write::place(call, &mut binding)?;
    Ok((binding, warnings))
}

/// What admission makes of a Binding of that Pod.
async fn admitted(call: &Call, name: &str, posted: (Value, Vec<String>)) -> Result<(Value, Vec<String>)> {
    let fit = |binding: &Value| {
        super::check_name("Binding", name, binding)?;
        node(binding).map(drop)
    };
    FORM.admit(call, name, posted, &fit).await
}

fn options(call: &Call) -> Result<Options> {
    Ok(Options {
        admitted: true,
        ..Options::of(&call.query, "CreateOptions")?
    })
}

/// Does what a Binding says that was admitted, with these warnings.
async fn bind(
    call: &Call,
    name: &str,
    style: Style,
    (binding, warnings): (Value, Vec<String>),
) -> Result<Response> {
    let node = node(&binding)?;
    let change = |pod: &Value| Ok((bound(&call.target.kind, name, pod, &binding, node)?, Vec::new()));
    if let Err(error) = write::update(call, options(call)?, name, &change).await {
        return Err(error.after(warnings));
    }
    let response = success::created(style.accepted.format)?;
    Ok(render::warn(response, warnings))
}

/// The node that a Binding names.
fn node(binding: &Value) -> Result<&str> {
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
        false => Err(ApiError::unfit_binding(&errors)),
    }
}

/// The Pod on that node, with what the Binding says of it.
fn bound(kind: &Kind, name: &str, pod: &Value, binding: &Value, node: &str) -> Result<Value> {
    if let Some(why) = unmet(pod, binding) {
        return Err(ApiError::conflict(kind, name, &why));
    }
    if let Some(why) = unbindable(name, pod) {
        return Err(ApiError::conflict_at(kind, "binding", name, &why));
    }
    let mut pod = pod.clone();
    pod["spec"]["nodeName"] = node.into();
    for part in ["annotations", "labels"] {
        let given = binding["metadata"][part].as_object();
        for (key, value) in given.into_iter().flatten() {
            pod["metadata"][part][key] = value.clone();
        }
    }
    // Where it might have come to is of no interest any more (KEP-5278).
    if let Some(status) = pod.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("nominatedNodeName");
    }
    let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": time::now()});
    condition::set(&mut pod, scheduled);
    Ok(pod)
}

/// Why the Binding is of another Pod than this.
fn unmet(pod: &Value, binding: &Value) -> Option<String> {
    let (uid, is) = (binding.text("metadata.uid"), pod.text("metadata.uid"));
    if !uid.is_empty() && uid != is {
        return Some(precondition::failed(uid, is));
    }
    let (version, is) = (
        binding.text("metadata.resourceVersion"),
        pod.text("metadata.resourceVersion"),
    );
    (!version.is_empty() && version != is).then(|| {
        format!(
            "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {is}"
        )
    })
}

/// Why the Pod cannot be put on any node.
fn unbindable(name: &str, pod: &Value) -> Option<String> {
    if pod.at("metadata.deletionTimestamp").is_string() {
        return Some(format!(
            "pod {name} is being deleted, cannot be assigned to a host"
        ));
    }
    let is = pod.text("spec.nodeName");
    if !is.is_empty() {
        return Some(format!("pod {name} is already assigned to node {is:?}"));
    }
    let gated = !pod.list("spec.schedulingGates").is_empty();
    gated.then(|| format!("pod {name} has non-empty .spec.schedulingGates"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    fn bind(mut pod: Value) -> Result<Value> {
        let kind = Registry::builtin().resource("", "v1", "pods").unwrap();
        let meta =
            json!({"uid": "u", "resourceVersion": "7", "labels": {"zone": "z"}, "annotations": {"a": "b"}});
        if pod["metadata"]["resourceVersion"].is_null() {
            pod["metadata"]["resourceVersion"] = "7".into();
        }
        bound(kind, "p", &pod, &json!({ "metadata": meta }), "n1")
    }

    #[test]
    fn a_free_pod_is_bound() {
        let free = json!({"metadata": {"uid": "u", "labels": {"zone": "old", "l": "m"}}, "spec": {},
            "status": {"nominatedNodeName": "n2"}});
        let pod = bind(free).unwrap();
        assert_eq!(pod["metadata"]["labels"], json!({"zone": "z", "l": "m"}));
        assert_eq!(pod["metadata"]["annotations"], json!({"a": "b"}));
        assert!(pod["status"].get("nominatedNodeName").is_none());
        assert_eq!(pod["spec"]["nodeName"], "n1");
        assert_eq!(pod["status"]["conditions"][0]["status"], "True");
    }

    #[test]
    fn others_are_conflicts() {
        for pod in [
            json!({"metadata": {"uid": "other"}, "spec": {}}),
            json!({"metadata": {"uid": "u", "resourceVersion": "8"}, "spec": {}}),
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
            node(&json!({ "target": target }))
                .err()
                .map(|e| e.message().to_owned())
        };
        let kind = r#"target.kind: Unsupported value: "Pod": supported values: "Node", "<empty>""#;
        let name = "target.name: Required value";
        let invalid = |what: &str| Some(what.to_owned());
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
