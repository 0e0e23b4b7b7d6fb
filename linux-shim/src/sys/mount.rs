//! The mount API by descriptors (Linux 5.2, `mount_setattr` 5.12): mounts are made detached, get their attributes,
//! and are attached to a descriptor, so that no path inside a container is ever walked by `mount(2)`, which is left for options too long for this API.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};

use super::check;

fn text(bytes: impl Into<Vec<u8>>) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(check(fd)?).map_err(io::Error::other)?;
    // SAFETY: the system call has just made this descriptor for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A detached copy of the mount at `path` below `dir` (or of `dir` itself for an empty path), with what is
/// mounted below it if `recursive`.
pub fn clone_tree(dir: Option<BorrowedFd<'_>>, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = text(path.as_os_str().as_encoded_bytes())?;
    let dir = dir.map_or(libc::AT_FDCWD, |d| d.as_raw_fd());
    let mut flags =
        libc::OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned() | libc::AT_EMPTY_PATH.cast_unsigned();
    if recursive {
        flags |= libc::AT_RECURSIVE.cast_unsigned();
    }
    // SAFETY: the path is NUL-terminated and lives through the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })
}

/// Attaches a detached mount on what `target` refers to.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let empty = c"".as_ptr();
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to) = (mount.as_raw_fd(), target.as_raw_fd());
    // SAFETY: both paths are the static empty string; the descriptors are borrowed for the call.
    check(unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags) }).map(drop)
}

/// What a descriptor refers to, and by which mount: two of one file by two mounts differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    device: (u32, u32),
    inode: u64,
    mount: u64,
    is_mounted: bool,
}

impl Place {
    /// The mount's number, as `/proc/self/mountinfo` has it.
    pub fn mount(&self) -> u64 {
        self.mount
    }

    /// Whether it is what the mount has at its root (`STATX_ATTR_MOUNT_ROOT`, Linux 5.8).
    pub fn is_mounted(&self) -> bool {
        self.is_mounted
    }
}

/// Asks the kernel (`STATX_MNT_ID`, Linux 5.8).
pub fn place(fd: BorrowedFd<'_>) -> io::Result<Place> {
    // SAFETY: statx is plain integers, filled by the call.
    let mut seen: libc::statx = unsafe { std::mem::zeroed() };
    let asked = libc::STATX_INO | libc::STATX_MNT_ID;
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: the path is static, the structure lives through the call, which writes it.
    let done = unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, asked, &raw mut seen) };
    check(done.into())?;
    if seen.stx_mask & asked != asked {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(Place {
        device: (seen.stx_dev_major, seen.stx_dev_minor),
        inode: seen.stx_ino,
        mount: seen.stx_mnt_id,
        is_mounted: seen.stx_attributes & u64::from(libc::STATX_ATTR_MOUNT_ROOT.cast_unsigned()) != 0,
    })
}

/// Changes of a mount's attributes (`MOUNT_ATTR_*`) and propagation (`MS_PRIVATE` and its kin, 0 to leave it).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
}

/// Applies attributes to the mount `mount` refers to the root of, and to those below it if `recursive`.
pub fn set_attributes(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> io::Result<()> {
    set_attributes_in(mount, attributes, recursive, None)
}

/// As [`set_attributes`], with the user namespace whose maps `MOUNT_ATTR_IDMAP` takes.
pub fn set_attributes_in(
    mount: BorrowedFd<'_>,
    attributes: Attributes,
    recursive: bool,
    user_namespace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    // SAFETY: mount_attr is plain integers for which zero means "nothing".
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = attributes.set;
    attr.attr_clr = attributes.clear;
    attr.propagation = attributes.propagation;
    attr.userns_fd = user_namespace.map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned()));
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let fd = mount.as_raw_fd();
    // SAFETY: the path is static, the structure lives through the call and its size is passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    check(done).map(drop)
}

/// A new file system of type `kind`, detached.
pub fn new_filesystem(
    kind: &str,
    source: Option<&str>,
    options: &[(String, Option<String>)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    let name = text(kind)?;
    // SAFETY: the name is NUL-terminated and lives through the call.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), libc::FSOPEN_CLOEXEC) })?;
    if let Some(source) = source {
        configure(&context, libc::FSCONFIG_SET_STRING, Some("source"), Some(source))?;
    }
    set_options(&context, options)?;
    configure(&context, libc::FSCONFIG_CMD_CREATE, None, None)?;
    let fd = context.as_raw_fd();
    // SAFETY: no pointers are passed.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fd, libc::FSMOUNT_CLOEXEC, attributes) })
}

/// `FSPICK_CLOEXEC` and `FSPICK_EMPTY_PATH` (linux/mount.h), which libc does not name.
const PICK: libc::c_uint = 0x1 | 0x8;
/// `FSCONFIG_CMD_RECONFIGURE` (linux/mount.h).
const RECONFIGURE: libc::c_uint = 7;

/// Gives the file system that `mount` is the root of other options; those not named stay.
pub fn reconfigure(mount: BorrowedFd<'_>, options: &[(String, Option<String>)]) -> io::Result<()> {
    // SAFETY: the path is the static empty string; the descriptor is borrowed for the call.
    let picked = unsafe { libc::syscall(libc::SYS_fspick, mount.as_raw_fd(), c"".as_ptr(), PICK) };
    let context = owned(picked)?;
    set_options(&context, options)?;
    configure(&context, RECONFIGURE, None, None)
}

fn set_options(context: &OwnedFd, options: &[(String, Option<String>)]) -> io::Result<()> {
    options.iter().try_for_each(|(key, value)| {
        let command = if value.is_some() {
            libc::FSCONFIG_SET_STRING
        } else {
            libc::FSCONFIG_SET_FLAG
        };
        configure(context, command, Some(key), value.as_deref())
            .map_err(|e| io::Error::new(e.kind(), format!("option {key:?}: {e}")))
    })
}

/// The longest value that fsconfig(2) takes.
const VALUE_LIMIT: usize = 255;
/// What mount(2) takes of all options together: a page with its end; it cuts off the rest.
const DATA_LIMIT: usize = 4095;

/// Whether an option is too long for [`new_filesystem`]: that of an overlay of many layers, say.
pub fn is_too_long(options: &[(String, Option<String>)]) -> bool {
    let mut values = options.iter().filter_map(|(_, value)| value.as_ref());
    values.any(|value| value.len() > VALUE_LIMIT)
}

/// As [`new_filesystem`] by mount(2), which takes longer options. It needs a place for a moment: a tmpfs on `target`, where
/// no name is anybody else's.
pub fn new_filesystem_at(
    target: BorrowedFd<'_>,
    kind: &str,
    source: Option<&str>,
    options: &[(String, Option<String>)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    let words = options.iter().map(|(key, value)| match value {
        // A label's commas are its own.
        Some(value) if key == "context" => format!("{key}=\"{value}\""),
        Some(value) => format!("{key}={value}"),
        None => key.clone(),
    });
    let data = words.collect::<Vec<_>>().join(",");
    if data.len() > DATA_LIMIT {
        return Err(io::Error::other(format!(
            "the options are {} bytes, and the kernel takes {DATA_LIMIT}",
            data.len()
        )));
    }
    let place = new_filesystem("tmpfs", Some("tmpfs"), &[], 0)?;
    attach(place.as_fd(), target)?;
    let private = Attributes {
        propagation: libc::MS_PRIVATE,
        ..Attributes::default()
    };
    let made = set_attributes(place.as_fd(), private, false)
        .and_then(|()| mount_below(&place, kind, source, &data))
        .and_then(|tree| {
            let set = Attributes {
                set: attributes,
                // Of the access times the kernel takes all or none.
                clear: libc::MOUNT_ATTR__ATIME,
                ..Attributes::default()
            };
            set_attributes(tree.as_fd(), set, false).map(|()| tree)
        });
    umount2(&link(&place), MntFlags::MNT_DETACH)?;
    made
}

fn mount_below(place: &OwnedFd, kind: &str, source: Option<&str>, data: &str) -> io::Result<OwnedFd> {
    const NAME: &str = "new";
    mkdirat(place, NAME, Mode::S_IRWXU)?;
    let at = link(place).join(NAME);
    mount(source, &at, Some(kind), MsFlags::empty(), Some(data))?;
    clone_tree(Some(place.as_fd()), Path::new(NAME), false)
}

/// A path to what a descriptor refers to, for calls that know no descriptors.
fn link(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn configure(
    context: &OwnedFd,
    command: libc::c_uint,
    key: Option<&str>,
    value: Option<&str>,
) -> io::Result<()> {
    let key = key.map(text).transpose()?;
    let value = value.map(text).transpose()?;
    let pointer = |s: &Option<CString>| s.as_ref().map_or(std::ptr::null(), |s| s.as_ptr());
    let fd = context.as_raw_fd();
    // SAFETY: both strings are NUL-terminated or null, as the command asks, and live through the call.
    let done = unsafe { libc::syscall(libc::SYS_fsconfig, fd, command, pointer(&key), pointer(&value), 0) };
    check(done).map(drop)
}
