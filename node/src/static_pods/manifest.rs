//! From a manifest to a static Pod: names, annotations and uid as upstream's kubelet gives them (pkg/kubelet/config), and
//! what such a Pod may not be. Pure.

use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::defaults;

/// Where a Pod comes from: `file`, or `api`.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// What makes it the Pod it is; also its uid.
pub const HASH: &str = "kubernetes.io/config.hash";
/// On the API server's copy: the hash of the Pod it shows.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
const SEEN: &str = "kubernetes.io/config.seen";
const FILE: &str = "file";

/// Hex digits of a hash, as many as upstream's have.
const HASH_LENGTH: usize = 32;

/// Why a manifest makes no Pod.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("couldn't parse as pod: {0}")]
    Syntax(String),
    #[error("it is {0:?}, not a Pod of v1")]
    Kind(String),
    #[error("invalid pod: {0}")]
    Invalid(String),
    #[error("static pods may not reference {0}")]
    Reference(&'static str),
}

/// Whether a Pod is one of a file of this node.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE) == Some(FILE) && annotation(pod, MIRROR).is_none()
}

/// The annotation of a mirror Pod: which static Pod it shows.
pub fn mirror_of(pod: &Pod) -> Option<&str> {
    annotation(pod, MIRROR)
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// `namespace/name`.
pub fn full_name(pod: &Pod) -> String {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name))
}

/// The static Pod that a manifest, YAML or JSON, makes on this node.
pub fn parse(text: &str, path: &Path, node: &str, now: Timestamp) -> Result<Pod, ManifestError> {
    let mut object: Value =
        serde_yaml::from_str(text).map_err(|error| ManifestError::Syntax(error.to_string()))?;
    if object["apiVersion"] != "v1" || object["kind"] != "Pod" {
        return Err(ManifestError::Kind(format!(
            "{} of {}",
            object["kind"], object["apiVersion"]
        )));
    }
    let hash = hash(&object, path, node);
    complete(&mut object, &hash, node, now)?;
    defaults::apply(&mut object["spec"]);
    let pod: Pod =
        serde_json::from_value(object).map_err(|error| ManifestError::Syntax(error.to_string()))?;
    check(&pod)?;
    Ok(pod)
}

/// Of what the manifest says, where it is and for whom: another file is another Pod.
fn hash(object: &Value, path: &Path, node: &str) -> String {
    let said = format!("{object}host:{node}file:{}", path.display());
    let mut hash = hex::encode(Sha256::digest(said));
    hash.truncate(HASH_LENGTH);
    hash
}

fn complete(object: &mut Value, hash: &str, node: &str, now: Timestamp) -> Result<(), ManifestError> {
    let invalid = |text: &str| ManifestError::Invalid(text.to_owned());
    let metadata = object["metadata"]
        .as_object_mut()
        .ok_or_else(|| invalid("name is needed for the pod"))?;
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() {
        return Err(invalid("name is needed for the pod"));
    }
    let name = format!("{name}-{}", node.to_lowercase());
    metadata.insert("name".into(), name.into());
    metadata.entry("namespace").or_insert_with(|| "default".into());
    metadata.insert("uid".into(), hash.into());
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if annotations.is_null() {
        *annotations = json!({});
    }
    let annotations = annotations
        .as_object_mut()
        .ok_or_else(|| invalid("annotations are no map"))?;
    annotations.remove(MIRROR);
    for (key, value) in [(HASH, hash), (SOURCE, FILE), (SEEN, &now.to_string())] {
        annotations.insert(key.into(), value.into());
    }
    let spec = object["spec"]
        .as_object_mut()
        .ok_or_else(|| invalid("it has no spec"))?;
    spec.insert("nodeName".into(), node.into());
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    let any = json!({"operator": "Exists", "effect": "NoExecute"});
    match tolerations.as_array_mut() {
        Some(list) if !list.contains(&any) => list.push(any),
        Some(_) => {}
        None => *tolerations = json!([any]),
    }
    object["status"] = json!({"phase": "Pending"});
    Ok(())
}

/// No API server has looked at it: names become paths here, and what is elsewhere cannot be had before there is one.
fn check(pod: &Pod) -> Result<(), ManifestError> {
    let spec = pod.spec.clone().unwrap_or_default();
    let named = |what: &str, name: &str, is: fn(&str) -> bool| match is(name) {
        true => Ok(()),
        false => Err(ManifestError::Invalid(format!("{what} {name:?} is no DNS name"))),
    };
    named(
        "the name",
        pod.metadata.name.as_deref().unwrap_or_default(),
        is_subdomain,
    )?;
    named(
        "the namespace",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        is_label,
    )?;
    if spec.containers.is_empty() {
        return Err(ManifestError::Invalid("it has no containers".into()));
    }
    let containers: Vec<_> = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .collect();
    let mut names = std::collections::BTreeSet::new();
    for container in &containers {
        named("the name of a container,", &container.name, is_label)?;
        if !names.insert(&container.name) {
            return Err(ManifestError::Invalid(format!(
                "two containers are named {:?}",
                container.name
            )));
        }
        if container.image.as_deref().unwrap_or_default().is_empty() {
            return Err(ManifestError::Invalid(format!(
                "container {:?} has no image",
                container.name
            )));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        named("the name of a volume,", &volume.name, is_label)?;
    }
    reference(pod).map_or(Ok(()), |what| Err(ManifestError::Reference(what)))
}

/// Another object of the API that a Pod needs (upstream's HasAPIObjectReference).
fn reference(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let env = || {
        containers()
            .flat_map(|c| c.env.iter().flatten())
            .filter_map(|e| e.value_from.as_ref())
    };
    let env_from = || containers().flat_map(|c| c.env_from.iter().flatten());
    let volumes = || spec.volumes.iter().flatten();
    let projected = || {
        let all = volumes().filter_map(|v| v.projected.as_ref());
        all.flat_map(|p| p.sources.iter().flatten())
    };
    let account = spec.service_account_name.as_deref().unwrap_or_default();
    let secrets = env().any(|e| e.secret_key_ref.is_some())
        || env_from().any(|e| e.secret_ref.is_some())
        || volumes().any(|v| v.secret.is_some())
        || projected().any(|p| p.secret.is_some())
        || spec.image_pull_secrets.as_ref().is_some_and(|s| !s.is_empty());
    let config_maps = env().any(|e| e.config_map_key_ref.is_some())
        || env_from().any(|e| e.config_map_ref.is_some())
        || volumes().any(|v| v.config_map.is_some())
        || projected().any(|p| p.config_map.is_some());
    let found = [
        (!account.is_empty(), "serviceaccounts"),
        (secrets, "secrets"),
        (config_maps, "configmaps"),
        (
            projected().any(|p| p.service_account_token.is_some()),
            "serviceaccounts",
        ),
        (
            projected().any(|p| p.cluster_trust_bundle.is_some()),
            "clustertrustbundles",
        ),
        (
            volumes().any(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some()),
            "persistentvolumeclaims",
        ),
        (volumes().any(|v| v.csi.is_some()), "csidrivers"),
        (
            spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()),
            "resourceclaims",
        ),
    ];
    found.into_iter().find(|(holds, _)| *holds).map(|(_, what)| what)
}

/// RFC 1123 label.
fn is_label(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 63
        && text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(|c| edge(c) || c == '-')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(text: &str) -> Result<Pod, String> {
        parse(text, Path::new("/m/web.yaml"), "Node", Timestamp::UNIX_EPOCH).map_err(|e| e.to_string())
    }

    const WEB: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n";

    #[test]
    fn a_pod_is_the_nodes() {
        let pod = made(WEB).unwrap();
        assert!(is_static(&pod));
        assert_eq!(full_name(&pod), "default/web-node");
        let uid = pod.metadata.uid.clone().unwrap();
        assert_eq!(uid.len(), HASH_LENGTH);
        assert_eq!(annotation(&pod, HASH), Some(uid.as_str()));
        let spec = pod.spec.unwrap();
        assert_eq!(spec.node_name.as_deref(), Some("Node"));
        assert_eq!(spec.tolerations.unwrap()[0].effect.as_deref(), Some("NoExecute"));
        let other = made(&WEB.replace("image: i", "image: j")).unwrap();
        assert_ne!(other.metadata.uid.unwrap(), uid);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (text, why) in [
            ("kind: Pod".to_owned(), "not a Pod of v1"),
            (WEB.replace("Pod", "Service"), "not a Pod of v1"),
            (WEB.replace("name: web", "labels: {}"), "name is needed"),
            (WEB.replace("name: c", "name: ../c"), "is no DNS name"),
            (WEB.replace("image: i", "image: ''"), "has no image"),
            (
                WEB.replace("spec: {", "spec: {serviceAccountName: x, "),
                "may not reference serviceaccounts",
            ),
            (
                WEB.replace(
                    "spec: {",
                    "spec: {volumes: [{name: v, secret: {secretName: s}}], ",
                ),
                "may not reference secrets",
            ),
            (
                WEB.replace("{containers", "{volumes: [{name: a/b, emptyDir: {}}], containers"),
                "is no DNS name",
            ),
        ] {
            let error = made(&text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
