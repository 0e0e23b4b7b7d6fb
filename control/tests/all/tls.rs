//! A TLS connection to a control plane, for requests that no client library would make.
use super::plane::Plane;
use amphipod_control::auth::pki::CertRequest;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// As an administrator, speaking `protocol` (`h2`, `http/1.1`).
pub async fn connect(plane: &Plane, protocol: &[u8]) -> TlsStream<TcpStream> {
    connect_as(plane, protocol, "admin", "system:masters").await
}

pub async fn connect_as(plane: &Plane, protocol: &[u8], user: &str, group: &str) -> TlsStream<TcpStream> {
    let pki = plane.control.pki();
    let issued = pki.issue(&CertRequest::client(user, group)).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).unwrap())
        .unwrap();
    let chain = vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    let tcp = TcpStream::connect(plane.control.local_addr()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .unwrap()
}
