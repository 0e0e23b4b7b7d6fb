//! Device nodes: those of claims, and the host's, all of which a privileged container has in its `/dev`.
//!
//! What is left out is what every container has of its own, as containerd leaves it out.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use k8s_openapi::api::core::v1::Container;
use nix::sys::stat::{major, minor};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use crate::images::ImageKind;

/// Directories and nodes of `/dev` that are the container's own.
const OWN: [&str; 6] = ["console", "fd", "mqueue", "ptmx", "pts", "shm"];
/// A host with more device nodes than this shows the first ones.
const LIMIT: usize = 4096;
/// Mode of a claim's device: whoever has the claim has the device.
const OF_CLAIMS: u32 = 0o660;
/// `/dev` is no deeper than this.
const DEPTH: usize = 8;

/// The device nodes below `dev`. A node that goes away meanwhile is left out.
pub fn of_host(dev: &Path) -> Vec<LinuxDevice> {
    let mut found = Vec::new();
    collect(dev, DEPTH, &OWN, &mut found);
    found.sort_by(|a, b| a.path().cmp(b.path()));
    found
}

fn collect(dir: &Path, depth: usize, own: &[&str], found: &mut Vec<LinuxDevice>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if own.iter().any(|o| name == *o) || found.len() >= LIMIT {
            continue;
        }
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() && depth > 0 {
            collect(&path, depth - 1, &[], found);
        } else if let Some(kind) = kind(meta.file_type()) {
            found.push(device(&path, kind, &meta));
        }
    }
}

fn kind(of: fs::FileType) -> Option<LinuxDeviceType> {
    if of.is_block_device() {
        Some(LinuxDeviceType::B)
    } else if of.is_char_device() {
        Some(LinuxDeviceType::C)
    } else {
        None
    }
}

fn device(path: &Path, kind: LinuxDeviceType, meta: &fs::Metadata) -> LinuxDevice {
    let mut device = LinuxDevice::default();
    device
        .set_path(path.into())
        .set_typ(kind)
        .set_major(major(meta.rdev()).cast_signed())
        .set_minor(minor(meta.rdev()).cast_signed())
        .set_file_mode(Some(meta.mode() & 0o777))
        .set_uid(Some(meta.uid()))
        .set_gid(Some(meta.gid()));
    device
}

/// Why a container does not get the device of a claim.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("a Wasm guest has no devices: volumeDevices cannot be given to it")]
    Guest,
    #[error("failed to find the device of volume {name:?}: {source}")]
    Absent { name: String, source: io::Error },
}

/// The devices of claims that a container asks for (`volumeDevices`), by the links that were made for the Pod.
pub fn of_claims(
    links: &Path,
    container: &Container,
    image: ImageKind,
) -> Result<Vec<LinuxDevice>, DeviceError> {
    let wanted = container.volume_devices.as_deref().unwrap_or_default();
    if !wanted.is_empty() && image == ImageKind::Wasm {
        return Err(DeviceError::Guest);
    }
    wanted
        .iter()
        .map(|wanted| {
            of_claim(&links.join(&wanted.name), &wanted.device_path).map_err(|source| DeviceError::Absent {
                name: wanted.name.clone(),
                source,
            })
        })
        .collect()
}

fn of_claim(link: &Path, shown_at: &str) -> io::Result<LinuxDevice> {
    let meta = fs::metadata(link)?;
    let kind = kind(meta.file_type()).ok_or(io::ErrorKind::InvalidInput)?;
    let mut device = device(Path::new(shown_at), kind, &meta);
    device.set_file_mode(Some(OF_CLAIMS));
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_nodes_are_found_and_what_is_the_containers_is_not() {
        let found = of_host(Path::new("/dev"));
        let null = found.iter().find(|d| d.path() == Path::new("/dev/null")).unwrap();
        assert_eq!(
            (null.major(), null.minor(), null.typ()),
            (1, 3, LinuxDeviceType::C)
        );
        let own = |d: &LinuxDevice| d.path().starts_with("/dev/pts") || d.path() == Path::new("/dev/ptmx");
        assert!(!found.iter().any(own));
        assert!(of_host(Path::new("/nowhere")).is_empty());
    }

    #[test]
    fn devices_of_claims_are_shown_where_they_are_asked_for() {
        let links = tempfile::tempdir().unwrap();
        // Any device node will do: what kind it is was checked when it was linked.
        std::os::unix::fs::symlink("/dev/null", links.path().join("d")).unwrap();
        let asks = |name: &str| -> Container {
            let devices = serde_json::json!([{"name": name, "devicePath": "/dev/data"}]);
            serde_json::from_value(serde_json::json!({"name": "c", "volumeDevices": devices})).unwrap()
        };
        let found = of_claims(links.path(), &asks("d"), ImageKind::Native).unwrap();
        assert_eq!((found[0].path(), found[0].minor()), (&"/dev/data".into(), 3));
        assert!(of_claims(links.path(), &asks("x"), ImageKind::Native).is_err());
        assert!(of_claims(links.path(), &asks("d"), ImageKind::Wasm).is_err());
        assert!(
            of_claims(links.path(), &Container::default(), ImageKind::Wasm)
                .unwrap()
                .is_empty()
        );
    }
}
