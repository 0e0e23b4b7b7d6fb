//! A part of a volume as a mount of its own (`subPath`, `subPathExpr`). The path is resolved once, below the volume
//! whatever symlinks a container left there, and what was found is held by a bind mount, so that a link swapped
//! afterwards changes nothing (the class of CVE-2017-1002101 and CVE-2021-25741).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, open, openat2};
use rustix::io::Errno;

/// Why a subPath cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum SubPathError {
    #[error("must be a relative path without '..'")]
    Path,
    #[error("{step} {}: {source}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn at<'a, E: Into<io::Error>>(step: &'static str, path: &'a Path) -> impl FnOnce(E) -> SubPathError + 'a {
    move |error| SubPathError::Io {
        step,
        path: path.to_owned(),
        source: error.into(),
    }
}

/// Mounts what is at `below` in `volume` on `target`, in place of what an earlier start left there; what is missing is
/// made as a directory with the volume's mode.
pub fn bind(volume: &Path, below: &str, target: &Path) -> Result<(), SubPathError> {
    let below = relative(below)?;
    let found = resolve(volume, &below)?;
    clear(target)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let is_dir = fs::metadata(&path)
        .map_err(at("inspect", &volume.join(&below)))?
        .is_dir();
    make_mount_point(target, is_dir)?;
    let none: Option<&str> = None;
    mount(
        Some(&path),
        target,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )
    .map_err(at("mount on", target))
}

fn relative(below: &str) -> Result<PathBuf, SubPathError> {
    let path = Path::new(below);
    let inside = path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    match inside {
        true => Ok(path
            .components()
            .filter(|part| *part != Component::CurDir)
            .collect()),
        false => Err(SubPathError::Path),
    }
}

/// Opens `below` without ever leaving `volume`.
fn resolve(volume: &Path, below: &Path) -> Result<OwnedFd, SubPathError> {
    let root = open(
        volume,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(at("open", volume))?;
    let mode = fs::metadata(volume)
        .map_err(at("inspect", volume))?
        .permissions()
        .mode()
        & 0o7777;
    match beneath(&root, below) {
        Err(Errno::NOENT) => make(volume, &root, below, mode),
        found => found.map_err(at("resolve", &volume.join(below))),
    }
}

fn beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside)
}

/// Makes the directories that are missing, each in its parent as opened.
fn make(volume: &Path, root: &OwnedFd, below: &Path, mode: u32) -> Result<OwnedFd, SubPathError> {
    let mut reached = PathBuf::from(".");
    let mut parent = beneath(root, &reached).map_err(at("open", volume))?;
    for part in below.components() {
        reached.push(part);
        let path = volume.join(&reached);
        match mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(mode)) {
            Ok(()) => set_mode(&path, root, &reached, mode)?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(at("create", &path)(error)),
        }
        parent = beneath(root, &reached).map_err(at("resolve", &path))?;
    }
    Ok(parent)
}

/// The umask took from what `mkdirat` was given.
fn set_mode(path: &Path, root: &OwnedFd, reached: &Path, mode: u32) -> Result<(), SubPathError> {
    let made = beneath(root, reached).map_err(at("resolve", path))?;
    let by_descriptor = format!("/proc/self/fd/{}", made.as_raw_fd());
    fs::set_permissions(by_descriptor, fs::Permissions::from_mode(mode))
        .map_err(at("change the mode of", path))
}

/// Takes an earlier mount away.
fn clear(target: &Path) -> Result<(), SubPathError> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(at("unmount", target)(error)),
    }
}

fn make_mount_point(target: &Path, is_dir: bool) -> Result<(), SubPathError> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(at("create", parent))?;
    }
    // What is there is an empty mount point of an earlier start, perhaps of the other kind.
    let removed = match fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() => fs::remove_dir(target),
        Ok(_) => fs::remove_file(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(at("remove", target))?;
    let made = match is_dir {
        true => fs::create_dir(target),
        false => File::create_new(target).map(drop),
    };
    made.map_err(at("create", target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A volume, a secret outside, and a place to mount; unmounted when dropped.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Option<Place> {
            if !nix::unistd::geteuid().is_root() {
                eprintln!("skipped: mounting needs root");
                return None;
            }
            let place = Place(tempfile::tempdir().unwrap());
            fs::create_dir(place.volume()).unwrap();
            fs::write(place.0.path().join("secret"), "host").unwrap();
            Some(place)
        }

        fn volume(&self) -> PathBuf {
            self.0.path().join("volume")
        }

        fn target(&self) -> PathBuf {
            self.0.path().join("subpaths/v/c/0")
        }

        fn bind(&self, below: &str) -> Result<(), SubPathError> {
            bind(&self.volume(), below, &self.target())
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            crate::mounts::release_under(self.0.path()).unwrap();
        }
    }

    #[test]
    fn directories_are_made_with_the_volumes_mode_and_shown() {
        let Some(place) = Place::new() else { return };
        fs::set_permissions(place.volume(), fs::Permissions::from_mode(0o2777)).unwrap();
        place.bind("a/b").unwrap();
        fs::write(place.target().join("x"), "1").unwrap();
        assert_eq!(fs::read_to_string(place.volume().join("a/b/x")).unwrap(), "1");
        let mode = fs::metadata(place.volume().join("a"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o2777);
    }

    #[test]
    fn a_second_start_shows_what_is_there_now() {
        let Some(place) = Place::new() else { return };
        place.bind("d").unwrap();
        fs::remove_dir(place.volume().join("d")).unwrap();
        fs::write(place.volume().join("d"), "file").unwrap();
        place.bind("d").unwrap();
        assert_eq!(fs::read_to_string(place.target()).unwrap(), "file");
    }

    #[test]
    fn links_inside_lead_on_and_links_out_lead_nowhere() {
        let Some(place) = Place::new() else { return };
        fs::create_dir(place.volume().join("real")).unwrap();
        symlink("real", place.volume().join("inner")).unwrap();
        place.bind("inner").unwrap();
        for (name, goal) in [("up", "../secret"), ("abs", "/etc"), ("proc", "/proc/self/root")] {
            symlink(goal, place.volume().join(name)).unwrap();
            assert!(place.bind(name).is_err(), "{name}");
            assert!(place.bind(&format!("{name}/made")).is_err(), "{name}/made");
        }
        assert_eq!(fs::read_to_string(place.0.path().join("secret")).unwrap(), "host");
        assert!(!Path::new("/etc/made").exists());
    }

    #[test]
    fn a_link_swapped_afterwards_changes_nothing() {
        let Some(place) = Place::new() else { return };
        place.bind("d").unwrap();
        fs::rename(place.volume().join("d"), place.volume().join("old")).unwrap();
        symlink(place.0.path(), place.volume().join("d")).unwrap();
        assert!(!place.target().join("secret").exists());
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["../x", "/etc", "a/../../x"] {
            assert!(matches!(relative(path), Err(SubPathError::Path)), "{path}");
        }
        assert_eq!(relative("./a/b/").unwrap(), Path::new("a/b"));
    }
}
