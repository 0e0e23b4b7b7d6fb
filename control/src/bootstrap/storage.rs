//! The class `local-path`, the default one as in k3s. It is made once: who deletes it, or makes another class the default, is
//! not contradicted at the next start.
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::controllers::volumes::{CLASS, PROVISIONER};

/// Says that the class was made.
const MARK: &str = "amphipod-local-path";

pub async fn ensure(client: &Client) -> Result<(), kube::Error> {
    let marks: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    if marks.get_opt(MARK).await?.is_some() {
        return Ok(());
    }
    super::ensure::<StorageClass>(&Api::all(client.clone()), CLASS, class(), None).await?;
    let mark = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": MARK},
        "data": {"storageClass": CLASS}});
    super::ensure(&marks, MARK, mark, None).await
}

fn class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true,
    })
}
