//! Where a guest is: the directories it was given, wherever they lie, and how it begins and ends.
//!
//! A guest with `/data` and nothing else has no directory `/` that it could read. It is told of one here, with what leads
//! to the directories it has.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
    Link,
    Other,
}

impl Kind {
    /// As `stat` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File => "file",
            Self::Link => "link",
            Self::Other => "other",
        }
    }
}

/// What is known of a file. WASI tells no mode and no owner.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    pub kind: Kind,
    pub size: u64,
    /// Seconds since 1970.
    pub modified: u64,
}

impl From<&Metadata> for Seen {
    fn from(metadata: &Metadata) -> Self {
        let file_type = metadata.file_type();
        let kind = match file_type {
            _ if file_type.is_dir() => Kind::Directory,
            _ if file_type.is_symlink() => Kind::Link,
            _ if file_type.is_file() => Kind::File,
            _ => Kind::Other,
        };
        let modified = metadata.modified().ok();
        let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self {
            kind,
            size: metadata.len(),
            modified: since.unwrap_or_default().as_secs(),
        }
    }
}

/// Looks at a file, following a link at its end if asked to.
///
/// # Errors
/// When it is not there, or may not be looked at.
pub fn look(path: &Path, follow: bool) -> io::Result<Seen> {
    let metadata = if follow {
        fs::metadata(path)
    } else {
        fs::symlink_metadata(path)
    };
    match metadata {
        Ok(metadata) => Ok(Seen::from(&metadata)),
        Err(_) if !leading_on(path).is_empty() => Ok(Seen {
            kind: Kind::Directory,
            size: 0,
            modified: 0,
        }),
        Err(error) => Err(error),
    }
}

/// The names in a directory, in order.
///
/// # Errors
/// When it is none, or may not be read.
pub fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = leading_on(directory);
    match fs::read_dir(directory) {
        Ok(entries) => {
            for entry in entries {
                names.insert(entry?.file_name().to_string_lossy().into_owned());
            }
        }
        Err(error) if names.is_empty() => return Err(error),
        Err(_) => {}
    }
    Ok(names.into_iter().collect())
}

/// The names in a directory that lead on to those which the guest was given.
fn leading_on(directory: &Path) -> BTreeSet<String> {
    let Ok(directory) = absolute(directory) else {
        return BTreeSet::new();
    };
    let below = given().into_iter().filter_map(|given| {
        let rest = given.strip_prefix(&directory).ok()?;
        let first = rest.components().next()?;
        Some(first.as_os_str().to_string_lossy().into_owned())
    });
    below.collect()
}

/// A path from the root, by its words alone.
///
/// # Errors
/// When it is not known where the guest is.
pub fn absolute(path: &Path) -> io::Result<PathBuf> {
    let mut absolute = PathBuf::from("/");
    for part in std::env::current_dir()?.join(path).components() {
        match part {
            Component::Normal(name) => absolute.push(name),
            Component::ParentDir => {
                absolute.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(absolute)
}

/// Makes a symbolic link. The standard library cannot on WASI; the host refuses targets that begin at the root.
///
/// # Errors
/// When it is refused, or something is there already.
#[cfg(all(target_os = "wasi", target_env = "p2"))]
pub fn link(target: &str, path: &Path) -> io::Result<()> {
    let path = absolute(path)?;
    let directories = wasip2::filesystem::preopens::get_directories();
    let beneath = directories.iter().filter_map(|(directory, given)| {
        let rest = path.strip_prefix(given).ok()?;
        Some((directory, rest.to_str()?))
    });
    let (directory, rest) = beneath
        .min_by_key(|(_, rest)| rest.len())
        .ok_or(io::ErrorKind::NotFound)?;
    let why = |text: &'static str| text.split(", similar").next().unwrap_or(text);
    directory
        .symlink_at(target, rest)
        .map_err(|code| io::Error::other(why(code.message())))
}

#[cfg(all(target_os = "wasi", not(target_env = "p2")))]
pub fn link(_: &str, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "wasi"))]
pub fn link(target: &str, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(all(target_os = "wasi", target_env = "p2"))]
fn given() -> Vec<PathBuf> {
    let directories = wasip2::filesystem::preopens::get_directories();
    directories.into_iter().map(|(_, path)| path.into()).collect()
}

#[cfg(not(all(target_os = "wasi", target_env = "p2")))]
fn given() -> Vec<PathBuf> {
    Vec::new()
}

/// wasi-libc begins in the root; where a guest shall begin it is told by `wasi:cli/environment`.
#[cfg(all(target_os = "wasi", target_env = "p2"))]
pub fn begin() {
    if let Some(directory) = wasip2::cli::environment::initial_cwd() {
        let _ = std::env::set_current_dir(directory); // as a shell that goes on where it cannot
    }
}

#[cfg(not(all(target_os = "wasi", target_env = "p2")))]
pub fn begin() {}

/// Ends with a status. What the standard library ends with knows success and failure only.
#[cfg(all(target_os = "wasi", target_env = "p2"))]
pub fn end(status: u8) {
    wasip2::cli::exit::exit_with_code(status);
}

#[cfg(not(all(target_os = "wasi", target_env = "p2")))]
pub fn end(status: u8) {
    std::process::exit(status.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_by_their_words() {
        for (path, expected) in [("/a/./b/../c", "/a/c"), ("/..", "/"), ("/a/", "/a")] {
            assert_eq!(absolute(Path::new(path)).unwrap(), Path::new(expected), "{path}");
        }
    }
}
