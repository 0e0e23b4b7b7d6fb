//! Whom to trust at the other end, and who we are there.
use super::Place;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::{Arc, LazyLock};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::auth::pki::Issued;

/// Where systems keep the authorities they trust, for servers without a bundle of their own.
const SYSTEM_ROOTS: [&str; 2] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

/// Whose certificate is good.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// `caBundle`, base64 of PEM; empty or missing: what the system trusts.
    Bundle(Option<&'a str>),
    /// Anyone's, as an APIService with `insecureSkipTLSVerify` demands, and for workloads, over whose certificates there is
    /// no authority.
    Anyone,
}

/// Connects and shakes hands; with `own` we show that certificate.
pub async fn dial(
    place: &Place,
    trust: Trust<'_>,
    own: Option<&Issued>,
) -> Result<TlsStream<TcpStream>, String> {
    let connector = TlsConnector::from(Arc::new(config(trust, own)?));
    let tcp = TcpStream::connect(&place.address)
        .await
        .map_err(|e| format!("dial tcp {}: {}", place.address, why(&e)))?;
    // Small answers must not wait for Nagle; when that cannot be set, they are merely slower.
    let _ = tcp.set_nodelay(true);
    let name = ServerName::try_from(place.host.clone()).map_err(|e| e.to_string())?;
    let stream = connector.connect(name, tcp).await;
    stream.map_err(|e| format!("tls: {e}"))
}

/// How a client shakes hands with whom it trusts.
///
/// # Errors
/// The bundle, or our own certificate, cannot be read.
pub fn config(trust: Trust<'_>, own: Option<&Issued>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match trust {
        Trust::Bundle(bundle) => builder.with_root_certificates(roots(bundle)?),
        Trust::Anyone => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider))),
    };
    let Some(own) = own else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = CertificateDer::from_pem_slice(own.cert_pem.as_bytes()).map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).map_err(|e| e.to_string())?;
    builder
        .with_client_auth_cert(vec![chain], key)
        .map_err(|e| e.to_string())
}

/// What the system trusts, read once: it is asked for on every call to a server without a bundle.
static SYSTEM: LazyLock<Result<Arc<RootCertStore>, String>> = LazyLock::new(|| {
    let mut files = SYSTEM_ROOTS.iter();
    let pem = files.find_map(|file| std::fs::read(file).ok());
    store(&pem.unwrap_or_default())
});

/// The bundle, or what the system trusts.
fn roots(bundle: Option<&str>) -> Result<Arc<RootCertStore>, String> {
    let Some(bundle) = bundle.filter(|b| !b.is_empty()) else {
        return SYSTEM.clone();
    };
    let pem = STANDARD.decode(bundle);
    store(&pem.map_err(|e| format!("caBundle cannot be decoded: {e}"))?)
}

fn store(pem: &[u8]) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|e| format!("caBundle cannot be read: {e}"))?;
        // A system's bundle holds old forms that rustls does not take; a bundle of none at all trusts nobody.
        let _ = roots.add(certificate);
    }
    Ok(Arc::new(roots))
}

/// Takes every certificate. A signature by a key that anybody may have says nothing either, and workloads have
/// certificates that no verifier reads.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// In upstream's words, where clients may look for them.
fn why(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        _ => error.to_string(),
    }
}
