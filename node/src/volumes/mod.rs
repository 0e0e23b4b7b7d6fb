//! Pod volumes on this host: where they are, making them, keeping projected ones current, removing them.
//! Refuses to know containers beyond the mounts they ask for.

pub mod atomic;
pub mod claims;
pub mod disks;
pub mod host;
pub mod layers;
pub mod local_path;
mod mount_options;
pub mod ownership;
pub mod payload;
pub mod persistent;
pub mod propagation;
pub mod subpath;
pub mod tokens;
pub mod usage;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, Volume, VolumeMount};

use crate::bundle::mounts::{Bind, Propagation};
use crate::csi;
use crate::env::expand::expand;
use crate::env::{Environment, Objects, PodFacts};
use crate::hugepages;
use crate::pods::cgroup;
use crate::quantity;

/// Why a volume cannot be used: the text after "MountVolume.SetUp failed for volume".
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error(transparent)]
    Payload(#[from] payload::PayloadError),
    #[error(transparent)]
    Write(#[from] atomic::WriteError),
    #[error(transparent)]
    Host(#[from] host::HostError),
    #[error(transparent)]
    Medium(#[from] hugepages::MediumError),
    #[error("volume {0:?} has a source this node does not support")]
    Unsupported(String),
}

/// Why a mount cannot be given: `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum MountError {
    #[error("volume {volume:?} of mount {path:?} is not in the Pod")]
    NoVolume { volume: String, path: String },
    #[error("it is not known where volume {volume:?} is: {why}")]
    NoPlace { volume: String, why: String },
    #[error("missing value for {}", .0.join(", "))]
    MissingValues(Vec<String>),
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")]
    SubPath { volume: String, container: String },
}

/// Directory of one volume below a Pod's `volumes` directory.
fn directory(volumes: &Path, volume: &Volume) -> PathBuf {
    volumes.join(&volume.name)
}

/// Where one volume is, below a Pod's `volumes` directory: a driver's may be shown elsewhere there.
///
/// # Errors
/// When it cannot be read where a driver shows it.
pub fn place(volumes: &Path, volume: &Volume) -> io::Result<PathBuf> {
    let may_be_a_drivers =
        volume.csi.is_some() || volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some();
    let shown = match volumes.parent().filter(|_| may_be_a_drivers) {
        Some(pod) => csi::target::shown_at(pod, &volume.name)?,
        None => None,
    };
    Ok(shown.unwrap_or_else(|| directory(volumes, volume)))
}

/// Makes one volume ready. Repeating it refreshes what is projected.
pub fn set_up(
    volumes: &Path,
    volume: &Volume,
    facts: &PodFacts<'_>,
    objects: &Objects,
) -> Result<(), VolumeError> {
    let dir = directory(volumes, volume);
    let group = facts.pod.spec.security_context.as_ref().and_then(|s| s.fs_group);
    let group = group.and_then(|gid| u32::try_from(gid).ok());
    if payload::is_projection(volume) {
        return project(&dir, volume, facts, objects, group);
    }
    if let Some(source) = &volume.empty_dir {
        match source.medium.as_deref() {
            Some("Memory") => host::mount_tmpfs(&dir, memory_bytes(source, facts), 0o1777)?,
            Some(medium) if medium.starts_with(hugepages::MEDIUM) => {
                host::mount_huge_pages(&dir, hugepages::of_volume(medium, facts.pod.spec)?)?;
            }
            _ => host::make_dir(&dir, 0o777)?,
        }
        group.map_or(Ok(()), |gid| host::give_to_group(&dir, gid))?;
        return Ok(());
    }
    if volume.image.is_some() {
        // Mounted when a container shows it: it may have to be pulled, and that is the container's to say.
        return Ok(());
    }
    if let Some(source) = &volume.host_path {
        let kind = source.type_.as_deref().unwrap_or_default();
        return Ok(host::host_path(Path::new(&source.path), kind)?);
    }
    Err(VolumeError::Unsupported(volume.name.clone()))
}

/// What a volume in memory may hold: as much as it says, the Pod may use, and all Pods together may (KEP-1967).
fn memory_bytes(source: &EmptyDirVolumeSource, facts: &PodFacts<'_>) -> Option<u64> {
    let own = source.size_limit.as_ref().and_then(quantity::value);
    let node = facts.allocatable.get("memory").and_then(quantity::value);
    let all = [own, cgroup::memory_limit(facts.pod.spec), node];
    let least = all.into_iter().flatten().filter(|bytes| *bytes > 0).min();
    least.and_then(|bytes| u64::try_from(bytes).ok())
}

/// What only a configMap holds may lie on disk; all else is in memory, as upstream's.
fn project(
    dir: &Path,
    volume: &Volume,
    facts: &PodFacts<'_>,
    objects: &Objects,
    group: Option<u32>,
) -> Result<(), VolumeError> {
    let files = payload::payload(volume, facts, objects)?;
    match volume.config_map.is_some() {
        true => host::make_dir(dir, 0o777)?,
        false => host::mount_tmpfs(dir, None, 0o1777)?,
    }
    atomic::write(dir, &files, group)?;
    Ok(())
}

/// Where parts of volumes are mounted, beside the volumes: `<volume>/<container>/<number of the mount>`, as upstream.
pub const SUB_PATHS: &str = "volume-subpaths";

/// Images as volumes that show the users of a Pod's own, beside the volumes. No volume has this name.
const IDMAPPED_IMAGES: &str = "idmapped~images";

/// Where a Pod's volumes are for one container.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    pub volumes: &'a Path,
    /// Where parts of them are made ready.
    pub sub_paths: &'a Path,
    /// The Pod's own user namespace, if the container is in it.
    pub users: Option<&'a Path>,
}

impl Places<'_> {
    /// Where the image volume of that name is: an overlay is idmapped by its layers, and so one of its own.
    pub fn image(&self, name: &str) -> PathBuf {
        match self.users {
            Some(_) => self.volumes.join(IDMAPPED_IMAGES).join(name),
            None => self.volumes.join(name),
        }
    }
}

/// The mounts a container asks for; those of a part of a volume (`subPath`) are made ready.
pub fn binds(
    places: Places<'_>,
    all: &[Volume],
    container: &Container,
    environment: &Environment,
) -> Result<Vec<Bind>, MountError> {
    let mut made = Vec::new();
    for (number, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = all
            .iter()
            .find(|v| v.name == mount.name)
            .ok_or_else(|| MountError::NoVolume {
                volume: mount.name.clone(),
                path: mount.mount_path.clone(),
            })?;
        let whole = match &volume.host_path {
            Some(host) => PathBuf::from(&host.path),
            None if volume.image.is_some() => places.image(&volume.name),
            None => place(places.volumes, volume).map_err(|error| MountError::NoPlace {
                volume: volume.name.clone(),
                why: error.to_string(),
            })?,
        };
        let source = match below(mount, environment)? {
            None => whole,
            Some(below) => {
                let target = places
                    .sub_paths
                    .join(&volume.name)
                    .join(&container.name)
                    .join(number.to_string());
                part(&whole, &below, &target, mount, container)?;
                target
            }
        };
        let read_only = mount.read_only == Some(true) || is_read_only(volume);
        let propagation = match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::None,
        };
        let mut bind = Bind::new(source, absolute(&mount.mount_path), read_only);
        bind.propagation = propagation;
        bind.recursive = read_only && is_recursive(mount);
        bind.idmapped = places.users.is_some() && volume.image.is_some();
        made.push(bind);
    }
    Ok(made)
}

/// Whether `readOnly` is for all that is mounted below too; every runtime here can.
pub fn is_recursive(mount: &VolumeMount) -> bool {
    matches!(
        mount.recursive_read_only.as_deref(),
        Some("Enabled" | "IfPossible")
    )
}

/// Whether nobody may write to the volume, whatever the mount says.
fn is_read_only(volume: &Volume) -> bool {
    let of_claim = volume.persistent_volume_claim.as_ref();
    let said = of_claim
        .and_then(|claim| claim.read_only)
        .or(volume.nfs.as_ref().and_then(|nfs| nfs.read_only));
    payload::is_projection(volume) || volume.image.is_some() || said == Some(true)
}

/// The part of its volume that a mount shows, if not all. A variable that says nothing would make one directory of many.
fn below(mount: &VolumeMount, environment: &Environment) -> Result<Option<String>, MountError> {
    let missing = RefCell::new(BTreeSet::new());
    let lookup = |name: &str| {
        let value = environment.get(name).unwrap_or_default();
        if value.is_empty() {
            missing.borrow_mut().insert(name.to_owned());
        }
        Some(value.to_owned())
    };
    let expression = mount.sub_path_expr.as_deref().filter(|e| !e.is_empty());
    let expanded = expression.map(|e| expand(e, lookup));
    let missing: Vec<String> = missing.into_inner().into_iter().collect();
    match missing.is_empty() {
        true => Ok(expanded
            .or_else(|| mount.sub_path.clone())
            .filter(|p| !p.is_empty())),
        false => Err(MountError::MissingValues(missing)),
    }
}

fn part(
    volume: &Path,
    below: &str,
    target: &Path,
    mount: &VolumeMount,
    container: &Container,
) -> Result<(), MountError> {
    subpath::bind(volume, below, target).map_err(|error| {
        // The Pod's owner is not told what the host's files look like.
        tracing::warn!(%error, below, volume = mount.name, container = container.name, "no subPath for a volumeMount");
        MountError::SubPath {
            volume: mount.name.clone(),
            container: container.name.clone(),
        }
    })
}

/// A mount path without a leading slash is taken from the root, as upstream.
fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

/// What the node's disk holds for a Pod; memory and the host's own paths are counted elsewhere or not at all.
pub fn is_on_disk(volume: &Volume) -> bool {
    let in_memory =
        |medium: Option<&str>| medium.is_some_and(|m| m == "Memory" || m.starts_with(hugepages::MEDIUM));
    match &volume.empty_dir {
        Some(dir) => !in_memory(dir.medium.as_deref()),
        None => volume.config_map.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::view::PodView;
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::json;

    fn places(users: Option<&'static Path>) -> Places<'static> {
        Places {
            volumes: Path::new("/v"),
            sub_paths: Path::new("/s"),
            users,
        }
    }

    #[test]
    fn an_image_is_elsewhere_for_users_of_a_pods_own_and_idmapped_there() {
        let volumes =
            json!([{"name": "i", "image": {"reference": "r.example/i:1"}}, {"name": "d", "emptyDir": {}}]);
        let volumes: Vec<Volume> = serde_json::from_value(volumes).unwrap();
        let mounts = json!([{"name": "i", "mountPath": "/i"}, {"name": "d", "mountPath": "/d"}]);
        let container = json!({"name": "c", "volumeMounts": mounts});
        let container: Container = serde_json::from_value(container).unwrap();
        let users = Path::new("/run/user");
        for (users, source, idmapped) in [(None, "/v/i", false), (Some(users), "/v/idmapped~images/i", true)]
        {
            let made = binds(places(users), &volumes, &container, &Environment::default()).unwrap();
            let image = Bind {
                idmapped,
                ..Bind::new(source, "/i", true)
            };
            assert_eq!(made, [image, Bind::new("/v/d", "/d", false)]);
        }
    }

    #[test]
    fn mounts_of_a_container() {
        let volumes: Vec<Volume> = serde_json::from_value(json!([
            {"name": "d", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/srv"}},
            {"name": "c", "configMap": {"name": "m"}}]))
        .unwrap();
        let container: Container = serde_json::from_value(json!({"name": "c", "volumeMounts": [
            {"name": "d", "mountPath": "/d"}, {"name": "h", "mountPath": "h", "readOnly": true},
            {"name": "c", "mountPath": "/c"}]}))
        .unwrap();
        let made = binds(places(None), &volumes, &container, &Environment::default()).unwrap();
        let expected = [
            Bind::new("/v/d", "/d", false),
            Bind::new("/srv", "/h", true),
            Bind::new("/v/c", "/c", true),
        ];
        assert_eq!(made, expected);
    }

    #[test]
    fn memory_holds_no_more_than_the_pod_may_use() {
        let allocatable = [("memory".to_owned(), Quantity("3Gi".into()))].into();
        for (own, limit, expected) in [
            (json!({}), json!({}), 3 << 30),
            (json!({"sizeLimit": "1Gi"}), json!({}), 1 << 30),
            (json!({"sizeLimit": "0"}), json!({"memory": "2Gi"}), 2 << 30),
            (json!({"sizeLimit": "5Gi"}), json!({"memory": "4Gi"}), 3 << 30),
        ] {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"},
                "spec": {"containers": [{"name": "c", "resources": {"limits": limit}}]}}))
            .unwrap();
            let facts = PodFacts {
                pod: PodView::new(&pod).unwrap(),
                pod_ips: &[],
                host_ips: &[],
                node_name: "n",
                allocatable: &allocatable,
            };
            let source = serde_json::from_value(own).unwrap();
            assert_eq!(memory_bytes(&source, &facts), Some(expected), "{limit}");
        }
    }

    #[test]
    fn what_tells_of_a_pod_or_of_secrets_is_in_memory() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": []}})).unwrap();
        let facts = PodFacts {
            pod: PodView::new(&pod).unwrap(),
            pod_ips: &[],
            host_ips: &[],
            node_name: "n",
            allocatable: &std::collections::BTreeMap::new(),
        };
        let name = json!({"path": "name", "fieldRef": {"fieldPath": "metadata.name"}});
        for (number, (source, in_memory)) in [
            (json!({"configMap": {"name": "m", "optional": true}}), false),
            (json!({"secret": {"secretName": "s", "optional": true}}), true),
            (json!({"downwardAPI": {"items": [name]}}), true),
            (
                json!({"projected": {"sources": [{"downwardAPI": {"items": [name]}}]}}),
                true,
            ),
            (json!({"emptyDir": {}}), false),
            (
                json!({"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
                true,
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let mut named = source.clone();
            named["name"] = json!(format!("v{number}"));
            let volume: Volume = serde_json::from_value(named).unwrap();
            set_up(dir.path(), &volume, &facts, &Objects::default()).unwrap();
            let is_mount = crate::mounts::is_point(&directory(dir.path(), &volume)).unwrap();
            assert_eq!(
                (is_mount, is_on_disk(&volume)),
                (in_memory, !in_memory),
                "{source}"
            );
        }
        let told = std::fs::read_to_string(dir.path().join("v2/name")).unwrap();
        assert_eq!(told, "p");
        host::remove_tree(dir.path()).unwrap();
    }

    #[test]
    fn a_part_named_by_variables_needs_them_all() {
        let mut environment = Environment::default();
        environment.set("A", "a");
        environment.set("EMPTY", "");
        for (expression, expected) in [
            ("x/$(A)", Ok(Some("x/a".to_owned()))),
            ("$$(A)", Ok(Some("$(A)".to_owned()))),
            ("", Ok(None)),
            ("$(NOPE)/$(A)", Err("missing value for NOPE")),
            ("$(NOPE)$(EMPTY)", Err("missing value for EMPTY, NOPE")),
        ] {
            let mount = VolumeMount {
                sub_path_expr: Some(expression.to_owned()),
                ..VolumeMount::default()
            };
            let found = below(&mount, &environment).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{expression}");
        }
    }

    #[test]
    fn a_mount_of_no_volume_is_named() {
        let container: Container =
            serde_json::from_value(json!({"name": "c", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}))
                .unwrap();
        let error = binds(places(None), &[], &container, &Environment::default()).unwrap_err();
        assert_eq!(
            error,
            MountError::NoVolume {
                volume: "x".into(),
                path: "/x".into()
            }
        );
    }

    #[test]
    fn a_drivers_volume_is_where_it_is_shown() {
        let pod = tempfile::tempdir().unwrap();
        let volumes = pod.path().join("volumes");
        let noted = pod.path().join(csi::published::DIRECTORY);
        std::fs::create_dir(&noted).unwrap();
        let record = json!({"driver": "d", "id": "v", "target": "/shown", "staged": null});
        std::fs::write(noted.join("v.json"), record.to_string()).unwrap();
        std::fs::write(noted.join("bad.json"), "{").unwrap();
        for (volume, expected) in [
            (
                json!({"name": "v", "csi": {"driver": "d"}}),
                Some("/shown".into()),
            ),
            (
                json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}),
                Some("/shown".into()),
            ),
            (json!({"name": "v", "ephemeral": {}}), Some("/shown".into())),
            (
                json!({"name": "local", "persistentVolumeClaim": {"claimName": "c"}}),
                Some(volumes.join("local")),
            ),
            (json!({"name": "bad", "csi": {"driver": "d"}}), None),
            (json!({"name": "v", "emptyDir": {}}), Some(volumes.join("v"))),
        ] {
            let read: Volume = serde_json::from_value(volume.clone()).unwrap();
            assert_eq!(place(&volumes, &read).ok(), expected, "{volume}");
        }
    }
}
