//! The cluster's own certificate authority, kept in one folder.
//!
//! `ca.crt`, `ca.key`, `apiserver.crt`, `apiserver.key`; keys are readable by their owner only. The serving
//! certificate is made anew at each start, for the addresses that the server has now. `front-proxy-ca.*` is a second
//! authority, whose certificates tell extension servers that a request comes from this API server.
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Calendar years until a certificate made this year ends. Upstream's kubeadm gives a CA ten.
const CA_YEARS: i16 = 10;
/// As above, for certificates that the CA signs; agents ask for a new one at each start.
const LEAF_YEARS: i16 = 3;

const CLUSTER_CA: &str = "ca";
const PROXY_CA: &str = "front-proxy-ca";
/// The name in the certificate that is shown to extension servers, as kubeadm has it.
pub const FRONT_PROXY: &str = "front-proxy-client";

/// What a certificate is to say.
#[derive(Clone, Debug, Default)]
pub struct CertRequest {
    /// Common name: the Kubernetes user.
    pub cn: String,
    /// Organization: the Kubernetes group.
    pub org: Option<String>,
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    /// Usable to authenticate to a server.
    pub client: bool,
    /// Usable to serve.
    pub server: bool,
}

impl CertRequest {
    /// A client certificate for a user.
    pub fn client(cn: &str, org: &str) -> Self {
        CertRequest {
            cn: cn.to_owned(),
            org: Some(org.to_owned()),
            client: true,
            ..CertRequest::default()
        }
    }

    /// A node's one certificate: identity towards the API server, and name of its kubelet API.
    pub fn node(name: &str, ips: Vec<IpAddr>) -> Self {
        CertRequest {
            cn: format!("system:node:{name}"),
            org: Some(super::identity::NODES.to_owned()),
            dns: vec![name.to_owned()],
            ips,
            client: true,
            server: true,
        }
    }
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Issued {
    pub cert_pem: String,
    pub key_pem: String,
}

/// The API server towards extension servers.
#[derive(Clone)]
pub struct FrontProxy {
    pub ca_pem: String,
    pub client: Issued,
}

impl std::fmt::Debug for FrontProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrontProxy").finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot {step} {path}: {source}")]
    File {
        step: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{path} is not a usable certificate or key ({message}); restore it, or remove the pki folder to make a new authority (all clients then need new kubeconfigs)"
    )]
    Damaged { path: PathBuf, message: String },
    #[error("cannot make a certificate for {cn}: {message}")]
    Issue { cn: String, message: String },
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").finish_non_exhaustive()
    }
}

/// The authority, and the certificate that the API server serves with.
pub struct Pki {
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    serving: Issued,
}

impl Pki {
    /// Opens the authority in `dir`, or makes one; the serving certificate is made anew. `sans` are the names and
    /// addresses of the API server.
    pub fn open_or_create(dir: &Path, sans: &[String]) -> Result<Self, PkiError> {
        fs::create_dir_all(dir).map_err(file("create", dir))?;
        for (name, cn) in [(CLUSTER_CA, "amphipod-ca"), (PROXY_CA, "front-proxy-ca")] {
            let key = dir.join(format!("{name}.key"));
            if !key.exists() {
                create_ca(cn, &dir.join(format!("{name}.crt")), &key)?;
            }
        }
        let (ca_pem, issuer) = open_ca(dir, CLUSTER_CA)?;
        let serving = sign(&issuer, &serving_request(sans))?;
        write(&dir.join("apiserver.key"), &serving.key_pem, 0o600)?;
        write(&dir.join("apiserver.crt"), &serving.cert_pem, 0o644)?;
        Ok(Pki {
            ca_pem,
            issuer,
            serving,
        })
    }

    /// Opens what a control plane made in `dir` before, and changes nothing: a control plane may be running.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        let (ca_pem, issuer) = open_ca(dir, CLUSTER_CA)?;
        let serving = Issued {
            cert_pem: read(&dir.join("apiserver.crt"))?,
            key_pem: read(&dir.join("apiserver.key"))?,
        };
        Ok(Pki {
            ca_pem,
            issuer,
            serving,
        })
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Whom extension servers believe when it says on whose behalf it asks, and what we show them.
    pub fn front_proxy(dir: &Path) -> Result<FrontProxy, PkiError> {
        let (ca_pem, issuer) = open_ca(dir, PROXY_CA)?;
        let request = CertRequest {
            cn: FRONT_PROXY.to_owned(),
            client: true,
            ..CertRequest::default()
        };
        Ok(FrontProxy {
            ca_pem,
            client: sign(&issuer, &request)?,
        })
    }

    /// What the API server shows to its clients.
    pub fn serving(&self) -> &Issued {
        &self.serving
    }

    /// Signs a new certificate with a new key.
    pub fn issue(&self, request: &CertRequest) -> Result<Issued, PkiError> {
        sign(&self.issuer, request)
    }

    /// Signs what somebody else holds the key of.
    pub fn sign_request(
        &self,
        request: &CertificateSigningRequestParams,
        cn: &str,
    ) -> Result<String, PkiError> {
        let made = request.signed_by(&self.issuer).map_err(|e| PkiError::Issue {
            cn: cn.to_owned(),
            message: e.to_string(),
        })?;
        Ok(made.pem())
    }

    /// When the authority itself ends.
    pub fn ends(&self) -> jiff::Timestamp {
        validity(&self.ca_pem).map_or(jiff::Timestamp::MAX, |(_, end)| end)
    }

    /// A kubeconfig for `server` (`https://host:port`) with a fresh client certificate.
    pub fn kubeconfig(&self, cluster: &str, server: &str, request: &CertRequest) -> Result<String, PkiError> {
        Ok(super::kubeconfig::render(
            cluster,
            server,
            &request.cn,
            &self.ca_pem,
            &self.issue(request)?,
        ))
    }
}

/// From when to when the first certificate of a text is valid; `None` of what is none.
pub fn validity(pem: &str) -> Option<(jiff::Timestamp, jiff::Timestamp)> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let (from, to) = (
        &certificate.validity().not_before,
        &certificate.validity().not_after,
    );
    let at = |second| jiff::Timestamp::from_second(second).ok();
    Some((at(from.timestamp())?, at(to.timestamp())?))
}

/// Whether its certificate is for nothing but to show who a client is.
pub fn is_for_clients_only(pem: &str) -> bool {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok();
    let usage = der.as_ref().and_then(|der| {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let usage = certificate.extended_key_usage().ok()??;
        Some(usage.value.client_auth && !usage.value.server_auth && !usage.value.any)
    });
    usage == Some(true)
}

/// The key in a file, PEM; made there, readable by its owner only, when there is none.
pub(super) fn key_file(path: &Path) -> Result<String, PkiError> {
    if !path.exists() {
        let pair = KeyPair::generate().map_err(|e| PkiError::Issue {
            cn: "service account tokens".to_owned(),
            message: e.to_string(),
        })?;
        write(path, &pair.serialize_pem(), 0o600)?;
    }
    read(path)
}

fn open_ca(dir: &Path, name: &str) -> Result<(String, Issuer<'static, KeyPair>), PkiError> {
    let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    let ca_pem = read(&cert)?;
    let pair = KeyPair::from_pem(&read(&key)?).map_err(damaged(&key))?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, pair).map_err(damaged(&cert))?;
    Ok((ca_pem, issuer))
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(file("read", path))
}

fn serving_request(sans: &[String]) -> CertRequest {
    let (mut dns, mut ips) = (Vec::new(), Vec::new());
    for san in sans {
        match san.parse::<IpAddr>() {
            Ok(ip) if !ips.contains(&ip) => ips.push(ip),
            Err(_) if !dns.contains(san) => dns.push(san.clone()),
            _ => {}
        }
    }
    CertRequest {
        cn: "kube-apiserver".to_owned(),
        dns,
        ips,
        server: true,
        ..CertRequest::default()
    }
}

/// The key goes last, so that a key on disk means a whole authority.
fn create_ca(cn: &str, cert: &Path, key: &Path) -> Result<(), PkiError> {
    let failed = |e: rcgen::Error| PkiError::Issue {
        cn: cn.to_owned(),
        message: e.to_string(),
    };
    let pair = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
    params.distinguished_name = name(cn, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    valid_for(&mut params, CA_YEARS);
    let made = params.self_signed(&pair).map_err(failed)?;
    write(cert, &made.pem(), 0o644)?;
    write(key, &pair.serialize_pem(), 0o600)
}

/// A certificate that no authority vouches for, with a new key: who serves by it is known by what he listens on.
///
/// # Errors
/// [`PkiError::Issue`]: there is no name for what was asked for.
pub fn self_signed(request: &CertRequest) -> Result<Issued, PkiError> {
    issue(request, |params, pair| params.self_signed(pair))
}

fn sign(issuer: &Issuer<'static, KeyPair>, request: &CertRequest) -> Result<Issued, PkiError> {
    issue(request, |mut params, pair| {
        params.use_authority_key_identifier_extension = true;
        params.signed_by(pair, issuer)
    })
}

fn issue(
    request: &CertRequest,
    sign: impl FnOnce(CertificateParams, &KeyPair) -> Result<Certificate, rcgen::Error>,
) -> Result<Issued, PkiError> {
    let failed = |e: rcgen::Error| PkiError::Issue {
        cn: request.cn.clone(),
        message: e.to_string(),
    };
    let pair = KeyPair::generate().map_err(failed)?;
    let mut params = names(request).map_err(failed)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if request.client {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    if request.server {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    valid_for(&mut params, LEAF_YEARS);
    let made = sign(params, &pair).map_err(failed)?;
    Ok(Issued {
        cert_pem: made.pem(),
        key_pem: pair.serialize_pem(),
    })
}

/// Whose it is to be, without what for and how long.
pub(super) fn names(request: &CertRequest) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(request.dns.clone())?;
    let ips = request.ips.iter().map(|ip| SanType::IpAddress(*ip));
    params.subject_alt_names.extend(ips);
    params.distinguished_name = name(&request.cn, request.org.as_deref());
    Ok(params)
}

fn name(cn: &str, org: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(org) = org {
        name.push(DnType::OrganizationName, org);
    }
    name.push(DnType::CommonName, cn);
    name
}

/// From the first day of this year, so that a clock that is a little behind still accepts it.
fn valid_for(params: &mut CertificateParams, years: i16) {
    let year = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).year();
    params.not_before = rcgen::date_time_ymd((year - 1).into(), 12, 31);
    params.not_after = rcgen::date_time_ymd((year + years).into(), 12, 31);
}

/// Writes beside the target and renames, so that a reader sees all of it or nothing.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .map_err(file("create", &beside))?;
    out.write_all(text.as_bytes())
        .and_then(|()| out.sync_all())
        .map_err(file("write", &beside))?;
    fs::rename(&beside, path).map_err(file("replace", path))
}

fn file(step: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::File { step, path, source }
}

fn damaged(path: &Path) -> impl FnOnce(rcgen::Error) -> PkiError {
    let path = path.to_owned();
    move |e| PkiError::Damaged {
        path,
        message: e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Identity;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_client_certificate_names_user_and_groups() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open_or_create(dir.path(), &["localhost".into(), "127.0.0.1".into()]).unwrap();
        let issued = pki.issue(&CertRequest::node("n1", vec![])).unwrap();
        let der = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
        let who = Identity::from_certificate(&der).unwrap();
        assert_eq!((&*who.user, who.node()), ("system:node:n1", Some("n1")));
    }

    #[test]
    fn the_authority_is_kept_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::open_or_create(dir.path(), &[]).unwrap();
        let second = Pki::open_or_create(dir.path(), &[]).unwrap();
        assert_eq!(first.ca_pem(), second.ca_pem());
        for key in ["ca.key", "apiserver.key"] {
            assert_eq!(
                fs::metadata(dir.path().join(key)).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
    }

    #[test]
    fn what_a_certificate_is_for_and_how_long_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open_or_create(dir.path(), &[]).unwrap();
        let of = |request| pki.issue(&request).unwrap().cert_pem;
        let (client, node) = (
            of(CertRequest::client("u", "g")),
            of(CertRequest::node("n", vec![])),
        );
        assert!(is_for_clients_only(&client) && !is_for_clients_only(&node) && !is_for_clients_only("x"));
        let own = self_signed(&CertRequest::node("n", vec![])).unwrap();
        let (from, to) = validity(&own.cert_pem).unwrap();
        assert!(from < jiff::Timestamp::now() && jiff::Timestamp::now() < to);
    }

    #[test]
    fn a_damaged_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        Pki::open_or_create(dir.path(), &[]).unwrap();
        fs::write(dir.path().join("ca.key"), "nonsense").unwrap();
        let error = Pki::open_or_create(dir.path(), &[]).err().unwrap().to_string();
        assert!(error.contains("ca.key"), "{error}");
    }
}
