//! Applies manifests as `kubectl apply` would find them later: creates what is absent, merges what is there, and leaves
//! `kubectl.kubernetes.io/last-applied-configuration` behind so that both tools can take turns.

use anyhow::{Context, Result, anyhow};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::{ApiCapabilities, Scope, oneshot};
use kube::{Client, ResourceExt};
use serde_json::{Map, Value, json};

use crate::manifest::Document;

/// The annotation of client-side apply; see kubernetes.io, "Declarative Management of Kubernetes Objects".
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

const MANAGER: &str = "amphipod-up";

/// An object as the server has it after the apply.
#[derive(Clone)]
pub struct Applied {
    pub api: Api<DynamicObject>,
    pub resource: ApiResource,
    pub object: DynamicObject,
    pub done: Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Created,
    Configured,
    Unchanged,
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        })
    }
}

/// Finds every document's kind before anything is changed, so that a mistake in the last one leaves nothing half done.
pub async fn resolve(client: &Client, documents: &[Document]) -> Result<Vec<(ApiResource, ApiCapabilities)>> {
    let mut found = Vec::new();
    for document in documents {
        found.push(
            kind_of(client, &document.kind)
                .await
                .with_context(|| document.place())?,
        );
    }
    Ok(found)
}

async fn kind_of(client: &Client, gvk: &GroupVersionKind) -> Result<(ApiResource, ApiCapabilities)> {
    oneshot::pinned_kind(client, gvk).await.map_err(|why| {
        let version = gvk.api_version();
        anyhow!(
            "no matches for kind {:?} in version {version:?}: this cluster does not serve it ({why})",
            gvk.kind
        )
    })
}

/// Applies one document.
pub async fn apply(
    client: &Client,
    document: &Document,
    (resource, about): &(ApiResource, ApiCapabilities),
) -> Result<Applied> {
    let api: Api<DynamicObject> = match about.scope {
        Scope::Cluster => Api::all_with(client.clone(), resource),
        Scope::Namespaced => {
            let namespace = document.object.namespace().unwrap_or_else(|| "default".into());
            Api::namespaced_with(client.clone(), &namespace, resource)
        }
    };
    let (object, done) = put(&api, &document.object).await.with_context(|| {
        format!(
            "{}: applying {} {:?}",
            document.place(),
            resource.kind,
            document.object.name_any()
        )
    })?;
    Ok(Applied {
        api,
        resource: resource.clone(),
        object,
        done,
    })
}

async fn put(api: &Api<DynamicObject>, wanted: &DynamicObject) -> Result<(DynamicObject, Done)> {
    let wanted_value = serde_json::to_value(wanted)?;
    let mut marked = wanted.clone();
    marked
        .annotations_mut()
        .insert(LAST_APPLIED.into(), serde_json::to_string(&wanted_value)?);
    let current = match &wanted.metadata.name {
        Some(name) => api.get_opt(name).await?,
        None => None,
    };
    let Some(current) = current else {
        let params = PostParams {
            field_manager: Some(MANAGER.into()),
            ..PostParams::default()
        };
        return Ok((api.create(&params, &marked).await?, Done::Created));
    };
    let before = current
        .annotations()
        .get(LAST_APPLIED)
        .and_then(|text| serde_json::from_str(text).ok());
    let patch = merge_patch(before.as_ref(), &serde_json::to_value(&marked)?);
    let params = PatchParams {
        field_manager: Some(MANAGER.into()),
        ..PatchParams::default()
    };
    let after = api
        .patch(&current.name_any(), &params, &Patch::Merge(&patch))
        .await?;
    let done = if after.resource_version() == current.resource_version() {
        Done::Unchanged
    } else {
        Done::Configured
    };
    Ok((after, done))
}

/// A JSON merge patch (RFC 7396) that sets all of `wanted` and removes what was in `before` and is no longer.
fn merge_patch(before: Option<&Value>, wanted: &Value) -> Value {
    let Value::Object(wanted_fields) = wanted else {
        return wanted.clone();
    };
    let mut patch = Map::new();
    for (name, value) in wanted_fields {
        let was = before.and_then(|before| before.get(name));
        patch.insert(name.clone(), merge_patch(was, value));
    }
    for name in before.and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        if !wanted_fields.contains_key(name) {
            patch.insert(name.clone(), json!(null));
        }
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_left_the_manifest_leaves_the_object() {
        let before = json!({"spec": {"replicas": 2, "paused": true, "list": [1, 2]}, "data": {"a": "1"}});
        let wanted = json!({"spec": {"replicas": 3, "list": [1]}});
        let patch = merge_patch(Some(&before), &wanted);
        assert_eq!(
            patch,
            json!({"spec": {"replicas": 3, "paused": null, "list": [1]}, "data": null})
        );
        assert_eq!(merge_patch(None, &wanted), wanted);
    }
}
