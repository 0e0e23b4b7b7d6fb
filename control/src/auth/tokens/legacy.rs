//! Tokens without an end that are kept in Secrets of type `kubernetes.io/service-account-token`: what they say, and
//! whether they still hold ("Manually create a long-lived API token for a ServiceAccount"; upstream's
//! `pkg/serviceaccount/legacy.go`).
//!
//! Nobody makes them unasked; who wants one makes the Secret. When one was last used is not written down.
use crate::auth::identity::account_of;
use crate::auth::{Identity, Reader};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Reference, same};

/// Who issued such a token.
pub const ISSUER: &str = "kubernetes/serviceaccount";
/// The label of a Secret whose token is not to be taken any more.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// The payload of such a token.
pub struct LegacyClaims {
    pub namespace: String,
    pub account: Reference,
    /// The name of the Secret that the token ends with.
    pub secret: String,
}

impl LegacyClaims {
    /// The payload as it is signed.
    pub fn show(&self) -> Value {
        json!({
            "iss": ISSUER,
            "kubernetes.io/serviceaccount/namespace": self.namespace,
            "kubernetes.io/serviceaccount/secret.name": self.secret,
            "kubernetes.io/serviceaccount/service-account.name": self.account.name,
            "kubernetes.io/serviceaccount/service-account.uid": self.account.uid,
            "sub": format!("system:serviceaccount:{}:{}", self.namespace, self.account.name),
        })
    }

    /// The error says which claim is missing or wrong.
    pub(super) fn read(payload: &Value) -> Result<Self, String> {
        let claim = |key: &str, name: &str| {
            let text = payload[key].as_str().filter(|text| !text.is_empty());
            text.map(str::to_owned)
                .ok_or_else(|| format!("{name} claim is missing"))
        };
        let own = |key: &str| format!("kubernetes.io/serviceaccount/{key}");
        let subject = claim("sub", "sub")?;
        let claims = LegacyClaims {
            namespace: claim(&own("namespace"), "namespace")?,
            secret: claim(&own("secret.name"), "secretName")?,
            account: Reference::new(
                &claim(&own("service-account.name"), "serviceAccountName")?,
                &claim(&own("service-account.uid"), "serviceAccountUID")?,
            ),
        };
        match account_of(&subject) {
            Some(named) if named == (&claims.namespace, &claims.account.name) => Ok(claims),
            _ => Err("sub claim is invalid".to_owned()),
        }
    }

    /// The Secret must still hold this very token, and the account be the same.
    pub(super) fn check(&self, reader: &dyn Reader, token: &str) -> Result<(), String> {
        let (namespace, name) = (&self.namespace, &self.account.name);
        let is_deleted = |object: &Value| object["metadata"]["deletionTimestamp"].is_string();
        let secret = reader
            .get(("", "secrets"), Some(namespace), &self.secret)
            .filter(|secret| !is_deleted(secret))
            .ok_or("Token has been invalidated")?;
        let kept = STANDARD.decode(secret["data"]["token"].as_str().unwrap_or_default());
        if !kept.is_ok_and(|kept| same(&kept, token.as_bytes())) {
            return Err("Token does not match server's copy".to_owned());
        }
        let account = reader
            .get(("", "serviceaccounts"), Some(namespace), name)
            .ok_or_else(|| format!("serviceaccounts {name:?} not found"))?;
        if is_deleted(&account) {
            return Err(format!("ServiceAccount {namespace}/{name} has been deleted"));
        }
        let (is, said) = (Reference::of(&account).uid, &self.account.uid);
        if is != *said {
            return Err(format!("ServiceAccount UID ({is}) does not match claim ({said})"));
        }
        match secret["metadata"]["labels"][INVALID_SINCE].as_str() {
            Some(since) if !since.is_empty() => Err(self.marked()),
            _ => Ok(()),
        }
    }

    fn marked(&self) -> String {
        format!(
            "the token in secret {0}/{1} for service account {0}/{2} has been marked invalid. Use tokens from the \
             TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the \
             secret to temporarily allow use of this token",
            self.namespace, self.secret, self.account.name
        )
    }

    /// The account.
    pub(super) fn identity(&self) -> Identity {
        Identity {
            uid: self.account.uid.clone(),
            ..Identity::account(&self.namespace, &self.account.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::reader::{GroupResource, Stored};
    use crate::auth::{References, VolumeSecrets};
    use std::sync::Arc;

    /// A Secret and an account, whatever they are asked for by.
    struct World {
        secret: Value,
        account: Value,
    }

    impl Reader for World {
        fn changed(&self, _: GroupResource) -> u64 {
            0
        }

        fn list(&self, _: GroupResource) -> Vec<Stored> {
            Vec::new()
        }

        fn get(&self, resource: GroupResource, _: Option<&str>, _: &str) -> Option<Value> {
            let object = match resource.1 {
                "secrets" => &self.secret,
                _ => &self.account,
            };
            (!object.is_null()).then(|| object.clone())
        }

        fn references_on(&self, _: &str, _: &str) -> Vec<Arc<References>> {
            Vec::new()
        }

        fn volume_secrets(&self) -> Vec<Arc<VolumeSecrets>> {
            Vec::new()
        }
    }

    fn claims() -> LegacyClaims {
        LegacyClaims {
            namespace: "n".to_owned(),
            account: Reference::new("robot", "sa-uid"),
            secret: "s".to_owned(),
        }
    }

    #[test]
    fn a_payload_is_read_as_it_was_shown() {
        let payload = claims().show();
        let read = LegacyClaims::read(&payload).unwrap();
        assert_eq!(read.show(), payload);
        assert_eq!(&*read.identity().user, "system:serviceaccount:n:robot");
    }

    #[test]
    fn a_claim_that_is_missing_or_wrong_is_named() {
        let cases = [
            ("sub", Value::Null, "sub claim is missing"),
            (
                "sub",
                json!("system:serviceaccount:n:other"),
                "sub claim is invalid",
            ),
            (
                "kubernetes.io/serviceaccount/namespace",
                Value::Null,
                "namespace claim is missing",
            ),
            (
                "kubernetes.io/serviceaccount/secret.name",
                json!(""),
                "secretName claim is missing",
            ),
            (
                "kubernetes.io/serviceaccount/service-account.uid",
                Value::Null,
                "serviceAccountUID claim is missing",
            ),
        ];
        for (key, value, why) in cases {
            let mut payload = claims().show();
            payload[key] = value;
            assert_eq!(LegacyClaims::read(&payload).err().as_deref(), Some(why), "{key}");
        }
    }

    #[test]
    fn a_token_ends_with_its_secret_and_its_account() {
        let secret = json!({"data": {"token": STANDARD.encode("t")}});
        let account = json!({"metadata": {"uid": "sa-uid"}});
        let ended = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let mut marked = secret.clone();
        marked["metadata"]["labels"][INVALID_SINCE] = "2026-01-01".into();
        let cases = [
            (&secret, &account, ""),
            (&Value::Null, &account, "invalidated"),
            (&ended, &account, "invalidated"),
            (
                &json!({"data": {"token": "eA=="}}),
                &account,
                "does not match server's copy",
            ),
            (&json!({}), &account, "does not match server's copy"),
            (&secret, &Value::Null, "not found"),
            (&secret, &ended, "has been deleted"),
            (
                &secret,
                &json!({"metadata": {"uid": "x"}}),
                "UID (x) does not match claim (sa-uid)",
            ),
            (&marked, &account, "marked invalid"),
        ];
        for (secret, account, why) in cases {
            let world = World {
                secret: secret.clone(),
                account: account.clone(),
            };
            let judged = claims().check(&world, "t").err().unwrap_or_default();
            assert!(
                judged.contains(why) && judged.is_empty() == why.is_empty(),
                "{judged} {why}"
            );
        }
    }
}
