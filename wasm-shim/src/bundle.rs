//! What an OCI bundle says about a Wasm container: `config.json` read once, checked, and turned into our terms.
//!
//! Owns the reading of the OCI runtime specification. Refuses to know Pods and wasmtime. Fields that have no meaning
//! for a guest without kernel (namespaces other than the network, rlimits, hooks) are ignored.

mod binds;
mod bounds;
mod command;
mod identity;
mod preopen;
mod serving;

pub use binds::{Bind, binds};
pub use bounds::{BadBound, bounds};
pub use command::Command;
pub use preopen::{Preopen, open_by_guest_path};
pub use serving::{BadSetting, Serving};

use preopen::{open_first, preopens};

use crate::engine::commons::Bounds;
use crate::engine::meter::Quota;
use crate::guest::blobs::Containers;
use crate::guest::bucket::Buckets;
use crate::guest::debug::{Debugging, Dumps, Files};
use crate::guest::folder::{FORSAKEN, Folder};
use crate::guest::narrowing::Narrowing;
use crate::names::{self, Names};
use crate::program::digest::{BadDigest, Digest};
use crate::program::world::Invoke;
use crate::sandbox::Identity;
use crate::tree::TreeError;
use amphipod_shim_api::annotations;
use amphipod_shim_api::network::NetworkRules;
use amphipod_shim_api::program::places;
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Mount, Process, Spec};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The kernel's default period for a CPU quota.
const DEFAULT_PERIOD_MICROS: u64 = 100_000;

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("reading {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not what runtime-spec has: {source}")]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("config.json has no process")]
    NoProcess,
    #[error(
        "config.json names no program: process.args is empty and there is no annotation {}",
        annotations::WASM_MODULE
    )]
    NoProgram,
    #[error("arguments and environment have {0} bytes; at most {most} are allowed", most = command::MAX_ARGUMENT_BYTES)]
    ArgumentsTooLong(usize),
    #[error("no guest can begin in the working directory {0:?}: it has no directories of the kernel's")]
    Directory(PathBuf),
    #[error("an argument or environment variable contains a NUL byte")]
    Nul,
    #[error("annotation {name}: {0}", name = annotations::WASM_DIGEST)]
    Digest(#[from] BadDigest),
    #[error(transparent)]
    Setting(#[from] BadSetting),
    #[error(transparent)]
    Bound(#[from] BadBound),
    #[error("annotation {name}: {0}", name = annotations::WASM_NETWORK)]
    Network(serde_json::Error),
    #[error("opening the source {source_path} of the mount at {destination}: {error}")]
    Mount {
        source_path: PathBuf,
        destination: PathBuf,
        error: nix::Error,
    },
    #[error("config.json has {0} mounts; at most {most} are allowed", most = preopen::MAX_PREOPENS)]
    TooManyMounts(usize),
    #[error("annotation {annotation}: the container has no directory mounted at {mount:?}")]
    NoMount { annotation: &'static str, mount: String },
    #[error("annotation {annotation}: {mount:?} is mounted read-only")]
    ReadOnly { annotation: &'static str, mount: String },
    #[error("reading {path}, where the container's names come from: {source}")]
    Names { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("finding {program:?} in the container's files: {error}")]
    Program { program: String, error: nix::Error },
}

/// Where the binary is.
#[derive(Debug)]
pub enum ProgramRef {
    /// Named by annotations: the node's content store.
    Stored {
        file: PathBuf,
        digest: Digest,
        cache: Option<PathBuf>,
    },
    /// A file of the image's own root filesystem: any of an image's layers, or of one that containerd gave us.
    InImage {
        /// Until it is read.
        file: Option<OwnedFd>,
        cache: Option<PathBuf>,
    },
}

/// What a guest may reach of the container's files, how it knows others, and whom it may meet.
#[derive(Debug)]
pub struct Grants {
    pub preopens: Vec<Preopen>,
    pub names: Arc<Names>,
    pub narrowing: Arc<Narrowing>,
    /// Where `wasi:keyvalue` keeps its buckets, if it was said.
    pub buckets: Option<Arc<Buckets>>,
    /// Where `wasi:blobstore` keeps its containers, if it was said.
    pub containers: Option<Arc<Containers>>,
}

impl Grants {
    fn new(
        mut preopens: Vec<Preopen>,
        names: Names,
        notes: &HashMap<String, String>,
    ) -> Result<Self, BundleError> {
        let buckets = named(&preopens, notes, annotations::WASM_KEYVALUE)?;
        let containers = named(&preopens, notes, annotations::WASM_BLOBSTORE)?;
        let narrowing = Narrowing::new(network_rules(notes)?.unwrap_or_default());
        preopens.retain(|preopen| !preopen.is_in_root || is_named(preopen, notes));
        Ok(Self {
            preopens,
            names: Arc::new(names.within(Arc::clone(&narrowing))),
            narrowing,
            buckets: buckets.map(|(folder, _)| Arc::new(Buckets(folder))),
            containers: containers.map(|(folder, _)| Arc::new(Containers::new(folder))),
        })
    }

    /// Takes the mount at this path away.
    pub fn without(&mut self, mount: &str) {
        self.preopens.retain(|preopen| preopen.guest_path != mount);
    }
}

/// The rules of the network that annotations tell, of a bundle or of an Update.
///
/// # Errors
/// When they cannot be read: nobody may guess whom a container may meet.
pub fn network_rules(notes: &HashMap<String, String>) -> Result<Option<NetworkRules>, BundleError> {
    let text = notes.get(annotations::WASM_NETWORK);
    let rules = text.map(|text| serde_json::from_str(text));
    rules.transpose().map_err(BundleError::Network)
}

/// The files mounted where a native container would read them; where there are none, the host's.
fn names(mounts: &[Mount]) -> Result<Names, BundleError> {
    let file = |guest: &str| {
        let mounted = mounts
            .iter()
            .rfind(|mount| mount.destination() == Path::new(guest));
        mounted
            .and_then(|mount| mount.source().clone())
            .unwrap_or_else(|| guest.into())
    };
    let read = |path: PathBuf| names::text(&path).map_err(|source| BundleError::Names { path, source });
    Ok(Names::parse(
        &read(file(names::RESOLV_CONF))?,
        &read(file(names::HOSTS))?,
    ))
}

/// The mount whose path in the container an annotation has, and that path.
fn named(
    preopens: &[Preopen],
    notes: &HashMap<String, String>,
    annotation: &'static str,
) -> Result<Option<(Folder, String)>, BundleError> {
    let Some(mount) = notes.get(annotation) else {
        return Ok(None);
    };
    let preopen = preopens.iter().find(|preopen| preopen.guest_path == *mount);
    let no_mount = || BundleError::NoMount {
        annotation,
        mount: mount.to_owned(),
    };
    let preopen = preopen.ok_or_else(no_mount)?;
    let directory = preopen.directory.try_clone().map_err(|_| no_mount())?;
    let folder = Folder::new(directory, preopen.read_only);
    if !folder.read_only()
        && let Err(error) = folder.sweep(FORSAKEN)
    {
        tracing::warn!(%error, mount, "what killed processes left there stays");
    }
    Ok(Some((folder, mount.clone())))
}

/// Whether the host goes there for the guest, not by the guest's root: it must be let in there.
fn is_named(preopen: &Preopen, notes: &HashMap<String, String>) -> bool {
    let by = [
        annotations::WASM_KEYVALUE,
        annotations::WASM_BLOBSTORE,
        annotations::WASM_CORE_DUMPS,
        annotations::WASM_PROFILE,
    ];
    by.iter()
        .any(|annotation| notes.get(*annotation) == Some(&preopen.guest_path))
}

/// What the container asks for, by mounts that may be written.
fn debugging(preopens: &[Preopen], notes: &HashMap<String, String>) -> Result<Debugging, BundleError> {
    let files = |annotation| match named(preopens, notes, annotation)? {
        Some((folder, mount)) if folder.read_only() => Err(BundleError::ReadOnly { annotation, mount }),
        Some((folder, mount)) => Ok(Some(Files::new(folder, mount))),
        None => Ok(None),
    };
    Ok(Debugging {
        dumps: files(annotations::WASM_CORE_DUMPS)?.map(|files| Arc::new(Dumps::new(files))),
        profiles: files(annotations::WASM_PROFILE)?,
    })
}

/// A Wasm container, in our terms.
#[derive(Debug)]
pub struct Container {
    pub command: Arc<Command>,
    /// Whose files its guests' are.
    pub identity: Identity,
    pub grants: Grants,
    pub debugging: Debugging,
    pub program: ProgramRef,
    pub serving: Serving,
    /// The function of a core module to run in the place of `_start`.
    pub invoke: Option<Invoke>,
    /// The mount for a command's last words.
    pub message: Option<String>,
    /// Where those who attach are told its output.
    pub attach: Option<PathBuf>,
    pub netns: Option<PathBuf>,
    pub limits: Limits,
    /// The id of its Pod.
    pub pod: Option<String>,
    /// What its Pod may use as a whole, if that was said.
    pub bounds: Option<Bounds>,
}

fn invoke(notes: &HashMap<String, String>) -> Option<Invoke> {
    let named = |annotation: &str, if_exported| {
        let name = notes.get(annotation)?.clone();
        Some(Invoke { name, if_exported })
    };
    named(annotations::WASM_INVOKE, false).or_else(|| named(annotations::WASM_INVOKE_IF_EXPORTED, true))
}

/// What a container may use; it may change while the container runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    pub quota: Option<Quota>,
    pub shares: u64,
}

impl Limits {
    /// Reads what of OCI's resources means something to a guest.
    pub fn of(resources: &LinuxResources) -> Self {
        let (cpu, memory) = (resources.cpu().as_ref(), resources.memory().as_ref());
        Self {
            memory: memory
                .and_then(|memory| memory.limit())
                .and_then(|limit| u64::try_from(limit).ok()),
            quota: cpu.and_then(|cpu| quota(cpu.quota(), cpu.period())),
            shares: cpu.and_then(|cpu| cpu.shares()).unwrap_or_default(),
        }
    }
}

/// Reads `config.json` of a bundle.
///
/// # Errors
/// When it cannot be read or parsed.
pub fn read_spec(bundle: &Path) -> Result<Spec, BundleError> {
    let path = bundle.join("config.json");
    match std::fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json).map_err(|source| BundleError::Parse { path, source }),
        Err(source) => Err(BundleError::Read { path, source }),
    }
}

/// The annotations of a bundle.
pub fn annotations_of(spec: &Spec) -> HashMap<String, String> {
    spec.annotations().clone().unwrap_or_default()
}

impl Container {
    /// Understands a bundle. `rootfs` is the image's root filesystem if it has one.
    ///
    /// # Errors
    /// When something in it cannot be given to a guest; the message is for the container's status.
    pub fn from_spec(spec: &Spec, rootfs: Option<OwnedFd>) -> Result<Self, BundleError> {
        let process = spec.process().as_ref().ok_or(BundleError::NoProcess)?;
        let command = Command::from_process(process)?;
        let notes = annotations_of(spec);
        let program = program(&notes, process, rootfs.as_ref())?;
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let read_only_root = spec
            .root()
            .as_ref()
            .and_then(|root| root.readonly())
            .unwrap_or(false);
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        let preopens = preopens(mounts, rootfs, read_only_root)?;
        Ok(Self {
            command: Arc::new(command),
            identity: identity::of(process),
            debugging: debugging(&preopens, &notes)?,
            grants: Grants::new(preopens, names(mounts)?, &notes)?,
            program,
            serving: Serving::from_annotations(&notes)?,
            invoke: invoke(&notes),
            message: notes.get(annotations::WASM_MESSAGE).cloned(),
            attach: notes.get(annotations::ATTACH).map(PathBuf::from),
            netns: netns(spec),
            limits: resources.map(Limits::of).unwrap_or_default(),
            pod: notes.get(annotations::SANDBOX_ID).cloned(),
            bounds: bounds(&notes)?,
        })
    }
}

fn netns(spec: &Spec) -> Option<PathBuf> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    namespaces
        .iter()
        .find(|ns| ns.typ() == LinuxNamespaceType::Network)?
        .path()
        .clone()
}

/// `cpu.cfs_quota_us` semantics: a quota that is not positive is none.
fn quota(quota: Option<i64>, period: Option<u64>) -> Option<Quota> {
    let micros = u64::try_from(quota?).ok().filter(|micros| *micros > 0)?;
    let period = period
        .filter(|period| *period > 0)
        .unwrap_or(DEFAULT_PERIOD_MICROS);
    Some(Quota {
        time: Duration::from_micros(micros),
        period: Duration::from_micros(period),
    })
}

fn program(
    notes: &HashMap<String, String>,
    process: &Process,
    rootfs: Option<&OwnedFd>,
) -> Result<ProgramRef, BundleError> {
    let cache = notes.get(annotations::WASM_CACHE).map(PathBuf::from);
    if let Some(file) = notes.get(annotations::WASM_MODULE) {
        let digest: Digest = notes
            .get(annotations::WASM_DIGEST)
            .map(String::as_str)
            .unwrap_or_default()
            .parse()?;
        return Ok(ProgramRef::Stored {
            file: file.into(),
            digest,
            cache,
        });
    }
    let words = process.args().as_deref().unwrap_or_default();
    let (Some(name), Some(rootfs)) = (words.first(), rootfs) else {
        return Err(BundleError::NoProgram);
    };
    let file = open_first(rootfs, &places(name, process.cwd(), path(process)));
    let file = file.map_err(|error| BundleError::Program {
        program: name.clone(),
        error,
    })?;
    Ok(ProgramRef::InImage {
        file: Some(file),
        cache,
    })
}

/// `PATH` of the container.
fn path(process: &Process) -> Option<&str> {
    let words = process.env().as_deref().unwrap_or_default();
    words.iter().find_map(|word| word.strip_prefix("PATH="))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(config: serde_json::Value) -> Result<Container, BundleError> {
        Container::from_spec(&serde_json::from_value(config).unwrap(), None)
    }

    fn minimal() -> serde_json::Value {
        json!({
            "ociVersion": "1.2.0",
            "process": {"args": ["prog", "a"], "env": ["A=b=c", "EMPTY"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "annotations": {
                "dev.amphipod.wasm/module": "/store/m",
                "dev.amphipod.wasm/digest": Digest::of(b"m").to_string(),
            },
        })
    }

    #[test]
    fn the_least_a_container_needs() {
        let container = parse(minimal()).unwrap();
        assert_eq!(container.command.args, ["prog", "a"]);
        assert_eq!(
            container.command.env,
            [("A".into(), "b=c".into()), ("EMPTY".into(), String::new())]
        );
        assert_eq!(container.serving.port, None);
        assert_eq!(container.limits, Limits::default());
        assert!(
            container.netns.is_none()
                && container.grants.preopens.is_empty()
                && container.command.cwd.is_none()
        );
    }

    #[test]
    fn guests_begin_in_no_directory_of_the_kernel() {
        for (cwd, may) in [
            ("/data", true),
            ("/process", true),
            ("/proc/self/fd/8", false),
            ("/./sys", false),
            ("/dev", false),
        ] {
            let mut config = minimal();
            config["process"]["cwd"] = json!(cwd);
            let refused =
                matches!(parse(config), Err(BundleError::Directory(path)) if path == Path::new(cwd));
            assert_eq!(refused, !may, "{cwd}");
        }
    }

    #[test]
    fn limits_network_and_annotations() {
        let mut config = minimal();
        config["annotations"]["dev.amphipod.wasm/http-port"] = json!("9000");
        config["linux"] = json!({
            "namespaces": [{"type": "ipc"}, {"type": "network", "path": "/run/ns/net"}],
            "resources": {"memory": {"limit": 1000}, "cpu": {"shares": 512, "quota": 50000, "period": 200000}},
        });
        let container = parse(config).unwrap();
        assert_eq!(container.serving.port, Some(9000));
        assert_eq!(container.netns.as_deref(), Some(Path::new("/run/ns/net")));
        let quota = Quota {
            time: Duration::from_millis(50),
            period: Duration::from_millis(200),
        };
        let expected = Limits {
            memory: Some(1000),
            quota: Some(quota),
            shares: 512,
        };
        assert_eq!(container.limits, expected);
    }

    #[test]
    fn quotas() {
        let millis = |time, period| {
            Some(Quota {
                time: Duration::from_millis(time),
                period: Duration::from_millis(period),
            })
        };
        for (given, period, expected) in [
            (None, None, None),
            (Some(-1), Some(100_000), None),
            (Some(0), None, None),
            (Some(10_000), None, millis(10, 100)),
            (Some(10_000), Some(0), millis(10, 100)),
        ] {
            assert_eq!(quota(given, period), expected);
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let with = |pointer: &str, value: serde_json::Value| {
            let mut config = minimal();
            let (parent, key) = pointer.rsplit_once('|').unwrap();
            config.pointer_mut(parent).unwrap()[key] = value;
            parse(config).unwrap_err().to_string()
        };
        assert!(with("/annotations|dev.amphipod.wasm/digest", json!("sha256:../x")).contains("not a digest"));
        assert!(with("/annotations|dev.amphipod.wasm/http-port", json!("70000")).contains("70000"));
        assert!(with("/process|args", json!(["a\0b"])).contains("NUL"));
        assert!(with("/process|env", json!(["x".repeat(3 << 20)])).contains("bytes"));
        let mounts = json!([{"destination": "/d", "type": "bind", "source": "/nonexistent"}]);
        assert!(with("|mounts", mounts).contains("/nonexistent"));
    }

    #[test]
    fn directories_become_preopens_and_files_do_not() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("hosts");
        std::fs::write(&file, "").unwrap();
        let mut config = minimal();
        config["mounts"] = json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "bind", "source": home.path(), "options": ["rbind", "ro"]},
            {"destination": "/rw", "source": home.path(), "options": ["bind"]},
            {"destination": "/etc/hosts", "type": "bind", "source": file},
        ]);
        let container = parse(config).unwrap();
        let seen: Vec<_> = container
            .grants
            .preopens
            .iter()
            .map(|p| (p.guest_path.as_str(), p.read_only))
            .collect();
        assert_eq!(seen, [("/data", true), ("/rw", false)]);
        assert!(container.grants.preopens[0].host_path().join("hosts").exists());
    }
}
