//! Removes directories whose content others made: of whatever depth, and never what is mounted in them.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, unlinkat};
use rustix::io::Errno;

use crate::walk::{Found, Then, What, enter, walk};

/// What is done where something is mounted.
pub type OnMount<'m> = dyn Fn(BorrowedFd<'_>, &CStr) -> io::Result<()> + 'm;

/// Removes a tree or a file; that it is not there is success.
///
/// # Errors
/// Something in it cannot be removed, or something is mounted there.
pub fn remove(path: &Path) -> io::Result<()> {
    remove_and(path, &refuse)
}

/// For what nothing is to be mounted in.
///
/// # Errors
/// Always.
pub fn refuse(_: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let said = format!("something is mounted at {}", name.to_string_lossy());
    Err(io::Error::new(io::ErrorKind::ResourceBusy, said))
}

/// The same where `on_mount` takes away what is mounted in it, or at it.
///
/// # Errors
/// Its own, or something cannot be removed.
pub fn remove_and(path: &Path, on_mount: &OnMount<'_>) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, parent, flags, Mode::empty()) {
        Ok(parent) => remove_in(parent.as_fd(), &CString::new(name.as_bytes())?, on_mount),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The same for a name in a directory that is open.
///
/// # Errors
/// As above.
pub fn remove_in(parent: BorrowedFd<'_>, name: &CStr, on_mount: &OnMount<'_>) -> io::Result<()> {
    match remove_file(parent, name, on_mount) {
        // POSIX has the second for directories, Linux for what is not to be changed.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::ISDIR | Errno::PERM)) => {
            remove_directory(parent, name, on_mount)
        }
        done => done,
    }
}

fn remove_file(parent: BorrowedFd<'_>, name: &CStr, on_mount: &OnMount<'_>) -> io::Result<()> {
    loop {
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) => on_mount(parent, name)?,
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Goes through it again as long as there is something new to remove: a file system's list may pass over what it has while
/// it changes.
fn remove_directory(parent: BorrowedFd<'_>, name: &CStr, on_mount: &OnMount<'_>) -> io::Result<()> {
    loop {
        let mut removed = 0_u64;
        let mut visit = |found: &Found<'_>| remove_found(found, on_mount, &mut removed);
        let Some(inside) = enter(parent, name, &mut visit)? else {
            // Gone meanwhile, or never a directory.
            return remove_file(parent, name, on_mount);
        };
        walk(inside, &mut visit)?;
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY) if removed > 0 => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn remove_found(found: &Found<'_>, on_mount: &OnMount<'_>, removed: &mut u64) -> io::Result<Then> {
    match found.what {
        What::Mount => {
            on_mount(found.parent, found.name)?;
            return Ok(Then::Again);
        }
        What::File(_) => remove_file(found.parent, found.name, on_mount)?,
        What::Directory => match unlinkat(found.parent, found.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            // What is left is found when all is gone through again.
            Err(Errno::NOTEMPTY) => return Ok(Then::Next),
            Err(errno) => return Err(errno.into()),
        },
    }
    *removed += 1;
    Ok(Then::Next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn trees_files_and_nothing_are_removed() {
        let home = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        let (tree, file, link) = (
            home.path().join("t"),
            home.path().join("f"),
            home.path().join("l"),
        );
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/f"), "").unwrap();
        symlink(outside.path(), tree.join("a/b/l")).unwrap();
        fs::write(&file, "").unwrap();
        symlink(outside.path(), &link).unwrap();
        for path in [&tree, &file, &link, &home.path().join("none/none")] {
            remove(path).unwrap();
            assert!(fs::symlink_metadata(path).is_err());
        }
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn a_directory_that_another_takes_away_meanwhile_is_no_error() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("file"), "").unwrap();
        let parent = fs::File::open(home.path()).unwrap();
        for name in [c"gone", c"file"] {
            remove_directory(parent.as_fd(), name, &refuse).unwrap();
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_container_made_as_deep_as_it_could_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("t");
        fs::create_dir(&tree).unwrap();
        crate::walk::tests::make_deep(&tree, 20_000);
        remove(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn what_is_mounted_is_not_removed() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return;
        }
        let (home, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (tree, kept) = (home.path().join("t"), data.path().join("kept"));
        fs::create_dir_all(tree.join("a/m")).unwrap();
        fs::write(&kept, "").unwrap();
        fs::write(tree.join("f"), "").unwrap();
        for (from, at) in [(data.path(), tree.join("a/m")), (&kept, tree.join("f"))] {
            let none = None::<&str>;
            nix::mount::mount(Some(from), &at, none, nix::mount::MsFlags::MS_BIND, none).unwrap();
            let error = remove(&at).unwrap_err();
            assert!(error.to_string().contains("mounted at"), "{error}");
        }
        assert_eq!(remove(&tree).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        assert!(kept.exists());
        remove_and(&tree, &crate::mounts::detach).unwrap();
        assert!(kept.exists() && !tree.exists());
    }
}
