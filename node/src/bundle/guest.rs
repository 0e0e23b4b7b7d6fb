//! What a bundle tells wasm-shim by annotations: the program, its port, and the settings of the Pod that are the container's.
//!
//! Owns which setting is for which container. Refuses to know what a guest does with one.

use std::collections::HashMap;

use amphipod_shim_api::annotations;
use k8s_openapi::api::core::v1::{Container, PodSpec, VolumeMount};

use super::resources::PERIOD_MICROS;
use super::{Parts, Runtime, process};
use crate::pods::cgroup;
use crate::pods::handler;
use crate::pods::view::PodView;

/// Where the container serves, should it be a server: its first port of TCP.
fn port(container: &Container) -> Option<i32> {
    let is_tcp = |protocol: Option<&str>| matches!(protocol, None | Some("TCP"));
    let mut ports = container.ports.iter().flatten();
    ports
        .find(|port| is_tcp(port.protocol.as_deref()))
        .map(|port| port.container_port)
}

/// What the guests of a Pod may use together, of a bundle or of an Update: as much as its cgroup has for native containers.
pub fn bounds(spec: &PodSpec) -> HashMap<String, String> {
    let limits = cgroup::limits(spec);
    let (memory, quota) = (
        limits.memory.unwrap_or_default(),
        limits.cpu_quota.unwrap_or_default(),
    );
    let period = limits.cpu_period.unwrap_or(PERIOD_MICROS);
    let notes = [
        (annotations::SANDBOX_MEMORY, memory.to_string()),
        (annotations::SANDBOX_CPU_QUOTA, quota.to_string()),
        (annotations::SANDBOX_CPU_PERIOD, period.to_string()),
    ];
    let owned = notes.into_iter().map(|(name, value)| (name.to_owned(), value));
    owned.collect()
}

/// What the guests of a Pod may use together now, if that is other than when `before` was the Pod.
pub fn bounds_since(before: &PodSpec, now: &PodSpec) -> Option<HashMap<String, String>> {
    let wanted = bounds(now);
    (wanted != bounds(before)).then_some(wanted)
}

/// Annotations of the bundle of a Wasm container; none for a native one.
pub fn notes(parts: &Parts<'_>) -> Vec<(String, String)> {
    let Runtime::Wasm {
        module,
        cache,
        has_root,
    } = parts.runtime
    else {
        return Vec::new();
    };
    let mut notes = vec![(annotations::WASM_CACHE, cache.display().to_string())];
    let own = module.filter(|_| !(has_root && process::names_another(parts)));
    if let Some((module, digest)) = own {
        notes.push((annotations::WASM_MODULE, module.display().to_string()));
        notes.push((annotations::WASM_DIGEST, digest.to_owned()));
    }
    notes.extend(port(parts.container).map(|port| (annotations::WASM_HTTP_PORT, port.to_string())));
    let message = parts.message.map(|path| path.display().to_string());
    notes.extend(message.map(|path| (annotations::WASM_MESSAGE, path)));
    if parts.handler == handler::WASM_ISOLATED {
        notes.push((
            annotations::WASM_ISOLATION,
            annotations::WASM_ISOLATION_POD.to_owned(),
        ));
    }
    if !parts.rules.is_open() {
        // A plain value of texts and numbers: it has a text.
        notes.push((
            annotations::WASM_NETWORK,
            serde_json::json!(parts.rules).to_string(),
        ));
    }
    notes.extend(settings(parts.pod, parts.container));
    let owned = notes.into_iter().map(|(name, value)| (name.to_owned(), value));
    owned.chain(bounds(parts.pod.spec)).collect()
}

/// The container's settings: `KEY.CONTAINER` of the Pod's annotations, else `KEY` where that is for this container too.
fn settings(pod: PodView<'_>, container: &Container) -> Vec<(&'static str, String)> {
    let given = pod.pod.metadata.annotations.as_ref();
    let value = |name: &str| given.and_then(|given| given.get(name)).cloned();
    let setting = |name: &&'static str| {
        let own = value(&format!("{name}.{}", container.name)).map(|value| (*name, value));
        own.or_else(|| shared(pod, container, name, value(name)?))
    };
    annotations::WASM_FROM_POD.iter().filter_map(setting).collect()
}

/// A setting for all containers, as this one is told it. One that names a mount is for those that have it; when none
/// has, each is told, so that a wrong path does not go unseen. What a module exports only the shim knows.
fn shared(
    pod: PodView<'_>,
    container: &Container,
    name: &'static str,
    value: String,
) -> Option<(&'static str, String)> {
    let writes = match name {
        annotations::WASM_INVOKE => return Some((annotations::WASM_INVOKE_IF_EXPORTED, value)),
        annotations::WASM_CORE_DUMPS | annotations::WASM_PROFILE => true,
        annotations::WASM_KEYVALUE | annotations::WASM_BLOBSTORE => false,
        _ => return Some((name, value)),
    };
    let bare = |path: &str| path.trim_end_matches('/').to_owned();
    let is_it = |mount: &VolumeMount| {
        bare(&mount.mount_path) == bare(&value) && !(writes && mount.read_only == Some(true))
    };
    let has = |mounts: &Option<Vec<VolumeMount>>| mounts.iter().flatten().any(is_it);
    let others = || {
        pod.containers().any(|(other, _)| has(&other.volume_mounts))
            || pod.ephemeral().iter().any(|other| has(&other.volume_mounts))
    };
    let applies = has(&container.volume_mounts) || !others();
    applies.then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    #[test]
    fn a_server_listens_on_the_first_port_of_tcp() {
        let udp = json!({"containerPort": 7001, "protocol": "UDP"});
        let sctp = json!({"containerPort": 7002, "protocol": "SCTP"});
        for (ports, expected) in [
            (json!([]), None),
            (json!([udp]), None),
            (json!([udp, sctp, {"containerPort": 8088}]), Some(8088)),
            (
                json!([udp, {"containerPort": 80, "protocol": "TCP"}, {"containerPort": 81}]),
                Some(80),
            ),
        ] {
            let container = serde_json::from_value(json!({"name": "c", "ports": ports})).unwrap();
            assert_eq!(port(&container), expected, "{ports}");
        }
    }

    #[test]
    fn a_guest_made_of_a_pod_from_before_a_resize_is_told_what_the_pod_has_now() {
        let spec = |memory: &str, cpu: &str, image: &str| -> PodSpec {
            let limits = json!({"memory": memory, "cpu": cpu});
            let container = |name: &str| json!({"name": name, "image": image, "resources": {"limits": limits, "requests": limits}});
            serde_json::from_value(json!({"containers": [container("a"), container("b")]})).unwrap()
        };
        let before = spec("16Mi", "1", "i");
        assert_eq!(bounds_since(&before, &spec("16Mi", "1", "other")), None);
        for now in [spec("32Mi", "1", "i"), spec("16Mi", "2", "i")] {
            assert_eq!(bounds_since(&before, &now), Some(bounds(&now)));
        }
        assert_eq!(
            bounds(&spec("32Mi", "1", "i"))[annotations::SANDBOX_MEMORY],
            (64 << 20).to_string()
        );
    }

    /// What each of the containers "a" and "b", of which "a" has a mount at /blob and "b" a read-only one at /ro, is told.
    fn told(annotations: Value) -> [Vec<(&'static str, String)>; 2] {
        let mount =
            |path: &str, read_only: bool| json!({"name": "v", "mountPath": path, "readOnly": read_only});
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "annotations": annotations},
            "spec": {
                "initContainers": [{"name": "b", "volumeMounts": [mount("/ro", true)]}],
                "containers": [{"name": "a", "volumeMounts": [mount("/blob/", false)]}],
            },
        }))
        .unwrap();
        let view = PodView::new(&pod).unwrap();
        ["a", "b"].map(|name| settings(view, &view.container(name).unwrap().0))
    }

    #[test]
    fn settings_are_for_one_container_or_for_those_they_fit() {
        let short = |settings: &[(&'static str, String)]| {
            let short =
                |(name, value): &(&str, String)| format!("{}={value}", name.rsplit('/').next().unwrap());
            settings.iter().map(short).collect::<Vec<_>>().join(" ")
        };
        for (key, value, a, b) in [
            // A number is for all, a function for whoever has it.
            ("concurrency", "3", "concurrency=3", "concurrency=3"),
            ("invoke", "go", "invoke-if-exported=go", "invoke-if-exported=go"),
            ("invoke.a", "go", "invoke=go", ""),
            // A mount is for those that have it.
            ("blobstore", "/blob", "blobstore=/blob", ""),
            ("keyvalue", "/ro", "", "keyvalue=/ro"),
            ("keyvalue", "/typo", "keyvalue=/typo", "keyvalue=/typo"),
            ("profile", "/blob", "profile=/blob", ""),
            // Nobody could write there: each says so.
            ("core-dumps", "/ro", "core-dumps=/ro", "core-dumps=/ro"),
            // What is a container's own is not weighed.
            ("blobstore.b", "/blob", "", "blobstore=/blob"),
            ("http-port.a", "1", "", ""),
        ] {
            let [own, other] = told(json!({format!("dev.amphipod.wasm/{key}"): value}));
            assert_eq!((&*short(&own), &*short(&other)), (a, b), "{key}={value}");
        }
        let [own, other] = told(json!({
            "dev.amphipod.wasm/concurrency": "3",
            "dev.amphipod.wasm/concurrency.b": "5",
        }));
        assert_eq!(
            (&*short(&own), &*short(&other)),
            ("concurrency=3", "concurrency=5")
        );
    }
}
