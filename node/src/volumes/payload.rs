//! What a configMap, secret, downwardAPI or projected volume holds. Pure: objects in, files out.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, PodSpec, Secret, ServiceAccountTokenProjection, Volume,
    VolumeProjection,
};

use super::atomic::{Content, Payload};
use super::tokens::Wish;
use crate::env::{FieldError, Objects, PodFacts, fields};

/// Mode of a file that names none.
const DEFAULT_MODE: i32 = 0o644;
/// Mode of a token, or a bundle of trust, that belongs to somebody.
const PRIVATE_MODE: u32 = 0o600;

/// Why a volume has no content: FailedMount with upstream's words.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    #[error("configmap {0:?} not found")]
    NoConfigMap(String),
    #[error("secret {0:?} not found")]
    NoSecret(String),
    #[error("configmap references non-existent config key: {0}")]
    NoConfigMapKey(String),
    #[error("references non-existent secret key: {0}")]
    NoSecretKey(String),
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("no ServiceAccount token was fetched")]
    NoToken,
    #[error("projected source {0} is not supported by this node")]
    Unsupported(&'static str),
}

/// True for a volume whose files this module decides.
pub fn is_projection(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// The files of a volume.
pub fn payload(volume: &Volume, facts: &PodFacts<'_>, objects: &Objects) -> Result<Payload, PayloadError> {
    let mut files = Payload::new();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let optional = source.optional == Some(true);
        config_map(
            &source.name,
            source.items.as_deref(),
            optional,
            mode,
            objects,
            &mut files,
        )?;
    }
    if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        secret(
            name,
            source.items.as_deref(),
            source.optional == Some(true),
            mode,
            objects,
            &mut files,
        )?;
    }
    if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        downward(
            source.items.as_deref().unwrap_or_default(),
            mode,
            facts,
            &mut files,
        )?;
    }
    if let Some(projected) = &volume.projected {
        let mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
        for source in projected.sources.iter().flatten() {
            projection(source, mode, facts, objects, &mut files)?;
        }
    }
    Ok(files)
}

fn projection(
    source: &VolumeProjection,
    mode: i32,
    facts: &PodFacts<'_>,
    objects: &Objects,
    files: &mut Payload,
) -> Result<(), PayloadError> {
    if let Some(s) = &source.config_map {
        return config_map(
            &s.name,
            s.items.as_deref(),
            s.optional == Some(true),
            mode,
            objects,
            files,
        );
    }
    if let Some(s) = &source.secret {
        return secret(
            &s.name,
            s.items.as_deref(),
            s.optional == Some(true),
            mode,
            objects,
            files,
        );
    }
    if let Some(s) = &source.downward_api {
        return downward(s.items.as_deref().unwrap_or_default(), mode, facts, files);
    }
    if let Some(s) = &source.service_account_token {
        return token(s, mode, facts, objects, files);
    }
    match &source.cluster_trust_bundle {
        // No bundle is ever found, which one that is optional says with an empty file.
        Some(bundle) if bundle.optional == Some(true) => {
            files.insert(PathBuf::from(&bundle.path), of_one_user(b"", mode, facts));
            Ok(())
        }
        Some(_) => Err(PayloadError::Unsupported("clusterTrustBundle")),
        None => Err(PayloadError::Unsupported("podCertificate")),
    }
}

fn token(
    source: &ServiceAccountTokenProjection,
    mode: i32,
    facts: &PodFacts<'_>,
    objects: &Objects,
    files: &mut Payload,
) -> Result<(), PayloadError> {
    let token = objects.token(&Wish::of(source)).ok_or(PayloadError::NoToken)?;
    let content = of_one_user(token.as_bytes(), mode, facts);
    files.insert(PathBuf::from(&source.path), content);
    Ok(())
}

/// What is for the Pod's one user or its group alone where there is one (upstream's projected volume plugin).
fn of_one_user(bytes: &[u8], mode: i32, facts: &PodFacts<'_>) -> Content {
    let uid = one_user(facts.pod.spec);
    let group = facts.pod.spec.security_context.as_ref().and_then(|s| s.fs_group);
    let mode = match (uid, group) {
        (None, None) => mode as u32 & 0o777,
        _ => PRIVATE_MODE,
    };
    Content {
        uid,
        ..Content::new(bytes, mode)
    }
}

/// The user that every container runs as, if the Pod says one and the same for all.
fn one_user(spec: &PodSpec) -> Option<u32> {
    let of_pod = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let mut users = containers.map(|c| {
        let own = c.security_context.as_ref().and_then(|s| s.run_as_user);
        own.or(of_pod)
    });
    let first = users.next()??;
    let same = users.all(|user| user == Some(first));
    u32::try_from(first).ok().filter(|_| same)
}

fn config_map(
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: i32,
    objects: &Objects,
    files: &mut Payload,
) -> Result<(), PayloadError> {
    match objects.config_map(name) {
        Some(map) => {
            let missing = PayloadError::NoConfigMapKey;
            pick(&map_entries(map), items, optional, mode, missing, files)
        }
        None if optional => Ok(()),
        None => Err(PayloadError::NoConfigMap(name.to_owned())),
    }
}

fn secret(
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: i32,
    objects: &Objects,
    files: &mut Payload,
) -> Result<(), PayloadError> {
    match objects.secret(name) {
        Some(secret) => pick(
            &secret_entries(secret),
            items,
            optional,
            mode,
            PayloadError::NoSecretKey,
            files,
        ),
        None if optional => Ok(()),
        None => Err(PayloadError::NoSecret(name.to_owned())),
    }
}

fn map_entries(map: &ConfigMap) -> Vec<(&str, &[u8])> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes()));
    text.chain(
        map.binary_data
            .iter()
            .flatten()
            .map(|(k, v)| (k.as_str(), v.0.as_slice())),
    )
    .collect()
}

fn secret_entries(secret: &Secret) -> Vec<(&str, &[u8])> {
    secret
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v.0.as_slice()))
        .collect()
}

/// All entries under their keys, or the chosen ones under their paths.
fn pick(
    entries: &[(&str, &[u8])],
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: i32,
    missing: fn(String) -> PayloadError,
    files: &mut Payload,
) -> Result<(), PayloadError> {
    let content = |bytes: &[u8], mode: i32| Content::new(bytes, mode as u32 & 0o777);
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        files.extend(
            entries
                .iter()
                .map(|(key, bytes)| (PathBuf::from(key), content(bytes, mode))),
        );
        return Ok(());
    };
    for item in items {
        match entries.iter().find(|(key, _)| *key == item.key) {
            Some((_, bytes)) => {
                files.insert(
                    PathBuf::from(&item.path),
                    content(bytes, item.mode.unwrap_or(mode)),
                );
            }
            None if optional => {}
            None => return Err(missing(item.key.clone())),
        }
    }
    Ok(())
}

fn downward(
    items: &[DownwardAPIVolumeFile],
    mode: i32,
    facts: &PodFacts<'_>,
    files: &mut Payload,
) -> Result<(), PayloadError> {
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => fields::field(facts, &field.field_path)?,
            (None, Some(resource)) => fields::resource(facts, resource, None)?,
            (None, None) => String::new(),
        };
        let mode = item.mode.unwrap_or(mode) as u32 & 0o777;
        files.insert(PathBuf::from(&item.path), Content::new(text.as_bytes(), mode));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::view::PodView;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn files(volume: Value) -> Result<Vec<(String, String, u32)>, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"b": "x\"y", "a": "1"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "500m"}}}]}}))
        .unwrap();
        let facts = PodFacts {
            pod: PodView::new(&pod).unwrap(),
            pod_ips: &[],
            host_ips: &[],
            node_name: "node",
            allocatable: &Default::default(),
        };
        let map = serde_json::from_value(json!({"data": {"k": "v"}, "binaryData": {"b": "AAE="}})).unwrap();
        let secret = serde_json::from_value(json!({"data": {"p": "cHc="}})).unwrap();
        let objects = Objects::new([("m".to_owned(), map)].into(), [("s".to_owned(), secret)].into());
        let wish = Wish {
            audience: String::new(),
            seconds: 3600,
        };
        let objects = objects.with_tokens([(wish, "tok".to_owned())].into());
        let mut volume = volume;
        volume["name"] = json!("v");
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let made = payload(&volume, &facts, &objects).map_err(|e| e.to_string())?;
        let text = |c: &Content| String::from_utf8_lossy(&c.bytes).into_owned();
        Ok(made
            .iter()
            .map(|(p, c)| (p.display().to_string(), text(c), c.mode))
            .collect())
    }

    #[test]
    fn sources() {
        let f = |path: &str, text: &str, mode| (path.to_owned(), text.to_owned(), mode);
        for (volume, expected) in [
            (
                json!({"configMap": {"name": "m"}}),
                vec![f("b", "\0\u{1}", 0o644), f("k", "v", 0o644)],
            ),
            (
                json!({"configMap": {"name": "m", "defaultMode": 0o400, "items": [{"key": "k", "path": "d/x"}]}}),
                vec![f("d/x", "v", 0o400)],
            ),
            (json!({"configMap": {"name": "no", "optional": true}}), vec![]),
            (
                json!({"secret": {"secretName": "s", "defaultMode": 0o600}}),
                vec![f("p", "pw", 0o600)],
            ),
            (
                json!({"downwardAPI": {"items": [
                    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                    {"path": "cpu", "mode": 0o444, "resourceFieldRef":
                        {"containerName": "c", "resource": "limits.cpu", "divisor": "1m"}}]}}),
                vec![
                    f("cpu", "500", 0o444),
                    f("labels", "a=\"1\"\nb=\"x\\\"y\"", 0o644),
                ],
            ),
            (
                json!({"projected": {"defaultMode": 0o440, "sources": [{"configMap": {"name": "m",
                    "items": [{"key": "k", "path": "k"}]}}, {"secret": {"name": "s"}}]}}),
                vec![f("k", "v", 0o440), f("p", "pw", 0o440)],
            ),
            (
                json!({"projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]}}),
                vec![f("token", "tok", 0o644)],
            ),
        ] {
            assert_eq!(files(volume.clone()).unwrap(), expected, "{volume}");
        }
    }

    #[test]
    fn a_bundle_of_trust_that_is_optional_is_an_empty_file() {
        let volume = |optional| {
            let bundle = json!({"name": "b", "path": "ca.pem", "optional": optional});
            json!({"projected": {"sources": [{"clusterTrustBundle": bundle}]}})
        };
        let empty = ("ca.pem".to_owned(), String::new(), 0o644);
        assert_eq!(files(volume(true)).unwrap(), [empty]);
        let error = files(volume(false)).unwrap_err();
        assert!(error.contains("clusterTrustBundle is not supported"), "{error}");
    }

    #[test]
    fn a_token_belongs_to_the_one_user() {
        for (spec, user) in [
            (json!({"containers": [{"name": "a"}, {"name": "b"}]}), None),
            (
                json!({"securityContext": {"runAsUser": 7}, "containers": [{"name": "a"}]}),
                Some(7),
            ),
            (
                json!({"securityContext": {"runAsUser": 7},
                    "containers": [{"name": "a"}, {"name": "b", "securityContext": {"runAsUser": 8}}]}),
                None,
            ),
        ] {
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            assert_eq!(one_user(&spec), user);
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (volume, says) in [
            (json!({"configMap": {"name": "no"}}), "configmap \"no\" not found"),
            (json!({"secret": {"secretName": "no"}}), "secret \"no\" not found"),
            (
                json!({"configMap": {"name": "m", "items": [{"key": "x", "path": "x"}]}}),
                "config key: x",
            ),
            (
                json!({"secret": {"secretName": "s", "items": [{"key": "x", "path": "x"}]}}),
                "secret key: x",
            ),
        ] {
            let error = files(volume.clone()).unwrap_err();
            assert!(error.contains(says), "{volume}: {error}");
        }
    }
}
