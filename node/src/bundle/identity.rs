//! Who a container's process is: what the Pod's security context and the image's `User` ask for together
//! (core/v1 SecurityContext). Pure; names are looked up in the image by `images`. Never falls back to root.

use k8s_openapi::api::core::v1::Container;

use crate::pods::view::PodView;

/// Largest uid or gid runtimes take.
const MAX_ID: i64 = i32::MAX as i64;

/// What a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Its groups, `gid` among them.
    pub additional_gids: Vec<u32>,
    /// Home directory, when the image knows the user.
    pub home: Option<String>,
}

impl Identity {}

/// What is asked of the image: a user by name or number, and groups that do not depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// `user[:group]`, each a name or a number; empty for root.
    pub user: String,
    /// Replaces the user's own group.
    pub gid: Option<u32>,
    pub additional_gids: Vec<u32>,
    /// The image's own groups of the user do not count (`supplementalGroupsPolicy: Strict`, KEP-3619).
    pub strict: bool,
}

/// Why a container may not run as it asks.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum IdentityError {
    #[error("container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})")]
    ImageIsRoot { pod: String, container: String },
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    BreaksPolicy { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: {pod:?}, container: {container})"
    )]
    NotNumeric {
        user: String,
        pod: String,
        container: String,
    },
    #[error("uids and gids must be in range 0-2147483647, {0} is not")]
    Range(i64),
}

/// Decides whom to ask the image for.
pub fn wish(pod: PodView<'_>, container: &Container, image_user: &str) -> Result<Wish, IdentityError> {
    let own = container.security_context.as_ref();
    let shared = pod.spec.security_context.as_ref();
    let run_as = own
        .and_then(|s| s.run_as_user)
        .or(shared.and_then(|s| s.run_as_user));
    let group = own
        .and_then(|s| s.run_as_group)
        .or(shared.and_then(|s| s.run_as_group));
    let non_root = own
        .and_then(|s| s.run_as_non_root)
        .or(shared.and_then(|s| s.run_as_non_root));
    if non_root == Some(true) {
        check_non_root(pod, container, run_as, image_user)?;
    }
    let user = match run_as {
        Some(uid) => checked(uid)?.to_string(),
        None => image_user.to_owned(),
    };
    let extra = shared
        .into_iter()
        .flat_map(|s| s.supplemental_groups.iter().flatten().chain(&s.fs_group));
    Ok(Wish {
        user,
        gid: group.map(checked).transpose()?,
        additional_gids: extra.map(|gid| checked(*gid)).collect::<Result<_, _>>()?,
        strict: shared.is_some_and(|s| s.supplemental_groups_policy.as_deref() == Some("Strict")),
    })
}

impl Wish {
    /// What it comes to with the image's answer.
    pub fn granted(&self, uid: u32, gid: u32, image_gids: &[u32], home: &str) -> Identity {
        let gid = self.gid.unwrap_or(gid);
        let image_gids = if self.strict { &[] } else { image_gids };
        // The group of the process itself is one of them: else setgid(2) would rid it of what this group may not
        // (CVE-2023-25173).
        let mut additional_gids = [image_gids, self.additional_gids.as_slice(), &[gid]].concat();
        additional_gids.sort_unstable();
        additional_gids.dedup();
        Identity {
            uid,
            gid,
            additional_gids,
            home: Some(home.to_owned()).filter(|h| !h.is_empty()),
        }
    }
}

fn check_non_root(
    pod: PodView<'_>,
    container: &Container,
    run_as: Option<i64>,
    image_user: &str,
) -> Result<(), IdentityError> {
    let (pod, container) = (pod.full_name(), container.name.clone());
    if let Some(uid) = run_as {
        return if uid == 0 {
            Err(IdentityError::BreaksPolicy { pod, container })
        } else {
            Ok(())
        };
    }
    let user = image_user.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        _ if user.is_empty() => Err(IdentityError::ImageIsRoot { pod, container }),
        Ok(0) => Err(IdentityError::ImageIsRoot { pod, container }),
        Ok(_) => Ok(()),
        Err(_) => Err(IdentityError::NotNumeric {
            user: user.to_owned(),
            pod,
            container,
        }),
    }
}

fn checked(id: i64) -> Result<u32, IdentityError> {
    if (0..=MAX_ID).contains(&id) {
        Ok(id as u32)
    } else {
        Err(IdentityError::Range(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn decide(image_user: &str, pod: Value, container: Value) -> Result<Wish, String> {
        let object: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"securityContext": pod, "containers": [{"name": "c", "securityContext": container}]}}))
            .unwrap();
        let view = PodView::new(&object).unwrap();
        wish(view, &view.spec.containers[0], image_user).map_err(|e| e.to_string())
    }

    #[test]
    fn who_is_wished_for() {
        let id = |user: &str, gid, more: &[u32]| {
            Ok(Wish {
                user: user.to_owned(),
                gid,
                additional_gids: more.into(),
                strict: false,
            })
        };
        for (user, pod, container, expected) in [
            ("", json!({}), json!({}), id("", None, &[])),
            ("web:www", json!({}), json!({}), id("web:www", None, &[])),
            ("web", json!({"runAsUser": 7}), json!({}), id("7", None, &[])),
            (
                "web",
                json!({"runAsUser": 7}),
                json!({"runAsUser": 8, "runAsGroup": 9}),
                id("8", Some(9), &[]),
            ),
            (
                "1",
                json!({"fsGroup": 5, "supplementalGroups": [6, 5]}),
                json!({}),
                id("1", None, &[6, 5, 5]),
            ),
            ("1", json!({"runAsNonRoot": true}), json!({}), id("1", None, &[])),
        ] {
            assert_eq!(
                decide(user, pod.clone(), container.clone()),
                expected,
                "{user} {pod} {container}"
            );
        }
    }

    #[test]
    fn who_may_not() {
        for (user, pod, says) in [
            (
                "",
                json!({"runAsNonRoot": true}),
                "image will run as root (pod: \"p_d(u)\", container: c)",
            ),
            ("0:5", json!({"runAsNonRoot": true}), "image will run as root"),
            (
                "web",
                json!({"runAsNonRoot": true}),
                "image has non-numeric user (web)",
            ),
            (
                "web",
                json!({"runAsNonRoot": true, "runAsUser": 0}),
                "breaks non-root policy",
            ),
            ("", json!({"runAsUser": 4294967296i64}), "must be in range"),
            ("", json!({"fsGroup": -1}), "must be in range"),
        ] {
            let error = decide(user, pod.clone(), json!({})).unwrap_err();
            assert!(error.contains(says), "{user} {pod}: {error}");
        }
    }

    #[test]
    fn groups_come_together() {
        let wish = Wish {
            user: "web".into(),
            gid: Some(9),
            additional_gids: vec![6, 5, 5],
            strict: false,
        };
        let granted = wish.granted(33, 34, &[50, 9], "/var/www");
        assert_eq!(granted.home.as_deref(), Some("/var/www"));
        assert_eq!(
            (granted.uid, granted.gid, granted.additional_gids),
            (33, 9, vec![5, 6, 9, 50])
        );
        let strict = Wish { strict: true, ..wish };
        let granted = strict.granted(33, 34, &[50, 9], "/var/www");
        assert_eq!(granted.additional_gids, [5, 6, 9]);
    }
}
