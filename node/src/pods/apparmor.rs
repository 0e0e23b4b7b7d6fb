//! AppArmor profiles of containers: `appArmorProfile` of the container or its Pod, or the annotation before it. A Pod that
//! asks for one is not taken where nothing enforces it, in the kubelet's words (pkg/security/apparmor). Refuses to know
//! how a profile is taken on.

use std::borrow::Cow;
use std::fs;

use k8s_openapi::api::core::v1::{AppArmorProfile, Container};

use super::view::{PodView, as_container};
use crate::bundle;
use crate::images::ImageKind;

/// What the deprecated annotations begin with; a container's name follows.
const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const UNCONFINED: &str = "Unconfined";
/// Profiles that runtimes load for all of their containers. There is none of the node's own.
const DEFAULTS: [&str; 2] = ["cri-containerd.apparmor.d", "docker-default"];
/// Says whether the kernel enforces profiles.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// Those that are loaded, one a line: name and mode.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// Why a container cannot have its profile.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum AppArmorError {
    #[error("missing localhost apparmor profile name")]
    Unnamed,
    #[error("an AppArmor profile confines native containers only")]
    Guest,
    #[error("no default AppArmor profile is loaded: one of {}", DEFAULTS.join(", "))]
    NoDefault,
    #[error("unknown apparmor profile type: {0:?}")]
    Unknown(String),
}

/// Whether this host enforces profiles.
pub fn is_enabled() -> bool {
    fs::read_to_string(ENABLED).is_ok_and(|text| text.starts_with('Y'))
}

/// Whether something of the Pod is to be confined.
pub fn is_required(pod: PodView<'_>) -> bool {
    let own = pod.containers().map(|(c, _)| Cow::Borrowed(c));
    let added = pod.ephemeral().iter().map(|c| Cow::Owned(as_container(c)));
    let shared = pod.spec.security_context.as_ref();
    let shared = shared.and_then(|s| s.app_armor_profile.as_ref());
    own.chain(added)
        .any(|c| profile(pod, &c).is_some_and(|p| p.type_ != UNCONFINED))
        || shared.is_some_and(|p| p.type_ != UNCONFINED)
}

/// The name of the profile to take on.
pub fn of_container(
    pod: PodView<'_>,
    container: &Container,
    kind: ImageKind,
) -> Result<Option<String>, AppArmorError> {
    let loaded = || fs::read_to_string(LOADED).unwrap_or_default();
    match profile(pod, container) {
        None => Ok(None),
        Some(profile) => name(&profile, bundle::is_privileged(container), kind, loaded),
    }
}

fn name(
    profile: &AppArmorProfile,
    privileged: bool,
    kind: ImageKind,
    loaded: impl FnOnce() -> String,
) -> Result<Option<String>, AppArmorError> {
    match profile.type_.as_str() {
        UNCONFINED => Ok(None),
        // What the runtime does with a guest by default is to keep it in its sandbox.
        "RuntimeDefault" if privileged || kind == ImageKind::Wasm => Ok(None),
        "RuntimeDefault" => default(&loaded()).map(Some),
        "Localhost" if kind == ImageKind::Wasm => Err(AppArmorError::Guest),
        "Localhost" => {
            let name = profile.localhost_profile.clone();
            let name = name.filter(|name| !name.trim().is_empty());
            name.map(Some).ok_or(AppArmorError::Unnamed)
        }
        other => Err(AppArmorError::Unknown(other.to_owned())),
    }
}

fn default(loaded: &str) -> Result<String, AppArmorError> {
    let is_loaded = |name: &&str| {
        let mut names = loaded.lines().filter_map(|line| line.rsplit_once(" ("));
        names.any(|(loaded, _)| loaded == *name)
    };
    let found = DEFAULTS.into_iter().find(is_loaded);
    found.map(str::to_owned).ok_or(AppArmorError::NoDefault)
}

fn profile<'a>(pod: PodView<'a>, container: &'a Container) -> Option<Cow<'a, AppArmorProfile>> {
    let own = container.security_context.as_ref();
    let own = own.and_then(|s| s.app_armor_profile.as_ref());
    let shared = pod.spec.security_context.as_ref();
    let shared = shared.and_then(|s| s.app_armor_profile.as_ref());
    own.map(Cow::Borrowed)
        .or_else(|| annotated(pod, &container.name).map(Cow::Owned))
        .or_else(|| shared.map(Cow::Borrowed))
}

/// A static Pod may have the annotation only.
fn annotated(pod: PodView<'_>, container: &str) -> Option<AppArmorProfile> {
    let annotations = pod.pod.metadata.annotations.as_ref()?;
    let value = annotations.get(&format!("{ANNOTATION}{container}"))?;
    let (kind, name) = match value.as_str() {
        "runtime/default" => ("RuntimeDefault", None),
        "unconfined" => (UNCONFINED, None),
        local => ("Localhost", Some(local.strip_prefix("localhost/")?.to_owned())),
    };
    Some(AppArmorProfile {
        type_: kind.to_owned(),
        localhost_profile: name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn pod(annotations: Value, shared: Value, own: Value) -> Pod {
        let container = json!({"name": "c", "securityContext": {"appArmorProfile": own}});
        let spec = json!({"securityContext": {"appArmorProfile": shared}, "containers": [container]});
        serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": spec})).unwrap()
    }

    #[test]
    fn who_asks_to_be_confined() {
        let kind = |kind: &str| json!({"type": kind});
        let note = |value: &str| json!({(format!("{ANNOTATION}c")): value});
        for (annotations, shared, own, expected) in [
            (json!({}), json!(null), json!(null), false),
            (json!({}), kind("Unconfined"), kind("Unconfined"), false),
            (json!({}), kind("RuntimeDefault"), json!(null), true),
            (json!({}), json!(null), kind("Localhost"), true),
            (note("runtime/default"), json!(null), json!(null), true),
            (note("unconfined"), json!(null), json!(null), false),
        ] {
            let pod = pod(annotations, shared, own);
            assert_eq!(is_required(PodView::new(&pod).unwrap()), expected, "{pod:?}");
        }
    }

    #[test]
    fn names_of_profiles() {
        let of = |kind: &str, local: Option<&str>, privileged, image, loaded: &str| {
            let profile = AppArmorProfile {
                type_: kind.into(),
                localhost_profile: local.map(str::to_owned),
            };
            name(&profile, privileged, image, || loaded.to_owned())
        };
        let some = |name: &str| Ok(Some(name.to_owned()));
        let native = ImageKind::Native;
        assert_eq!(of("Unconfined", None, false, native, ""), Ok(None));
        assert_eq!(of("Localhost", Some("strict"), true, native, ""), some("strict"));
        assert_eq!(
            of("Localhost", Some(" "), false, native, ""),
            Err(AppArmorError::Unnamed)
        );
        assert_eq!(
            of("Localhost", Some("strict"), false, ImageKind::Wasm, ""),
            Err(AppArmorError::Guest)
        );
        let loaded = "/usr/bin/man (enforce)\ndocker-default (enforce)\n";
        assert_eq!(
            of("RuntimeDefault", None, false, native, loaded),
            some("docker-default")
        );
        assert_eq!(
            of("RuntimeDefault", None, false, native, ""),
            Err(AppArmorError::NoDefault)
        );
        assert_eq!(of("RuntimeDefault", None, true, native, ""), Ok(None));
    }
}
