//! Bootstrap tokens: `ID.SECRET`, kept in a Secret of `kube-system`, by which a new node asks for its certificate
//! ("Authenticating with Bootstrap Tokens").
use crate::auth::{Identity, Reader};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

const ID: usize = 6;
const SECRET: usize = 16;
const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

/// The two parts of a text that looks like a bootstrap token.
pub(super) fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let good = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (good(id, ID) && good(secret, SECRET)).then_some((id, secret))
}

/// The user that a token names; the error is empty, since upstream tells nobody why.
pub(super) fn identify(
    reader: &dyn Reader,
    id: &str,
    secret: &str,
    now: Timestamp,
) -> Result<Identity, String> {
    let object = reader.get(
        ("", "secrets"),
        Some("kube-system"),
        &format!("bootstrap-token-{id}"),
    );
    let object = object.ok_or_else(String::new)?;
    let text = |key: &str| decoded(&object["data"][key]);
    let deleted = object["metadata"]["deletionTimestamp"].is_string();
    let known = object["type"] == TYPE
        && text("token-id") == id
        && super::same(text("token-secret").as_bytes(), secret.as_bytes());
    let usable = text("usage-bootstrap-authentication") == "true";
    let expired = match text("expiration") {
        time if time.is_empty() => false,
        time => time.parse::<Timestamp>().map_or(true, |end| end <= now),
    };
    if deleted || !known || !usable || expired {
        return Err(String::new());
    }
    let extra = text("auth-extra-groups");
    let extra = extra
        .split(',')
        .map(str::trim)
        .filter(|group| group.starts_with(&format!("{GROUP}:")));
    let groups: Vec<String> = extra.chain([GROUP]).map(str::to_owned).collect();
    Ok(Identity::new(&format!("system:bootstrap:{id}"), groups))
}

fn decoded(value: &Value) -> String {
    let bytes = STANDARD
        .decode(value.as_str().unwrap_or_default())
        .unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::reader::{GroupResource, Stored};
    use crate::auth::{References, VolumeSecrets};
    use serde_json::json;
    use std::sync::Arc;

    struct OneSecret(Value);

    impl Reader for OneSecret {
        fn changed(&self, _: GroupResource) -> u64 {
            0
        }

        fn list(&self, _: GroupResource) -> Vec<Stored> {
            Vec::new()
        }

        fn get(&self, _: GroupResource, _: Option<&str>, _: &str) -> Option<Value> {
            Some(self.0.clone())
        }

        fn references_on(&self, _: &str, _: &str) -> Vec<Arc<References>> {
            Vec::new()
        }

        fn volume_secrets(&self) -> Vec<Arc<VolumeSecrets>> {
            Vec::new()
        }
    }

    fn secret(change: Value) -> OneSecret {
        let mut data = json!({"token-id": "abcdef", "token-secret": "0123456789abcdef", "expiration": "2030-01-01T00:00:00Z",
            "usage-bootstrap-authentication": "true", "auth-extra-groups": "system:bootstrappers:w,system:masters"});
        json_patch::merge(&mut data, &change);
        for (_, value) in data.as_object_mut().unwrap() {
            *value = STANDARD.encode(value.as_str().unwrap()).into();
        }
        OneSecret(json!({"type": TYPE, "data": data}))
    }

    #[test]
    fn only_a_whole_and_valid_secret_counts() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let (id, token) = parse("abcdef.0123456789abcdef").unwrap();
        let who = identify(&secret(json!({})), id, token, now).unwrap();
        assert_eq!(&*who.user, "system:bootstrap:abcdef");
        assert!(who.is_in(GROUP) && who.is_in("system:bootstrappers:w") && !who.is_in("system:masters"));
        for change in [
            json!({"token-secret": "0123456789abcdeX"}),
            json!({"expiration": "2025-01-01T00:00:00Z"}),
            json!({"expiration": "soon"}),
            json!({"usage-bootstrap-authentication": "false"}),
        ] {
            assert!(
                identify(&secret(change.clone()), id, token, now).is_err(),
                "{change}"
            );
        }
        assert_eq!(parse("abcdef.0123456789ABCDEF"), None);
    }
}
