//! What a shim has to say of a container's end, for its status: a file in the bundle.
//!
//! The Task API has no field for it. The file is written before the exit becomes visible through State or Wait, and
//! goes with the bundle. It is the shim's own explanation (a trap, say), not the container's termination message.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

const FILE: &str = "last-words";

/// Bytes that are kept: what a container's status has room for (core/v1 ContainerStateTerminated.message).
const MOST: usize = 4096;

fn path(bundle: &Path) -> PathBuf {
    bundle.join(FILE)
}

/// Leaves them, cut to their beginning when they are long.
///
/// # Errors
/// When the file cannot be written.
pub fn leave(bundle: &Path, words: &str) -> io::Result<()> {
    fs::write(path(bundle), &words[..words.floor_char_boundary(MOST)])
}

/// Those of the container of this bundle, if there are any.
pub fn of(bundle: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path(bundle))
        .and_then(|file| file.take(MOST as u64).read_to_end(&mut bytes))
        .ok()?;
    let words = String::from_utf8_lossy(&bytes).trim_end().to_owned();
    (!words.is_empty()).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_were_left_and_long_ones_cut() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(of(bundle.path()), None);
        leave(bundle.path(), "wasm trap: unreachable\n").unwrap();
        assert_eq!(of(bundle.path()).as_deref(), Some("wasm trap: unreachable"));
        leave(bundle.path(), &"ä".repeat(MOST)).unwrap();
        assert_eq!(of(bundle.path()), Some("ä".repeat(MOST / 2)));
    }
}
