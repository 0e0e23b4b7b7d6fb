//! Whether this process has descriptors for further containers.
//!
//! Owns the mark beside its socket by which those who ask for a process of its group learn that it has not: they get another.
//! Refuses to know what containers hold.

use amphipod_shim_api::start::full_mark;
use nix::sys::resource::{Resource, getrlimit};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Of all descriptors, those that must be free for another container: a quarter, for the clients and the files of those that
/// are there.
const RESERVE: u64 = 4;

/// Where they are listed.
const OPEN: &str = "/proc/self/fd";

/// The room of one process.
#[derive(Debug)]
pub struct Room {
    mark: PathBuf,
    is_marked: Mutex<bool>,
}

impl Room {
    /// That of the process which is found by `socket`.
    pub fn new(socket: &Path) -> Self {
        Self {
            mark: full_mark(socket),
            is_marked: Mutex::new(false),
        }
    }

    /// Looks whether there is room for another container, and marks what it sees. A process without any takes one in: that of
    /// the next process would be no larger.
    pub fn is_left(&self, has_containers: bool) -> bool {
        let is_left = !has_containers || is_below(open_files(), limit());
        let mut is_marked = self.is_marked.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_marked == is_left {
            let marked = if is_left {
                fs::remove_file(&self.mark)
            } else {
                File::create(&self.mark).map(drop)
            };
            match marked {
                Ok(()) => *is_marked = !is_left,
                Err(error) => {
                    tracing::warn!(%error, path = %self.mark.display(), "whether there is room is not told")
                }
            }
        }
        is_left
    }
}

/// What cannot be counted is no reason to refuse anybody.
fn is_below(open: io::Result<u64>, limit: io::Result<u64>) -> bool {
    match (open, limit) {
        (Ok(open), Ok(limit)) => open < limit - limit / RESERVE,
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(%error, "open files cannot be counted");
            true
        }
    }
}

/// The size of the list says it (Linux 6.2), or else the list.
fn open_files() -> io::Result<u64> {
    match fs::metadata(OPEN)?.len() {
        0 => Ok(fs::read_dir(OPEN)?.count() as u64),
        open => Ok(open),
    }
}

fn limit() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_stays_free() {
        for (open, limit, is_left) in [
            (0, 1024, true),
            (767, 1024, true),
            (768, 1024, false),
            (9, 8, false),
        ] {
            assert_eq!(is_below(Ok(open), Ok(limit)), is_left, "{open} of {limit}");
        }
        assert!(is_below(Err(io::ErrorKind::NotFound.into()), Ok(1)));
    }

    #[test]
    fn descriptors_are_counted() {
        let before = open_files().unwrap();
        let more: Vec<File> = (0..100).map(|_| File::open("/dev/null").unwrap()).collect();
        // Other tests open and close some of their own.
        assert!(open_files().unwrap() + 50 > before + 100);
        drop(more);
    }
}
