//! The certificate that the kubelet API serves with, which may come late and be another one later. Refuses to know where it is from.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::auth::{TlsError, certificates, pem};
use crate::options::TlsPair;

/// What connections are served with from now on; while there is none, handshakes fail, as upstream's kubelet has it.
#[derive(Clone, Debug, Default)]
pub struct Serving(Arc<RwLock<Option<Arc<CertifiedKey>>>>);

impl Serving {
    /// For connections to come; those that there are stay.
    ///
    /// # Errors
    /// When that is no certificate with its key: what was there before stays.
    pub fn set(&self, pair: &TlsPair) -> Result<(), TlsError> {
        let chain = certificates("certificate", &pair.cert_pem)?;
        let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes())
            .map_err(|e| pem("private key", io::Error::other(e)))?;
        let provider = rustls::crypto::ring::default_provider();
        let made = CertifiedKey::from_der(chain, key, &provider).map_err(TlsError::Rustls)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(made));
        Ok(())
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
