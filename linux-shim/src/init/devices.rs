//! `/dev` of a container: the default nodes, those asked for, the usual links, and the console.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use amphipod_shim_api::terminal::{open_peer, set_size};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, makedev, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use super::error::{During, InitError};
use super::root::{Root, clean};
use crate::sys::mount::{attach, clone_tree};

/// One device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub path: PathBuf,
    pub kind: SFlag,
    pub major: u64,
    pub minor: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Device {
    fn default_node(name: &str, minor: u64, major: u64) -> Self {
        let path = Path::new("/dev").join(name);
        Self {
            path,
            kind: SFlag::S_IFCHR,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        }
    }
}

/// The devices every container has (OCI runtime-spec, config-linux "Default Devices").
pub fn defaults() -> [Device; 6] {
    [
        Device::default_node("null", 3, 1),
        Device::default_node("zero", 5, 1),
        Device::default_node("full", 7, 1),
        Device::default_node("random", 8, 1),
        Device::default_node("urandom", 9, 1),
        Device::default_node("tty", 0, 5),
    ]
}

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Makes every node and link.
pub fn make_all(root: &Root, asked: &[Device]) -> Result<(), InitError> {
    let dev = root.make_dir(Path::new("/dev")).during(|| "make /dev".into())?;
    for device in defaults()
        .iter()
        .filter(|d| !asked.iter().any(|a| a.path == d.path))
        .chain(asked)
    {
        make(root, device).during(|| format!("make device {:?}", device.path))?;
    }
    for (target, name) in LINKS {
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno).during(|| format!("link /dev/{name}")),
        }
    }
    Ok(())
}

fn make(root: &Root, device: &Device) -> io::Result<()> {
    let path = clean(&device.path);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = root.make_dir(path.parent().unwrap_or(Path::new("/")))?;
    let number = makedev(device.major, device.minor);
    // All of its mode at once (the process has no umask here): by its name it could be another file a moment later.
    match mknodat(
        &parent,
        name,
        device.kind,
        Mode::from_bits_truncate(device.mode),
        number,
    ) {
        Ok(()) => {}
        Err(Errno::EEXIST) => return take(root, &parent, Path::new(name), device),
        Err(Errno::EPERM) => return borrow(root, device),
        Err(errno) => return Err(errno.into()),
    }
    let node = nix::fcntl::openat(
        &parent,
        name,
        OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    is_device(&fstat(&node)?, device)?;
    let owner = (Some(Uid::from_raw(device.uid)), Some(Gid::from_raw(device.gid)));
    fchownat(&node, "", owner.0, owner.1, nix::fcntl::AtFlags::AT_EMPTY_PATH)?;
    Ok(())
}

/// What is there already must be that very device, or an empty file: where [`borrow`] has mounted one on it before.
fn take(root: &Root, parent: &OwnedFd, name: &Path, device: &Device) -> io::Result<()> {
    let seen = fstatat(parent, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(seen.st_mode) & SFlag::S_IFMT;
    match kind == SFlag::S_IFREG && seen.st_size == 0 {
        true => borrow(root, device),
        false => is_device(&seen, device),
    }
}

fn is_device(seen: &FileStat, device: &Device) -> io::Result<()> {
    if is(seen, device) {
        return Ok(());
    }
    Err(io::Error::other("the image has something else in its place"))
}

/// Whether that file is the device. A FIFO has no number: what is said of one means nothing (mknod(2)).
fn is(seen: &FileStat, device: &Device) -> bool {
    let kind = SFlag::from_bits_truncate(seen.st_mode) & SFlag::S_IFMT;
    let numbered = kind != SFlag::S_IFIFO;
    kind == device.kind && (!numbered || seen.st_rdev == makedev(device.major, device.minor))
}

/// Where the kernel lets us make no nodes, the host's own node is mounted, if it is that device.
fn borrow(root: &Root, device: &Device) -> io::Result<()> {
    let tree = clone_tree(None, &device.path, false)?;
    if !is(&fstat(&tree)?, device) {
        return Err(io::Error::other(
            "no node may be made here, and the host's of that name is of another device",
        ));
    }
    let target = root.make_file(&device.path)?;
    attach(tree.as_fd(), target.as_fd())
}

/// A terminal made by the container's own devpts, with its other end mounted on `/dev/console`.
#[derive(Debug)]
pub struct Terminal {
    /// The end the shim keeps.
    pub master: OwnedFd,
    /// The end the container's process has as its standard streams.
    pub peer: OwnedFd,
}

/// Opens a terminal in the container's devpts. The peer is asked of the kernel, not opened by a name that could be
/// led elsewhere (TIOCGPTPEER; CVE-2024-21626 and the /dev/console races).
pub fn open_terminal(root: &Root, width: u16, height: u16) -> Result<Terminal, InitError> {
    let step = || "open a terminal in /dev/pts".to_owned();
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let master = root.find_plain(Path::new("/dev/pts/ptmx"), flags).during(step)?;
    let peer = open_peer(master.as_fd()).during(step)?;
    if width > 0 && height > 0 {
        set_size(master.as_fd(), width, height).during(step)?;
    }
    Ok(Terminal { master, peer })
}

const CONSOLE: &str = "/dev/console";

/// Mounts the terminal on `/dev/console`.
pub fn mount_console(root: &Root, terminal: &Terminal) -> Result<(), InitError> {
    let step = || format!("mount the terminal on {CONSOLE}");
    let target = console_target(root).during(step)?;
    mount_console_on(root, &target, &terminal.peer).during(step)
}

/// What is there now, made where nothing is.
pub(super) fn console_target(root: &Root) -> io::Result<OwnedFd> {
    let target = root.make_file(Path::new(CONSOLE))?;
    let kind = SFlag::from_bits_truncate(fstat(&target)?.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFREG || kind == SFlag::S_IFCHR {
        return Ok(target);
    }
    Err(io::Error::other(
        "the image has neither a file nor a device there",
    ))
}

pub(super) fn mount_console_on(root: &Root, target: &OwnedFd, terminal: &OwnedFd) -> io::Result<()> {
    fchmod(terminal, Mode::from_bits_truncate(0o620))?;
    let tree = clone_tree(Some(terminal.as_fd()), Path::new(""), false)?;
    attach(tree.as_fd(), target.as_fd())?;
    root.verify(Path::new(CONSOLE), &tree)
}
