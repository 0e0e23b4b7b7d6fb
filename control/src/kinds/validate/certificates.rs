//! CertificateSigningRequests.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::error::X509Error;
use x509_parser::oid_registry::{
    OID_PKCS1_SHA1WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512,
    OID_SIG_ED25519,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::pem::{self, Block};
use super::{Seen, complain};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;

/// RFC 3279, section 2.2.3.
const OID_SIG_ECDSA_WITH_SHA1: Oid<'static> = oid!(1.2.840.10045.4.1);
/// Seconds; a certificate for less is of no use.
const SHORTEST: i64 = 600;
/// `certificates.k8s.io/v1.KeyUsage`.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub fn create(object: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    let spec = object.at("spec");
    if let Some(why) = bad_request(spec.text("request")) {
        errors.push(FieldError::invalid(
            "spec.request",
            spec.at("request").clone(),
            why,
        ));
    }
    errors.extend(usages(spec.list("usages")));
    errors.extend(signer_name(spec.text("signerName")));
    if let Some(seconds) = spec
        .int("expirationSeconds")
        .filter(|seconds| *seconds < SHORTEST)
    {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid("spec.expirationSeconds", seconds, detail));
    }
    errors
}

/// Why a base64 text is not a certificate request in PEM whose signature proves that the key is there.
fn bad_request(request: &str) -> Option<String> {
    let bytes = STANDARD.decode(request).unwrap_or_default();
    let first = pem::blocks(&bytes).into_iter().next();
    let Some(block) = first.filter(|block| block.label == "CERTIFICATE REQUEST") else {
        return Some("PEM block type must be CERTIFICATE REQUEST".to_owned());
    };
    match X509CertificationRequest::from_der(&block.contents) {
        Err(error) => Some(format!("asn1: structure error: {error}")),
        Ok(([], read)) => bad_signature(&read),
        Ok(_) => Some("asn1: syntax error: trailing data".to_owned()),
    }
}

/// What Go says of a signature that is none of the request's. Those by algorithms that are not known here are for their signers
/// to judge.
fn bad_signature(request: &X509CertificationRequest) -> Option<String> {
    let algorithm = &request.signature_algorithm.algorithm;
    for (known, name) in [
        (OID_PKCS1_SHA1WITHRSA, "SHA1-RSA"),
        (OID_SIG_ECDSA_WITH_SHA1, "ECDSA-SHA1"),
    ] {
        if *algorithm == known {
            return Some(format!(
                "x509: cannot verify signature: insecure algorithm {name}"
            ));
        }
    }
    match request.verify_signature() {
        Ok(()) | Err(X509Error::SignatureUnsupportedAlgorithm) => None,
        Err(_) if *algorithm == OID_SIG_ED25519 => Some("x509: Ed25519 verification failure".to_owned()),
        Err(_) if is_ecdsa(algorithm) => Some("x509: ECDSA verification failure".to_owned()),
        Err(_) if !has_known_size(request) => None,
        Err(_) => Some("crypto/rsa: verification error".to_owned()),
    }
}

/// RSA keys by which signatures are verified here have 2,048 to 8,192 bits.
fn has_known_size(request: &X509CertificationRequest) -> bool {
    match request.certification_request_info.subject_pki.parsed() {
        Ok(PublicKey::RSA(key)) => (2_048..=8_192).contains(&key.key_size()),
        _ => true,
    }
}

fn is_ecdsa(algorithm: &Oid) -> bool {
    [
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
        OID_SIG_ECDSA_WITH_SHA512,
    ]
    .contains(algorithm)
}

/// Why a base64 text, where there is one, is not certificates in PEM.
fn bad_certificate(text: &str) -> Option<String> {
    let bytes = STANDARD.decode(text).unwrap_or_default();
    if text.is_empty() {
        return None;
    }
    match pem::blocks(&bytes).as_slice() {
        [] => Some("must contain at least one CERTIFICATE PEM block".to_owned()),
        blocks => blocks.iter().find_map(bad_block),
    }
}

fn bad_block(block: &Block) -> Option<String> {
    if block.label != "CERTIFICATE" {
        let label = &block.label;
        return Some(format!(
            "only CERTIFICATE PEM blocks are allowed, found {label:?}"
        ));
    }
    if block.has_headers {
        return Some("no PEM block headers are permitted".to_owned());
    }
    if block.contents.is_empty() {
        return Some("found CERTIFICATE PEM block containing 0 certificates".to_owned());
    }
    let mut rest = block.contents.as_slice();
    while !rest.is_empty() {
        match X509Certificate::from_der(rest) {
            Ok((behind, _)) => rest = behind,
            Err(error) => return Some(format!("x509: malformed certificate: {error}")),
        }
    }
    None
}

fn usages(usages: &[Value]) -> FieldErrors {
    if usages.is_empty() {
        return vec![FieldError::required("spec.usages", "")];
    }
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, usage) in usages.iter().filter_map(Value::as_str).enumerate() {
        let path = format!("spec.usages[{i}]");
        if !USAGES.contains(&usage) {
            errors.push(FieldError::not_supported(path.clone(), usage, &USAGES));
        }
        if seen.again(usage) {
            errors.push(FieldError::duplicate(path, usage));
        }
    }
    errors
}

/// `domain/path`, where the domain has a dot.
fn signer_name(name: &str) -> FieldErrors {
    const PATH: &str = "spec.signerName";
    if name.is_empty() {
        return vec![FieldError::required(PATH, "")];
    }
    if name == "kubernetes.io/legacy-unknown" {
        let why = "the legacy signerName is not allowed via this API version";
        return vec![FieldError::invalid(PATH, name, why)];
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, path] = parts[..] else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return vec![FieldError::invalid(PATH, name, why)];
    };
    let mut errors = complain(PATH, domain, names::subdomain(domain));
    if errors.is_empty() && !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(PATH, domain, why));
    }
    for part in path.split('.') {
        errors.extend(complain(PATH, path, names::subdomain(part)));
    }
    errors
}

pub fn update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = conditions(new.list("status.conditions"));
    let (is, was) = (new.text("status.certificate"), old.text("status.certificate"));
    // What is no certificate already may be any other nonsense.
    let judged = is != was && bad_certificate(was).is_none();
    let why = judged.then(|| bad_certificate(is)).flatten();
    errors.extend(why.map(|why| FieldError::invalid("status.certificate", "<certificate data>", why)));
    let count = |object: &Value, kind: &str| {
        let conditions = object.list("status.conditions").iter();
        conditions.filter(|c| c.text("type") == kind).count()
    };
    for kind in ["Approved", "Denied", "Failed"] {
        if count(new, kind) < count(old, kind) {
            let detail = format!("updates may not remove a condition of type {kind:?}");
            errors.push(FieldError::forbidden("status.conditions", detail));
        }
    }
    let deciding = subresource == Some("approval");
    for kind in ["Approved", "Denied"].into_iter().filter(|_| !deciding) {
        if count(new, kind) > count(old, kind) {
            let detail = format!("updates may not add a condition of type {kind:?}");
            errors.push(FieldError::forbidden("status.conditions", detail));
        }
    }
    if subresource == Some("status") && !was.is_empty() && is != was {
        let detail = "updates may not modify existing certificate content";
        errors.push(FieldError::forbidden("status.certificate", detail));
    }
    errors
}

fn conditions(conditions: &[Value]) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    let has = |kind: &str| conditions.iter().any(|c| c.text("type") == kind);
    for (i, condition) in conditions.iter().enumerate() {
        let path = format!("status.conditions[{i}]");
        let (kind, status) = (condition.text("type"), condition.text("status"));
        if kind.is_empty() {
            errors.push(FieldError::required(format!("{path}.type"), ""));
        }
        match (kind, status) {
            (_, "") => errors.push(FieldError::required(format!("{path}.status"), "")),
            ("Approved" | "Denied" | "Failed", status) if status != "True" => {
                errors.push(FieldError::not_supported(
                    format!("{path}.status"),
                    status,
                    &["True"],
                ));
            }
            (_, "True" | "False" | "Unknown") => {}
            (_, status) => {
                let known = ["False", "True", "Unknown"];
                errors.push(FieldError::not_supported(
                    format!("{path}.status"),
                    status,
                    &known,
                ));
            }
        }
        if seen.again(kind) {
            errors.push(FieldError::duplicate(format!("{path}.type"), kind));
        }
    }
    if has("Approved") && has("Denied") {
        let detail = "Approved and Denied conditions are mutually exclusive";
        errors.push(FieldError::invalid("status.conditions", "Denied", detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::error::join;

    #[test]
    fn what_is_no_request_is_told() {
        let object = json!({"spec": {"request": "bm90IGEgY3Ny", "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}});
        assert_eq!(
            join(&create(&object)),
            "spec.request: Invalid value: \"bm90IGEgY3Ny\": PEM block type must be CERTIFICATE REQUEST"
        );
    }

    #[test]
    fn a_request_is_signed_by_the_key_that_it_is_for() {
        let key = rcgen::KeyPair::generate().unwrap();
        let request = rcgen::CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let der = request.der().to_vec();
        let (mut forged, mut longer) = (der.clone(), der.clone());
        // The last byte of the signature, whose form stays what it was.
        *forged.last_mut().unwrap() ^= 1;
        longer.push(0);
        for (der, want) in [
            (der, None),
            (forged, Some("x509: ECDSA verification failure")),
            (longer, Some("asn1: syntax error: trailing data")),
        ] {
            let text = STANDARD.encode(pem("CERTIFICATE REQUEST", &der));
            assert_eq!(bad_request(&text).as_deref(), want);
        }
    }

    #[test]
    fn signers_have_a_domain() {
        for (name, good) in [
            ("a.b/c", true),
            ("kubernetes.io/kubelet-serving", true),
            ("ab", false),
            ("a/b", false),
            ("a.b/c/d", false),
        ] {
            assert_eq!(signer_name(name).is_empty(), good, "{name}");
        }
    }

    /// DER as a PEM block with that label.
    fn pem(label: &str, der: &[u8]) -> String {
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            STANDARD.encode(der)
        )
    }

    #[test]
    fn what_is_signed_is_certificates() {
        let key = rcgen::KeyPair::generate().unwrap();
        let der = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let good = pem("CERTIFICATE", der.der());
        let twice = [&der.der()[..], &der.der()[..]].concat();
        let headed = good.replacen('\n', "\nA: b\n\n", 1);
        let none = "must contain at least one CERTIFICATE PEM block";
        for (text, want) in [
            (String::new(), ""),
            (good.clone(), ""),
            (format!("said by somebody\n{good}{good}"), ""),
            (pem("CERTIFICATE", &twice), ""),
            ("hi".to_owned(), none),
            (pem("CERTIFICATE", b"hi").replace('=', "~"), none),
            (
                good.clone() + &pem("CERTIFICATE", &[]),
                "found CERTIFICATE PEM block containing 0 certificates",
            ),
            (
                pem("PRIVATE KEY", b"hi"),
                "only CERTIFICATE PEM blocks are allowed, found \"PRIVATE KEY\"",
            ),
            (headed, "no PEM block headers are permitted"),
            (format!("Subject: CN=a\n{good}"), ""),
            (format!("a: b\n{}", good.replace("-----END", "-----AND")), none),
            (good.replace("-----END", "-----AND") + &good, ""),
            (
                pem("PRIVATE KEY", b"hi").replacen('\n', "\nA: b\n\n", 1),
                "only CERTIFICATE PEM blocks are allowed, found \"PRIVATE KEY\"",
            ),
            (
                good.clone() + &pem("CERTIFICATE", b"hi"),
                "x509: malformed certificate",
            ),
        ] {
            let told = bad_certificate(&STANDARD.encode(&text)).unwrap_or_default();
            assert!(
                told.starts_with(want) && told.is_empty() == want.is_empty(),
                "{text}: {told}"
            );
        }
    }

    #[test]
    fn a_certificate_is_set_once() {
        let of = |text: &str| json!({"status": {"certificate": STANDARD.encode(text)}});
        let none = "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block";
        let again = "status.certificate: Forbidden: updates may not modify existing certificate content";
        for (new, old, want) in [
            (of("hi"), of(""), none),
            (of("hi"), of("hi"), "[]"),
            (of("ho"), of("hi"), again),
            (of(""), of("hi"), again),
        ] {
            assert_eq!(join(&update(Some("status"), &new, &old)), want, "{new} {old}");
        }
    }

    #[test]
    fn a_decision_stays() {
        let of = |kind: &str| json!({"status": {"conditions": [{"type": kind, "status": "True"}]}});
        assert_eq!(update(Some("approval"), &of("Approved"), &json!({})), []);
        assert!(!update(Some("approval"), &of("Denied"), &of("Approved")).is_empty());
        let both = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]}});
        assert!(join(&update(Some("approval"), &both, &json!({}))).contains("mutually exclusive"));
    }
}
