//! Making the mounts of a container: root file system and config.json's mounts.
//!
//! Runs in the container's own mount namespace before `pivot_root`; nothing it does is visible to the host.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use amphipod_shim_api::cgroup::Cgroup;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::symlinkat;

use super::Propagation;
use super::copy::{Settled, copy_tree};
use super::error::{During, InitError};
use super::id_mapped::ContainerIds;
use super::root::Root;
use crate::mount_plan::{MountPlan, Source};
use crate::rootfs_plan::{IdMappedLayers, RootfsMount};
use crate::sys::mount::{
    Attributes, attach, clone_tree, is_too_long, new_filesystem, new_filesystem_at, reconfigure,
    set_attributes,
};

pub const READ_ONLY: Attributes = Attributes {
    set: libc::MOUNT_ATTR_RDONLY,
    clear: 0,
    propagation: 0,
};
pub const PRIVATE: Attributes = Attributes {
    set: 0,
    clear: 0,
    propagation: libc::MS_PRIVATE,
};
/// Where a host has its cgroups (file-hierarchy(7)).
const USUAL: &str = "/sys/fs/cgroup";
/// Attributes of a file system made to cover something.
pub const INERT: u64 =
    libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// Where a bind mount comes from.
#[derive(Debug)]
pub enum BindSource {
    /// A detached copy, made while host mounts still had their own propagation.
    Copy(OwnedFd),
    /// The same of one that is to be shared with the host, of which a copy can be attached instead.
    Peer(OwnedFd),
    /// To be copied when its turn comes, so that mounts are listed in the order of config.json.
    Place(OwnedFd),
}

impl BindSource {
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Copy(fd) | Self::Peer(fd) | Self::Place(fd) => fd.as_fd(),
        }
    }
}

/// Opens the source of every bind mount, in order. It is copied at once where host mounts matter to it as they are
/// (shared with them, with an id map), and everywhere if the root will be made in `another` mount namespace. `ids` are
/// the container's own maps.
pub fn open_sources(
    mounts: &[MountPlan],
    ids: &ContainerIds<'_>,
    another: bool,
) -> Result<Vec<Option<BindSource>>, InitError> {
    mounts
        .iter()
        .map(|plan| open_source(plan, ids, another))
        .collect()
}

fn open_source(
    plan: &MountPlan,
    ids: &ContainerIds<'_>,
    another: bool,
) -> Result<Option<BindSource>, InitError> {
    let Source::Bind { path, recursive } = &plan.source else {
        return Ok(None);
    };
    let at = &plan.destination;
    let step = || format!("open mount source {path:?} for {at:?}");
    let shared = plan.attributes.propagation == libc::MS_SHARED;
    if !another && !shared && plan.id_mapped.is_none() {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let place = nix::fcntl::open(path, flags, Mode::empty()).during(step)?;
        return Ok(Some(BindSource::Place(place)));
    }
    let tree = clone_tree(None, path, *recursive).during(step)?;
    if let Some(asked) = &plan.id_mapped {
        ids.map(&tree, asked.maps.as_ref(), asked.recursive, path)?;
    }
    Ok(Some(if another || plan.id_mapped.is_some() {
        BindSource::Copy(tree)
    } else {
        BindSource::Peer(tree)
    }))
}

/// Cuts the new mount namespace off: what the host mounts later may come in, nothing goes out.
pub fn detach_from_host() -> Result<(), InitError> {
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_SLAVE | MsFlags::MS_REC,
        None::<&str>,
    )
    .during(|| "make the mount namespace a slave of the host's".into())
}

/// Mounts the layers of the root file system on `path`.
pub fn mount_layers(path: &Path, mounts: &[RootfsMount], ids: &ContainerIds<'_>) -> Result<(), InitError> {
    for m in mounts {
        let mut data = m.data.clone();
        if let Some(layers) = &m.id_mapped {
            let names = stand_on_mapped(path, layers, ids)?;
            data = format!("lowerdir={},{data}", names.join(":"));
        }
        if let Some(base) = &m.base {
            std::env::set_current_dir(base).during(|| format!("enter the layers' directory {base:?}"))?;
        }
        mount(
            Some(m.source.as_str()),
            path,
            Some(m.kind.as_str()),
            m.flags,
            Some(data.as_str()),
        )
        .during(|| format!("mount the {} root file system on {path:?}", m.kind))?;
    }
    Ok(())
}

/// Puts the layers, seen through their map, below a tmpfs on `path`, which the overlay will cover, and goes there.
/// Answers their names.
fn stand_on_mapped(
    path: &Path,
    layers: &IdMappedLayers,
    ids: &ContainerIds<'_>,
) -> Result<Vec<String>, InitError> {
    let step = || format!("make a place for the idmapped layers of {path:?}");
    let place = new_filesystem("tmpfs", Some("tmpfs"), &[], 0).during(step)?;
    let below = Root::open(path).during(step)?;
    attach(place.as_fd(), below.fd()).during(step)?;
    nix::unistd::fchdir(&place).during(step)?;
    let mut names = Vec::new();
    for (number, layer) in layers.lower.iter().enumerate() {
        let name = number.to_string();
        mkdirat(&place, name.as_str(), Mode::from_bits_truncate(0o755)).during(step)?;
        let tree = clone_tree(None, layer, false).during(|| format!("open the layer {layer:?}"))?;
        ids.map(&tree, Some(&layers.maps), false, layer)?;
        let point = Root::open(Path::new(&name)).during(step)?;
        attach(tree.as_fd(), point.fd()).during(step)?;
        names.push(name);
    }
    Ok(names)
}

/// Makes the root file system a mount of its own on `path` and opens it. It `stays` a peer or receiver of the host's
/// mounts only when its propagation is asked for.
pub fn mount_rootfs(
    path: &Path,
    mounts: &[RootfsMount],
    ids: &ContainerIds<'_>,
    stays: bool,
) -> Result<Root, InitError> {
    mount_layers(path, mounts, ids)?;
    let step = || format!("open the root file system {path:?}");
    let root = if mounts.is_empty() {
        let tree = clone_tree(None, path, true).during(step)?;
        let below = Root::open(path).during(step)?;
        attach(tree.as_fd(), below.fd()).during(|| format!("mount the root file system {path:?}"))?;
        Root::of(tree)
    } else {
        Root::open(path).during(step)?
    };
    if !stays {
        set_attributes(root.fd(), PRIVATE, true).during(|| "make the root file system private".into())?;
    }
    Ok(root)
}

/// Makes one mount of config.json.
pub fn make(
    root: &Root,
    plan: &MountPlan,
    tree: Option<&BindSource>,
    cgroup: &Cgroup,
) -> Result<(), InitError> {
    let at = &plan.destination;
    let step = || format!("mount {:?} on {at:?}", source_name(&plan.source));
    match (&plan.source, tree) {
        (Source::Bind { .. }, None) => {
            Err(InitError::Refused(format!("the source of {at:?} was not opened")))
        }
        (Source::Bind { recursive, .. }, Some(BindSource::Place(place))) => {
            let copy = clone_tree(Some(place.as_fd()), Path::new(""), *recursive).during(step)?;
            bind(root, plan, &copy).during(step)
        }
        (Source::Bind { recursive, .. }, Some(BindSource::Peer(peer))) => {
            // Without copies of what is nowhere (before Linux 6.15) the mount is only listed before its turn.
            let copy = clone_tree(Some(peer.as_fd()), Path::new(""), *recursive);
            bind(root, plan, copy.as_ref().unwrap_or(peer)).during(step)
        }
        (Source::Bind { .. }, Some(BindSource::Copy(tree))) => bind(root, plan, tree).during(step),
        (
            Source::Filesystem {
                kind,
                source,
                options,
            },
            _,
        ) => {
            let target = target_for(root, kind, at)?;
            let early = if plan.copy_up {
                plan.attributes.set & !libc::MOUNT_ATTR_RDONLY
            } else {
                plan.attributes.set
            };
            let fs = match is_too_long(options) {
                false => new_filesystem(kind, source.as_deref(), options, early),
                true => new_filesystem_at(target.as_fd(), kind, source.as_deref(), options, early),
            };
            let fs = fs.during(step)?;
            if plan.copy_up {
                copy_tree(target.as_fd(), fs.as_fd(), settled(options))
                    .during(|| format!("copy {at:?} into its tmpfs"))?;
                set_attributes(fs.as_fd(), plan.attributes, false).during(step)?;
            }
            attach(fs.as_fd(), target.as_fd()).during(step)?;
            propagate(fs.as_fd(), plan).during(step)
        }
        (Source::Remount { options }, _) => remount(root, plan, options).during(step),
        (Source::Cgroup { unified }, _) if *unified || cgroup.is_v2() => {
            unified_cgroup(root, plan, cgroup).during(step)
        }
        (Source::Cgroup { .. }, _) => cgroups(root, plan, cgroup),
    }
}

/// What options of a tmpfs say of its top directory.
fn settled(options: &[(String, Option<String>)]) -> Settled {
    let names = |name: &str| options.iter().any(|(key, _)| key == name);
    Settled {
        mode: names("mode"),
        user: names("uid"),
        group: names("gid"),
    }
}

fn source_name(source: &Source) -> String {
    match source {
        Source::Bind { path, .. } => path.display().to_string(),
        Source::Filesystem { kind, .. } => kind.clone(),
        Source::Cgroup { .. } => "cgroup".into(),
        Source::Remount { .. } => "nothing new".into(),
    }
}

/// A directory to mount on. proc and sysfs must be where they are said to be: behind a symbolic link, the masks
/// made later could be led elsewhere (CVE-2019-19921).
fn target_for(root: &Root, kind: &str, at: &Path) -> Result<OwnedFd, InitError> {
    let make = || {
        root.make_dir(at)
            .during(|| format!("make the mount point {at:?}"))
    };
    if kind != "proc" && kind != "sysfs" {
        return make();
    }
    let plain = || root.find_plain(at, OFlag::O_PATH | OFlag::O_DIRECTORY);
    let refused = |error| {
        InitError::Refused(format!(
            "{kind} must be mounted on ordinary directory: the image has a symbolic link or a file in {at:?} ({error})"
        ))
    };
    match plain() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => make().and_then(|_| plain().map_err(refused)),
        other => other.map_err(refused),
    }
}

/// The path must be the root of a mount: the kernel says so if it is not.
fn remount(root: &Root, plan: &MountPlan, options: &[(String, Option<String>)]) -> io::Result<()> {
    let mount = root.find(&plan.destination, OFlag::O_PATH)?;
    if !options.is_empty() {
        reconfigure(mount.as_fd(), options)?;
    }
    set_attributes(mount.as_fd(), plan.attributes, false)?;
    if plan.recursive != Attributes::default() {
        set_attributes(mount.as_fd(), plan.recursive, true)?;
    }
    Ok(())
}

fn bind(root: &Root, plan: &MountPlan, tree: &OwnedFd) -> io::Result<()> {
    let directory = SFlag::from_bits_truncate(fstat(tree)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
    let target = if directory {
        root.make_dir(&plan.destination)
    } else {
        root.make_file(&plan.destination)
    }?;
    set_attributes(
        tree.as_fd(),
        Attributes {
            propagation: 0,
            ..plan.attributes
        },
        false,
    )?;
    propagate(tree.as_fd(), plan)?;
    attach(tree.as_fd(), target.as_fd())
}

/// Propagation (private unless asked otherwise) and recursive attributes, which are the top's too whatever its own are.
fn propagate(mount: BorrowedFd<'_>, plan: &MountPlan) -> io::Result<()> {
    let (propagation, recursive) = match plan.attributes.propagation {
        0 => (libc::MS_PRIVATE, true),
        given => (given, plan.propagation_recursive),
    };
    set_attributes(
        mount,
        Attributes {
            propagation,
            ..Attributes::default()
        },
        recursive,
    )?;
    if plan.recursive != Attributes::default() {
        set_attributes(mount, plan.recursive, true)?;
    }
    Ok(())
}

/// The container's own part of the hierarchy of v2, which is all of them or one among others. A host of v1 alone has it
/// too, with nobody in it.
fn unified_cgroup(root: &Root, plan: &MountPlan, cgroup: &Cgroup) -> io::Result<()> {
    let target = root.make_dir(&plan.destination)?;
    if let Some(dir) = cgroup.unified_dir() {
        return mount_cgroup(dir, target.as_fd(), plan.attributes);
    }
    let fs = match new_filesystem("cgroup2", Some("cgroup2"), &[], 0) {
        // Without root and a cgroup namespace of its own it is shown the host's, as by the other runtimes.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            clone_tree(None, USUAL.as_ref(), true)?
        }
        made => made?,
    };
    set_attributes(fs.as_fd(), plan.attributes, false)?;
    set_attributes(fs.as_fd(), PRIVATE, true)?;
    attach(fs.as_fd(), target.as_fd())
}

/// A directory of the container's own part of each hierarchy of v1. Controllers that share one are found by their own
/// names too. That of v2 beside them is left out, as by the other runtimes: a systemd that sees it takes it for its own,
/// and looks there for the path it has in the host's.
fn cgroups(root: &Root, plan: &MountPlan, cgroup: &Cgroup) -> Result<(), InitError> {
    let at = &plan.destination;
    let step = |what: &Path| format!("mount cgroup {what:?} on {at:?}");
    let target = root
        .make_dir(at)
        .during(|| format!("make the mount point {at:?}"))?;
    let data = [("mode".to_owned(), Some("755".to_owned()))];
    let base = new_filesystem(
        "tmpfs",
        Some("tmpfs"),
        &data,
        plan.attributes.set & !libc::MOUNT_ATTR_RDONLY,
    )
    .during(|| step(at))?;
    attach(base.as_fd(), target.as_fd()).during(|| step(at))?;
    let unified = cgroup.unified_dir();
    for (name, dir) in cgroup.directories().filter(|(_, dir)| Some(*dir) != unified) {
        mkdirat(&base, name.as_str(), Mode::from_bits_truncate(0o755)).during(|| step(dir))?;
        let point = root
            .find(&at.join(&name), OFlag::O_PATH | OFlag::O_DIRECTORY)
            .during(|| step(dir))?;
        mount_cgroup(dir, point.as_fd(), plan.attributes).during(|| step(dir))?;
        for alone in name.split(',').filter(|alone| *alone != name) {
            symlinkat(name.as_str(), &base, alone).during(|| step(dir))?;
        }
    }
    set_attributes(
        base.as_fd(),
        Attributes {
            propagation: libc::MS_PRIVATE,
            ..plan.attributes
        },
        false,
    )
    .during(|| step(at))
}

/// A bind of the cgroup's own directory shows exactly that subtree, with or without a cgroup namespace.
fn mount_cgroup(dir: &Path, target: BorrowedFd<'_>, attributes: Attributes) -> io::Result<()> {
    let tree = clone_tree(None, dir, false)?;
    set_attributes(
        tree.as_fd(),
        Attributes {
            propagation: libc::MS_PRIVATE,
            ..attributes
        },
        false,
    )?;
    attach(tree.as_fd(), target)
}

/// Last touches on the root mount itself.
pub fn finish_root(read_only: bool, propagation: Option<Propagation>) -> Result<(), InitError> {
    let root = Root::open(Path::new("/")).during(|| "open the new root".into())?;
    if let Some(Propagation { kind, recursive }) = propagation {
        let change = Attributes {
            propagation: kind,
            ..Attributes::default()
        };
        set_attributes(root.fd(), change, recursive).during(|| "set the root's propagation".into())?;
    }
    if read_only {
        set_attributes(root.fd(), READ_ONLY, false)
            .during(|| "make the root file system read-only".into())?;
    }
    Ok(())
}

/// To be called before the root is entered. Root of a user namespace that shares the host's processes may mount none: then
/// it is the host's, whose parameters are those of the namespaces we are in all the same.
fn procfs() -> io::Result<OwnedFd> {
    match new_filesystem("proc", Some("proc"), &[], 0) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let proc = nix::fcntl::open("/proc", flags, Mode::empty())?;
            match fstatfs(&proc)?.filesystem_type() == PROC_SUPER_MAGIC {
                true => Ok(proc),
                false => Err(error),
            }
        }
        made => made,
    }
}

/// Writes kernel parameters through a procfs of our own that no container path leads to (CVE-2025-52881).
pub fn write_sysctls(sysctls: &[(String, String)]) -> Result<(), InitError> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let proc = procfs().during(|| "mount procfs for sysctls".into())?;
    for (name, value) in sysctls {
        let path = PathBuf::from("sys").join(crate::sysctl::path_of(name));
        let step = || format!("set sysctl {name} to {value:?}");
        let how = nix::fcntl::OpenHow::new()
            .flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC)
            .resolve(nix::fcntl::ResolveFlag::RESOLVE_BENEATH | nix::fcntl::ResolveFlag::RESOLVE_NO_SYMLINKS);
        let file = nix::fcntl::openat2(&proc, &path, how).during(step)?;
        io::Write::write_all(&mut fs::File::from(file), value.as_bytes()).during(step)?;
    }
    Ok(())
}
