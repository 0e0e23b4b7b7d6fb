//! Volumes of CSI drivers as a Pod has them: what its object, the volume and the driver's object say, for the calls that
//! `csi` makes. Refuses what the driver's object does not offer.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::TokenRequestStatus;
use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, CSIVolumeSource, PersistentVolume, Secret, SecretReference,
};
use k8s_openapi::api::storage::v1::CSIDriver;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, Client};

use super::context::Context;
use super::view::PodView;
use crate::csi::Wish;
use crate::images::Digest;
use crate::volumes::ownership::Group;
use crate::volumes::tokens::{self, TokenError};

/// Access mode `SINGLE_NODE_WRITER` of the specification.
const ONE_NODE: u64 = 1;
/// Under this key a driver finds tokens: an object of `{token, expirationTimestamp}` by audience.
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// Why a driver's volume is not asked for.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error("failed to fetch {what}: {source}")]
    Fetch { what: String, source: Box<kube::Error> },
    #[error("secret {0} not found")]
    NoSecret(String),
    #[error("failed to get service account token attributes: {0}")]
    Token(#[from] TokenError),
    #[error("failed to get service account token attributes: {0}")]
    Json(#[from] serde_json::Error),
    #[error("volume mode {mode:?} not supported by driver {driver} (only supports {offered:?})")]
    Mode {
        driver: String,
        mode: &'static str,
        offered: Vec<String>,
    },
}

/// What the driver's object says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Terms {
    modes: Vec<String>,
    attaches: bool,
    pod_info: bool,
    groups: String,
    tokens: Vec<tokens::Wish>,
    tokens_in_secrets: bool,
    republishes: bool,
}

impl Terms {
    /// Without an object a driver attaches, and has volumes that outlive Pods.
    fn of(driver: Option<&CSIDriver>) -> Terms {
        let spec = driver.map(|driver| driver.spec.clone()).unwrap_or_default();
        Terms {
            modes: spec
                .volume_lifecycle_modes
                .filter(|modes| !modes.is_empty())
                .unwrap_or_else(|| vec!["Persistent".to_owned()]),
            attaches: spec.attach_required.unwrap_or(true),
            pod_info: spec.pod_info_on_mount.unwrap_or(false),
            groups: spec
                .fs_group_policy
                .unwrap_or_else(|| "ReadWriteOnceWithFSType".to_owned()),
            tokens: tokens::Wish::of_driver(&spec.token_requests.unwrap_or_default()),
            tokens_in_secrets: spec.service_account_token_in_secrets.unwrap_or(false),
            republishes: spec.requires_republish.unwrap_or(false),
        }
    }

    fn offers(&self, driver: &str, mode: &'static str) -> Result<(), DriverError> {
        match self.modes.iter().any(|offered| offered == mode) {
            true => Ok(()),
            false => Err(DriverError::Mode {
                driver: driver.to_owned(),
                mode,
                offered: self.modes.clone(),
            }),
        }
    }

    /// What the driver is told of the Pod.
    fn pod_info(&self, pod: PodView<'_>, ephemeral: bool) -> BTreeMap<String, String> {
        match self.pod_info {
            true => pod_info(pod, ephemeral).into(),
            false => BTreeMap::new(),
        }
    }

    /// Whether the node gives the volume to `fsGroup`.
    fn gives_to_group(&self, fs_type: &str, modes: &[String]) -> bool {
        match self.groups.as_str() {
            "None" => false,
            "File" => true,
            _ => !fs_type.is_empty() && modes.iter().any(|mode| mode == "ReadWriteOnce"),
        }
    }
}

async fn terms(client: &Client, driver: &str) -> Result<Terms, DriverError> {
    let drivers: Api<CSIDriver> = Api::all(client.clone());
    let found = drivers.get_opt(driver).await;
    let found = found.map_err(fetching(format!("CSIDriver {driver}")))?;
    Ok(Terms::of(found.as_ref()))
}

fn fetching(what: String) -> impl FnOnce(kube::Error) -> DriverError {
    move |source| DriverError::Fetch {
        what,
        source: Box::new(source),
    }
}

/// Whether the driver wants to publish again what it has published (`requiresRepublish`).
pub async fn republishes(client: &Client, driver: &str) -> Result<bool, DriverError> {
    Ok(terms(client, driver).await?.republishes)
}

/// Adds the tokens of the Pod's account that the driver asks for to what it is told when it publishes.
pub async fn add_tokens(ctx: &Context, pod: PodView<'_>, wish: &mut Wish) -> Result<(), DriverError> {
    if wish.tokens.is_empty() {
        return Ok(());
    }
    let mut told = BTreeMap::new();
    for asked in &wish.tokens {
        let held = ctx.tokens.get(&ctx.options.client, pod, asked).await?;
        let status = TokenRequestStatus {
            token: Some(held.token),
            expiration_timestamp: Some(Time(held.expires)),
        };
        told.insert(asked.audience.as_str(), status);
    }
    let told = serde_json::to_string(&told)?;
    let to = match wish.tokens_in_secrets {
        true => &mut wish.publish_secrets,
        false => &mut wish.pod_info,
    };
    to.insert(TOKENS.to_owned(), told);
    Ok(())
}

/// A volume in the Pod's own object.
pub async fn inline(
    client: &Client,
    pod: PodView<'_>,
    name: &str,
    source: &CSIVolumeSource,
    group: Option<Group>,
) -> Result<Wish, DriverError> {
    let driver = &source.driver;
    let terms = terms(client, driver).await?;
    terms.offers(driver, "Ephemeral")?;
    let fs_type = source.fs_type.clone().unwrap_or_default();
    let secret = source.node_publish_secret_ref.as_ref();
    let secret = secret.map(|secret| (pod.namespace(), secret.name.as_str()));
    Ok(Wish {
        driver: driver.clone(),
        id: handle(pod.uid(), name),
        context: source.volume_attributes.clone().unwrap_or_default(),
        pod_info: terms.pod_info(pod, true),
        group: group.filter(|_| terms.gives_to_group(&fs_type, &["ReadWriteOnce".to_owned()])),
        fs_type,
        access_mode: ONE_NODE,
        read_only: source.read_only == Some(true),
        publish_secrets: secrets(client, secret).await?,
        tokens: terms.tokens,
        tokens_in_secrets: terms.tokens_in_secrets,
        ..Wish::default()
    })
}

/// The id of a volume that nobody but its Pod knows.
fn handle(uid: &str, volume: &str) -> String {
    format!("csi-{}", Digest::of(format!("{uid}{volume}").as_bytes()).hex())
}

/// A volume behind a claim.
pub async fn persistent(
    client: &Client,
    pod: PodView<'_>,
    volume: &PersistentVolume,
    source: &CSIPersistentVolumeSource,
    group: Option<Group>,
) -> Result<Wish, DriverError> {
    let driver = &source.driver;
    let terms = terms(client, driver).await?;
    terms.offers(driver, "Persistent")?;
    let spec = volume.spec.clone().unwrap_or_default();
    let modes = spec.access_modes.unwrap_or_default();
    let block = spec.volume_mode.as_deref() == Some("Block");
    let fs_type = source.fs_type.clone().unwrap_or_default();
    Ok(Wish {
        driver: driver.clone(),
        id: source.volume_handle.clone(),
        attaches: terms.attaches,
        publish_context: BTreeMap::new(),
        block,
        context: source.volume_attributes.clone().unwrap_or_default(),
        pod_info: terms.pod_info(pod, false),
        group: group.filter(|_| !block && terms.gives_to_group(&fs_type, &modes)),
        fs_type,
        mount_flags: spec.mount_options.unwrap_or_default(),
        access_mode: crate::csi::access_mode(&modes),
        read_only: source.read_only == Some(true),
        persistent: true,
        // As upstream: a driver of devices is given none.
        tokens: if block { Vec::new() } else { terms.tokens },
        tokens_in_secrets: terms.tokens_in_secrets,
        stage_secrets: secrets(client, reference(source.node_stage_secret_ref.as_ref())).await?,
        publish_secrets: secrets(client, reference(source.node_publish_secret_ref.as_ref())).await?,
        expand_secrets: secrets(client, reference(source.node_expand_secret_ref.as_ref())).await?,
    })
}

fn reference(secret: Option<&SecretReference>) -> Option<(&str, &str)> {
    let secret = secret?;
    Some((secret.namespace.as_deref()?, secret.name.as_deref()?))
}

async fn secrets(
    client: &Client,
    secret: Option<(&str, &str)>,
) -> Result<BTreeMap<String, String>, DriverError> {
    let Some((namespace, name)) = secret else {
        return Ok(BTreeMap::new());
    };
    let full = format!("{namespace}/{name}");
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(name).await;
    let found = found.map_err(fetching(format!("secret {full}")))?;
    let data = found.ok_or(DriverError::NoSecret(full))?.data.unwrap_or_default();
    let text = |(key, value): (String, k8s_openapi::ByteString)| {
        (key, String::from_utf8_lossy(&value.0).into_owned())
    };
    Ok(data.into_iter().map(text).collect())
}

/// What a driver is told of the Pod (`podInfoOnMount`).
fn pod_info(pod: PodView<'_>, ephemeral: bool) -> [(String, String); 5] {
    let account = pod.spec.service_account_name.clone().unwrap_or_default();
    [
        ("pod.name", pod.name().to_owned()),
        ("pod.namespace", pod.namespace().to_owned()),
        ("pod.uid", pod.uid().to_owned()),
        ("serviceAccount.name", account),
        ("ephemeral", ephemeral.to_string()),
    ]
    .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn terms(spec: Value) -> Terms {
        let object = json!({"metadata": {"name": "d"}, "spec": spec});
        Terms::of(Some(&serde_json::from_value(object).unwrap()))
    }

    #[test]
    fn a_driver_without_an_object_attaches_and_persists() {
        assert_eq!(Terms::of(None), terms(json!({})));
        assert!(Terms::of(None).attaches);
        assert!(Terms::of(None).offers("d", "Persistent").is_ok());
        let error = Terms::of(None).offers("d", "Ephemeral").unwrap_err();
        assert_eq!(
            error.to_string(),
            "volume mode \"Ephemeral\" not supported by driver d (only supports [\"Persistent\"])"
        );
        assert!(
            terms(json!({"volumeLifecycleModes": ["Ephemeral"]}))
                .offers("d", "Ephemeral")
                .is_ok()
        );
    }

    #[test]
    fn groups_by_policy() {
        let (once, many) = (vec!["ReadWriteOnce".to_owned()], vec!["ReadWriteMany".to_owned()]);
        for (spec, fs_type, modes, expected) in [
            (json!({}), "ext4", &once, true),
            (json!({}), "", &once, false),
            (json!({}), "ext4", &many, false),
            (json!({"fsGroupPolicy": "File"}), "", &many, true),
            (json!({"fsGroupPolicy": "None"}), "ext4", &once, false),
        ] {
            assert_eq!(
                terms(spec.clone()).gives_to_group(fs_type, modes),
                expected,
                "{spec} {fs_type}"
            );
        }
    }

    #[test]
    fn what_a_driver_wants_when_it_publishes() {
        let terms = terms(
            json!({"requiresRepublish": true, "serviceAccountTokenInSecrets": true,
            "tokenRequests": [{"audience": ""}, {"audience": "vault", "expirationSeconds": 600}]}),
        );
        let wish = |audience: &str, seconds| tokens::Wish {
            audience: audience.into(),
            seconds,
        };
        assert_eq!(terms.tokens, [wish("", 3600), wish("vault", 600)]);
        assert!(terms.tokens_in_secrets && terms.republishes);
        assert!(!Terms::of(None).tokens_in_secrets && !Terms::of(None).republishes);
    }

    #[test]
    fn what_is_told_of_a_pod() {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "serviceAccountName": "s"}});
        let pod = serde_json::from_value(pod).unwrap();
        let told = BTreeMap::from(pod_info(PodView::new(&pod).unwrap(), true));
        assert_eq!(told["csi.storage.k8s.io/serviceAccount.name"], "s");
        assert_eq!(told["csi.storage.k8s.io/ephemeral"], "true");
        assert_eq!(handle("u", "v").len(), "csi-".len() + 64);
    }
}
