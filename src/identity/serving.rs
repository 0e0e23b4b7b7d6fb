//! The certificate that a node's kubelet API serves with, where the cluster is to sign it (`kubernetes.io/kubelet-serving`, upstream's
//! `--rotate-server-certificates`). Owns the file of it, key and certificate.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;

use amphipod_control::auth::own_request::judge;
use amphipod_control::auth::pki::CertRequest;
use amphipod_node::{Serving, TlsPair};
use anyhow::{Context, Result};
use kube::{Api, Client};

use super::{AGAIN, Place, asking, until_due};
use crate::cluster::replace_file;
use crate::progress::Progress;

/// By the names of the Node's addresses.
fn asked(node: &str, ips: Vec<IpAddr>) -> CertRequest {
    CertRequest {
        client: false,
        ..CertRequest::node(node, ips)
    }
}

/// What a node of this name was given before, as long as it holds.
pub fn held(file: &Path, node: &str) -> Option<TlsPair> {
    usable(file, &asked(node, Vec::new()))
}

fn usable(file: &Path, asked: &CertRequest) -> Option<TlsPair> {
    let read = fs::read_to_string(file);
    if matches!(&read, Err(why) if why.kind() == ErrorKind::NotFound) {
        return None;
    }
    let read = read.map_err(|why| why.to_string());
    match read.and_then(|text| judge(asked, &text, &text).map(|()| text)) {
        Ok(text) => Some(TlsPair {
            cert_pem: text.clone(),
            key_pem: text,
        }),
        Err(why) => {
            let file = file.display();
            tracing::warn!(%file, why, "the certificate that the node served with does not hold any more; another is asked for");
            None
        }
    }
}

/// Asks when there is none that holds for the node's addresses, and anew each time before it ends, as long as the agent runs.
pub async fn stay(place: Place, file: &Path, ip: IpAddr, client: Client, serving: Serving) {
    let asked = asked(&place.node, vec![ip]);
    loop {
        if let Some(held) = usable(file, &asked) {
            tokio::time::sleep(until_due(&held.cert_pem)).await;
        }
        if let Err(error) = renew(&place, file, &asked, &client, &serving).await {
            let error = format!("{error:#}");
            tracing::warn!(
                error,
                "the node has no new certificate to serve with; trying again"
            );
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn renew(
    place: &Place,
    file: &Path,
    asked: &CertRequest,
    client: &Client,
    serving: &Serving,
) -> Result<()> {
    let told = |name: &str| {
        Progress::new().say(&format!(
            "node {} waits for the certificate that it serves with: kubectl certificate approve {name}",
            place.node
        ));
    };
    let made = asking::ask(Api::all(client.clone()), asked, file, told).await?;
    let text = format!("{}{}", made.key_pem, made.cert_pem);
    let pair = TlsPair {
        cert_pem: made.cert_pem,
        key_pem: made.key_pem,
    };
    serving.set(&pair).context("serving with the new certificate")?;
    replace_file(file, text.as_bytes())?;
    asking::forget(file)?;
    tracing::info!("the node serves with a new certificate");
    Ok(())
}

#[cfg(test)]
mod tests {
    use amphipod_control::auth::pki::self_signed;

    use super::*;

    #[test]
    fn what_was_given_is_held_while_it_has_the_names() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kubelet-server.pem");
        let ip = |text: &str| vec![text.parse().unwrap()];
        let is_usable = |asked| usable(&file, &asked).is_some();
        assert!(!is_usable(asked("n", Vec::new())));
        let made = self_signed(&asked("n", ip("10.0.0.1"))).unwrap();
        fs::write(&file, format!("{}{}", made.key_pem, made.cert_pem)).unwrap();
        assert!(is_usable(asked("n", Vec::new())) && is_usable(asked("n", ip("10.0.0.1"))));
        assert!(!is_usable(asked("n", ip("10.0.0.2"))) && !is_usable(asked("m", Vec::new())));
        let pair = held(&file, "n").unwrap();
        Serving::default().set(&pair).unwrap();
        fs::write(&file, made.cert_pem).unwrap();
        assert!(held(&file, "n").is_none());
    }
}
