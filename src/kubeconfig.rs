//! Kubeconfigs: written for administrators and nodes, read back by a node that joins. Refuses to know what they open.

use std::path::Path;

use amphipod_control::auth::pki::{CertRequest, Issued, Pki, is_for_clients_only, self_signed};
use amphipod_node::{NodeTls, Renewal, TlsPair};
use anyhow::{Context, Result, bail};
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
        pair: Some(pair(issued)),
        is_asked_for: false,
        ca_pem: pki.ca_pem().to_owned(),
    })
}

/// The authority of a cluster that was started before.
pub fn open_pki(control_dir: &Path) -> Result<Pki> {
    Pki::open(&control_dir.join("pki")).context("opening the cluster's certificate authority")
}

/// A client of `server` by the identity in a kubeconfig.
pub async fn client(file: &Path, server: &str) -> Result<(Client, Renewal)> {
    let made = amphipod_node::client(config(file, server).await?).await;
    made.with_context(|| format!("making a client for {server}"))
}

/// The same as settings.
pub async fn config(file: &Path, server: &str) -> Result<Config> {
    let mut kubeconfig =
        Kubeconfig::read_from(file).with_context(|| format!("reading {}", file.display()))?;
    for cluster in kubeconfig
        .clusters
        .iter_mut()
        .filter_map(|named| named.cluster.as_mut())
    {
        cluster.server = Some(server.to_owned());
    }
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("understanding {}", file.display()))
}

/// The client certificate in a kubeconfig, PEM.
pub fn certificate(file: &Path) -> Result<String> {
    let entries = Entries::read(file)?;
    entries.pem(entries.chosen().0, "client-certificate")
}

/// The authority of the cluster in a kubeconfig, PEM.
pub fn authority(file: &Path) -> Result<String> {
    let entries = Entries::read(file)?;
    let authority = entries.pem(entries.chosen().1, "certificate-authority");
    authority.with_context(|| format!("reading {}", file.display()))
}

fn pair(issued: Issued) -> TlsPair {
    TlsPair {
        cert_pem: issued.cert_pem,
        key_pem: issued.key_pem,
    }
}

/// What the node serves with: its client certificate, if the kubeconfig has one that is for that too; else, as upstream's kubelet
/// does, one that it signs itself, and nothing if it is asked for. `kube` keeps the key to itself, so the file is read once more.
pub fn serving(file: &Path, name: &str, is_asked_for: bool) -> Result<NodeTls> {
    let known = tls_of(file, is_asked_for);
    let mut tls = known.with_context(|| format!("reading the identity in {}", file.display()))?;
    if tls.pair.is_none() && !is_asked_for {
        tracing::warn!(
            "the kubelet API serves with a certificate that this node signs itself: a control plane that verifies nodes' certificates, as              amphipod's does, refuses it and has no logs, exec, port-forward and metrics of this node; --rotate-server-certificates asks              for one that it takes"
        );
        let own = CertRequest {
            client: false,
            ..CertRequest::node(name, Vec::new())
        };
        let own = self_signed(&own).with_context(|| format!("making the certificate of node {name}"))?;
        tls.pair = Some(pair(own));
    }
    Ok(tls)
}

/// What a kubeconfig gives; it must have an identity.
fn tls_of(file: &Path, is_asked_for: bool) -> Result<NodeTls> {
    let entries = Entries::read(file)?;
    let (user, cluster) = entries.chosen();
    let ca_pem = entries.pem(cluster, "certificate-authority")?;
    let own = entries.pair(user)?;
    Ok(NodeTls {
        pair: own.filter(|own| !is_asked_for && !is_for_clients_only(&own.cert_pem)),
        is_asked_for,
        ca_pem,
    })
}

/// What a kubeconfig says, and where files that it names are.
struct Entries<'a> {
    kubeconfig: Value,
    folder: &'a Path,
}

impl<'a> Entries<'a> {
    fn read(file: &'a Path) -> Result<Self> {
        Ok(Entries {
            kubeconfig: crate::manifest::read_one(file)?,
            folder: file.parent().unwrap_or(Path::new("")),
        })
    }

    /// The user and the cluster of the current context.
    fn chosen(&self) -> (&Value, &Value) {
        let current = &self.kubeconfig["current-context"];
        let context = &self.entry("contexts", current)["context"];
        (
            &self.entry("users", &context["user"])["user"],
            &self.entry("clusters", &context["cluster"])["cluster"],
        )
    }

    fn entry(&self, list: &str, name: &Value) -> &Value {
        let all = self.kubeconfig[list].as_array();
        let found = all.and_then(|all| all.iter().find(|entry| entry["name"] == *name));
        found.unwrap_or(&Value::Null)
    }

    /// The certificate of a user, who must have another identity if he has none.
    fn pair(&self, user: &Value) -> Result<Option<TlsPair>> {
        let is_there = |name: &str| !user[name].is_null();
        if is_there("client-certificate") || is_there("client-certificate-data") {
            return Ok(Some(TlsPair {
                cert_pem: self.pem(user, "client-certificate")?,
                key_pem: self.pem(user, "client-key")?,
            }));
        }
        match ["token", "tokenFile", "exec"].into_iter().any(is_there) {
            true => Ok(None),
            false => bail!(
                "it has neither client-certificate nor token, tokenFile or exec; `amphipod kubeconfig --node NAME` writes one that has \
                 a certificate"
            ),
        }
    }

    /// Kubeconfigs carry PEM inline as base64 (`NAME-data`) or name a file (`NAME`), by its way from their own folder.
    fn pem(&self, entry: &Value, name: &str) -> Result<String> {
        if let Some(data) = entry[format!("{name}-data")].as_str() {
            let bytes = STANDARD
                .decode(data)
                .with_context(|| format!("decoding {name}-data"))?;
            return String::from_utf8(bytes).with_context(|| format!("reading {name}-data"));
        }
        let Some(file) = entry[name].as_str() else {
            bail!("it has no {name}; `amphipod kubeconfig --node NAME` writes one that does")
        };
        std::fs::read_to_string(self.folder.join(file)).with_context(|| format!("reading {name} {file}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What a node of a kubeconfig with this user serves with.
    fn serves(dir: &Path, user: Value, is_asked_for: bool) -> Result<NodeTls, String> {
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "mine",
            "contexts": [
                {"name": "other", "context": {"user": "u0", "cluster": "c0"}},
                {"name": "mine", "context": {"user": "u1", "cluster": "c1"}},
            ],
            "users": [{"name": "u0", "user": {}}, {"name": "u1", "user": user}],
            "clusters": [{"name": "c0", "cluster": {}}, {"name": "c1", "cluster": {"certificate-authority": "ca.crt"}}],
        });
        let file = dir.join("kubeconfig");
        std::fs::write(&file, text.to_string()).unwrap();
        serving(&file, "n1", is_asked_for).map_err(|error| error.root_cause().to_string())
    }

    #[test]
    fn a_node_has_the_identity_that_its_kubeconfig_gives() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [("ca.crt", "CA"), ("c.crt", "CERT"), ("c.key", "KEY")] {
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        let certified = json!({"client-certificate": "c.crt", "client-key-data": STANDARD.encode("INLINE"), "token": "t"});
        let tls = serves(dir.path(), certified.clone(), false).unwrap();
        let pair = tls.pair.unwrap();
        assert_eq!(
            (&*pair.cert_pem, &*pair.key_pem, &*tls.ca_pem),
            ("CERT", "INLINE", "CA")
        );
        let tls = serves(dir.path(), certified, true).unwrap();
        assert!(tls.pair.is_none() && tls.is_asked_for);
        let clients = self_signed(&CertRequest::client("u", "g")).unwrap();
        for user in [
            json!({"client-certificate-data": STANDARD.encode(clients.cert_pem), "client-key": "c.key"}),
            json!({"token": "t"}),
            json!({"tokenFile": "/t"}),
            json!({"exec": {"command": "c", "apiVersion": "client.authentication.k8s.io/v1"}}),
        ] {
            assert!(serves(dir.path(), user.clone(), true).unwrap().pair.is_none());
            let tls = serves(dir.path(), user.clone(), false).unwrap();
            assert!(tls.pair.unwrap().cert_pem.contains("BEGIN CERTIFICATE"), "{user}");
            assert_eq!(tls.ca_pem, "CA");
        }
        for (user, words) in [
            (json!({}), "neither client-certificate nor token"),
            (
                json!({"username": "u", "password": "p"}),
                "neither client-certificate nor token",
            ),
            (json!({"client-certificate": "c.crt"}), "has no client-key"),
        ] {
            for is_asked_for in [false, true] {
                let refused = serves(dir.path(), user.clone(), is_asked_for).err().unwrap();
                assert!(refused.contains(words), "{user}: {refused}");
            }
        }
    }
}
