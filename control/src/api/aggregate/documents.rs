//! What other servers say about themselves: discovery and the index of OpenAPI documents, read when they are asked for and
//! kept for a while. A server that is away keeps its last word, marked stale.
use super::super::Api;
use super::forward::trust;
use super::{Remote, all};
use crate::auth::Identity;
use crate::auth::identity::MASTERS;
use crate::callout::{self, Place, requestheader};
use crate::kinds::view::View;
use axum::body::Body;
use futures::future::join_all;
use http::{Request, header};
use http_body_util::{BodyExt, Limited};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a document is taken for current; upstream asks once a minute.
const FRESH_FOR: Duration = Duration::from_secs(60);
/// A server that has not answered by then is passed over.
const WITHIN: Duration = Duration::from_secs(5);
/// Bytes of one document.
const LIMIT: usize = 16 << 20;
/// Documents kept; there are three for each APIService of another server.
const KEPT: usize = 1024;
const USER: &str = "system:kube-aggregator";

/// A document that was read, and when.
#[derive(Debug, Clone)]
struct Read {
    at: Instant,
    revision: String,
    document: Value,
}

/// The documents of other servers, by APIService and path.
#[derive(Debug, Default)]
pub(crate) struct Documents(Mutex<HashMap<String, Read>>);

/// The resources of another server's version as aggregated discovery shows them, and whether they are current.
#[derive(Debug)]
pub(in super::super) struct Discovered {
    pub remote: Remote,
    pub resources: Option<Value>,
    pub current: bool,
}

/// What all other servers serve.
pub(in super::super) async fn discover(api: &Api) -> Vec<Discovered> {
    let remotes = all(api);
    let asked = remotes.into_iter().map(|remote| async move {
        let path = format!("/apis/{}/{}", remote.group, remote.version);
        let (document, current) = document(api, &remote, &path).await;
        Discovered {
            resources: document.map(|list| aggregated(&list)),
            remote,
            current,
        }
    });
    join_all(asked).await
}

/// The paths that other servers have OpenAPI documents for, as the index shows them.
pub(in super::super) async fn openapi_paths(api: &Api) -> Map<String, Value> {
    let asked = all(api).into_iter().map(|remote| async move {
        let own = format!("apis/{}/{}", remote.group, remote.version);
        let (index, _) = document(api, &remote, "/openapi/v3").await;
        let entry = index?.at("paths").get(&own)?.clone();
        Some((own, entry))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// The OpenAPI documents of version 2 of other servers, with the prefix of the paths that are theirs to describe.
pub(in super::super) async fn openapi_documents(api: &Api) -> Vec<(String, Value)> {
    let asked = all(api).into_iter().map(|remote| async move {
        let (document, _) = document(api, &remote, "/openapi/v2").await;
        Some((format!("/apis/{}/{}/", remote.group, remote.version), document?))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// A document, and whether it is current.
async fn document(api: &Api, remote: &Remote, path: &str) -> (Option<Value>, bool) {
    let key = format!("{}.{}{path}", remote.version, remote.group);
    let known = api.documents.get(&key);
    let fresh = |read: &&Read| read.revision == remote.revision && read.at.elapsed() < FRESH_FOR;
    if let Some(read) = known.as_ref().filter(fresh).filter(|_| remote.available) {
        return (Some(read.document.clone()), true);
    }
    if remote.available {
        match tokio::time::timeout(WITHIN, fetch(api, remote, path)).await {
            Ok(Ok(document)) => {
                api.documents.put(key, &remote.revision, document.clone());
                return (Some(document), true);
            }
            Ok(Err(why)) => tracing::warn!(
                path,
                group = remote.group,
                why,
                "an extension server said nothing"
            ),
            Err(_) => tracing::warn!(
                path,
                group = remote.group,
                "an extension server did not answer in time"
            ),
        }
    }
    (known.map(|read| read.document), false)
}

async fn fetch(api: &Api, remote: &Remote, path: &str) -> Result<Value, String> {
    let place = Place::by_service(api.objects.as_ref(), remote.spec.at("service"))?;
    let mut request = Request::get(path)
        .header(header::HOST, &place.authority)
        .header(header::ACCEPT, "application/json")
        .body(Body::empty())
        .map_err(|e| e.to_string())?;
    let aggregator = Identity::new(USER, [MASTERS.to_owned()]);
    requestheader::introduce(request.headers_mut(), &aggregator);
    let own = Some(&api.front_proxy.client);
    let answer = callout::send(&place, trust(remote), own, request).await?;
    if !answer.status().is_success() {
        return Err(format!("bad status: {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), LIMIT).collect().await;
    let body = body.map_err(|e| e.to_string())?.to_bytes();
    serde_json::from_slice(&body).map_err(|e| e.to_string())
}

impl Documents {
    fn get(&self, key: &str) -> Option<Read> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).cloned()
    }

    fn put(&self, key: String, revision: &str, document: Value) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.clear();
        }
        let read = Read {
            at: Instant::now(),
            revision: revision.to_owned(),
            document,
        };
        known.insert(key, read);
    }
}

/// An `APIResourceList` as the `resources` of aggregated discovery (KEP-3352).
fn aggregated(list: &Value) -> Value {
    let all = list.list("resources");
    let mut resources: Vec<Value> = Vec::new();
    for entry in all.iter().filter(|r| !r.text("name").contains('/')) {
        let prefix = format!("{}/", entry.text("name"));
        let below = all.iter().filter_map(|r| {
            let name = r.text("name").strip_prefix(&prefix)?;
            Some(json!({"subresource": name, "responseKind": kind(r), "verbs": r["verbs"]}))
        });
        let subresources: Vec<Value> = below.collect();
        let mut resource = json!({
            "resource": entry.text("name"),
            "responseKind": kind(entry),
            "scope": if entry.flag("namespaced") { "Namespaced" } else { "Cluster" },
            "singularResource": entry.text("singularName"),
            "verbs": entry["verbs"],
        });
        for key in ["shortNames", "categories"] {
            if !entry.list(key).is_empty() {
                resource[key] = entry[key].clone();
            }
        }
        if !subresources.is_empty() {
            resource["subresources"] = subresources.into();
        }
        resources.push(resource);
    }
    resources.into()
}

/// The kind as the server says it, which need not repeat its own group and version.
fn kind(entry: &Value) -> Value {
    json!({"group": entry.text("group"), "version": entry.text("version"), "kind": entry.text("kind")})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_list_becomes_aggregated_discovery() {
        let list = json!({"resources": [
            {"name": "foos", "singularName": "foo", "kind": "Foo", "namespaced": true, "verbs": ["get"], "shortNames": ["f"]},
            {"name": "foos/status", "kind": "Foo", "namespaced": true, "verbs": ["update"]},
            {"name": "foos/scale", "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get"]}]});
        let shown = aggregated(&list);
        assert_eq!(
            shown[0]["responseKind"],
            json!({"group": "", "version": "", "kind": "Foo"})
        );
        assert_eq!(shown[0]["shortNames"], json!(["f"]));
        assert_eq!(
            shown[0]["subresources"][1]["responseKind"]["group"],
            "autoscaling"
        );
        assert_eq!(shown.as_array().map(Vec::len), Some(1));
    }
}
