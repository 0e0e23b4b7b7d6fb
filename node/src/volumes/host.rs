//! Directories, tmpfs mounts and host paths behind volumes. Owns what is mounted below a Pod's directory and
//! its removal.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;

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
    if is_mount_point(path)? {
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

/// Mounts a file system that nobody writes to and runs nothing from.
pub fn mount_read_only(source: &str, kind: &str, options: &str, target: &Path) -> Result<(), HostError> {
    make_dir(target, 0o755)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some(source), target, Some(kind), flags, Some(options))
        .map_err(|e| at("mount an image at", target)(e.into()))
}

/// Whether something is mounted at `path`; what is not there is no mount point. The kernel says so of the path itself: its table
/// of mounts has a few lines for each Pod. A file system's server, which may never answer, is not asked.
pub fn is_mount_point(path: &Path) -> Result<bool, HostError> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    match statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(found) if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        // Kernels before 5.8; and a mount whose server is away.
        _ => Ok(mounts_under(path)?.iter().any(|m| m == path)),
    }
}

/// Mount points at and below `dir`, innermost last (proc_pid_mountinfo(5)).
fn mounts_under(dir: &Path) -> Result<Vec<PathBuf>, HostError> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(at("read", table))?;
    let points = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape);
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

/// Kinds of the file systems mounted at and below `dir`, by mount point.
pub fn kinds_under(dir: &Path) -> Result<BTreeMap<PathBuf, String>, HostError> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(at("read", table))?;
    let mounts = text.lines().filter_map(|line| {
        let (mount, what) = line.split_once(" - ")?;
        let point = unescape(mount.split(' ').nth(4)?);
        Some((point, what.split(' ').next()?.to_owned()))
    });
    Ok(mounts.filter(|(point, _)| point.starts_with(dir)).collect())
}

/// Octal escapes of mountinfo: space, tab, newline, backslash.
fn unescape(field: &str) -> PathBuf {
    let plain = field
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\");
    PathBuf::from(plain)
}

/// Unmounts everything at and below `dir`; whether there was anything.
pub fn unmount_under(dir: &Path) -> Result<bool, HostError> {
    let points = mounts_under(dir)?;
    for point in points.iter().rev() {
        umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|e| at("unmount", point)(e.into()))?;
    }
    Ok(!points.is_empty())
}

/// Removes `dir` with everything in it, mounts first. Absent is fine. As long as anything is mounted below it nothing is
/// removed: that would be somebody's data.
pub fn remove_tree(dir: &Path) -> Result<(), HostError> {
    if fs::symlink_metadata(dir).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    if unmount_under(dir)?
        && let Some(point) = mounts_under(dir)?.first()
    {
        let busy = io::Error::from(io::ErrorKind::ResourceBusy);
        return Err(at("unmount", point)(busy));
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", dir)(error)),
        _ => Ok(()),
    }
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
        assert_eq!(
            mounts_under(dir.path()).unwrap(),
            std::slice::from_ref(&at),
            "mounted once"
        );
        fs::write(at.join("x"), "x").unwrap();
        remove_tree(dir.path()).unwrap();
        assert!(!dir.path().exists());
    }
}
