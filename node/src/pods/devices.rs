//! The host's device nodes, all of which a privileged container has in its `/dev`.
//!
//! What is left out is what every container has of its own, as containerd leaves it out.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::{major, minor};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

/// Directories and nodes of `/dev` that are the container's own.
const OWN: [&str; 6] = ["console", "fd", "mqueue", "ptmx", "pts", "shm"];
/// A host with more device nodes than this shows the first ones.
const LIMIT: usize = 4096;
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
}
