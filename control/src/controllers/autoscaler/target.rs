//! What an autoscaler scales: the `scale` of any object that has one.
use k8s_openapi::api::autoscaling::v2::CrossVersionObjectReference;
use kube::Client;
use serde_json::{Value, json};

use super::ask::{get, put};
use crate::kinds::view::View;
use crate::toolkit::catalog::Catalog;
use crate::uri::escape;

/// Times a scale is written that others write as well (client-go's `DefaultRetry`).
const TRIES: usize = 5;

/// A scale as it was read.
#[derive(Debug)]
pub struct Target {
    path: String,
    scale: Value,
}

impl Target {
    /// The error is what upstream's condition says of it.
    pub async fn read(
        client: &Client,
        catalog: &Catalog,
        namespace: &str,
        reference: &CrossVersionObjectReference,
    ) -> Result<Self, String> {
        let version = reference.api_version.as_deref().unwrap_or_default();
        if version.matches('/').count() > 1 {
            return Err(format!("unexpected GroupVersion string: {version}"));
        }
        let served = catalog.find(version, &reference.kind).await;
        let served = served.map_err(|error| error.message())?.ok_or_else(|| {
            let group = version.rsplit_once('/').map_or("", |(group, _)| group);
            format!("no matches for kind {:?} in group {group:?}", reference.kind)
        })?;
        let base = served.resource.api_version.as_str();
        let root = if base.contains('/') { "apis" } else { "api" };
        let path = format!(
            "/{root}/{base}/namespaces/{namespace}/{}/{}/scale",
            served.resource.plural,
            escape(&reference.name)
        );
        let scale = get(client, &path).await.map_err(|failure| failure.message)?;
        Ok(Self { path, scale })
    }

    /// How many Pods are wanted.
    pub fn wanted(&self) -> i32 {
        self.count("spec.replicas")
    }

    /// How many there are.
    pub fn present(&self) -> i32 {
        self.count("status.replicas")
    }

    /// Which Pods they are; empty when the target does not say.
    pub fn selector(&self) -> &str {
        self.scale.text("status.selector")
    }

    fn count(&self, path: &str) -> i32 {
        let count = self.scale.int(path).and_then(|count| i32::try_from(count).ok());
        count.unwrap_or(0)
    }

    /// Writes the number, again when the scale was changed meanwhile.
    pub async fn scale_to(&mut self, client: &Client, replicas: i32) -> Result<(), String> {
        let mut left = TRIES;
        loop {
            self.scale["spec"]["replicas"] = json!(replicas);
            let Err(failure) = put(client, &self.path, &self.scale).await else {
                return Ok(());
            };
            left -= 1;
            if !failure.conflict || left == 0 {
                return Err(failure.message);
            }
            if let Ok(newer) = get(client, &self.path).await {
                self.scale = newer;
            }
        }
    }
}
