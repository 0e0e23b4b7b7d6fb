//! Bootstrap tokens: what they sign, and their end.
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use serde_json::json;

use crate::cluster::{Cluster, create, until_gone, until_one};

/// Long enough for a signature on a busy machine.
const LIFE: Duration = Duration::from_secs(10);
const SIGNATURE: &str = "jws-kubeconfig-abcdef";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_signs_what_is_public_until_it_ends() {
    let cluster = Cluster::start().await;
    let infos: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "kube-public");
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), "kube-system");
    let info = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info"},
        "data": {"kubeconfig": "apiVersion: v1\n", "jws-kubeconfig-gone12": "x"}});
    create(&infos, info).await;
    let end = (jiff::Timestamp::now() + LIFE).to_string();
    let token = |id: &str, expiration: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{id}")}, "stringData": {"token-id": id,
        "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true", "expiration": expiration}})
    };
    create(&secrets, token("abcdef", &end)).await;
    create(&secrets, token("stays1", "")).await;
    let has = |info: &ConfigMap, key: &str| info.data.as_ref().is_some_and(|data| data.contains_key(key));
    until_one(&infos, "cluster-info", "to be signed", |info| {
        has(info, SIGNATURE) && has(info, "jws-kubeconfig-stays1") && !has(info, "jws-kubeconfig-gone12")
    })
    .await;
    until_gone(&secrets, "bootstrap-token-abcdef").await;
    until_one(&infos, "cluster-info", "to be rid of the signature", |info| {
        !has(info, SIGNATURE) && has(info, "jws-kubeconfig-stays1")
    })
    .await;
    cluster.stop().await;
}
