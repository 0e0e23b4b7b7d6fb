//! AppArmor profiles of containers: `appArmorProfile` of the container or its Pod, or the annotation before it. A Pod that
//! asks for one is not taken where nothing enforces it, in the kubelet's words (pkg/security/apparmor); one that asks for
//! nothing has the default where there is one, as containerd does it. Refuses to know how a profile is taken on.

mod builtin;

use std::borrow::Cow;
use std::fs;
use std::sync::Once;

use k8s_openapi::api::core::v1::{AppArmorProfile, Container};

use super::view::{PodView, as_container};
use crate::bundle;
use crate::images::ImageKind;

/// What the deprecated annotations begin with; a container's name follows.
const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const UNCONFINED: &str = "Unconfined";
/// Says whether the kernel enforces profiles.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// Why a container cannot have its profile.
#[derive(Debug, thiserror::Error)]
pub enum AppArmorError {
    #[error("missing localhost apparmor profile name")]
    Unnamed,
    #[error("an AppArmor profile confines native containers only")]
    Guest,
    #[error("no default AppArmor profile is loaded: {0}")]
    NoDefault(#[from] builtin::LoadError),
    #[error("unknown apparmor profile type: {0:?}")]
    Unknown(String),
}

/// What a container is to be confined by.
#[derive(Debug, PartialEq)]
enum Wish {
    Nothing,
    Named(String),
    Default,
    /// The default, but only where it can be had: nobody has asked for it.
    DefaultIfAny,
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
pub async fn of_container(
    pod: PodView<'_>,
    container: &Container,
    kind: ImageKind,
) -> Result<Option<String>, AppArmorError> {
    let profile = profile(pod, container);
    match wish(profile.as_deref(), bundle::is_privileged(container), kind)? {
        Wish::Nothing => Ok(None),
        Wish::Named(name) => Ok(Some(name)),
        Wish::Default => Ok(Some(builtin::name().await?.to_owned())),
        Wish::DefaultIfAny if !is_enabled() => Ok(None),
        Wish::DefaultIfAny => Ok(builtin::name()
            .await
            .inspect_err(say_once)
            .ok()
            .map(str::to_owned)),
    }
}

/// The host stays as it is, and containers are many.
fn say_once(error: &builtin::LoadError) {
    static SAID: Once = Once::new();
    SAID.call_once(
        || tracing::warn!(%error, "containers are not confined by AppArmor unless they name a profile"),
    );
}

fn wish(profile: Option<&AppArmorProfile>, privileged: bool, kind: ImageKind) -> Result<Wish, AppArmorError> {
    // What the runtime does with a guest by default is to keep it in its sandbox.
    let is_free = privileged || kind == ImageKind::Wasm;
    let Some(profile) = profile else {
        return Ok(if is_free {
            Wish::Nothing
        } else {
            Wish::DefaultIfAny
        });
    };
    match profile.type_.as_str() {
        UNCONFINED => Ok(Wish::Nothing),
        "RuntimeDefault" if is_free => Ok(Wish::Nothing),
        "RuntimeDefault" => Ok(Wish::Default),
        "Localhost" if kind == ImageKind::Wasm => Err(AppArmorError::Guest),
        "Localhost" => {
            let name = profile.localhost_profile.clone();
            let name = name.filter(|name| !name.trim().is_empty());
            name.map(Wish::Named).ok_or(AppArmorError::Unnamed)
        }
        other => Err(AppArmorError::Unknown(other.to_owned())),
    }
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
    fn what_confines_a_container() {
        let of = |kind: &str, local: Option<&str>, privileged, image| {
            let profile = AppArmorProfile {
                type_: kind.into(),
                localhost_profile: local.map(str::to_owned),
            };
            wish(Some(&profile), privileged, image)
        };
        let (native, wasm) = (ImageKind::Native, ImageKind::Wasm);
        assert_eq!(of("Unconfined", None, false, native).unwrap(), Wish::Nothing);
        let strict = of("Localhost", Some("strict"), true, native);
        assert_eq!(strict.unwrap(), Wish::Named("strict".into()));
        let unnamed = of("Localhost", Some(" "), false, native);
        assert!(matches!(unnamed, Err(AppArmorError::Unnamed)));
        let guest = of("Localhost", Some("strict"), false, wasm);
        assert!(matches!(guest, Err(AppArmorError::Guest)));
        assert_eq!(of("RuntimeDefault", None, false, native).unwrap(), Wish::Default);
        assert_eq!(of("RuntimeDefault", None, true, native).unwrap(), Wish::Nothing);
        assert_eq!(wish(None, false, native).unwrap(), Wish::DefaultIfAny);
        assert_eq!(wish(None, true, native).unwrap(), Wish::Nothing);
        assert_eq!(wish(None, false, wasm).unwrap(), Wish::Nothing);
    }
}
