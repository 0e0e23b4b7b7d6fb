//! A file of an image, as its merged layers show it, without mounting them.
//!
//! Owns what links, whiteouts and opaque directories of one layer do to those below it (OCI image-spec, layer.md; overlayfs).
//! Nothing leads out of the layers.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fgetxattr, fstat, openat, openat2, readlinkat};
use rustix::io::Errno;

use super::content::Layout;
use super::digest::Digest;

/// Links on the way to one file (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Opens the regular file `path`; none when no layer has one there or it was whited out.
pub fn open(layout: &Layout, diff_ids: &[Digest], path: &Path) -> io::Result<Option<File>> {
    let directory = |diff_id| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, layout.layer(diff_id), flags, Mode::empty())
    };
    let layers = diff_ids.iter().rev().map(directory);
    let layers: Vec<OwnedFd> = layers.collect::<Result<_, Errno>>()?;
    let Some((layer, path)) = resolve(&layers, path)? else {
        return Ok(None);
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(Some(beneath(layer, &path, flags)?.into()))
}

/// The layer with the regular file that `path` comes to, and the file's path there, in which there is no link.
fn resolve<'a>(layers: &'a [OwnedFd], path: &Path) -> io::Result<Option<(&'a OwnedFd, PathBuf)>> {
    let (mut rest, mut real) = (names(path), PathBuf::new());
    let (mut links, mut file) = (0, None);
    while let Some(name) = rest.pop_front() {
        file = None;
        if name == ".." {
            real.pop();
            continue;
        }
        real.push(name);
        let Some((layer, kind)) = find(layers, &real)? else {
            return Ok(None);
        };
        match kind {
            FileType::Symlink if links == MAX_LINKS => return Err(Errno::LOOP.into()),
            FileType::Symlink => {
                links += 1;
                let target = readlinkat(layer, &real, Vec::new())?.into_bytes();
                let target = PathBuf::from(OsString::from_vec(target));
                match target.is_absolute() {
                    true => real.clear(),
                    false => drop(real.pop()),
                }
                rest = names(&target).into_iter().chain(rest).collect();
            }
            FileType::RegularFile => file = Some(layer),
            _ => {}
        }
    }
    Ok(file.map(|layer| (layer, real)))
}

fn names(path: &Path) -> VecDeque<OsString> {
    let is_name = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    let parts = path.components().filter(is_name);
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

/// The topmost layer, of which the first is, that shows something at `path`, and what kind of thing.
fn find<'a>(layers: &'a [OwnedFd], path: &Path) -> io::Result<Option<(&'a OwnedFd, FileType)>> {
    for layer in layers {
        match kind(layer, path) {
            // A whiteout.
            Ok(FileType::CharacterDevice) => return Ok(None),
            Ok(kind) => return Ok(Some((layer, kind))),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if hides_below(layer, path) => return Ok(None),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(None)
}

/// Whether one of the path's ancestors in this layer cuts lower layers off.
fn hides_below(layer: &OwnedFd, path: &Path) -> bool {
    let ancestors = path
        .ancestors()
        .skip(1)
        .filter(|path| !path.as_os_str().is_empty());
    ancestors.into_iter().any(|ancestor| match kind(layer, ancestor) {
        Ok(FileType::Directory) => is_opaque(layer, ancestor),
        Ok(_) => true,
        Err(_) => false,
    })
}

fn is_opaque(layer: &OwnedFd, directory: &Path) -> bool {
    let mut value = [0_u8; 8];
    let opened = beneath(
        layer,
        directory,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
    );
    let read = opened.and_then(|fd| fgetxattr(&fd, "trusted.overlay.opaque", &mut value));
    read.is_ok_and(|length| value[..length] == *b"y")
}

fn kind(layer: &OwnedFd, path: &Path) -> Result<FileType, Errno> {
    let found = beneath(layer, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
    Ok(FileType::from_raw_mode(fstat(&found)?.st_mode))
}

fn beneath(layer: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(layer, path, flags, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_through_all_layers_and_out_of_none() {
        let home = tempfile::tempdir().unwrap();
        let [upper, lower] = ["upper", "lower"].map(|name| home.path().join(name));
        for dir in ["usr/bin", "opt/a", "later"] {
            fs::create_dir_all(lower.join(dir)).unwrap();
        }
        for dir in ["usr/bin", "later"] {
            fs::create_dir_all(upper.join(dir)).unwrap();
        }
        fs::write(home.path().join("outside"), "").unwrap();
        fs::write(lower.join("opt/a/real"), "").unwrap();
        fs::write(lower.join("later/below"), "").unwrap();
        fs::write(upper.join("usr/bin/app"), "").unwrap();
        for (target, at) in [
            ("usr/bin", lower.join("bin")),
            ("/opt/a/../a/real", upper.join("usr/bin/tool")),
            ("../../../../outside", upper.join("up")),
            ("around", upper.join("around")),
            ("/opt", lower.join("was-link")),
        ] {
            symlink(target, at).unwrap();
        }
        fs::create_dir(upper.join("was-link")).unwrap();
        let open = |path: &PathBuf| openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let layers = [open(&upper).unwrap(), open(&lower).unwrap()];
        for (path, expected) in [
            ("/bin/app", Some((0, "usr/bin/app"))),
            ("bin/tool", Some((1, "opt/a/real"))),
            ("/bin/../../later/./below", Some((1, "later/below"))),
            ("/was-link/a/real", None),
            ("/up", None),
            ("/bin", None),
            ("/bin/app/..", None),
            ("/bin/app/more", None),
            ("/", None),
        ] {
            let found = resolve(&layers, Path::new(path)).unwrap();
            let found = found.map(|(layer, path)| (usize::from(!std::ptr::eq(layer, &layers[0])), path));
            assert_eq!(
                found,
                expected.map(|(layer, path)| (layer, path.into())),
                "{path}"
            );
        }
        assert!(resolve(&layers, Path::new("/around")).is_err());
    }
}
