//! Copying a directory of the image into the tmpfs that is to cover it (`tmpcopyup`).
//!
//! Nothing is followed and everything is reached by descriptors: another container may be changing a shared directory
//! meanwhile. Files, directories and symbolic links are copied; devices, sockets and pipes are not.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, fchown, symlinkat};

/// A tree deeper than this is not copied.
const DEPTH_LIMIT: usize = 64;
const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY);

/// What of the top directory is as it was made, and not as what is copied.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settled {
    pub mode: bool,
    pub user: bool,
    pub group: bool,
}

/// Copies what is in `from` into `to`, with owners and modes.
pub fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>, settled: Settled) -> io::Result<()> {
    let dot = OsStr::new(".");
    let (from, to) = (open(from, dot, DIRECTORY)?, open(to, dot, DIRECTORY)?);
    copy_entries(&from, &to, DEPTH_LIMIT)?;
    keep_owner(&fstat(&from)?, &to, settled)
}

fn copy_entries(from: &OwnedFd, to: &OwnedFd, depth: usize) -> io::Result<()> {
    let depth = depth
        .checked_sub(1)
        .ok_or_else(|| io::Error::other("the directories are nested too deep"))?;
    for entry in Dir::from_fd(from.try_clone()?)?.iter() {
        let name: OsString = OsStr::from_bytes(entry?.file_name().to_bytes()).into();
        if name != "." && name != ".." {
            copy_entry(from, to, &name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &OsStr, depth: usize) -> io::Result<()> {
    let seen = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    match SFlag::from_bits_truncate(seen.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => {
            mkdirat(to, name, Mode::S_IRWXU)?;
            let from = open(from.as_fd(), name, DIRECTORY)?;
            let to = open(to.as_fd(), name, DIRECTORY)?;
            copy_entries(&from, &to, depth)?;
            keep_owner(&fstat(&from)?, &to, Settled::default())
        }
        SFlag::S_IFLNK => Ok(symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?),
        SFlag::S_IFREG => {
            let old = open(from.as_fd(), name, OFlag::O_RDONLY)?;
            let new = open(to.as_fd(), name, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL)?;
            keep_owner(&fstat(&old)?, &new, Settled::default())?;
            io::copy(&mut File::from(old), &mut File::from(new)).map(drop)
        }
        _ => Ok(()),
    }
}

fn open(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlag) -> io::Result<OwnedFd> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    Ok(openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?)
}

fn keep_owner(seen: &FileStat, file: &OwnedFd, settled: Settled) -> io::Result<()> {
    let user = (!settled.user).then(|| Uid::from_raw(seen.st_uid));
    let group = (!settled.group).then(|| Gid::from_raw(seen.st_gid));
    fchown(file, user, group)?;
    if settled.mode {
        return Ok(());
    }
    Ok(fchmod(file, Mode::from_bits_truncate(seen.st_mode))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_tree_is_copied_and_links_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let (from, to) = (home.path().join("from"), home.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a/b/file"), "text").unwrap();
        fs::set_permissions(from.join("a/b/file"), fs::Permissions::from_mode(0o4711)).unwrap();
        symlink("/etc/shadow", from.join("a/link")).unwrap();
        let open = |path| File::open(path).unwrap();
        copy_tree(open(&from).as_fd(), open(&to).as_fd(), Settled::default()).unwrap();
        assert_eq!(fs::read_to_string(to.join("a/b/file")).unwrap(), "text");
        assert_eq!(
            fs::metadata(to.join("a/b/file")).unwrap().permissions().mode() & 0o7777,
            0o4711
        );
        assert_eq!(
            fs::read_link(to.join("a/link")).unwrap(),
            std::path::Path::new("/etc/shadow")
        );
    }
}
