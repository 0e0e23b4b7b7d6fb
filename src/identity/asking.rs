//! Has the API server sign a key of the node's: by a CertificateSigningRequest that is named after the key, which is kept until its
//! certificate is, so that who is started again goes on waiting for the same one (upstream's kubelet, client-go `util/certificate/csr`).
//! Owns the key meanwhile; refuses to know who approves.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, iter};

use amphipod_control::auth::own_request::{judge, new_key, request};
use amphipod_control::auth::pki::{CertRequest, Issued};
use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec, CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::wait::await_condition;
use sha2::{Digest as _, Sha512_256};

use crate::cluster::replace_file;

/// Somebody may have to approve it; upstream's.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Asks for a certificate that is to be in `file`, beside which its key is until [`forget`]; `tell` is told the name of the request. Who
/// asks again, having waited in vain or been killed, waits for the same request; after one that was refused, or whose certificate is of no
/// use, the next is by another key.
pub async fn ask(
    requests: Api<CertificateSigningRequest>,
    asked: &CertRequest,
    file: &Path,
    tell: impl FnOnce(&str),
) -> Result<Issued> {
    let key_pem = key(asked, file)?;
    let requested = request(asked, &key_pem)
        .with_context(|| format!("asking by the key in {}", beside(file).display()))?;
    let name = name(asked, &requested.public_key);
    create(&requests, &name, asked, requested.csr_pem).await?;
    tell(&name);
    let outcome = wait(requests, &name).await?.and_then(|cert_pem| {
        let judged = judge(asked, &cert_pem, &key_pem);
        judged.map_err(|why| format!("signed, but with a certificate of no use: {why}"))?;
        Ok(cert_pem)
    });
    match outcome {
        Ok(cert_pem) => Ok(Issued { cert_pem, key_pem }),
        Err(why) => {
            forget(file)?;
            bail!("CertificateSigningRequest {name} is {why}")
        }
    }
}

/// Where the key is until its certificate is in `file`.
fn beside(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".key.tmp");
    name.into()
}

/// The key that was asked for before, or a new one.
fn key(asked: &CertRequest, file: &Path) -> Result<String> {
    let beside = beside(file);
    match fs::read_to_string(&beside) {
        Err(why) if why.kind() == ErrorKind::NotFound => {
            let key_pem = new_key(asked).context("making a key")?;
            replace_file(&beside, key_pem.as_bytes())?;
            Ok(key_pem)
        }
        read => read.with_context(|| format!("reading {}", beside.display())),
    }
}

/// To be done once the certificate is kept with its key.
pub fn forget(file: &Path) -> Result<()> {
    let beside = beside(file);
    match fs::remove_file(&beside) {
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("removing {}", beside.display())),
    }
}

/// Of the key and all that is asked for, each part ended by what is in none (upstream's `digestedName`).
fn name(asked: &CertRequest, public_key: &[u8]) -> String {
    let mut digest = Sha512_256::new();
    let names = [&asked.cn].into_iter().chain(&asked.org).cloned();
    let ips = asked.ips.iter().map(ToString::to_string);
    let parts = names.chain(usages(asked)).chain(asked.dns.clone()).chain(ips);
    for part in iter::once(public_key.to_vec()).chain(parts.map(String::into_bytes)) {
        digest.update(URL_SAFE_NO_PAD.encode(part));
        digest.update("|");
    }
    let kind = if asked.client { "node-csr" } else { "csr" };
    format!("{kind}-{}", URL_SAFE_NO_PAD.encode(digest.finalize()))
}

/// Keys made here are elliptic: nothing is enciphered by them.
fn usages(asked: &CertRequest) -> [String; 2] {
    let purpose = if asked.client {
        "client auth"
    } else {
        "server auth"
    };
    ["digital signature", purpose].map(str::to_owned)
}

async fn create(
    requests: &Api<CertificateSigningRequest>,
    name: &str,
    asked: &CertRequest,
    csr_pem: String,
) -> Result<()> {
    let signer = match asked.client {
        true => "kubernetes.io/kube-apiserver-client-kubelet",
        false => "kubernetes.io/kubelet-serving",
    };
    let request = CertificateSigningRequest {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(csr_pem.into_bytes()),
            signer_name: signer.to_owned(),
            usages: Some(usages(asked).to_vec()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    match requests.create(&PostParams::default(), &request).await {
        // Of the same key, from before.
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        created => created
            .map(drop)
            .context("asking the API server for a certificate of the node"),
    }
}

/// The certificate, or why there will be none.
///
/// # Errors
/// When that is not known yet.
async fn wait(requests: Api<CertificateSigningRequest>, name: &str) -> Result<Result<String, String>> {
    let is_settled = |request: Option<&CertificateSigningRequest>| {
        request.is_none_or(|request| answer(request.status.as_ref()).is_some())
    };
    let settled = tokio::time::timeout(PATIENCE, await_condition(requests, name, is_settled)).await;
    let settled = settled
        .map_err(|_| {
            anyhow!(
                "nobody approved CertificateSigningRequest {name} for {} min",
                PATIENCE.as_secs() / 60
            )
        })?
        .with_context(|| format!("waiting for CertificateSigningRequest {name}"))?;
    let answer = settled.and_then(|request| answer(request.status.as_ref()));
    answer.with_context(|| format!("CertificateSigningRequest {name} was removed before it was signed"))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;

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

    #[test]
    fn requests_are_named_after_their_key_and_what_they_ask_for() {
        let client = CertRequest::client("system:node:n", "system:nodes");
        let serving = CertRequest {
            client: false,
            ..CertRequest::node("n", vec!["10.0.0.1".parse().unwrap()])
        };
        // Reckoned by another program, the first by upstream's rule.
        for (asked, expected) in [
            (&client, "node-csr-litVUSUtPM4znXCAy-mNiVlLUDyk-MwyFQaIhfgqZnQ"),
            (&serving, "csr--gTQKgTOPTByAVGCUcFlgbtHdaQGgjvf-XeuGF6zaUM"),
        ] {
            assert_eq!(name(asked, b"key"), expected);
            assert_ne!(name(asked, b"other"), expected);
        }
    }

    #[test]
    fn a_key_is_kept_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (file, asked) = (dir.path().join("kubeconfig"), CertRequest::client("u", "g"));
        let first = key(&asked, &file).unwrap();
        assert_eq!(key(&asked, &file).unwrap(), first);
        let mode = fs::metadata(beside(&file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        forget(&file).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        forget(&file).unwrap();
        assert_ne!(key(&asked, &file).unwrap(), first);
    }
}
