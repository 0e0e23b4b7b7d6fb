//! Certificates that this program has others sign: what is sent for a key of its own, and whether what comes is what was asked for.
//! Refuses to know whom it is sent to.
use super::pki::{CertRequest, PkiError, names};
use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::IpAddr;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What is sent, PEM, and the public key that it is for (SubjectPublicKeyInfo, DER).
pub struct Requested {
    pub csr_pem: String,
    pub public_key: Vec<u8>,
}

/// A new private key, PEM.
///
/// # Errors
/// [`PkiError::Issue`].
pub fn new_key(asked: &CertRequest) -> Result<String, PkiError> {
    let pair = KeyPair::generate().map_err(|e| failed(asked, &e))?;
    Ok(pair.serialize_pem())
}

/// Asks for a certificate for these names and this private key; what it is for the object of the API says.
///
/// # Errors
/// [`PkiError::Issue`]: that is no key, or there is no such name.
pub fn request(asked: &CertRequest, key_pem: &str) -> Result<Requested, PkiError> {
    let pair = KeyPair::from_pem(key_pem).map_err(|e| failed(asked, &e))?;
    let csr = names(asked).and_then(|params| params.serialize_request(&pair)?.pem());
    Ok(Requested {
        csr_pem: csr.map_err(|e| failed(asked, &e))?,
        public_key: pair.subject_public_key_info(),
    })
}

fn failed(asked: &CertRequest, error: &rcgen::Error) -> PkiError {
    PkiError::Issue {
        cn: asked.cn.clone(),
        message: error.to_string(),
    }
}

/// What is wrong with the first certificate of a text, if it was asked for so and by the key that is the first of another: it is to be
/// valid now, and to have all names that were asked for; it may have more.
pub fn judge(asked: &CertRequest, cert_pem: &str, key_pem: &str) -> Result<(), String> {
    let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|_| "it is no certificate")?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| "it is no certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| "its key is not there")?;
    let pair = KeyPair::try_from(&key).map_err(|_| "its key is not there")?;
    if certificate.public_key().raw != pair.subject_public_key_info() {
        return Err("it is for another key".to_owned());
    }
    if certificate.validity().not_after.timestamp() <= Timestamp::now().as_second() {
        return Err("it has ended".to_owned());
    }
    let has = alternatives(&certificate);
    let ips = asked.ips.iter().map(IpAddr::to_string);
    match asked
        .dns
        .iter()
        .cloned()
        .chain(ips)
        .find(|name| !has.contains(name))
    {
        Some(name) => Err(format!("it does not have the name {name}")),
        None => Ok(()),
    }
}

/// Names and addresses that a server is known by.
fn alternatives(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes)
                .ok()
                .map(|it| IpAddr::from(it).to_string()),
            _ => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|it| IpAddr::from(it).to_string()),
        },
        _ => None,
    };
    names.filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::certificate_request::{Alternative, Wanted};
    use crate::auth::pki::Pki;
    use jiff::SignedDuration;

    fn node(ips: &[&str]) -> CertRequest {
        CertRequest::node("n", ips.iter().map(|ip| ip.parse().unwrap()).collect())
    }

    #[test]
    fn a_request_has_the_names_that_are_asked_for() {
        use Alternative::{Dns, Ip};
        let client = CertRequest::client("system:node:n", "system:nodes");
        let by_number = CertRequest::node("10.0.0.7", Vec::new());
        for (asked, alternatives) in [
            (client, &[][..]),
            (node(&["10.0.0.1", "fd00::1"]), &[Dns, Ip, Ip]),
            (by_number, &[Ip]),
        ] {
            let requested = request(&asked, &new_key(&asked).unwrap()).unwrap();
            let wanted = Wanted::read(requested.csr_pem.as_bytes()).unwrap();
            assert_eq!(
                (&wanted.name, &*wanted.organizations),
                (&asked.cn, &["system:nodes".to_owned()][..])
            );
            assert_eq!(wanted.alternatives, alternatives);
        }
        assert!(request(&node(&[]), "no key").is_err());
    }

    #[test]
    fn what_comes_is_held_against_what_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open_or_create(dir.path(), &[]).unwrap();
        let asked = node(&["10.0.0.1", "fd00::1"]);
        let (key, other) = (new_key(&asked).unwrap(), new_key(&asked).unwrap());
        let signed = |seconds| {
            let csr_pem = request(&asked, &key).unwrap().csr_pem;
            let life = SignedDuration::from_secs(seconds);
            let wanted = Wanted::read(csr_pem.as_bytes()).unwrap();
            wanted.sign(&pki, &["server auth".to_owned()], life).unwrap()
        };
        let (good, ended) = (signed(60), signed(-60));
        let both = format!("{key}{good}");
        for (asked, certificate, key, expected) in [
            (&asked, &good, &key, Ok(())),
            (&asked, &both, &both, Ok(())),
            (&node(&[]), &good, &key, Ok(())),
            (&asked, &good, &other, Err("it is for another key")),
            (&asked, &ended, &key, Err("it has ended")),
            (&asked, &key, &key, Err("it is no certificate")),
            (&asked, &good, &good, Err("its key is not there")),
            (
                &node(&["10.0.0.2"]),
                &good,
                &key,
                Err("it does not have the name 10.0.0.2"),
            ),
        ] {
            let judged = judge(asked, certificate, key);
            assert_eq!(judged, expected.map_err(str::to_owned), "{asked:?} {expected:?}");
        }
    }
}
