//! Discovery: which groups, versions and resources there are, in the plain and the aggregated form (KEP-3352).
use super::Api;
use super::negotiate::{self, Format};
use super::render;
use super::route::Route;
use super::status::{ApiError, Result};
use super::text;
use crate::kinds::{Kind, Registry, Subresource};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

const AGGREGATED: &str = "APIGroupDiscoveryList";

pub(super) fn answer(api: &Api, route: &Route, parts: &Parts) -> Result<Response> {
    if parts.method != http::Method::GET {
        return Err(ApiError::method_not_allowed());
    }
    let kinds = &*api.kinds.load();
    let document = match route {
        Route::CoreVersions | Route::Groups => {
            let core = matches!(route, Route::CoreVersions);
            for version in ["v2", "v2beta1"] {
                if negotiate::wants(&parts.headers, AGGREGATED, "apidiscovery.k8s.io", version) {
                    return aggregated(parts, &groups_discovery(kinds, core, version), version);
                }
            }
            if core {
                core_versions(parts)
            } else {
                group_list(kinds)
            }
        }
        Route::Group(group) => group_of(kinds, group).ok_or_else(ApiError::no_resource)?,
        Route::Resources { group, version } => resources(kinds, group, version)?,
        Route::Resource(_) => return Err(ApiError::no_resource()),
    };
    render::respond(Format::Json, StatusCode::OK, &document)
}

/// A path in a group that is not served gets no `Status` from upstream.
pub(super) fn refuse(api: &Api, path: &str, error: ApiError) -> Result<Response> {
    let group = path
        .strip_prefix("/apis/")
        .and_then(|rest| rest.split('/').next());
    match group {
        Some(group)
            if error.code == StatusCode::NOT_FOUND && group_of(&api.kinds.load(), group).is_none() =>
        {
            Ok(text(StatusCode::NOT_FOUND, "404 page not found\n"))
        }
        _ => Err(error),
    }
}

/// Aggregated discovery has an ETag, so that clients can keep it.
fn aggregated(parts: &Parts, document: &Value, version: &str) -> Result<Response> {
    let body = document.to_string();
    let etag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&body)));
    let etag_header = HeaderValue::from_str(&etag).map_err(ApiError::internal)?;
    if parts
        .headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|seen| *seen == etag_header)
    {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag_header)]).into_response());
    }
    let content = format!("application/json;g=apidiscovery.k8s.io;v={version};as={AGGREGATED}");
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_str(&content).map_err(ApiError::internal)?,
        ),
        (header::ETAG, etag_header),
        (header::VARY, HeaderValue::from_static("Accept")),
    ];
    Ok((StatusCode::OK, headers, body).into_response())
}

fn groups_discovery(kinds: &Registry, core: bool, version: &str) -> Value {
    let served = kinds.group_versions();
    let mut names: Vec<&str> = Vec::new();
    for (group, _) in served.iter().filter(|(group, _)| group.is_empty() == core) {
        if !names.contains(group) {
            names.push(group);
        }
    }
    let items: Vec<Value> = names
        .into_iter()
        .map(|group| group_discovery(kinds, group, &served))
        .collect();
    json!({
        "kind": AGGREGATED,
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn group_discovery(kinds: &Registry, group: &str, served: &[(&str, &str)]) -> Value {
    let versions = served.iter().filter(|(g, _)| *g == group).map(|(_, version)| {
        let of = kinds
            .iter()
            .filter(|kind| kind.group == group && kind.version == *version);
        let resources: Vec<Value> = of.map(|kind| resource_discovery(kind)).collect();
        json!({"version": version, "resources": resources, "freshness": "Current"})
    });
    let mut metadata = Map::new();
    if !group.is_empty() {
        metadata.insert("name".into(), group.into());
    }
    json!({"metadata": metadata, "versions": versions.collect::<Vec<_>>()})
}

fn resource_discovery(kind: &Kind) -> Value {
    let mut out = json!({
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    for (field, list) in [
        ("shortNames", &kind.short_names),
        ("categories", &kind.categories),
    ] {
        if !list.is_empty() {
            out[field] = json!(list);
        }
    }
    if !kind.subresources.is_empty() {
        let subresources = kind.subresources.iter().map(subresource_discovery);
        out["subresources"] = subresources.collect::<Vec<_>>().into();
    }
    out
}

fn subresource_discovery(sub: &Subresource) -> Value {
    json!({
        "subresource": sub.name,
        "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
        "verbs": sub.verbs,
    })
}

fn core_versions(parts: &Parts) -> Value {
    let host = parts
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": host}],
    })
}

fn group_list(kinds: &Registry) -> Value {
    let mut groups: Vec<Value> = Vec::new();
    for (group, _) in kinds.group_versions() {
        if !group.is_empty() && !groups.iter().any(|g| g["name"] == group) {
            groups.extend(group_entry(kinds, group));
        }
    }
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group_of(kinds: &Registry, group: &str) -> Option<Value> {
    let mut entry = group_entry(kinds, group)?;
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    Some(entry)
}

fn group_entry(kinds: &Registry, group: &str) -> Option<Value> {
    let served = kinds
        .group_versions()
        .into_iter()
        .filter(|(g, _)| *g == group && !g.is_empty());
    let versions: Vec<Value> = served
        .map(|(_, version)| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({"name": group, "versions": versions, "preferredVersion": preferred}))
}

fn resources(kinds: &Registry, group: &str, version: &str) -> Result<Value> {
    let of: Vec<&Arc<Kind>> = kinds
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
        .collect();
    let first = of.first().ok_or_else(ApiError::no_resource)?;
    let resources: Vec<Value> = of.iter().flat_map(|kind| resource_entries(kind)).collect();
    Ok(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": first.api_version(),
        "resources": resources,
    }))
}

fn resource_entries(kind: &Kind) -> Vec<Value> {
    let mut entry = json!({
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": kind.verbs,
    });
    for (field, list) in [
        ("shortNames", &kind.short_names),
        ("categories", &kind.categories),
    ] {
        if !list.is_empty() {
            entry[field] = json!(list);
        }
    }
    std::iter::once(entry)
        .chain(kind.subresources.iter().map(|sub| subresource_entry(kind, sub)))
        .collect()
}

fn subresource_entry(kind: &Kind, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", kind.plural, sub.name),
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if (&sub.group, &sub.version) != (&kind.group, &kind.version) && !sub.version.is_empty() {
        entry["group"] = sub.group.clone().into();
        entry["version"] = sub.version.clone().into();
    }
    entry
}
