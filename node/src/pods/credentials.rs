//! Which credentials in pull secrets are for an image, as upstream's keyring finds them (pkg/credentialprovider): keys are
//! hosts, with wildcards, and the longest is tried first. Refuses to know registries and the API.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

use super::wildcard;
use crate::images::{Digest, Holder, RegistryAuth};

/// The key `kubectl create secret docker-registry` writes for Docker Hub, whose images are named `docker.io/`.
const DOCKER_HUB: &str = "index.docker.io";

/// What proves a Pod's right to an image, and the secret it is from.
#[derive(Clone, Debug)]
pub struct Credential {
    pub auth: RegistryAuth,
    pub holder: Holder,
}

#[derive(Deserialize)]
struct DockerConfig {
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

/// All credentials that are for `repository` (`host/path`), in the order to try them.
pub fn fitting(secrets: &[Secret], repository: &str) -> Vec<Credential> {
    let mut ring: BTreeMap<String, Vec<Credential>> = BTreeMap::new();
    for secret in secrets {
        for (key, entry) in entries(secret) {
            match credential(secret, &entry) {
                Some(credential) => ring.entry(place(&key)).or_default().push(credential),
                None => {
                    tracing::warn!(secret = ?secret.metadata.name, key, "a pull secret has no user and password")
                }
            }
        }
    }
    let found: Vec<Credential> = ring
        .iter()
        .rev()
        .filter(|(key, _)| matches(key, repository))
        .flat_map(|(_, credentials)| credentials.clone())
        .collect();
    match found.is_empty() && repository.starts_with("docker.io/") {
        true => ring.remove(DOCKER_HUB).unwrap_or_default(),
        false => found,
    }
}

/// The entries of a secret of either type: `{"auths": {KEY: ENTRY}}`, and the older `{KEY: ENTRY}`.
fn entries(secret: &Secret) -> BTreeMap<String, Entry> {
    let data = |name: &str| secret.data.as_ref()?.get(name).map(|bytes| bytes.0.as_slice());
    let parsed = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => data(".dockerconfigjson")
            .map(|bytes| serde_json::from_slice::<DockerConfig>(bytes).map(|config| config.auths)),
        Some("kubernetes.io/dockercfg") => data(".dockercfg").map(serde_json::from_slice),
        _ => None,
    };
    let entries = parsed.unwrap_or_else(|| Ok(BTreeMap::new()));
    entries.unwrap_or_else(|error| {
        tracing::warn!(%error, secret = ?secret.metadata.name, "a pull secret is not in Docker's format");
        BTreeMap::new()
    })
}

fn credential(secret: &Secret, entry: &Entry) -> Option<Credential> {
    let (user, password) = match entry.auth.as_str() {
        "" => (entry.username.clone(), entry.password.clone()),
        auth => decoded(auth)?,
    };
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let holder = Holder {
        uid: text(&secret.metadata.uid),
        namespace: text(&secret.metadata.namespace),
        name: text(&secret.metadata.name),
        hash: Digest::of(format!("{user}\0{password}").as_bytes()),
    };
    (!user.is_empty()).then_some(Credential {
        auth: RegistryAuth::Basic(user, password),
        holder,
    })
}

/// `base64(user:password)`, with or without padding.
fn decoded(auth: &str) -> Option<(String, String)> {
    let bare = auth.trim().trim_end_matches('=');
    let padded = format!("{bare:=<width$}", width = bare.len().next_multiple_of(4));
    // k8s-openapi's ByteString reads standard base64, as the field holds.
    let bytes: ByteString = serde_json::from_value(serde_json::Value::String(padded)).ok()?;
    let pair = String::from_utf8(bytes.0).ok()?;
    let (user, password) = pair.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// What a key is for: its host, and a path that is not one of the registry protocol's versions.
fn place(key: &str) -> String {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let (host, path) = bare.split_at(bare.find('/').unwrap_or(bare.len()));
    let versioned = path.starts_with("/v1/") || path.starts_with("/v2/");
    let path = if versioned { &path[3..] } else { path };
    match path {
        "/" => host.to_owned(),
        _ => format!("{host}{path}"),
    }
}

fn matches(key: &str, repository: &str) -> bool {
    let split = |text: &str| -> (String, String) {
        let (host, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        (host.to_owned(), path.to_owned())
    };
    let ((pattern, prefix), (host, path)) = (split(key), split(repository));
    let ((pattern, its_port), (host, port)) = (with_port(&pattern), with_port(&host));
    let (patterns, parts): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), host.split('.').collect());
    its_port == port
        && patterns.len() == parts.len()
        && path.starts_with(&prefix)
        && patterns
            .iter()
            .zip(&parts)
            .all(|(pattern, part)| wildcard::matches(pattern, part))
}

fn with_port(authority: &str) -> (&str, &str) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn secret(name: &str, kind: &str, config: Value) -> Secret {
        let data = ByteString(serde_json::to_vec(&config).unwrap());
        let mut secret = Secret {
            data: Some([(format!(".{kind}"), data)].into()),
            type_: Some(format!("kubernetes.io/{kind}")),
            ..Secret::default()
        };
        secret.metadata.name = Some(name.to_owned());
        secret
    }

    fn users(secrets: &[Secret], image: &str) -> Vec<String> {
        let found = fitting(secrets, image).into_iter();
        let user = |credential: Credential| match credential.auth {
            RegistryAuth::Basic(user, password) => format!("{user}:{password}"),
            other => panic!("{other:?}"),
        };
        found.map(user).collect()
    }

    #[test]
    fn pull_secrets_are_for_their_registry_only() {
        let config = json!({"auths": {"https://r.example/": {"auth": "dTpw"},
            "q.example/team": {"username": "a", "password": "b"}}});
        let secrets = [secret("s", "dockerconfigjson", config)];
        for (image, expected) in [
            ("r.example/x", &["u:p"][..]),
            ("q.example/team/x", &["a:b"]),
            ("q.example/other/x", &[]),
            ("r.example.evil/x", &[]),
            ("r.example:5000/x", &[]),
        ] {
            assert_eq!(users(&secrets, image), expected, "{image}");
        }
    }

    #[test]
    fn keys_are_what_docker_writes() {
        let entry = json!({"username": "u", "password": "p"});
        for (key, image, fits) in [
            ("https://index.docker.io/v1/", "docker.io/library/busybox", true),
            ("docker.io", "docker.io/library/busybox", true),
            ("https://index.docker.io/v1/", "r.example/busybox", false),
            ("http://r.example:1951/v2/", "r.example:1951/x", true),
            ("r.example/v1/", "r.example/x", true),
            ("127.0.0.*:1951", "127.0.0.1:1951/x", true),
            ("127.0.0.*:1951", "127.0.0.1:1952/x", false),
            ("*.example", "r.example/x", true),
            ("*.example", "a.r.example/x", false),
            ("r[0-9].example", "r7.example/x", true),
            ("*", "r.example/x", false),
        ] {
            let secrets = [secret("s", "dockercfg", json!({key: entry}))];
            assert_eq!(!users(&secrets, image).is_empty(), fits, "{key} {image}");
        }
    }

    #[test]
    fn all_that_fit_are_tried_the_longest_first() {
        let of = |user: &str, key: &str| json!({"auths": {key: {"username": user, "password": "p"}}});
        let secrets = [
            secret("bad", "dockerconfigjson", of("bad", "r.example")),
            secret("good", "dockerconfigjson", of("good", "r.example")),
            secret("team", "dockerconfigjson", of("team", "r.example/team")),
        ];
        assert_eq!(users(&secrets, "r.example/team/x"), ["team:p", "bad:p", "good:p"]);
    }

    #[test]
    fn a_pair_needs_no_padding() {
        for auth in ["dXM6cA==", "dXM6cA"] {
            assert_eq!(decoded(auth), Some(("us".to_owned(), "p".to_owned())));
        }
        assert_eq!(decoded("bm9jb2xvbg=="), None);
    }
}
