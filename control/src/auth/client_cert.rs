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
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate that was shown and names nobody here, as an extension of the requests of its connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a client certificate was refused: {subject:?}: {why}")]
pub struct RefusedCertificate {
    /// Whom it says it is; whoever made it may say what he likes.
    subject: String,
    why: String,
}

impl RefusedCertificate {
    fn new(der: &[u8], why: impl Into<String>) -> Self {
        let read = X509Certificate::from_der(der);
        RefusedCertificate {
            subject: read.map_or_else(|_| String::new(), |(_, own)| own.subject().to_string()),
            why: why.into(),
        }
    }
}

/// Whom a certificate names, and for how long: it may end before its connection does.
#[derive(Debug)]
pub struct Known {
    who: Identity,
    /// Seconds since the epoch.
    until: i64,
    /// What it is from then on.
    expired: RefusedCertificate,
}

impl Known {
    /// Whom it names at a time.
    ///
    /// # Errors
    /// It is not valid any more.
    pub fn at(&self, now: UnixTime) -> Result<&Identity, &RefusedCertificate> {
        match i64::try_from(now.as_secs()) {
            Ok(now) if now <= self.until => Ok(&self.who),
            _ => Err(&self.expired),
        }
    }

    /// For how many more seconds it is good.
    pub fn left(&self, now: UnixTime) -> u64 {
        let until = u64::try_from(self.until).unwrap_or_default();
        until.saturating_sub(now.as_secs())
    }
}

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

    /// Whom a chain that was shown names.
    ///
    /// # Errors
    /// It is not of this authority, not valid now, not for clients, or names nobody.
    pub fn identify(&self, chain: &[CertificateDer<'_>]) -> Result<Known, RefusedCertificate> {
        let Some((own, between)) = chain.split_first() else {
            return Err(RefusedCertificate::new(&[], "the chain is empty"));
        };
        let judged = self.judge.verify_client_cert(own, between, UnixTime::now());
        judged.map_err(|why| RefusedCertificate::new(own, why.to_string()))?;
        let nobody = || RefusedCertificate::new(own, "it names nobody");
        let (_, read) = X509Certificate::from_der(own).map_err(|_| nobody())?;
        Ok(Known {
            who: Identity::from_certificate(own).ok_or_else(nobody)?,
            until: read.validity().not_after.timestamp(),
            expired: RefusedCertificate::new(own, "it has expired since it was shown"),
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };
    use std::time::Duration;

    /// An authority, and its own certificate.
    fn authority(name: &str) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let mut params = certificate(name, 2999, ExtendedKeyUsagePurpose::Any);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let own = params.self_signed(&key).unwrap().der().clone();
        (own, Issuer::new(params, key))
    }

    fn certificate(name: &str, until: i32, purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        params.extended_key_usages = vec![purpose];
        params
    }

    /// An authority, and who judges by it.
    fn judge() -> (Issuer<'static, KeyPair>, ClientCertificates) {
        let (root, ours) = authority("ours");
        let mut roots = RootCertStore::empty();
        roots.add(root).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        (ours, ClientCertificates::new(roots, provider).unwrap())
    }

    fn signed(params: CertificateParams, issuer: &Issuer<'_, KeyPair>) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, issuer).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_ends_while_its_connection_lasts() {
        let (ours, judge) = judge();
        let shown = signed(
            certificate("bob", 2999, ExtendedKeyUsagePurpose::ClientAuth),
            &ours,
        );
        let known = judge.identify(&[shown]).unwrap();
        let end = u64::try_from(known.until).unwrap();
        let at = |seconds| known.at(UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
        assert_eq!(at(end).map(|who| &*who.user), Ok("bob"));
        let why = "a client certificate was refused: \"CN=bob\": it has expired since it was shown";
        assert_eq!(at(end + 1).unwrap_err().to_string(), why);
    }

    #[test]
    fn a_refusal_says_whose_it_is_and_why() {
        let (ours, judge) = judge();
        let (_, theirs) = authority("theirs");
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        let server = ExtendedKeyUsagePurpose::ServerAuth;
        let wrong = "\"CN=bob\": invalid peer certificate: ";
        let (unknown, expired) = (
            format!("{wrong}UnknownIssuer"),
            format!("{wrong}certificate expired"),
        );
        for (name, until, purpose, issuer, want) in [
            ("bob", 2999, &client, &ours, ""),
            ("bob", 2999, &client, &theirs, unknown.as_str()),
            ("bob", 2001, &client, &ours, &expired),
            ("bob", 2999, &server, &ours, wrong),
            ("", 2999, &client, &ours, "\"\": it names nobody"),
        ] {
            let shown = signed(certificate(name, until, purpose.clone()), issuer);
            let told = judge.identify(&[shown]);
            let told = told.map_or_else(|why| why.to_string(), |known| known.who.user.to_string());
            let prefix = "a client certificate was refused: ";
            match want {
                "" => assert_eq!(told, name),
                want => assert!(told.starts_with(&format!("{prefix}{want}")), "{want}: {told}"),
            }
        }
        let empty = judge.identify(&[]).unwrap_err().to_string();
        assert!(empty.ends_with("the chain is empty"), "{empty}");
    }
}
