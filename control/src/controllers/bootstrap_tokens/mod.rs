//! Bootstrap tokens, by which new nodes join: they end at their time, and what is public about the cluster is signed with
//! them (upstream's `pkg/controller/bootstrap`, as kubeadm has it run).
mod cleaner;
mod signer;

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use super::context::Context;
pub use signer::{CLUSTER_INFO, PUBLIC};

pub const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Where they are kept.
pub const NAMESPACE: &str = "kube-system";

/// Registers for changes and returns the futures that do the work.
pub fn start(context: &Context) -> Vec<BoxFuture<'static, ()>> {
    vec![cleaner::start(context), signer::start(context)]
}

/// A member of the Secret; nothing when it is not there, or no text.
fn text<'s>(secret: &'s Secret, key: &str) -> &'s str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes
        .and_then(|bytes| std::str::from_utf8(&bytes.0).ok())
        .unwrap_or_default()
}

/// When the token ends, if it ever does; one whose end cannot be read has ended.
fn end(secret: &Secret) -> Option<Timestamp> {
    match text(secret, "expiration") {
        "" => None,
        end => Some(end.parse().unwrap_or(Timestamp::MIN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A Secret of this name with these members.
    pub(super) fn secret(name: &str, members: Value) -> Secret {
        let whole = json!({"metadata": {"name": name, "namespace": NAMESPACE}, "type": TYPE});
        let mut secret: Secret = serde_json::from_value(whole).expect("a Secret");
        let members = members.as_object().expect("members").clone();
        let bytes = |text: &Value| k8s_openapi::ByteString(text.as_str().unwrap_or_default().into());
        secret.data = Some(
            members
                .iter()
                .map(|(key, text)| (key.clone(), bytes(text)))
                .collect(),
        );
        secret
    }

    #[test]
    fn a_token_ends_when_it_says_or_when_that_cannot_be_read() {
        let at = |text: &str| text.parse::<Timestamp>().ok();
        for (members, want) in [
            (json!({}), None),
            (json!({"expiration": ""}), None),
            (
                json!({"expiration": "2026-01-01T01:00:00+01:00"}),
                at("2026-01-01T00:00:00Z"),
            ),
            (json!({"expiration": "soon"}), Some(Timestamp::MIN)),
        ] {
            assert_eq!(end(&secret("t", members.clone())), want, "{members}");
        }
    }
}
