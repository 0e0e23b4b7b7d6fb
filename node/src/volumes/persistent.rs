//! Volumes that are somewhere already: a directory or a file of this host, a device, an export of an NFS server. Shown below
//! the Pod's directory by a mount, a device by a link.

use std::fs;
use std::io;
use std::net::ToSocketAddrs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::PersistentVolume;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::host::{self, HostError, at};
use super::mount_options;
use super::ownership::{self, Group};
use crate::mounts;

/// Where devices of claims are linked, beside the volumes.
pub const DEVICES: &str = "volume-devices";
/// What the kernel's client is told of a server; mount options of the volume come after it.
const NFS_VERSION: &str = "vers=4.2";

/// Why a volume could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum PersistentError {
    #[error("path {0:?} does not exist")]
    Absent(PathBuf),
    #[error("{0:?} is not a block device")]
    NoDevice(PathBuf),
    #[error("{0:?} is a device: only one of a local volume is mounted")]
    Device(PathBuf),
    #[error("mount failed: mounting {source_} on {target}: {error}")]
    Mount {
        source_: String,
        target: String,
        error: io::Error,
    },
    #[error(
        "mount failed: mounting {source_} on {target}: this node's kernel has no NFS client (module nfs)"
    )]
    NoNfs { source_: String, target: String },
    #[error("cannot find the address of the NFS server {0:?}")]
    Server(String),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("persistent volume {0:?} has a source this node does not support")]
    Unsupported(String),
}

/// Something to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `hostPath` of a PersistentVolume; its type.
    Host { path: PathBuf, kind: String },
    /// `local`: has an owner group of its own if the Pod wants one.
    Local { path: PathBuf },
    Nfs {
        server: String,
        path: String,
        read_only: bool,
        options: Vec<String>,
    },
}

impl Source {
    /// The source of a volume that needs no driver.
    pub fn of(volume: &PersistentVolume) -> Option<Source> {
        let spec = volume.spec.as_ref()?;
        if let Some(local) = &spec.local {
            let path = PathBuf::from(&local.path);
            return Some(Source::Local { path });
        }
        if let Some(host) = &spec.host_path {
            return Some(Source::Host {
                path: PathBuf::from(&host.path),
                kind: host.type_.clone().unwrap_or_default(),
            });
        }
        let nfs = spec.nfs.as_ref()?;
        Some(Source::Nfs {
            server: nfs.server.clone(),
            path: nfs.path.clone(),
            read_only: nfs.read_only == Some(true),
            options: spec.mount_options.clone().unwrap_or_default(),
        })
    }
}

/// Shows the files of `source` at `target`, unless they are there already.
pub fn show(source: &Source, target: &Path, group: Option<Group>) -> Result<(), PersistentError> {
    if mounts::is_point(target).map_err(at("look at", target))? {
        return Ok(());
    }
    match source {
        Source::Host { path, kind } => {
            host::host_path(path, kind)?;
            bind(path, target)
        }
        Source::Local { path } => {
            bind(path, target)?;
            match group {
                Some(group) => Ok(ownership::give(target, group)?),
                None => Ok(()),
            }
        }
        Source::Nfs {
            server,
            path,
            read_only,
            options,
        } => nfs(server, path, *read_only, options, target),
    }
}

/// A bind mount with what is mounted below it; propagation is that of where the source lies.
fn bind(source: &Path, target: &Path) -> Result<(), PersistentError> {
    let meta = fs::metadata(source).map_err(|_| PersistentError::Absent(source.to_owned()))?;
    if meta.file_type().is_block_device() {
        return Err(PersistentError::Device(source.to_owned()));
    }
    match meta.is_dir() {
        true => host::make_dir(target, 0o755)?,
        false => make_file(target)?,
    }
    let none: Option<&str> = None;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(source), target, none, flags, none)
        .map_err(|error| failed(&source.display().to_string(), target, error.into()))
}

fn failed(source: &str, target: &Path, error: io::Error) -> PersistentError {
    PersistentError::Mount {
        source_: source.to_owned(),
        target: target.display().to_string(),
        error,
    }
}

fn make_file(path: &Path) -> Result<(), PersistentError> {
    let made = fs::OpenOptions::new().create(true).append(true).open(path);
    Ok(made.map(drop).map_err(at("create", path))?)
}

/// Mounts an export by the kernel's own client: no helper program is needed, and none is asked.
fn nfs(
    server: &str,
    path: &str,
    read_only: bool,
    options: &[String],
    target: &Path,
) -> Result<(), PersistentError> {
    host::make_dir(target, 0o755)?;
    let address = (server, 2049)
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(|| PersistentError::Server(server.to_owned()))?
        .ip();
    let source = match address.is_ipv6() {
        true => format!("[{address}]:{path}"),
        false => format!("{server}:{path}"),
    };
    let (flags, data) = nfs_options(read_only, options, &address.to_string());
    mount(
        Some(source.as_str()),
        target,
        Some("nfs"),
        flags,
        Some(data.as_str()),
    )
    .map_err(|error| match error {
        Errno::ENODEV => PersistentError::NoNfs {
            source_: source.clone(),
            target: target.display().to_string(),
        },
        error => failed(&source, target, error.into()),
    })
}

/// Options the kernel has flags for, and the rest as its text.
fn nfs_options(read_only: bool, options: &[String], address: &str) -> (MsFlags, String) {
    let (mut flags, words) = mount_options::split(options);
    flags.set(
        MsFlags::MS_RDONLY,
        read_only || flags.contains(MsFlags::MS_RDONLY),
    );
    let words = words.iter().map(|word| word.replacen("nfsvers=", "vers=", 1));
    let mut words: Vec<String> = words.collect();
    if !words.iter().any(|word| word.starts_with("vers=")) {
        words.insert(0, NFS_VERSION.to_owned());
    }
    words.push(format!("addr={address}"));
    (flags, words.join(","))
}

/// Links the device behind a claim at `link`.
pub fn show_device(volume: &PersistentVolume, name: &str, link: &Path) -> Result<(), PersistentError> {
    let path = match Source::of(volume) {
        Some(Source::Host { path, .. } | Source::Local { path }) => path,
        _ => return Err(PersistentError::Unsupported(name.to_owned())),
    };
    let meta = fs::metadata(&path).map_err(|_| PersistentError::Absent(path.clone()))?;
    if !meta.file_type().is_block_device() {
        return Err(PersistentError::NoDevice(path));
    }
    if let Some(parent) = link.parent() {
        host::make_dir(parent, 0o755)?;
    }
    match symlink(&path, link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => Ok(made.map_err(at("link", link))?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sources_are_told_apart() {
        let of = |spec| {
            let volume = json!({"metadata": {"name": "v"}, "spec": spec});
            Source::of(&serde_json::from_value(volume).unwrap())
        };
        let host = |kind: &str| Source::Host {
            path: "/d".into(),
            kind: kind.into(),
        };
        assert_eq!(
            of(json!({"local": {"path": "/d"}})),
            Some(Source::Local { path: "/d".into() })
        );
        assert_eq!(of(json!({"hostPath": {"path": "/d"}})), Some(host("")));
        assert_eq!(
            of(json!({"hostPath": {"path": "/d", "type": "DirectoryOrCreate"}})),
            Some(host("DirectoryOrCreate"))
        );
        assert_eq!(of(json!({"csi": {"driver": "d", "volumeHandle": "h"}})), None);
    }

    #[test]
    fn options_of_nfs() {
        let of = |read_only, words: &[&str]| {
            let words: Vec<String> = words.iter().map(ToString::to_string).collect();
            nfs_options(read_only, &words, "192.0.2.1")
        };
        let read_only = MsFlags::MS_RDONLY;
        for (given, expected) in [
            (of(false, &[]), (MsFlags::empty(), "vers=4.2,addr=192.0.2.1")),
            (of(true, &["hard"]), (read_only, "vers=4.2,hard,addr=192.0.2.1")),
            (
                of(false, &["nfsvers=3", "ro", "noexec"]),
                (read_only | MsFlags::MS_NOEXEC, "vers=3,addr=192.0.2.1"),
            ),
        ] {
            assert_eq!(given, (expected.0, expected.1.to_owned()));
        }
    }

    #[test]
    fn files_of_the_host_are_shown_and_outlive_the_pod() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return;
        }
        let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(data.path().join("f"), "kept").unwrap();
        fs::write(data.path().join("g"), "one file").unwrap();
        let (tree, file) = (dir.path().join("volumes/tree"), dir.path().join("volumes/file"));
        let local = |path: PathBuf| Source::Local { path };
        let group = Group {
            id: 4242,
            always: true,
        };
        for _ in 0..2 {
            show(&local(data.path().to_owned()), &tree, Some(group)).unwrap();
            show(&local(data.path().join("g")), &file, None).unwrap();
        }
        assert_eq!(fs::read_to_string(tree.join("f")).unwrap(), "kept");
        assert_eq!(fs::read_to_string(&file).unwrap(), "one file");
        let owner = std::os::unix::fs::MetadataExt::gid(&fs::metadata(data.path().join("f")).unwrap());
        assert_eq!(owner, 4242);
        host::remove_tree(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(data.path().join("f")).unwrap(), "kept");
        let absent = show(&local("/nonexistent".into()), &dir.path().join("v"), None);
        assert!(matches!(absent, Err(PersistentError::Absent(_))), "{absent:?}");
    }
}
