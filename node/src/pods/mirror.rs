//! Mirror Pods: what the API server holds of a static Pod, so that people and controllers see it. Owns how one is made and
//! removed, and which is due; refuses to know who is told when.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};

use super::context::Context;
use super::mirrors::Name;
use crate::static_pods::manifest::{HASH, MIRROR, mirror_of};

/// What is to be done about a mirror.
#[derive(Clone, Debug)]
pub enum Due {
    Create(Arc<Pod>),
    /// It shows another Pod, or somebody deletes it.
    Delete(Arc<Pod>),
    /// Nobody knows what the API server has: it is asked.
    Look(Name),
}

/// Compares a static Pod with its mirror; `runs` says whether one of that name still does although no file wants it.
pub fn due(wanted: Option<&Arc<Pod>>, mirror: Option<&Arc<Pod>>, runs: bool) -> Option<Due> {
    match (wanted, mirror) {
        (Some(wanted), None) => Some(Due::Create(wanted.clone())),
        (Some(wanted), Some(mirror)) => {
            let shows = mirror_of(mirror) == wanted.metadata.uid.as_deref();
            let fits = shows && mirror.metadata.deletion_timestamp.is_none();
            (!fits).then(|| Due::Delete(mirror.clone()))
        }
        (None, Some(mirror)) if !runs => Some(Due::Delete(mirror.clone())),
        (None, _) => None,
    }
}

/// Does it, and answers with the mirror that the API server had then.
pub async fn carry_out(ctx: &Context, due: Due) -> Result<Option<Pod>, kube::Error> {
    let mut mirror = match due {
        Due::Create(pod) => create(ctx, &pod).await.map(Some),
        Due::Delete(mirror) => delete(ctx, &mirror).await,
        Due::Look(name) => {
            let (namespace, name) = name.split_once('/').unwrap_or_default();
            find(&api(ctx, namespace), name, &ctx.options.node_name).await
        }
    }?;
    // As with the Pods that the watch brings.
    if let Some(mirror) = &mut mirror {
        mirror.metadata.managed_fields = None;
    }
    Ok(mirror)
}

fn api(ctx: &Context, namespace: &str) -> Api<Pod> {
    Api::namespaced(ctx.options.client.clone(), namespace)
}

/// What the node has there of that name, if it is a mirror. Its Pods are listed: asked for by name, one that is not there is
/// forbidden to it, as another's would be.
async fn find(api: &Api<Pod>, name: &str, node: &str) -> Result<Option<Pod>, kube::Error> {
    let here = ListParams::default().fields(&format!("metadata.name={name},spec.nodeName={node}"));
    let found = api.list(&here).await?.items;
    Ok(found.into_iter().find(|pod| mirror_of(pod).is_some()))
}

async fn create(ctx: &Context, pod: &Pod) -> Result<Pod, kube::Error> {
    let name = &ctx.options.node_name;
    let node = Api::<Node>::all(ctx.options.client.clone()).get(name).await?;
    let api = api(ctx, pod.metadata.namespace.as_deref().unwrap_or_default());
    let taken = match api.create(&PostParams::default(), &mirror(pod, &node)).await {
        Err(error @ kube::Error::Api(_)) if code(&error) == 409 => error,
        done => return done,
    };
    // Made before, and the watch has not told yet. One that is deleted is in the way as long as somebody keeps it.
    let there = find(&api, pod.metadata.name.as_deref().unwrap_or_default(), name).await?;
    there
        .filter(|mirror| mirror.metadata.deletion_timestamp.is_none())
        .ok_or(taken)
}

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

/// A mirror is owned by its node (KEP-1314).
fn mirror(pod: &Pod, node: &Node) -> Pod {
    let mut mirror = pod.clone();
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    if let Some(hash) = annotations.get(HASH).cloned() {
        annotations.insert(MIRROR.into(), hash);
    }
    mirror.metadata.uid = None;
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    mirror
}

async fn delete(ctx: &Context, mirror: &Pod) -> Result<Option<Pod>, kube::Error> {
    let api = api(ctx, mirror.metadata.namespace.as_deref().unwrap_or_default());
    let name = mirror.metadata.name.as_deref().unwrap_or_default();
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: mirror.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(name, &params).await {
        Ok(_) => Ok(None),
        Err(error) if code(&error) == 404 => Ok(None),
        // Another has the name by now.
        Err(error) if code(&error) == 409 => find(&api, name, &ctx.options.node_name).await,
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(metadata: Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap())
    }

    #[test]
    fn a_mirror_is_made_where_there_is_none_and_removed_where_it_does_not_fit() {
        let wanted = pod(json!({"uid": "h"}));
        let of = |hash: &str| pod(json!({"uid": "m", "annotations": {MIRROR: hash}}));
        let going = pod(json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "annotations": {MIRROR: "h"}}));
        let word =
            |wanted: Option<&Arc<Pod>>, mirror: Option<&Arc<Pod>>, runs| match due(wanted, mirror, runs) {
                None => "nothing",
                Some(Due::Create(_)) => "create",
                Some(Due::Delete(_)) => "delete",
                Some(Due::Look(_)) => "look",
            };
        for (wanted, mirror, runs, expected) in [
            (Some(&wanted), None, true, "create"),
            (Some(&wanted), Some(&of("h")), true, "nothing"),
            (Some(&wanted), Some(&of("x")), true, "delete"),
            (Some(&wanted), Some(&going), true, "delete"),
            (None, Some(&of("h")), true, "nothing"),
            (None, Some(&of("h")), false, "delete"),
            (None, None, false, "nothing"),
        ] {
            assert_eq!(
                word(wanted, mirror, runs),
                expected,
                "{wanted:?} {mirror:?} {runs}"
            );
        }
    }

    /// An API server that has these Pods, and tells a node only of its own, as the Node authorizer has it.
    fn server(pods: Value) -> kube::Client {
        let answer = move |request: http::Request<kube::client::Body>| {
            let uri = request.uri().to_string();
            let (status, body) = match uri.contains("fieldSelector=") && uri.contains("spec.nodeName%3Dn") {
                true => (200, json!({"metadata": {}, "items": pods})),
                false => (
                    403,
                    json!({"status": "Failure", "code": 403, "message": "no relationship found"}),
                ),
            };
            let body = kube::client::Body::from(body.to_string().into_bytes());
            let response = http::Response::builder().status(status).body(body);
            async move { Ok::<_, std::convert::Infallible>(response.unwrap()) }
        };
        kube::Client::new(tower::service_fn(answer), "default")
    }

    #[tokio::test]
    async fn a_mirror_that_is_not_there_is_none() {
        let there = |pods: Value| async move {
            let api = Api::namespaced(server(pods), "default");
            let found = find(&api, "web-n", "n").await.unwrap();
            found.and_then(|mirror| mirror.metadata.uid)
        };
        assert_eq!(there(json!([])).await, None);
        let mirror = json!({"metadata": {"uid": "m", "annotations": {MIRROR: "h"}}});
        assert_eq!(there(json!([mirror])).await, Some("m".to_owned()));
        assert_eq!(there(json!([{"metadata": {"uid": "other"}}])).await, None);
    }

    #[test]
    fn a_mirror_has_its_pods_hash_and_its_node_as_owner() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n", "uid": "nu"}})).unwrap();
        let made = mirror(&pod(json!({"uid": "h", "annotations": {HASH: "h"}})), &node);
        assert_eq!((mirror_of(&made), &made.metadata.uid), (Some("h"), &None));
        let owner = &made.metadata.owner_references.unwrap()[0];
        assert_eq!((owner.uid.as_str(), owner.controller), ("nu", Some(true)));
    }
}
