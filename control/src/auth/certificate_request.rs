//! Certificate requests of others (PKCS #10): what they ask for, and signing them with the cluster's authority.
use super::pki::{Pki, PkiError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use std::time::Duration;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// A certificate is valid from a little before it is made, for clocks that are behind (upstream's backdate).
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// A kind of alternative names (RFC 5280, section 4.2.1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alternative {
    Dns,
    Email,
    Ip,
    Uri,
    Other,
}

impl Alternative {
    fn of(name: &SanType) -> Self {
        match name {
            SanType::DnsName(_) => Alternative::Dns,
            SanType::Rfc822Name(_) => Alternative::Email,
            SanType::IpAddress(_) => Alternative::Ip,
            SanType::URI(_) => Alternative::Uri,
            _ => Alternative::Other,
        }
    }
}

/// What a request asks for.
pub struct Wanted {
    /// Common name: the user.
    pub name: String,
    /// Organizations: the groups.
    pub organizations: Vec<String>,
    /// Of what kinds its alternative names are.
    pub alternatives: Vec<Alternative>,
    params: CertificateSigningRequestParams,
}

impl Wanted {
    /// Of an object of the API.
    pub fn of(request: &Value) -> Result<Self, String> {
        let text = request["spec"]["request"].as_str().unwrap_or_default();
        Self::read(&STANDARD.decode(text).map_err(|e| e.to_string())?)
    }

    /// Reads PEM; its signature must prove that the key is there.
    pub fn read(pem: &[u8]) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let der = CertificateSigningRequestDer::from_pem_slice(pem).map_err(|e| text(&e))?;
        let (_, parsed) = X509CertificationRequest::from_der(&der).map_err(|e| text(&e))?;
        let subject = &parsed.certification_request_info.subject;
        let texts = |attributes: Vec<&str>| attributes.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let names = texts(
            subject
                .iter_common_name()
                .filter_map(|a| a.as_str().ok())
                .collect(),
        );
        let organizations = texts(
            subject
                .iter_organization()
                .filter_map(|a| a.as_str().ok())
                .collect(),
        );
        let params = CertificateSigningRequestParams::from_der(&der).map_err(|e| text(&e))?;
        let alternatives = params.params.subject_alt_names.iter().map(Alternative::of);
        Ok(Wanted {
            name: names.into_iter().next().unwrap_or_default(),
            organizations,
            alternatives: alternatives.collect(),
            params,
        })
    }

    /// The certificate, PEM, for these usages and so long from now.
    pub fn sign(mut self, pki: &Pki, usages: &[String], life: SignedDuration) -> Result<String, PkiError> {
        let now = Timestamp::now();
        let params = &mut self.params.params;
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let at = |time: Timestamp| epoch + Duration::from_secs(time.as_second().max(0).unsigned_abs());
        params.not_before = at(now - BACKDATE);
        params.not_after = at((now + life).min(pki.ends()));
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = usages.iter().filter_map(|usage| key_usage(usage)).collect();
        params.extended_key_usages = usages.iter().filter_map(|usage| extended(usage)).collect();
        pki.sign_request(&self.params, &self.name)
    }
}

fn key_usage(usage: &str) -> Option<KeyUsagePurpose> {
    match usage {
        "digital signature" | "signing" => Some(KeyUsagePurpose::DigitalSignature),
        "key encipherment" => Some(KeyUsagePurpose::KeyEncipherment),
        _ => None,
    }
}

fn extended(usage: &str) -> Option<ExtendedKeyUsagePurpose> {
    match usage {
        "client auth" => Some(ExtendedKeyUsagePurpose::ClientAuth),
        "server auth" => Some(ExtendedKeyUsagePurpose::ServerAuth),
        _ => None,
    }
}
