//! Secrets of type `kubernetes.io/tls` whose certificate and key do not make a pair.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::InconsistentKeys;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde_json::Value;

use crate::kinds::view::View;

/// What a TLS library would say that loads the two.
pub(super) fn key_pair(secret: &Value) -> Option<String> {
    if secret.text("type") != "kubernetes.io/tls" {
        return None;
    }
    let part = |key: &str| {
        let text = secret.at("data").get(key).and_then(Value::as_str);
        STANDARD.decode(text.unwrap_or_default()).unwrap_or_default()
    };
    let (certificate, key) = (part("tls.crt"), part("tls.key"));
    let missing = |what: &str| Some(format!("tls: failed to find any PEM data in {what} input"));
    let Some(Ok(certificate)) = CertificateDer::pem_slice_iter(&certificate).next() else {
        return missing("certificate");
    };
    let Ok(key) = PrivateKeyDer::from_pem_slice(&key) else {
        return missing("key");
    };
    let provider = rustls::crypto::ring::default_provider();
    match CertifiedKey::from_der(vec![certificate], key, &provider) {
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Some("tls: private key does not match public key".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pair_is_two_that_fit() {
        let pair = || {
            let made = rcgen::generate_simple_self_signed(vec!["x.example.com".to_owned()]).expect("made");
            (made.cert.pem(), made.signing_key.serialize_pem())
        };
        let ((certificate, key), (_, other)) = (pair(), pair());
        let told = |certificate: &str, key: &str| {
            let data = json!({"tls.crt": STANDARD.encode(certificate), "tls.key": STANDARD.encode(key)});
            key_pair(&json!({"type": "kubernetes.io/tls", "data": data}))
        };
        assert_eq!(told(&certificate, &key), None);
        let mismatch = told(&certificate, &other).expect("told");
        assert_eq!(mismatch, "tls: private key does not match public key");
        let missing = told(&certificate, "none").expect("told");
        assert_eq!(missing, "tls: failed to find any PEM data in key input");
    }
}
