//! How a node comes by its certificate where nobody wrote it one: it asks the API server by an identity that may do no more than that
//! (KEP "kubelet TLS bootstrap"), and asks anew by its own before that ends. Owns the kubeconfig that comes of it. Refuses to know who
//! approves.

mod asking;
mod serving;

use std::path::{Path, PathBuf};
use std::time::Duration;

use amphipod_control::auth::pki::{self, CertRequest, Issued};
use amphipod_node::{Node, NodeTls, Renewal};
use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Api, Client};
use serde_json::json;

use crate::cluster::replace_file;
use crate::kubeconfig;
use crate::progress::Progress;

/// After a renewal that failed, or is overdue.
const AGAIN: Duration = Duration::from_secs(60);

/// Where a node's kubeconfig is, or is to be, and whose it is.
#[derive(Clone)]
pub struct Place {
    pub file: PathBuf,
    /// Where what it serves with is, or is to be, if that is asked for.
    pub served: Option<PathBuf>,
    pub server: String,
    pub node: String,
}

/// The node as a client, and what it serves with. With `bootstrap` its certificate is asked for, if there is none, and renewed as long
/// as this process runs.
pub async fn join(place: Place, bootstrap: Option<&Path>) -> Result<(Client, NodeTls)> {
    if let Some(bootstrap) = bootstrap {
        let obtained = obtain(&place, bootstrap).await;
        obtained.context("obtaining the node's certificate")?;
    }
    let mut tls = kubeconfig::serving(&place.file, &place.node, place.served.is_some())?;
    if let Some(file) = &place.served {
        tls.pair = serving::held(file, &place.node);
    }
    let (client, renewal) = kubeconfig::client(&place.file, &place.server).await?;
    if bootstrap.is_some() {
        tokio::spawn(stay(place, client.clone(), renewal));
    }
    Ok((client, tls))
}

/// Sees to it that a started node has a certificate to serve with, if that is asked for, as long as this process runs.
pub fn serve(place: Place, client: Client, node: &Node) {
    if let Some(file) = place.served.clone() {
        let (ip, serving) = (node.ip(), node.serving());
        tokio::spawn(async move { serving::stay(place, &file, ip, client, serving).await });
    }
}

/// Sees to it that there is a kubeconfig with a certificate that has not ended, asking by `bootstrap` if there is none.
async fn obtain(place: &Place, bootstrap: &Path) -> Result<()> {
    let held = kubeconfig::certificate(&place.file);
    let ends = held.as_deref().ok().and_then(pki::validity).map(|(_, to)| to);
    if ends.is_some_and(|ends| Timestamp::now() < ends) {
        return Ok(());
    }
    let client = kubeconfig::client(bootstrap, &place.server).await?.0;
    let authority = kubeconfig::authority(bootstrap)?;
    let told = |name: &str| {
        Progress::new().say(&format!(
            "node {} waits for its certificate: kubectl certificate approve {name}",
            place.node
        ));
    };
    ask(place, &client, &authority, told).await
}

/// Asks anew each time before the certificate ends, as long as the agent runs.
async fn stay(place: Place, client: Client, renewal: Renewal) {
    let mut used = kubeconfig::certificate(&place.file).ok();
    loop {
        let held = kubeconfig::certificate(&place.file).ok();
        let round = if held.is_some() && held != used {
            let outcome = use_held(&place, &renewal).await;
            outcome.map(|()| used = held)
        } else {
            tokio::time::sleep(held.as_deref().map_or(AGAIN, until_due)).await;
            renew(&place, &client).await
        };
        if let Err(error) = round {
            let error = format!("{error:#}");
            tracing::warn!(error, "the node's certificate is not renewed; trying again");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// The time until this certificate is to be replaced.
fn until_due(cert_pem: &str) -> Duration {
    let due = pki::validity(cert_pem).map(|validity| due(validity, rand::random()));
    let left = due.map(|due| due.duration_since(Timestamp::now()));
    let left = left.and_then(|left| Duration::try_from(left).ok());
    left.unwrap_or(AGAIN)
}

/// When most of its time is over, for each node at another moment; upstream's.
fn due((from, to): (Timestamp, Timestamp), chance: f64) -> Timestamp {
    let life = to.duration_since(from).as_secs_f64();
    let part = SignedDuration::from_secs_f64(life * (0.7 + 0.2 * chance));
    from.saturating_add(part).unwrap_or(to)
}

async fn renew(place: &Place, client: &Client) -> Result<()> {
    let authority = kubeconfig::authority(&place.file)?;
    ask(place, client, &authority, |_| {}).await
}

/// Writes the node's kubeconfig with a new certificate; `tell` is told the name of the request.
async fn ask(place: &Place, client: &Client, authority: &str, tell: impl FnOnce(&str)) -> Result<()> {
    let asked = CertRequest::client(&format!("system:node:{}", place.node), "system:nodes");
    let made = asking::ask(Api::all(client.clone()), &asked, &place.file, tell).await?;
    write(place, authority, &made)?;
    asking::forget(&place.file)
}

/// Goes on with the certificate of the file.
async fn use_held(place: &Place, renewal: &Renewal) -> Result<()> {
    let config = kubeconfig::config(&place.file, &place.server).await?;
    match renewal.renew(&config).context("using the new certificate")? {
        true => tracing::info!("the node's certificate is renewed"),
        false => {
            tracing::warn!("the node's certificate is renewed; this agent uses it when it is started again")
        }
    }
    Ok(())
}

/// JSON is YAML too.
fn write(place: &Place, authority: &str, made: &Issued) -> Result<()> {
    let encoded = |text: &str| STANDARD.encode(text);
    let (cluster, user) = ("default-cluster", "default-auth");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "default-context",
        "contexts": [{"name": "default-context", "context": {"cluster": cluster, "user": user}}],
        "clusters": [{"name": cluster, "cluster": {"server": place.server, "certificate-authority-data": encoded(authority)}}],
        "users": [{"name": user, "user": {
            "client-certificate-data": encoded(&made.cert_pem), "client-key-data": encoded(&made.key_pem)}}],
    });
    replace_file(&place.file, format!("{text:#}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_renewed_when_most_of_their_time_is_over() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (chance, second) in [(0.0, 1700), (0.5, 1800), (1.0, 1900)] {
            assert_eq!(due((at(1000), at(2000)), chance), at(second), "{chance}");
        }
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_kept_while_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            file: dir.path().join("kubeconfig"),
            server: "https://127.0.0.1:1".into(),
            served: None,
            node: "n".into(),
        };
        let own = pki::self_signed(&CertRequest::client("system:node:n", "system:nodes")).unwrap();
        write(&place, "CA", &own).unwrap();
        assert_eq!(kubeconfig::certificate(&place.file).unwrap(), own.cert_pem);
        assert_eq!(kubeconfig::authority(&place.file).unwrap(), "CA");
        // Nobody is asked: there is no other.
        obtain(&place, Path::new("/nonexistent")).await.unwrap();
    }
}
