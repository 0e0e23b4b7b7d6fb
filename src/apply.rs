//! Applies manifests by server-side apply (KEP-555) as the manager `amphipod-up`: what left a manifest leaves its object,
//! and fields that others own stay theirs.

use anyhow::{Context, Result, anyhow, bail};
use kube::api::{Api, DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::{ApiCapabilities, Scope, oneshot};
use kube::{Client, ResourceExt};

use crate::manifest::Document;
use crate::progress::words;

/// The field manager that owns what manifests say.
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
            "no matches for kind {:?} in version {version:?}: this cluster does not serve it ({})",
            gvk.kind,
            words(&why)
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
    let Some(name) = &wanted.metadata.name else {
        bail!("it has no metadata.name (a generated one cannot be applied again)")
    };
    let before = api.get_opt(name).await?;
    // The manifest wins over what was changed by hand in the fields that it names, as with `kubectl apply`.
    let params = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply(MANAGER).force()
    };
    let after = api.patch(name, &params, &Patch::Apply(wanted)).await?;
    let done = match before {
        None => Done::Created,
        Some(before) if before.resource_version() == after.resource_version() => Done::Unchanged,
        Some(_) => Done::Configured,
    };
    Ok((after, done))
}
