//! Directories that the control plane's provisioner of local volumes has made here. Owns their names: one component, below
//! one directory, never a link.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::host::{self, HostError, at};

/// Longest name a directory may have.
const NAME_LIMIT: usize = 255;
/// All of them begin so.
const PREFIX: &str = "pvc-";

/// Why a directory cannot be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum LocalPathError {
    #[error("{0:?} is not a name of a local volume: pvc-… of letters, digits, '-', '_' and '.'")]
    Name(String),
    #[error(transparent)]
    Host(#[from] HostError),
}

fn place(root: &Path, name: &str) -> Result<PathBuf, LocalPathError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let usable = name.starts_with(PREFIX) && name.len() <= NAME_LIMIT && name.bytes().all(plain);
    match usable {
        true => Ok(root.join(name)),
        false => Err(LocalPathError::Name(name.to_owned())),
    }
}

/// Makes the directory, which anybody may write to, as the local-path-provisioner does; one that is there stays as it is.
pub fn make(root: &Path, name: &str) -> Result<PathBuf, LocalPathError> {
    let path = place(root, name)?;
    fs::create_dir_all(root).map_err(at("create", root))?;
    match fs::create_dir(&path) {
        Ok(()) => {
            let open = fs::Permissions::from_mode(0o777);
            fs::set_permissions(&path, open).map_err(at("change the mode of", &path))?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(at("create", &path)(error).into()),
    }
    Ok(path)
}

/// Removes the directory and all in it, but nothing that is mounted there. Absent is fine.
pub fn remove(root: &Path, name: &str) -> Result<(), LocalPathError> {
    Ok(host::remove_tree(&place(root, name)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_and_go_below_one_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("storage");
        let made = make(&root, "pvc-1_n_c").unwrap();
        fs::write(made.join("f"), "x").unwrap();
        assert_eq!(make(&root, "pvc-1_n_c").unwrap(), made);
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o777);
        assert!(made.join("f").exists());
        remove(&root, "pvc-1_n_c").unwrap();
        remove(&root, "pvc-1_n_c").unwrap();
        assert!(!made.exists());
        for name in [
            "",
            "x",
            "pvc-/../x",
            "..",
            "pvc-a/b",
            &format!("pvc-{}", "a".repeat(256)),
        ] {
            assert!(
                make(&root, name).is_err() && remove(&root, name).is_err(),
                "{name}"
            );
        }
    }
}
