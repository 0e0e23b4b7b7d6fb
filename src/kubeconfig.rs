//! Kubeconfigs: written for administrators and nodes, read back by a node that joins. Refuses to know what they open.

use std::path::Path;

use amphipod_control::auth::pki::{CertRequest, Pki};
use amphipod_node::NodeTls;
use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

/// Name of the cluster inside a kubeconfig.
const CLUSTER: &str = "amphipod";

/// For the person who started the cluster: all rights.
pub fn admin(pki: &Pki, server: &str) -> Result<String> {
    let request = CertRequest::client("kubernetes-admin", "system:masters");
    pki.kubeconfig(CLUSTER, server, &request)
        .context("making the administrator's kubeconfig")
}

/// For a node that is to join from another machine.
pub fn node(pki: &Pki, server: &str, name: &str) -> Result<String> {
    let request = CertRequest::node(name, Vec::new());
    pki.kubeconfig(CLUSTER, server, &request)
        .with_context(|| format!("making the kubeconfig of node {name}"))
}

/// The certificate of a node in this process.
pub fn node_tls(pki: &Pki, name: &str) -> Result<NodeTls> {
    let issued = pki
        .issue(&CertRequest::node(name, Vec::new()))
        .with_context(|| format!("making the certificate of node {name}"))?;
    Ok(NodeTls {
        cert_pem: issued.cert_pem,
        key_pem: issued.key_pem,
        ca_pem: pki.ca_pem().to_owned(),
    })
}

/// The authority of a cluster that was started before.
pub fn open_pki(control_dir: &Path) -> Result<Pki> {
    Pki::open(&control_dir.join("pki")).context("opening the cluster's certificate authority")
}

/// A client of `server`, and the certificate that the node serves with, from a node's kubeconfig.
pub async fn node_client(file: &Path, server: &str) -> Result<(Client, NodeTls)> {
    let mut kubeconfig =
        Kubeconfig::read_from(file).with_context(|| format!("reading {}", file.display()))?;
    for cluster in kubeconfig
        .clusters
        .iter_mut()
        .filter_map(|named| named.cluster.as_mut())
    {
        cluster.server = Some(server.to_owned());
    }
    let tls = tls_of(file).with_context(|| format!("reading the certificate in {}", file.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("understanding {}", file.display()))?;
    Ok((
        amphipod_node::client(config)
            .await
            .with_context(|| format!("making a client for {server}"))?,
        tls,
    ))
}

/// The PEM texts of the first user and cluster. `kube` keeps the key to itself, so the file is read once more.
fn tls_of(file: &Path) -> Result<NodeTls> {
    let kubeconfig: Value = crate::manifest::read_one(file)?;
    let (user, cluster) = (
        &kubeconfig["users"][0]["user"],
        &kubeconfig["clusters"][0]["cluster"],
    );
    Ok(NodeTls {
        cert_pem: pem(user, "client-certificate")?,
        key_pem: pem(user, "client-key")?,
        ca_pem: pem(cluster, "certificate-authority")?,
    })
}

/// Kubeconfigs carry PEM inline as base64 (`NAME-data`) or name a file (`NAME`).
fn pem(entry: &Value, name: &str) -> Result<String> {
    if let Some(data) = entry[format!("{name}-data")].as_str() {
        let bytes = STANDARD
            .decode(data)
            .with_context(|| format!("decoding {name}-data"))?;
        return String::from_utf8(bytes).with_context(|| format!("reading {name}-data"));
    }
    match entry[name].as_str() {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("reading {name} {file}")),
        None => Err(anyhow!(
            "it has no {name}; `amphipod kubeconfig --node NAME` writes one that does"
        )),
    }
}
