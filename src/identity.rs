//! How a node comes by its certificate where nobody wrote it one: it asks the API server by an identity that may do no more than that
//! (KEP "kubelet TLS bootstrap"), and asks anew by its own before that ends. Owns the kubeconfig that comes of it. Refuses to know who
//! approves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use amphipod_control::auth::pki::{self, Requested};
use amphipod_node::{NodeTls, Renewal};
use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec, CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::PostParams;
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use serde_json::json;

use crate::cluster::replace_file;
use crate::kubeconfig;
use crate::progress::Progress;

const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Somebody may have to approve it; upstream's.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// After a renewal that failed, or is overdue.
const AGAIN: Duration = Duration::from_secs(60);

/// Where a node's kubeconfig is, or is to be, and whose it is.
#[derive(Clone)]
pub struct Place {
    pub file: PathBuf,
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
    let tls = kubeconfig::serving(&place.file, &place.node)?;
    let (client, renewal) = kubeconfig::client(&place.file, &place.server).await?;
    if bootstrap.is_some() {
        tokio::spawn(stay(place, client.clone(), renewal));
    }
    Ok((client, tls))
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
    let made = ask(&client, &place.node, told).await?;
    write(place, &authority, &made)
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
            let validity = held.as_deref().and_then(pki::validity);
            let due = validity.map(|validity| due(validity, rand::random()));
            let left = due.map(|due| due.duration_since(Timestamp::now()));
            let left = left.and_then(|left| Duration::try_from(left).ok());
            tokio::time::sleep(left.unwrap_or(AGAIN)).await;
            renew(&place, &client).await
        };
        if let Err(error) = round {
            let error = format!("{error:#}");
            tracing::warn!(error, "the node's certificate is not renewed; trying again");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// When most of its time is over, for each node at another moment; upstream's.
fn due((from, to): (Timestamp, Timestamp), chance: f64) -> Timestamp {
    let life = to.duration_since(from).as_secs_f64();
    let part = SignedDuration::from_secs_f64(life * (0.7 + 0.2 * chance));
    from.saturating_add(part).unwrap_or(to)
}

async fn renew(place: &Place, client: &Client) -> Result<()> {
    let authority = kubeconfig::authority(&place.file)?;
    let made = ask(client, &place.node, |_| {}).await?;
    write(place, &authority, &made)
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

/// A certificate and its key, PEM.
struct Made {
    certificate: String,
    key: String,
}

/// Has the API server sign a new key; `tell` is told the name of the request.
async fn ask(client: &Client, node: &str, tell: impl FnOnce(&str)) -> Result<Made> {
    let Requested { csr_pem, key_pem } =
        pki::ask(&format!("system:node:{node}"), "system:nodes").context("making a key")?;
    let request = CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("node-csr-".to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(csr_pem.into_bytes()),
            signer_name: SIGNER.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), "client auth".to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let created = requests.create(&PostParams::default(), &request).await;
    let created = created.context("asking the API server for the node's certificate")?;
    let name = created.metadata.name.unwrap_or_default();
    tell(&name);
    let is_settled = |request: Option<&CertificateSigningRequest>| {
        request.is_none_or(|request| answer(request.status.as_ref()).is_some())
    };
    let settled = tokio::time::timeout(PATIENCE, await_condition(requests, &name, is_settled)).await;
    let settled = settled
        .map_err(|_| {
            anyhow!(
                "nobody approved CertificateSigningRequest {name} for {} min",
                PATIENCE.as_secs() / 60
            )
        })?
        .with_context(|| format!("waiting for CertificateSigningRequest {name}"))?;
    let answer = settled.and_then(|request| answer(request.status.as_ref()));
    match answer {
        Some(Ok(certificate)) => Ok(Made {
            certificate,
            key: key_pem,
        }),
        Some(Err(why)) => bail!("CertificateSigningRequest {name} is {why}"),
        None => bail!("CertificateSigningRequest {name} was removed before it was signed"),
    }
}

/// The certificate, or why there will be none; nothing while that is open.
fn answer(status: Option<&CertificateSigningRequestStatus>) -> Option<Result<String, String>> {
    let status = status?;
    let refused = status.conditions.iter().flatten();
    let mut refused = refused.filter(|condition| matches!(&*condition.type_, "Denied" | "Failed"));
    if let Some(condition) = refused.next() {
        let words = condition.message.as_deref().unwrap_or_default();
        return Some(Err(format!("{}: {words}", condition.type_.to_lowercase())));
    }
    let certificate = status.certificate.as_ref()?;
    Some(String::from_utf8(certificate.0.clone()).map_err(|_| "signed with what is no PEM".to_owned()))
}

/// JSON is YAML too.
fn write(place: &Place, authority: &str, made: &Made) -> Result<()> {
    let encoded = |text: &str| STANDARD.encode(text);
    let (cluster, user) = ("default-cluster", "default-auth");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "default-context",
        "contexts": [{"name": "default-context", "context": {"cluster": cluster, "user": user}}],
        "clusters": [{"name": cluster, "cluster": {"server": place.server, "certificate-authority-data": encoded(authority)}}],
        "users": [{"name": user, "user": {
            "client-certificate-data": encoded(&made.certificate), "client-key-data": encoded(&made.key)}}],
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

    #[test]
    fn a_request_is_open_until_it_is_signed_or_refused() {
        let status = |value| serde_json::from_value::<CertificateSigningRequestStatus>(value).unwrap();
        let condition = |kind: &str| json!([{"type": kind, "status": "True", "message": "why"}]);
        for (given, expected) in [
            (json!({}), None),
            (json!({"conditions": condition("Approved")}), None),
            (
                json!({"conditions": condition("Denied")}),
                Some(Err("denied: why")),
            ),
            (
                json!({"conditions": condition("Failed")}),
                Some(Err("failed: why")),
            ),
            (
                json!({"conditions": condition("Approved"), "certificate": STANDARD.encode("PEM")}),
                Some(Ok("PEM")),
            ),
        ] {
            let expected = expected.map(|it| it.map(str::to_owned).map_err(str::to_owned));
            assert_eq!(answer(Some(&status(given.clone()))), expected, "{given}");
        }
        assert_eq!(answer(None), None);
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_kept_while_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            file: dir.path().join("kubeconfig"),
            server: "https://127.0.0.1:1".into(),
            node: "n".into(),
        };
        let own = pki::self_signed(&pki::CertRequest::client("system:node:n", "system:nodes")).unwrap();
        let made = Made {
            certificate: own.cert_pem.clone(),
            key: own.key_pem,
        };
        write(&place, "CA", &made).unwrap();
        assert_eq!(kubeconfig::certificate(&place.file).unwrap(), own.cert_pem);
        assert_eq!(kubeconfig::authority(&place.file).unwrap(), "CA");
        // Nobody is asked: there is no other.
        obtain(&place, Path::new("/nonexistent")).await.unwrap();
    }
}
