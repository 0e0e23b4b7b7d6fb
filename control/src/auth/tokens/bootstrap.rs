//! Bootstrap tokens: `ID.SECRET`, kept in a Secret of `kube-system`, by which a new node asks for its certificate
//! ("Authenticating with Bootstrap Tokens").
use crate::auth::{Identity, Reader};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;

const ID: usize = 6;
const SECRET: usize = 16;
const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";
/// Of the name of an extra group, after the colon.
const LONGEST: usize = 256;

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
    let groups = groups(&text("auth-extra-groups")).ok_or_else(String::new)?;
    Ok(Identity::new(&format!("system:bootstrap:{id}"), groups))
}

/// The groups of a token by those that are listed for it; none when one of them cannot be had so.
fn groups(extra: &str) -> Option<BTreeSet<String>> {
    let extra: Vec<&str> = extra.split(',').filter(|_| !extra.is_empty()).collect();
    let all_good = extra.iter().all(|group| is_extra(group));
    let all = extra.into_iter().chain([GROUP]).map(str::to_owned);
    all_good.then(|| all.collect())
}

/// `BootstrapGroupPattern`.
fn is_extra(group: &str) -> bool {
    let name = group.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix(':'));
    name.is_some_and(|name| {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b":-".contains(&b);
        let ends = name.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        name.len() <= LONGEST && ends && name.bytes().all(known)
    })
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
            "usage-bootstrap-authentication": "true", "auth-extra-groups": "system:bootstrappers:w"});
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
        assert!(who.is_in(GROUP) && who.is_in("system:bootstrappers:w"));
        for change in [
            json!({"token-secret": "0123456789abcdeX"}),
            json!({"expiration": "2025-01-01T00:00:00Z"}),
            json!({"expiration": "soon"}),
            json!({"usage-bootstrap-authentication": "false"}),
            json!({"auth-extra-groups": "system:bootstrappers:w,system:masters"}),
        ] {
            assert!(
                identify(&secret(change.clone()), id, token, now).is_err(),
                "{change}"
            );
        }
        assert_eq!(parse("abcdef.0123456789ABCDEF"), None);
    }

    #[test]
    fn extra_groups_are_below_the_one_of_all() {
        let listed = |extra: &str| groups(extra).map(|all| all.into_iter().collect::<Vec<_>>().join(" "));
        for (extra, want) in [
            ("", Some(GROUP)),
            (
                "system:bootstrappers:b,system:bootstrappers:a:0-1,system:bootstrappers:b",
                Some("system:bootstrappers system:bootstrappers:a:0-1 system:bootstrappers:b"),
            ),
            ("system:masters", None),
            ("system:bootstrappers", None),
            ("system:bootstrappers:", None),
            ("system:bootstrappers:a-", None),
            ("system:bootstrappers:A", None),
            ("system:bootstrappers:a, system:bootstrappers:b", None),
            ("system:bootstrappers:a,", None),
        ] {
            assert_eq!(listed(extra).as_deref(), want, "{extra}");
        }
        let long = |length: usize| format!("{GROUP}:{}", "a".repeat(length));
        assert!(is_extra(&long(LONGEST)) && !is_extra(&long(LONGEST + 1)));
    }
}
