//! Who calls the kubelet API, by client certificate, and who may.
//!
//! The API server comes as `kube-apiserver-kubelet-client`; administrators are in `system:masters`. About anyone else the
//! API server is asked (see `authorize`).

use std::io;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::ServerOptions;

const API_SERVER: &str = "kube-apiserver-kubelet-client";
const ADMINISTRATORS: &str = "system:masters";

/// Why the node's certificate cannot be served, or the cluster's CA not be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the {what} of the kubelet API is not usable PEM: {reason}")]
    Pem { what: &'static str, reason: String },
    #[error("the kubelet API cannot use its certificates")]
    Rustls(#[source] rustls::Error),
}

/// A server that asks for a client certificate of the cluster's CA, and lets a client without one
/// through to be told 401.
pub fn server_config(options: &ServerOptions) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for ca in certificates("cluster CA", &options.ca_pem)? {
        roots.add(ca).map_err(TlsError::Rustls)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| pem("cluster CA", io::Error::other(e)))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(options.serving.clone()));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

pub(super) fn certificates(what: &'static str, text: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.map_err(|e| pem(what, io::Error::other(e)))?;
    if found.is_empty() {
        return Err(pem(what, io::Error::other("no certificate in it")));
    }
    Ok(found)
}

pub(super) fn pem(what: &'static str, error: io::Error) -> TlsError {
    TlsError::Pem {
        what,
        reason: error.to_string(),
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// No certificate was shown.
    Unknown,
    Known {
        name: String,
        groups: Vec<String>,
    },
}

impl Caller {
    /// The subject of a verified certificate: CN is the user, each O a group (documentation: Authenticating).
    pub fn of(chain: Option<&[CertificateDer<'_>]>) -> Self {
        let Some(first) = chain.and_then(<[_]>::first) else {
            return Self::Unknown;
        };
        let Ok((_, certificate)) = X509Certificate::from_der(first) else {
            return Self::Unknown;
        };
        let subject = certificate.subject();
        let name = subject.iter_common_name().find_map(|cn| cn.as_str().ok());
        let groups = subject
            .iter_organization()
            .filter_map(|o| o.as_str().ok())
            .map(str::to_owned)
            .collect();
        match name {
            Some(name) => Self::Known {
                name: name.to_owned(),
                groups,
            },
            None => Self::Unknown,
        }
    }

    pub fn is_allowed(&self) -> bool {
        match self {
            Self::Unknown => false,
            Self::Known { name, groups } => name == API_SERVER || groups.iter().any(|g| g == ADMINISTRATORS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str, groups: &[&str]) -> Caller {
        Caller::Known {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        }
    }

    #[test]
    fn the_api_server_and_administrators_get_in() {
        assert!(known(API_SERVER, &[]).is_allowed());
        assert!(known("admin", &["dev", ADMINISTRATORS]).is_allowed());
        for other in [
            Caller::Unknown,
            known("system:node:n", &["system:nodes"]),
            known(ADMINISTRATORS, &[API_SERVER]),
        ] {
            assert!(!other.is_allowed(), "{other:?}");
        }
    }
}
