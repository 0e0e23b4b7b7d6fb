//! Seccomp profiles of the node's own (`seccompProfile` of type `Localhost`): files below the data directory, as the runtime
//! specification writes them. Whatever of one cannot be kept is an error: a container never has less than was asked for.
//! Refuses to know what becomes of them in the kernel.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::Container;
use oci_spec::runtime::LinuxSeccomp;
use serde_json::Value;

use super::view::PodView;
use crate::bundle;
use crate::images::ImageKind;

/// Why a profile is not applied.
#[derive(Debug, thiserror::Error)]
pub enum SeccompProfileError {
    #[error("localhostProfile must be set if seccompProfile type is Localhost.")]
    Unnamed,
    #[error("seccomp profile {0:?} is not a path below the node's profiles")]
    Outside(String),
    #[error("a seccomp profile of the node confines native containers only")]
    Guest,
    #[error("cannot load seccomp profile {path:?}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("decoding seccomp profile failed {path:?}: {source}")]
    Decode {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(
        "seccomp profile {path:?} has rules with {field:?}, which the runtime specification does not know"
    )]
    Conditional { path: PathBuf, field: &'static str },
}

/// The profile that the container, or its Pod, names among those of the node, which are below `profiles`.
pub fn local(
    profiles: &Path,
    pod: PodView<'_>,
    container: &Container,
    kind: ImageKind,
) -> Result<Option<LinuxSeccomp>, SeccompProfileError> {
    let Some(profile) = bundle::seccomp_profile(pod, container).filter(|p| p.type_ == "Localhost") else {
        return Ok(None);
    };
    // As under containerd, nothing filters the calls of a privileged container.
    if bundle::is_privileged(container) {
        return Ok(None);
    }
    if kind == ImageKind::Wasm {
        return Err(SeccompProfileError::Guest);
    }
    let name = profile
        .localhost_profile
        .as_deref()
        .filter(|name| !name.is_empty());
    let name = name.ok_or(SeccompProfileError::Unnamed)?;
    let mut parts = Path::new(name).components();
    if !parts.all(|part| matches!(part, Component::Normal(_))) {
        return Err(SeccompProfileError::Outside(name.to_owned()));
    }
    read(profiles.join(name)).map(Some)
}

fn read(path: PathBuf) -> Result<LinuxSeccomp, SeccompProfileError> {
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(source) => return Err(SeccompProfileError::Read { path, source }),
    };
    let text: Result<Value, _> = serde_json::from_slice(&bytes);
    let parsed = text.and_then(|text| Ok((condition(&text), serde_json::from_value(text)?)));
    match parsed {
        Ok((None, profile)) => Ok(profile),
        Ok((Some(field), _)) => Err(SeccompProfileError::Conditional { path, field }),
        Err(source) => Err(SeccompProfileError::Decode { path, source }),
    }
}

/// Docker's profiles have rules for some hosts and capabilities only. Taken as rules for all they would allow more.
fn condition(profile: &Value) -> Option<&'static str> {
    let rules = profile["syscalls"].as_array().into_iter().flatten();
    let holds = |value: &Value| match value {
        Value::Null => false,
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    let mut found = rules.flat_map(|rule| {
        ["includes", "excludes"]
            .into_iter()
            .filter(move |f| holds(&rule[*f]))
    });
    found.next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn asked(dir: &Path, pod: Value, container: Value, kind: ImageKind) -> Result<Option<Value>, String> {
        let mut container = container;
        container["name"] = json!("c");
        let spec = json!({"securityContext": {"seccompProfile": pod}, "containers": [container]});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        let view = PodView::new(&pod).unwrap();
        let found = local(&dir.join("seccomp"), view, &view.spec.containers[0], kind);
        found
            .map(|profile| profile.map(|p| json!(p)))
            .map_err(|e| e.to_string())
    }

    fn named(name: &str) -> Value {
        json!({"type": "Localhost", "localhostProfile": name})
    }

    #[test]
    fn a_profile_of_the_node_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]});
        fs::create_dir_all(dir.path().join("seccomp/a")).unwrap();
        fs::write(dir.path().join("seccomp/a/b.json"), profile.to_string()).unwrap();
        let of_pod = asked(dir.path(), named("a/b.json"), json!({}), ImageKind::Native);
        assert_eq!(of_pod, Ok(Some(profile.clone())));
        let own = |kind: &str| json!({"securityContext": {"seccompProfile": {"type": kind}}});
        let overridden = asked(dir.path(), named("no"), own("RuntimeDefault"), ImageKind::Native);
        assert_eq!(overridden, Ok(None));
        let privileged = json!({"securityContext": {"privileged": true}});
        let none = asked(dir.path(), named("no"), privileged, ImageKind::Native);
        assert_eq!(none, Ok(None));
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("seccomp")).unwrap();
        let file = |name: &str, text: &str| fs::write(dir.path().join("seccomp").join(name), text).unwrap();
        file("bad", "{");
        file(
            "docker",
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["bpf"],
                "action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}}]}"#,
        );
        for (name, words) in [
            ("none", "cannot load seccomp profile"),
            ("bad", "decoding seccomp profile failed"),
            ("docker", r#"has rules with "includes""#),
            ("../seccomp/bad", "is not a path below"),
            ("", "localhostProfile must be set"),
        ] {
            let error = asked(dir.path(), named(name), json!({}), ImageKind::Native).unwrap_err();
            assert!(error.contains(words), "{name}: {error}");
        }
        let guest = asked(dir.path(), named("bad"), json!({}), ImageKind::Wasm);
        assert!(guest.unwrap_err().contains("native containers only"));
    }
}
