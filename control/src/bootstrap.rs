//! What every cluster has from the first moment: its namespaces, default roles and bindings, priority, storage and runtime
//! classes, flow control, what extension servers need to know, and the `kubernetes` Service that leads to this API.
//!
//! An ordinary API client; run at each start, since addresses may have changed.
pub mod addresses;
mod cluster;
pub mod components;
mod dns;
mod policy;
mod runtime;
mod storage;

use crate::admission::services::ranges::DEFAULT;
use crate::auth::pki::FRONT_PROXY;
use crate::callout::requestheader;
use crate::controllers::addresses::ranges::default_range;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const SERVICE: &str = "kubernetes";
const PORT_NAME: &str = "https";
/// Where extension servers learn whom to believe.
const AUTHENTICATION: &str = "extension-apiserver-authentication";

#[derive(Debug, thiserror::Error)]
#[error("cannot set up {what}: {source}")]
pub struct BootstrapError {
    what: &'static str,
    source: Box<kube::Error>,
}

/// Whose certificates extension servers may believe, PEM.
#[derive(Debug, Clone, Copy)]
pub struct Authorities<'a> {
    /// Of clients of the API.
    pub clients: &'a str,
    /// Of the API server when it hands requests on.
    pub front_proxy: &'a str,
}

impl Authorities<'_> {
    fn config_map(self) -> Value {
        let list = |value: &str| json!([value]).to_string();
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": AUTHENTICATION},
            "data": {
                "client-ca-file": self.clients,
                "requestheader-allowed-names": list(FRONT_PROXY),
                "requestheader-client-ca-file": self.front_proxy,
                "requestheader-extra-headers-prefix": list(requestheader::EXTRA),
                "requestheader-group-headers": list(requestheader::GROUP),
                "requestheader-uid-headers": list(requestheader::UID),
                "requestheader-username-headers": list(requestheader::USER),
            },
        })
    }
}

/// Brings these objects about. `address` is where the API server can be reached, `cluster_ip` what the Service is to
/// have, of the range `cidr`, `dns` that of the cluster's names.
pub async fn run(
    client: &Client,
    address: SocketAddr,
    cidr: IpNet,
    cluster_ip: IpAddr,
    dns: Option<IpAddr>,
    authorities: Authorities<'_>,
) -> Result<(), BootstrapError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in NAMESPACES {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure(&namespaces, name, body, None)
            .await
            .map_err(failed("the system namespaces"))?;
    }
    policy::reconcile(client)
        .await
        .map_err(failed("the default roles and bindings"))?;
    cluster::ensure(client)
        .await
        .map_err(failed("the priority classes and flow schemas"))?;
    let extension = authorities.config_map();
    let data = json!({"data": extension["data"]});
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    ensure(&maps, AUTHENTICATION, extension, Some(data))
        .await
        .map_err(failed("the ConfigMap for extension servers"))?;
    storage::ensure(client)
        .await
        .map_err(failed("the class of local volumes"))?;
    runtime::ensure(client)
        .await
        .map_err(failed("the class of isolated Wasm Pods"))?;
    // Without a range no Service has an address.
    ensure::<ServiceCIDR>(&Api::all(client.clone()), DEFAULT, default_range(cidr), None)
        .await
        .map_err(failed("the range of Services"))?;
    if let Some(address) = dns {
        dns::ensure(client, address).await;
    }
    let (service, endpoints, slice) = (service(cluster_ip), endpoints(address), slice(address));
    let in_default = |what| failed(what);
    ensure::<Service>(&Api::default_namespaced(client.clone()), SERVICE, service, None)
        .await
        .map_err(in_default("the kubernetes Service"))?;
    let subsets = json!({"subsets": endpoints["subsets"]});
    ensure::<Endpoints>(
        &Api::default_namespaced(client.clone()),
        SERVICE,
        endpoints,
        Some(subsets),
    )
    .await
    .map_err(in_default("the kubernetes Endpoints"))?;
    let current = json!({"endpoints": slice["endpoints"], "ports": slice["ports"]});
    ensure::<EndpointSlice>(
        &Api::default_namespaced(client.clone()),
        SERVICE,
        slice,
        Some(current),
    )
    .await
    .map_err(in_default("the kubernetes EndpointSlice"))
}

fn failed(what: &'static str) -> impl FnOnce(kube::Error) -> BootstrapError {
    move |source| BootstrapError {
        what,
        source: Box::new(source),
    }
}

/// Creates the object; when it is there, patches what may have changed.
async fn ensure<K>(api: &Api<K>, name: &str, body: Value, update: Option<Value>) -> Result<(), kube::Error>
where
    K: Resource + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let object: K = serde_json::from_value(body).map_err(kube::Error::SerdeError)?;
    // Looked up first: a second Service with the address of the first is refused for the address, not for its name.
    match (api.get_opt(name).await?, update) {
        (None, _) => api.create(&PostParams::default(), &object).await.map(drop),
        (Some(_), Some(update)) => api
            .patch(name, &PatchParams::default(), &Patch::Merge(update))
            .await
            .map(drop),
        (Some(_), None) => Ok(()),
    }
}

fn labels() -> Value {
    json!({"component": "apiserver", "provider": "kubernetes"})
}

fn service(cluster_ip: IpAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": SERVICE, "labels": labels()},
        "spec": {
            "clusterIP": cluster_ip, "sessionAffinity": "None", "type": "ClusterIP",
            "ports": [{"name": PORT_NAME, "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    })
}

fn endpoints(address: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": SERVICE, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{
            "addresses": [{"ip": address.ip()}],
            "ports": [{"name": PORT_NAME, "port": address.port(), "protocol": "TCP"}],
        }],
    })
}

fn slice(address: SocketAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": SERVICE, "labels": {"kubernetes.io/service-name": SERVICE}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.ip()], "conditions": {"ready": true}}],
        "ports": [{"name": PORT_NAME, "port": address.port(), "protocol": "TCP"}],
    })
}
