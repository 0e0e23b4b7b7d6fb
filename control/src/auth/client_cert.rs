//! Client certificates in a TLS handshake: any is taken, only those of the cluster's authority name somebody.
//!
//! A handshake that fails tells a client nothing; upstream answers 401 instead. So the handshake proves only that the
//! client holds the key of the certificate it shows, and the chain is judged afterwards, by [`ClientCertificates::identify`].
use super::Identity;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use std::sync::Arc;

#[derive(Debug)]
pub struct ClientCertificates {
    judge: Arc<dyn ClientCertVerifier>,
}

impl ClientCertificates {
    pub fn new(roots: RootCertStore, provider: Arc<rustls::crypto::CryptoProvider>) -> Result<Self, String> {
        let judge = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let judge = judge.allow_unauthenticated().build().map_err(|e| e.to_string())?;
        Ok(ClientCertificates { judge })
    }

    /// Who a verified chain is; nobody when it is not of this authority, or not valid now.
    pub fn identify(&self, chain: &[CertificateDer<'_>]) -> Option<Identity> {
        let (own, between) = chain.split_first()?;
        match self.judge.verify_client_cert(own, between, UnixTime::now()) {
            Ok(_) => Identity::from_certificate(own),
            Err(error) => {
                tracing::debug!(%error, "a client certificate is not of this cluster");
                None
            }
        }
    }
}

impl ClientCertVerifier for ClientCertificates {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.judge.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _own: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}
