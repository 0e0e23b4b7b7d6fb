//! Replaces the files of a volume all at once: data in a timestamped directory, `..data` a symlink to it that
//! is renamed into place, every user-visible name a symlink through `..data`. A container reading during an
//! update sees all of the old files or all of the new ones. The layout is upstream's (kubelet AtomicWriter),
//! because programs watch it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

/// The symlink all names go through.
const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// One file to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Who owns it, root if nobody is named.
    pub uid: Option<u32>,
}

impl Content {
    pub fn new(bytes: &[u8], mode: u32) -> Self {
        Content {
            bytes: bytes.to_vec(),
            mode,
            uid: None,
        }
    }

    /// The mode on disk: a group that is given the volume may read it (upstream's SetVolumeOwnership, read-only mask).
    fn mode_for(&self, gid: Option<u32>) -> u32 {
        gid.map_or(self.mode, |_| self.mode | 0o440)
    }
}

/// What a directory of a group's volume has beside its own bits: the group may enter, and new files follow it.
const GROUP_DIRECTORY: u32 = 0o2550;

/// Files by their relative path.
pub type Payload = BTreeMap<PathBuf, Content>;

/// Why a volume's files could not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("invalid path {0:?}: must be relative and without '..'")]
    Path(PathBuf),
    #[error("{step} {}: {source}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn at<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> WriteError + 'a {
    move |source| WriteError::Io {
        step,
        path: path.to_owned(),
        source,
    }
}

/// Makes `target` hold exactly `payload`; answers whether anything changed. `gid` (the Pod's `fsGroup`) is given files
/// and directories to read.
pub fn write(target: &Path, payload: &Payload, gid: Option<u32>) -> Result<bool, WriteError> {
    payload.keys().try_for_each(|path| check(path))?;
    // Whoever made the directory ready for this has set its mode anew.
    give_directory(target, gid)?;
    let current = fs::read_link(target.join(DATA))
        .ok()
        .map(|link| target.join(link));
    if current.as_deref().is_some_and(|dir| holds(dir, payload, gid)) {
        return Ok(false);
    }
    let fresh = make_data_directory(target)?;
    give_directory(&fresh, gid)?;
    payload
        .iter()
        .try_for_each(|(path, content)| put(&fresh, path, content, gid))?;
    switch(target, &fresh)?;
    link_names(target, payload)?;
    remove_stale_names(target, payload)?;
    if let Some(old) = current {
        fs::remove_dir_all(&old).map_err(at("remove", &old))?;
    }
    Ok(true)
}

/// A path stays below the target and does not look like the writer's own names.
fn check(path: &Path) -> Result<(), WriteError> {
    let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
    let own = path.to_string_lossy().starts_with("..");
    if plain && !own && path.components().next().is_some() {
        Ok(())
    } else {
        Err(WriteError::Path(path.to_owned()))
    }
}

fn holds(dir: &Path, payload: &Payload, gid: Option<u32>) -> bool {
    let same = |(path, content): (&PathBuf, &Content)| {
        let path = dir.join(path);
        let mode = fs::metadata(&path).map(|m| m.permissions().mode() & 0o7777);
        mode.is_ok_and(|mode| mode == content.mode_for(gid))
            && fs::read(&path).is_ok_and(|b| b == content.bytes)
    };
    payload.iter().all(same) && count(dir) == payload.len()
}

fn count(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 })
        .sum()
}

fn make_data_directory(target: &Path) -> Result<PathBuf, WriteError> {
    let now = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.");
    let dir = target.join(format!("{now}{:09}", rand::random_range(0..1_000_000_000u32)));
    DirBuilder::new()
        .mode(0o755)
        .create(&dir)
        .map_err(at("create", &dir))?;
    Ok(dir)
}

fn put(dir: &Path, path: &Path, content: &Content, gid: Option<u32>) -> Result<(), WriteError> {
    make_parents(dir, path, gid)?;
    let path = dir.join(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(at("create", &path))?;
    file.write_all(&content.bytes).map_err(at("write", &path))?;
    if gid.is_some() || content.uid.is_some() {
        chown(&path, content.uid, gid).map_err(at("change the owner of", &path))?;
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(content.mode_for(gid)))
        .map_err(at("change the mode of", &path))
}

/// The directories between `dir` and the file at `path` below it.
fn make_parents(dir: &Path, path: &Path, gid: Option<u32>) -> Result<(), WriteError> {
    let mut parents: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .filter(|p| !p.as_os_str().is_empty())
        .collect();
    parents.reverse();
    for parent in parents {
        let parent = dir.join(parent);
        match DirBuilder::new().mode(0o755).create(&parent) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made.map_err(at("create", &parent))?,
        }
        give_directory(&parent, gid)?;
    }
    Ok(())
}

fn give_directory(dir: &Path, gid: Option<u32>) -> Result<(), WriteError> {
    let Some(gid) = gid else { return Ok(()) };
    chown(dir, None, Some(gid)).map_err(at("change the group of", dir))?;
    let mode = fs::metadata(dir)
        .map_err(at("inspect", dir))?
        .permissions()
        .mode()
        & 0o7777;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode | GROUP_DIRECTORY))
        .map_err(at("change the mode of", dir))
}

/// Points `..data` at `fresh` by rename.
fn switch(target: &Path, fresh: &Path) -> Result<(), WriteError> {
    let new = target.join(NEW_DATA);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("remove", &new)(error)),
        _ => {}
    }
    symlink(fresh.file_name().unwrap_or_default(), &new).map_err(at("link", &new))?;
    fs::rename(&new, target.join(DATA)).map_err(at("rename", &new))
}

/// First components of the paths: the names a container sees.
fn names(payload: &Payload) -> BTreeSet<PathBuf> {
    payload
        .keys()
        .filter_map(|path| path.components().next())
        .map(|c| PathBuf::from(c.as_os_str()))
        .collect()
}

fn link_names(target: &Path, payload: &Payload) -> Result<(), WriteError> {
    for name in names(payload) {
        let link = target.join(&name);
        match symlink(Path::new(DATA).join(&name), &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(at("link", &link)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn remove_stale_names(target: &Path, payload: &Payload) -> Result<(), WriteError> {
    let wanted = names(payload);
    for entry in fs::read_dir(target).map_err(at("list", target))?.flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with("..") && !wanted.contains(Path::new(&name)) {
            fs::remove_file(entry.path()).map_err(at("remove", &entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let content = |text: &str| Content::new(text.as_bytes(), 0o644);
        files
            .iter()
            .map(|(path, text)| (PathBuf::from(path), content(text)))
            .collect()
    }

    fn seen(dir: &Path) -> BTreeSet<String> {
        let names = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| !n.starts_with("..")).collect()
    }

    #[test]
    fn replaces_everything_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = payload(&[("a", "1"), ("sub/b", "2")]);
        assert!(write(dir.path(), &first, None).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("sub/b")).unwrap(), "2");
        let link = fs::read_link(dir.path().join(DATA)).unwrap();
        assert!(
            !write(dir.path(), &first, None).unwrap(),
            "the same again changes nothing"
        );
        assert_eq!(fs::read_link(dir.path().join(DATA)).unwrap(), link);
        assert!(write(dir.path(), &payload(&[("a", "3"), ("c", "4")]), None).unwrap());
        assert_eq!(seen(dir.path()), ["a".to_owned(), "c".to_owned()].into());
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "3");
        let kept = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(kept, 4, "the old data directory is gone");
    }

    #[test]
    fn a_removed_key_alone_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1"), ("b", "2")]), None).unwrap();
        assert!(write(dir.path(), &payload(&[("a", "1")]), None).unwrap());
        assert_eq!(seen(dir.path()), ["a".to_owned()].into());
    }

    #[test]
    fn modes_hold_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let files = [(PathBuf::from("x"), Content::new(b"", 0o666))].into();
        write(dir.path(), &files, None).unwrap();
        assert_eq!(
            fs::metadata(dir.path().join("x")).unwrap().permissions().mode() & 0o777,
            0o666
        );
    }

    #[test]
    fn a_group_reads_what_it_is_given_and_a_user_owns_what_is_theirs() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: giving files away needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let owned = Content {
            uid: Some(1000),
            ..Content::new(b"t", 0o600)
        };
        let files = [
            (PathBuf::from("s/x"), Content::new(b"1", 0o400)),
            (PathBuf::from("token"), owned),
        ]
        .into();
        assert!(write(dir.path(), &files, Some(4000)).unwrap());
        assert!(!write(dir.path(), &files, Some(4000)).unwrap());
        let seen = |path: &str| {
            let meta = fs::metadata(dir.path().join(path)).unwrap();
            (meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777)
        };
        assert_eq!(seen("s/x"), (0, 4000, 0o440));
        assert_eq!(seen("token"), (1000, 4000, 0o640));
        for directory in [DATA, "s"] {
            assert_eq!(seen(directory), (0, 4000, 0o2755), "{directory}");
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!write(dir.path(), &files, Some(4000)).unwrap());
        assert_eq!(seen(""), (0, 4000, 0o2777), "the root too, however often");
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/x", "a/../../x", "..data/x", "", "a/./../b"] {
            assert!(
                write(dir.path(), &payload(&[(path, "")]), None).is_err(),
                "{path}"
            );
        }
    }
}
