//! Single files for Wasm guests: WASI gives a guest directories only (wasi:filesystem/preopens), so a mounted file comes
//! in a folder of its own that is given at the path above it. Owns the folders; knows neither volumes nor shims.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::bundle::mounts::Bind;
use crate::volumes::subpath::{self, SubPathError};

/// Why a file cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("putting the file {} into a folder for a Wasm guest: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("showing the file {} to a Wasm guest: {error}", path.display())]
    Show { path: PathBuf, error: SubPathError },
}

/// What a guest is given.
#[derive(Debug)]
pub struct Given {
    pub binds: Vec<Bind>,
    /// The directory of the guest with nothing in it but the file for its last words, if there is one.
    pub message: Option<PathBuf>,
}

/// Directories as they are, and files in folders: the container's volumes' below `mounts`, its termination message,
/// which is in the same file system as the folder `home`, by a second name there.
///
/// What is in a directory that is given anyway is mounted in it, as for a native container; what would be in the root is left
/// out.
pub fn folders(mounts: &Path, home: &Path, volumes: &[Bind], message: &Bind) -> Result<Given, FolderError> {
    let (files, mut binds): (Vec<Bind>, Vec<Bind>) =
        volumes.iter().cloned().partition(|bind| bind.source.is_file());
    let is_in = |file: &Bind, given: &Bind| file.destination.starts_with(&given.destination);
    let (inside, others): (Vec<&Bind>, Vec<&Bind>) = files
        .iter()
        .chain([message])
        .partition(|file| binds.iter().any(|given| is_in(file, given)));
    binds.extend(inside.into_iter().cloned());
    let mut folders: BTreeMap<PathBuf, Vec<&Bind>> = BTreeMap::new();
    for file in others {
        match place(file) {
            Some(parent) => folders.entry(parent).or_default().push(file),
            None => tracing::warn!(
                path = %file.destination.display(),
                "a file in the root, which a Wasm artifact has not, is not given to its guest"
            ),
        }
    }
    let mut alone = None;
    for (number, (parent, files)) in folders.into_iter().enumerate() {
        let words = matches!(files[..], [file] if file == message);
        let folder = match words {
            true => home.to_owned(),
            false => mounts.join(number.to_string()),
        };
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        for file in &files {
            show(file, &folder, *file == message)?;
        }
        binds.push(Bind::new(
            folder,
            &parent,
            files.iter().all(|file| file.read_only),
        ));
        if words {
            alone = Some(parent);
        }
    }
    Ok(Given {
        binds,
        message: alone,
    })
}

/// The directory a file is given in, if it can be.
fn place(file: &Bind) -> Option<PathBuf> {
    let parent = file.destination.parent()?;
    file.destination.file_name()?;
    parent.parent().map(|_| parent.to_owned())
}

fn show(file: &Bind, folder: &Path, is_message: bool) -> Result<(), FolderError> {
    let Some(name) = file.destination.file_name() else {
        return Ok(());
    };
    let target = folder.join(name);
    if is_message {
        return fs::hard_link(&file.source, &target).map_err(at(&file.source));
    }
    let source = fs::canonicalize(&file.source).map_err(at(&file.source))?;
    let (Some(above), Some(name)) = (source.parent(), source.file_name()) else {
        return Ok(());
    };
    subpath::bind(above, &name.to_string_lossy(), &target).map_err(|error| FolderError::Show {
        path: file.source.clone(),
        error,
    })
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FolderError + '_ {
    move |source| FolderError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_in_folders_and_directories_as_they_are() {
        let home = tempfile::tempdir().unwrap();
        let (volume, words) = (home.path().join("volume"), home.path().join("words"));
        fs::create_dir(&volume).unwrap();
        fs::write(&words, "").unwrap();
        let given = |at: &str| {
            let volumes = [Bind::new(&volume, "/data", true)];
            let folder = home.path().join(format!("folder{}", at.len()));
            let message = Bind::new(&words, at, false);
            let given = folders(&home.path().join("mounts"), &folder, &volumes, &message).unwrap();
            let seen: Vec<String> = given
                .binds
                .iter()
                .map(|b| b.destination.display().to_string())
                .collect();
            (seen, given.message, folder)
        };
        let (seen, message, folder) = given("/dev/termination-log");
        assert_eq!(
            (seen.join(" "), message),
            ("/data /dev".to_owned(), Some("/dev".into()))
        );
        fs::write(folder.join("termination-log"), "last").unwrap();
        assert_eq!(fs::read_to_string(&words).unwrap(), "last");
        for (at, expected) in [
            ("/data/words", "/data /data/words"),
            ("/data/a/b", "/data /data/a/b"),
            ("/words", "/data"),
        ] {
            let (seen, message, _) = given(at);
            assert_eq!((seen.join(" "), message), (expected.to_owned(), None), "{at}");
        }
    }

    #[test]
    fn files_of_volumes_are_shown_where_they_are() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("key");
        fs::write(&file, "one").unwrap();
        let (mounts, folder) = (home.path().join("mounts"), home.path().join("folder"));
        let volumes = [Bind::new(&file, "/etc/app/settings", true)];
        let message = Bind::new(&file, "/etc/app/words", false);
        let given = folders(&mounts, &folder, &volumes, &message);
        assert_eq!(fs::read_to_string(mounts.join("0/settings")).unwrap(), "one");
        crate::volumes::host::remove_tree(&mounts).unwrap();
        let given = given.unwrap();
        assert_eq!(given.binds, [Bind::new(mounts.join("0"), "/etc/app", false)]);
        assert_eq!(given.message, None, "the folder has more in it");
    }
}
