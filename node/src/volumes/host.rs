//! Directories, tmpfs mounts and host paths behind volumes, and their removal.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::{mounts, removal};

/// Why something on the host could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("hostPath type check failed: {} is not a {kind}", path.display())]
    Type { path: PathBuf, kind: &'static str },
    #[error("hostPath type {0:?} is unknown")]
    UnknownType(String),
    #[error("{step} {}: {source}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// The error of a step with a path.
pub(crate) fn at<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> HostError + 'a {
    move |source| HostError::Io {
        step,
        path: path.to_owned(),
        source,
    }
}

/// Makes a directory with its parents; `mode` holds whatever the umask.
pub fn make_dir(path: &Path, mode: u32) -> Result<(), HostError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(at("create", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(at("change the mode of", path))
}

/// Gives a directory to a group, with the setgid bit so that new files follow (`fsGroup`).
pub fn give_to_group(path: &Path, gid: u32) -> Result<(), HostError> {
    chown(path, None, Some(gid)).map_err(at("change the group of", path))?;
    let mode = fs::metadata(path)
        .map_err(at("inspect", path))?
        .permissions()
        .mode();
    let shared = (mode & 0o7777) | 0o2070;
    fs::set_permissions(path, fs::Permissions::from_mode(shared)).map_err(at("change the mode of", path))
}

/// Mounts a tmpfs at `path` unless one is there; `size` in bytes.
pub fn mount_tmpfs(path: &Path, size: Option<u64>, mode: u32) -> Result<(), HostError> {
    make_dir(path, mode)?;
    if mounts::is_point(path).map_err(at("look at", path))? {
        return Ok(());
    }
    let options = match size {
        Some(bytes) => format!("mode={mode:o},size={bytes}"),
        None => format!("mode={mode:o}"),
    };
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(|e| at("mount a tmpfs at", path)(e.into()))
}

/// Mounts huge pages of so many bytes at `path` unless something is mounted there.
pub fn mount_huge_pages(path: &Path, page: u64) -> Result<(), HostError> {
    make_dir(path, 0o777)?;
    if mounts::is_point(path).map_err(at("look at", path))? {
        return Ok(());
    }
    let options = format!("pagesize={page}");
    mount(
        Some("nodev"),
        path,
        Some("hugetlbfs"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .map_err(|e| at("mount huge pages at", path)(e.into()))
}

/// Removes `dir` with everything in it, and unmounts what is mounted there, of which nothing is removed: that would be
/// somebody's data. Absent is fine.
pub fn remove_tree(dir: &Path) -> Result<(), HostError> {
    removal::remove_and(dir, &mounts::detach).map_err(at("remove", dir))
}

/// Checks or makes a hostPath as its type says (core/v1 HostPathVolumeSource).
pub fn host_path(path: &Path, kind: &str) -> Result<(), HostError> {
    let metadata = fs::metadata(path);
    let is = |test: fn(&fs::FileType) -> bool| metadata.as_ref().is_ok_and(|m| test(&m.file_type()));
    let need = |holds: bool, kind| {
        if holds {
            Ok(())
        } else {
            Err(HostError::Type {
                path: path.to_owned(),
                kind,
            })
        }
    };
    match kind {
        // Upstream leaves this to the runtimes, and they make a directory of what is not there.
        "" if metadata.is_ok() => Ok(()),
        "" | "DirectoryOrCreate" if metadata.is_err() => make_dir(path, 0o755),
        "FileOrCreate" if metadata.is_err() => make_file(path),
        "Directory" | "DirectoryOrCreate" => need(is(fs::FileType::is_dir), "directory"),
        "File" | "FileOrCreate" => need(is(fs::FileType::is_file), "file"),
        "Socket" => need(is(fs::FileType::is_socket), "socket"),
        "CharDevice" => need(is(fs::FileType::is_char_device), "character device"),
        "BlockDevice" => need(is(fs::FileType::is_block_device), "block device"),
        other => Err(HostError::UnknownType(other.to_owned())),
    }
}

fn make_file(path: &Path) -> Result<(), HostError> {
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map(drop)
        .map_err(at("create", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(at("change the mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_paths_are_what_their_type_says() {
        let dir = tempfile::tempdir().unwrap();
        let (file, made) = (dir.path().join("f"), dir.path().join("new/below"));
        fs::write(&file, "").unwrap();
        for (path, kind, ok) in [
            (dir.path(), "Directory", true),
            (dir.path(), "File", false),
            (file.as_path(), "File", true),
            (file.as_path(), "Socket", false),
            (Path::new("/dev/null"), "CharDevice", true),
            (made.as_path(), "", true),
            (made.as_path(), "Directory", true),
            (Path::new("/nonexistent"), "Directory", false),
            (dir.path(), "Odd", false),
        ] {
            assert_eq!(host_path(path, kind).is_ok(), ok, "{} {kind}", path.display());
        }
        host_path(&dir.path().join("new/dir"), "DirectoryOrCreate").unwrap();
        host_path(&dir.path().join("new/dir/file"), "FileOrCreate").unwrap();
        assert!(dir.path().join("new/dir/file").is_file());
    }

    #[test]
    fn a_tmpfs_comes_and_goes() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("a b");
        mount_tmpfs(&at, Some(1 << 20), 0o777).unwrap();
        mount_tmpfs(&at, Some(1 << 20), 0o777).unwrap();
        let mounted = mounts::kinds_under(dir.path()).unwrap();
        assert_eq!(
            mounted.into_iter().collect::<Vec<_>>(),
            [(at.clone(), "tmpfs".to_owned())]
        );
        fs::write(at.join("x"), "x").unwrap();
        remove_tree(dir.path()).unwrap();
        assert!(!dir.path().exists());
    }
}
