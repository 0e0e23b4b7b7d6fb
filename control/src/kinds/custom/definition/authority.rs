//! Whether anything can be trusted by the `caBundle` of a definition's converter, in upstream's words (`ValidateCABundle`).
//!
//! A definition may be created with any; it is established when its bundle can be read, and keeps to that.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::kinds::custom::build::established;
use crate::kinds::error::FieldError;
use crate::kinds::view::View;

const CERTIFICATE: &str = "CERTIFICATE";

/// Whether the bundle of the definition's converter, if it has one, can be read.
pub fn has_good_authority(definition: &Value) -> bool {
    wrong(bundle(definition)).is_none()
}

/// What is wrong with the bundle that an established definition is given; nothing where the one before was no better.
pub(super) fn update(new: &Value, old: &Value) -> Option<FieldError> {
    let tolerated = !established(old) || !has_good_authority(old);
    let why =
        wrong(bundle(new)).filter(|_| !tolerated && new.text("spec.conversion.strategy") == "Webhook")?;
    let why = format!("unable to load root certificates: {why}");
    let path = "spec.conversion.webhookClientConfig.caBundle";
    Some(FieldError::invalid(path, bundle(new), why))
}

/// Base64 of PEM; empty where there is none.
fn bundle(definition: &Value) -> &str {
    definition.text("spec.conversion.webhook.clientConfig.caBundle")
}

/// One good certificate makes up for everything else.
fn wrong(bundle: &str) -> Option<&'static str> {
    // What is no base64 was refused before anybody asks.
    let bytes = STANDARD.decode(bundle).ok().filter(|bytes| !bytes.is_empty())?;
    let blocks: Vec<Pem> = Pem::iter_from_buffer(&bytes).map_while(Result::ok).collect();
    let mut certificates = blocks
        .iter()
        .filter(|block| block.label == CERTIFICATE)
        .peekable();
    if blocks.is_empty() {
        return Some("unable to parse bytes as PEM block");
    }
    if certificates.peek().is_none() {
        return Some("no valid certificate authority data seen");
    }
    let good = certificates.any(|block| X509Certificate::from_der(&block.contents).is_ok());
    (!good).then_some("failed to parse certificate: x509: malformed certificate")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn definition(bundle: &str, established: &str) -> Value {
        let client = json!({"url": "https://c", "caBundle": STANDARD.encode(bundle)});
        json!({"spec": {"conversion": {"strategy": "Webhook", "webhook": {"clientConfig": client}}},
            "status": {"conditions": [{"type": "Established", "status": established}]}})
    }

    #[test]
    fn an_established_definition_keeps_a_bundle_that_can_be_read() {
        let made = rcgen::generate_simple_self_signed(["a".to_owned()]).expect("a certificate");
        let good = made.cert.pem();
        let block = |label: &str| format!("-----BEGIN {label}-----\nAAEC\n-----END {label}-----\n");
        let (none, key, broken) = ("some text", block("PRIVATE KEY"), block("CERTIFICATE"));
        let mixed = format!("{key}{broken}{good}");
        let no_block = Some("unable to parse bytes as PEM block");
        for (before, established, now, why) in [
            (&*good, "True", none, no_block),
            ("", "True", none, no_block),
            (
                "",
                "True",
                &*key,
                Some("no valid certificate authority data seen"),
            ),
            (
                "",
                "True",
                &*broken,
                Some("failed to parse certificate: x509: malformed certificate"),
            ),
            ("", "True", &*mixed, None),
            (&*good, "True", "", None),
            (none, "True", &*key, None),
            (&*good, "False", none, None),
        ] {
            let (old, new) = (definition(before, established), definition(now, "True"));
            let wanted = why.map(|why| {
                let bundle = STANDARD.encode(now);
                format!(
                    "spec.conversion.webhookClientConfig.caBundle: Invalid value: {bundle:?}: unable to load root \
                     certificates: {why}"
                )
            });
            assert_eq!(update(&new, &old).map(|error| error.to_string()), wanted);
        }
    }
}
