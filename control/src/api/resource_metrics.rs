//! The resource metrics API: what Nodes and Pods use, as objects that are made when they are asked for. The types are
//! `k8s.io/metrics`', the answers metrics-server's.
use super::Call;
use super::list::{self, Selection};
use super::object::Object;
use super::render::{self, Style};
use super::route::Target;
use super::status::{ApiError, Result};
use super::texts::Lookup;
use crate::kinds::{Kind, RESOURCE_METRICS, Registry, time};
use crate::resource_metrics::Usage;
use axum::response::Response;
use go_values::duration;
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;

/// The answer to a request for metrics; none when the request is about something else.
pub(super) async fn answer(call: &Call, verb: &str, style: Style) -> Result<Option<Response>> {
    let kind = &call.target.kind;
    if kind.group != RESOURCE_METRICS {
        return Ok(None);
    }
    call.api.cache.fresh().await?;
    match (verb, call.target.name.as_deref()) {
        ("get", Some(name)) => one(call, style, name).map(Some),
        ("list", None) => all(call, style).map(Some),
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn one(call: &Call, style: Style, name: &str) -> Result<Response> {
    let measured = measured(call)?;
    let objects = call.api.cache.resource(&measured.kind)?;
    let found = objects.get(&measured.key(name));
    let metrics = match found {
        Some(object) => metrics(call, &measured.kind, &object)?,
        None => None,
    };
    let full_name = match &call.target.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    };
    let metrics = metrics.ok_or_else(|| ApiError::not_found(&call.target.kind, &full_name))?;
    render::one(&call.target.kind, style, StatusCode::OK, &metrics)
}

fn all(call: &Call, style: Style) -> Result<Response> {
    let kind = &call.target.kind;
    let selection = Selection::of(kind, &call.query)?;
    let measured = measured(call)?;
    let objects = call.api.cache.resource(&measured.kind)?;
    let (objects, _) = objects.list(&measured.prefix(), None);
    let mut items = Vec::new();
    for object in objects.iter().filter(|o| selection.labels.matches(&o.labels)) {
        let metrics = metrics(call, &measured.kind, object)?;
        items.extend(metrics.filter(|m| selection.fields.matches(&kind.selectable_fields(m))));
    }
    list::values(kind, style, &json!({}), items)
}

/// The Node or Pod behind a request for its metrics: resources of the same name in the core group.
fn measured(call: &Call) -> Result<Target> {
    let core = Registry::builtin().resource("", "v1", &call.target.kind.plural);
    Ok(Target {
        kind: core.cloned().ok_or_else(ApiError::no_resource)?,
        ..call.target.clone()
    })
}

/// None of what is not known yet, or does not run.
fn metrics(call: &Call, measured: &Kind, object: &Arc<Object>) -> Result<Option<Value>> {
    let known = &call.api.resource_metrics;
    let field = |label: &str| object.fields.find(label).unwrap_or_default();
    let (namespace, name) = (field("metadata.namespace"), field("metadata.name"));
    let of_usage = match measured.namespaced {
        false => known
            .node(name)
            .map(|usage| (usage, json!({"usage": amounts(&usage)}))),
        true => known
            .pod(field("spec.nodeName"), namespace, name)
            .and_then(|containers| of_pod(&containers)),
    };
    let Some((usage, mut metrics)) = of_usage else {
        return Ok(None);
    };
    let (kind, shown) = (&call.target.kind, render::value(measured, object)?);
    metrics["kind"] = kind.kind.as_str().into();
    metrics["apiVersion"] = kind.api_version().into();
    metrics["metadata"] = json!({"name": name, "creationTimestamp": time::now()});
    for (key, path) in [
        ("namespace", "/metadata/namespace"),
        ("labels", "/metadata/labels"),
    ] {
        if let Some(value) = shown.pointer(path) {
            metrics["metadata"][key] = value.clone();
        }
    }
    metrics["timestamp"] = time::format_seconds(usage.at).into();
    metrics["window"] = duration::print(usage.window.unsigned_abs()).into();
    Ok(Some(metrics))
}

/// The time is that of the container that was read first, as metrics-server has it.
fn of_pod(containers: &[(String, Usage)]) -> Option<(Usage, Value)> {
    let earliest = containers
        .iter()
        .map(|(_, usage)| *usage)
        .min_by_key(|usage| usage.at)?;
    let shown = containers
        .iter()
        .map(|(name, usage)| json!({"name": name, "usage": amounts(usage)}));
    let shown: Vec<Value> = shown.collect();
    Some((earliest, json!({"containers": shown})))
}

fn amounts(usage: &Usage) -> Value {
    json!({"cpu": format!("{}n", usage.nano_cores), "memory": format!("{}Ki", usage.memory / 1024)})
}
