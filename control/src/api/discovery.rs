//! Discovery: which groups, versions and resources there are, in the plain and the aggregated form (KEP-3352).
use super::Api;
use super::aggregate::{self, Discovered, Remote};
use super::negotiate::{self, AGGREGATED, Format};
use super::render;
use super::route::Route;
use super::status::{ApiError, Result};
use super::text;
use crate::kinds::{Kind, Registry, Subresource, api_service, version_order};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::cmp::Reverse;
use std::sync::Arc;

/// How much of a digest is shown, as upstream.
const HASHED: usize = 8;

pub(super) async fn answer(api: &Api, route: &Route, parts: &Parts) -> Result<Response> {
    // Upstream's handlers of groups do not look at the method.
    let any_method = matches!(route, Route::Groups | Route::Group(_));
    if !any_method && parts.method != http::Method::GET {
        return Err(ApiError::method_not_allowed());
    }
    let aggregates = matches!(route, Route::CoreVersions | Route::Groups);
    let agreed = negotiate::discovery(&parts.headers, aggregates);
    let (format, all) = agreed.map_err(|offered| match any_method {
        true => ApiError::no_representation(offered),
        false => ApiError::not_acceptable(offered),
    })?;
    let kinds = &*api.kinds.load();
    let document = match route {
        Route::CoreVersions if all => {
            return aggregated(parts, format, &groups_discovery(kinds, &[], true));
        }
        Route::Groups if all => {
            let remotes = aggregate::discover(api).await;
            return aggregated(parts, format, &groups_discovery(kinds, &remotes, false));
        }
        Route::CoreVersions => core_versions(parts),
        Route::Groups => group_list(&groups(kinds, &aggregate::registered(api), Tie::Service)),
        Route::Group(group) => {
            match group_of(&groups(kinds, &aggregate::registered(api), Tie::Service), group) {
                Some(group) => group,
                None => return refuse(parts.uri.path(), ApiError::no_resource()),
            }
        }
        Route::Resources { group, version } => match resources(kinds, group, version) {
            Ok(resources) => resources,
            Err(error) => return refuse(parts.uri.path(), error),
        },
        Route::Resource(_) => return Err(ApiError::no_resource()),
    };
    render::respond(format, StatusCode::OK, &document)
}

/// The paths of groups and their versions.
pub(super) fn paths(api: &Api) -> Vec<String> {
    let groups = groups(&api.kinds.load(), &aggregate::registered(api), Tie::Service);
    let of = |Group { name, versions }: &Group| match name.as_str() {
        "" => versions.iter().map(|version| format!("/api/{version}")).collect(),
        name => std::iter::once(format!("/apis/{name}"))
            .chain(versions.iter().map(|version| format!("/apis/{name}/{version}")))
            .collect::<Vec<_>>(),
    };
    groups.iter().flat_map(of).collect()
}

/// A group that is served, here or elsewhere, with its versions; the preferred one first.
struct Group {
    name: String,
    versions: Vec<String>,
}

/// What decides between groups of one priority.
#[derive(Clone, Copy)]
enum Tie {
    /// The names of their APIServices, `VERSION.GROUP`: in the list of groups.
    Service,
    /// Their own names: in aggregated discovery.
    Group,
}

/// A version of a group, and the places of both.
struct Served {
    group: String,
    version: String,
    priority: (i64, i64),
}

impl Served {
    fn name(&self, tie: Tie) -> String {
        match tie {
            Tie::Service => format!("{}.{}", self.version, self.group),
            Tie::Group => self.group.clone(),
        }
    }
}

/// All groups, in the order of their priorities. Those of other servers join ours.
fn groups(kinds: &Registry, remotes: &[Remote], tie: Tie) -> Vec<Group> {
    let own = kinds.group_versions().into_iter().map(|(group, version)| Served {
        priority: api_service::priority(group, version),
        group: group.to_owned(),
        version: version.to_owned(),
    });
    let mut all: Vec<Served> = own.collect();
    for remote in remotes {
        let same = |s: &&mut Served| (&s.group, &s.version) == (&remote.group, &remote.version);
        match all.iter_mut().find(same) {
            Some(known) => known.priority = remote.priority,
            None => all.push(Served {
                group: remote.group.clone(),
                version: remote.version.clone(),
                priority: remote.priority,
            }),
        }
    }
    arranged(all, tie)
}

/// A group stands where the first of its versions does; these are by their own priorities, then by Kubernetes' order.
fn arranged(mut all: Vec<Served>, tie: Tie) -> Vec<Group> {
    all.sort_by_cached_key(|served| (Reverse(served.priority.0), served.name(tie)));
    let mut groups: Vec<(String, Vec<Served>)> = Vec::new();
    for served in all {
        match groups.iter_mut().find(|(name, _)| *name == served.group) {
            Some((_, versions)) => versions.push(served),
            None => groups.push((served.group.clone(), vec![served])),
        }
    }
    let of = groups.into_iter().map(|(name, mut versions)| {
        versions.sort_by(|a, b| place_of(b).cmp(&place_of(a)));
        let versions = versions.into_iter().map(|served| served.version).collect();
        Group { name, versions }
    });
    of.collect()
}

/// The greater the sooner in its group.
fn place_of(served: &Served) -> impl Ord + '_ {
    (served.priority.1, version_order::precedence(&served.version))
}

/// A path that nobody serves gets a `Status` from upstream only where the group is one of its own.
pub(super) fn refuse(path: &str, error: ApiError) -> Result<Response> {
    let group = path
        .strip_prefix("/apis/")
        .and_then(|rest| rest.split('/').next());
    let own = |group: &str| Registry::builtin().iter().any(|kind| kind.group == group);
    match group {
        Some(group) if error.code == StatusCode::NOT_FOUND && !own(group) => {
            Ok(text(StatusCode::NOT_FOUND, "404 page not found\n"))
        }
        _ => Err(error),
    }
}

/// Aggregated discovery has an ETag, so that clients can keep it.
fn aggregated(parts: &Parts, format: Format, document: &Value) -> Result<Response> {
    let etag = format!("\"{}\"", hex::encode_upper(Sha256::digest(document.to_string())));
    let etag_header = HeaderValue::from_str(&etag).map_err(ApiError::internal)?;
    if parts
        .headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|seen| *seen == etag_header)
    {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag_header)]).into_response());
    }
    let mut response = render::respond(format, StatusCode::OK, document)?;
    let name = match format {
        Format::Yaml => "yaml",
        Format::Json | Format::Protobuf => "json",
    };
    let content = format!("application/{name};g=apidiscovery.k8s.io;v=v2;as={AGGREGATED}");
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_str(&content).map_err(ApiError::internal)?,
    );
    headers.insert(header::ETAG, etag_header);
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    Ok(response)
}

fn groups_discovery(kinds: &Registry, theirs: &[Discovered], core: bool) -> Value {
    let remotes: Vec<Remote> = theirs.iter().map(|d| d.remote.clone()).collect();
    let groups = groups(kinds, &remotes, Tie::Group);
    let shown = groups.iter().filter(|group| group.name.is_empty() == core);
    let items: Vec<Value> = shown.map(|group| group_discovery(kinds, theirs, group)).collect();
    json!({
        "kind": AGGREGATED,
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn group_discovery(kinds: &Registry, theirs: &[Discovered], group: &Group) -> Value {
    let versions = group.versions.iter().map(|version| {
        let of = |d: &&Discovered| (&d.remote.group, &d.remote.version) == (&group.name, version);
        if let Some(remote) = theirs.iter().find(of) {
            return remote_discovery(remote);
        }
        let of = kinds
            .iter()
            .filter(|kind| kind.group == group.name && kind.version == *version);
        let resources: Vec<Value> = of.map(|kind| resource_discovery(kind)).collect();
        json!({"version": version, "resources": resources, "freshness": "Current"})
    });
    let mut metadata = Map::new();
    if !group.name.is_empty() {
        metadata.insert("name".into(), group.name.clone().into());
    }
    json!({"metadata": metadata, "versions": versions.collect::<Vec<_>>()})
}

/// What another server said; nothing of one that never said anything.
fn remote_discovery(of: &Discovered) -> Value {
    let freshness = if of.current { "Current" } else { "Stale" };
    let mut shown = json!({"version": of.remote.version, "freshness": freshness});
    if let Some(resources) = &of.resources {
        shown["resources"] = resources.clone();
    }
    shown
}

fn resource_discovery(kind: &Kind) -> Value {
    let (group, version) = place(kind);
    let mut out = json!({
        "resource": kind.plural,
        "responseKind": {"group": group, "version": version, "kind": kind.kind},
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
        let of = |sub| subresource_discovery(kind, sub);
        let subresources = kind.subresources.iter().map(of);
        out["subresources"] = subresources.collect::<Vec<_>>().into();
    }
    out
}

/// A kind of our own does not repeat the group and version it stands in; one of a definition does, as upstream.
fn place(kind: &Kind) -> (&str, &str) {
    match kind.custom {
        Some(_) => (&kind.group, &kind.version),
        None => ("", ""),
    }
}

fn subresource_discovery(kind: &Kind, sub: &Subresource) -> Value {
    let (group, version) = match is_foreign(kind, sub) {
        true => (sub.group.as_str(), sub.version.as_str()),
        false => place(kind),
    };
    json!({
        "subresource": sub.name,
        "responseKind": {"group": group, "version": version, "kind": sub.kind},
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

fn group_list(groups: &[Group]) -> Value {
    let groups: Vec<Value> = groups.iter().filter_map(group_entry).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group_of(groups: &[Group], name: &str) -> Option<Value> {
    let mut entry = group_entry(groups.iter().find(|group| group.name == name)?)?;
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    Some(entry)
}

fn group_entry(group: &Group) -> Option<Value> {
    let name = &group.name;
    let versions: Vec<Value> = group
        .versions
        .iter()
        .filter(|_| !name.is_empty())
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({"name": name, "versions": versions, "preferredVersion": preferred}))
}

fn resources(kinds: &Registry, group: &str, version: &str) -> Result<Value> {
    let of: Vec<&Arc<Kind>> = kinds
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
        .collect();
    let first = of.first().ok_or_else(ApiError::no_resource)?;
    let resources: Vec<Value> = of.iter().flat_map(|kind| resource_entries(kind)).collect();
    let mut list = json!({
        "kind": "APIResourceList",
        "groupVersion": first.api_version(),
        "resources": resources,
    });
    // The oldest group says it of no document.
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    Ok(list)
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
    if let Some(stored) = kind.stored_as() {
        let digest = Sha256::digest(stored.as_bytes());
        entry["storageVersionHash"] = STANDARD.encode(&digest[..HASHED]).into();
    }
    std::iter::once(entry)
        .chain(kind.subresources.iter().map(|sub| subresource_entry(kind, sub)))
        .collect()
}

fn is_foreign(kind: &Kind, sub: &Subresource) -> bool {
    (&sub.group, &sub.version) != (&kind.group, &kind.version) && !sub.version.is_empty()
}

fn subresource_entry(kind: &Kind, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", kind.plural, sub.name),
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if is_foreign(kind, sub) {
        entry["group"] = sub.group.clone().into();
        entry["version"] = sub.version.clone().into();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_definitions_say_it_always() {
        let definition = json!({
            "metadata": {"name": "wids.example.com"},
            "spec": {"group": "example.com", "scope": "Namespaced",
                "names": {"plural": "wids", "singular": "wid", "kind": "Wid", "listKind": "WidList"},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object"}},
                    "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}}}]},
            "status": {"acceptedNames": {"plural": "wids", "singular": "wid", "kind": "Wid", "listKind": "WidList"},
                "conditions": [{"type": "Established", "status": "True"}]}});
        let kind = crate::kinds::custom::kinds(&definition).remove(0);
        let own = json!({"group": "example.com", "version": "v1", "kind": "Wid"});
        let shown = resource_discovery(&kind);
        assert_eq!(shown["responseKind"], own);
        for sub in shown["subresources"].as_array().expect("some") {
            let want = match sub["subresource"].as_str() {
                Some("scale") => &json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}),
                _ => &own,
            };
            assert_eq!(&sub["responseKind"], want);
        }
    }

    #[test]
    fn aggregated_kinds_say_where_they_are_from_only_when_that_is_elsewhere() {
        let pods = Registry::builtin().resource("", "v1", "pods").expect("served");
        let shown = resource_discovery(pods);
        let own = |kind: &str| json!({"group": "", "version": "", "kind": kind});
        assert_eq!(shown["responseKind"], own("Pod"));
        for sub in shown["subresources"].as_array().expect("some") {
            let want = match sub["subresource"].as_str() {
                Some("eviction") => json!({"group": "policy", "version": "v1", "kind": "Eviction"}),
                Some("binding") => own("Binding"),
                Some("status") => own("Pod"),
                _ => continue,
            };
            assert_eq!(sub["responseKind"], want);
        }
    }
}
