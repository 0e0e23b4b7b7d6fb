//! The layers of an image as one mount that nobody writes to: with the owners that the image names, or as a Pod sees them that has
//! users of its own.
//!
//! An overlay cannot be idmapped, its layers can (Linux 5.19). They are mounted where nobody sees them; the overlay keeps
//! them when it is made, and is all that is brought from there.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

use super::host::{self, HostError, at};
use crate::{sys, unseen};

/// A volume's image is read-only, and nothing is run from it (KEP-4639).
const FLAGS: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV);
/// Where the overlay is before it is brought to its target, beside its layers, which have numbers.
const WHOLE: &str = "whole";

/// Mounts the directories `layers`, the first on top, on `target`, which is made. With `users`, a user namespace, what
/// belongs to 0 in them is shown as its root's.
///
/// # Errors
/// The kernel does not: by which step.
pub fn show(layers: &[PathBuf], users: Option<&Path>, target: &Path) -> Result<(), HostError> {
    host::make_dir(target, 0o755)?;
    match users {
        None => overlay(layers, target),
        Some(users) => attach(&mapped(layers, users, target)?, target),
    }
    .map_err(at("mount an image at", target))
}

fn overlay(layers: &[PathBuf], target: &Path) -> io::Result<()> {
    let layers: Vec<String> = layers.iter().map(|path| path.display().to_string()).collect();
    let options = format!("lowerdir={}", layers.join(":"));
    Ok(mount(
        Some("overlay"),
        target,
        Some("overlay"),
        FLAGS,
        Some(options.as_str()),
    )?)
}

fn attach(image: &OwnedFd, target: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    sys::attach(image, &openat(CWD, target, flags, Mode::empty())?)
}

/// The overlay of layers that are seen by the maps of `users`, mounted nowhere.
fn mapped(layers: &[PathBuf], users: &Path, target: &Path) -> Result<OwnedFd, HostError> {
    let users = File::open(users).map_err(at("open the user namespace", users))?;
    let made = unseen::run("image-volume", || {
        let names = stand_on_mapped(layers, &users, target)?;
        let whole = Path::new(WHOLE);
        let made = overlay(&names, whole).and_then(|()| sys::copy_mount(whole));
        made.map_err(at("mount the idmapped layers for", target))
    });
    made.map_err(at("make a mount namespace for", target))?
}

/// Goes to a new tmpfs on `place` and mounts the layers in it. Answers their names there.
fn stand_on_mapped(layers: &[PathBuf], users: &File, place: &Path) -> Result<Vec<PathBuf>, HostError> {
    let step = "make a place for idmapped layers at";
    let none: Option<&str> = None;
    mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), none)
        .map_err(|e| at(step, place)(e.into()))?;
    std::env::set_current_dir(place).map_err(at(step, place))?;
    let mut names = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let name = PathBuf::from(number.to_string());
        make_point(&name).map_err(at(step, place))?;
        let copy = sys::copy_mount(layer).map_err(at("open the layer", layer))?;
        sys::map_owners(&copy, users).map_err(|e| at("map the ids of", layer)(said(e)))?;
        attach(&copy, &name).map_err(at("mount the layer", layer))?;
        names.push(name);
    }
    make_point(Path::new(WHOLE)).map_err(at(step, place))?;
    Ok(names)
}

fn make_point(name: &Path) -> io::Result<()> {
    Ok(mkdirat(CWD, name, Mode::RWXU)?)
}

/// Which file systems can be idmapped depends on the kernel; what it answers for the others says nothing of that.
fn said(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EINVAL) => io::Error::new(
            error.kind(),
            "its file system cannot be idmapped by this kernel; a Pod that needs it must do without hostUsers: false",
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, chown};

    use nix::sched::CloneFlags;

    use super::*;
    use crate::mounts;
    use crate::sys::Holder;
    use crate::users::IdRange;

    const FIRST: u32 = 655_360;

    /// A user namespace as Pods have them; none, having said why, where there are no mounts to be tried.
    fn users() -> Option<(Holder, PathBuf)> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return None;
        }
        let holder = Holder::new(CloneFlags::CLONE_NEWUSER).unwrap();
        for map in ["uid_map", "gid_map"] {
            fs::write(holder.file(map), IdRange { first: FIRST }.map()).unwrap();
        }
        let path = holder.file("ns/user");
        Some((holder, path))
    }

    fn owners(dir: &Path) -> Vec<(String, u32, u32)> {
        let names = ["", "below", "top", "dir", "dir/both"].map(str::to_owned);
        let seen = names.map(|name| {
            let seen = fs::metadata(dir.join(&name)).unwrap();
            (name, seen.uid(), seen.gid())
        });
        seen.to_vec()
    }

    #[test]
    fn layers_are_seen_by_the_users_of_a_pod_and_by_the_hosts_side_by_side() {
        let Some((_holder, users)) = users() else { return };
        let dir = tempfile::tempdir().unwrap();
        let layers = ["top", "below"].map(|layer| dir.path().join("layers").join(layer));
        for layer in &layers {
            fs::create_dir_all(layer.join("dir")).unwrap();
            fs::write(layer.join(layer.file_name().unwrap()), "").unwrap();
            fs::write(layer.join("dir/both"), layer.display().to_string()).unwrap();
            chown(layer.join("dir/both"), Some(1000), Some(7)).unwrap();
        }
        let shown = dir.path().join("shown");
        let [own, hosts] = ["own", "hosts"].map(|name| shown.join(name));
        show(&layers, Some(&users), &own).unwrap();
        show(&layers, None, &hosts).unwrap();
        for (place, first) in [(&own, FIRST), (&hosts, 0)] {
            let root = |name: &str| (name.to_owned(), first, first);
            let both = ("dir/both".to_owned(), first + 1000, first + 7);
            let expected = [root(""), root("below"), root("top"), root("dir"), both];
            assert_eq!(owners(place), expected);
            let both = fs::read_to_string(place.join("dir/both")).unwrap();
            assert_eq!(both, layers[0].display().to_string(), "the first is on top");
            let error = fs::write(place.join("new"), "").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
        let mounted = mounts::kinds_under(dir.path()).unwrap();
        let points: Vec<PathBuf> = mounted.into_iter().map(|(point, _)| point).collect();
        assert_eq!(points, [own, hosts], "what they stand on is nowhere");
        host::remove_tree(&shown).unwrap();
        assert!(layers[1].join("below").exists() && !shown.exists());
    }

    #[test]
    fn what_cannot_be_idmapped_is_named_and_leaves_nothing() {
        let Some((_holder, users)) = users() else { return };
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("v");
        let error = show(&["/sys/kernel".into()], Some(&users), &target).unwrap_err();
        let expected = "map the ids of /sys/kernel: its file system cannot be idmapped by this kernel; a Pod that needs it must do \
            without hostUsers: false";
        assert_eq!(error.to_string(), expected);
        assert!(!mounts::is_point(&target).unwrap());
    }
}
