//! The Service that leads to the cluster's DNS, which every node answers itself.
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::controllers::dns::{NAMESPACE, PORT, PORTS, SERVICE};

/// Makes the Service if it is not there. A cluster that gave its address away before is warned, and goes on without.
pub async fn ensure(client: &Client, address: IpAddr) {
    let api: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    if let Err(error) = super::ensure(&api, SERVICE, service(address), None).await {
        tracing::warn!(%error, %address, "there is no Service {NAMESPACE}/{SERVICE}: Pods resolve names by the host's resolvers");
    }
}

/// Each node's own Pods ask that node: `internalTrafficPolicy: Local`.
fn service(address: IpAddr) -> Value {
    let port = |(name, protocol)| json!({"name": name, "protocol": protocol, "port": 53, "targetPort": PORT});
    let ports: Vec<Value> = PORTS.into_iter().map(port).collect();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": SERVICE, "labels": {
            "k8s-app": SERVICE, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "Amphipod"}},
        "spec": {"clusterIP": address, "internalTrafficPolicy": "Local", "ports": ports},
    })
}
