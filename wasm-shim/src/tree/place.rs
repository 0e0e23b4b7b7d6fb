//! Places in a tree to mount on. Symbolic links in images and volumes are followed inside the tree only, so that none leads
//! to the host.

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, SFlag, mkdirat};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Opens what is at a path of the tree.
///
/// # Errors
/// When nothing is there.
pub fn find(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    Ok(openat2(root, path, how)?)
}

/// Makes a directory or an empty file at a path of the tree, with the directories above it.
///
/// # Errors
/// When something else is in its way: a link that leads nowhere, say.
pub fn make(root: &OwnedFd, path: &Path, kind: SFlag) -> io::Result<OwnedFd> {
    let names: Vec<&OsStr> = path.components().filter_map(name).collect();
    let mut here = PathBuf::new();
    for (number, name) in names.iter().enumerate() {
        let above = find(root, &here)?;
        here.push(name);
        let is_last = number + 1 == names.len();
        match find(root, &here) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match make_in(&above, name, if is_last { kind } else { SFlag::S_IFDIR }) {
                    // Another container of the Pod was quicker; a link that leads nowhere is seen below.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    made => made?,
                }
            }
            found => drop(found?),
        }
    }
    find(root, &here)
}

fn name(part: Component<'_>) -> Option<&OsStr> {
    match part {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    }
}

fn make_in(directory: impl AsFd, name: &OsStr, kind: SFlag) -> io::Result<()> {
    if kind == SFlag::S_IFDIR {
        return Ok(mkdirat(directory, name, Mode::from_bits_truncate(0o755))?);
    }
    let new = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    openat(directory, name, new, Mode::from_bits_truncate(0o644))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::open;
    use std::os::unix::fs::symlink;

    #[test]
    fn places_are_made_in_the_tree_and_nowhere_else() {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        std::fs::create_dir_all(tree.join("real")).unwrap();
        symlink("/real", tree.join("link")).unwrap();
        symlink("../../out", tree.join("out")).unwrap();
        let root = open(&tree, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        make(&root, Path::new("/a/b/c"), SFlag::S_IFREG).unwrap();
        make(&root, Path::new("/link/deep"), SFlag::S_IFDIR).unwrap();
        make(&root, Path::new("../x"), SFlag::S_IFREG).unwrap();
        assert!(tree.join("a/b/c").is_file() && tree.join("real/deep").is_dir() && tree.join("x").is_file());
        assert!(
            make(&root, Path::new("out/file"), SFlag::S_IFREG).is_err(),
            "it leads nowhere"
        );
        assert!(!home.path().join("out").exists());
        assert!(find(&root, Path::new("/")).is_ok() && find(&root, Path::new("none")).is_err());
    }
}
