//! The lock of a namespace's servers, under which they are made and go. Owns how long it is waited for.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::server::ServeError;

/// Whoever holds the lock starts one process, or removes some files; many may be before us. Shorter than the agent waits for a start,
/// so that it hears why.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Takes the lock in turn with others.
///
/// # Errors
/// [`ServeError::Locked`] after `patience`: who holds it has been stopped, or is stuck.
pub(super) fn lock(path: &Path, patience: Duration) -> Result<Flock<File>, ServeError> {
    match try_lock(path) {
        Err(error) if error.is_busy() => {}
        done => return done,
    }
    // The kernel has no limit for this, but its queue is fair. The thread of one who gave up ends with the process, or gives the
    // lock back.
    let (file, (sender, taken)) = (lock_file(path)?, mpsc::sync_channel(0));
    let wait = move || sender.send(Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno));
    thread::Builder::new()
        .spawn(wait)
        .map_err(|source| unlocked(path, source))?;
    match taken.recv_timeout(patience) {
        Ok(taken) => taken.map_err(|errno| unlocked(path, errno.into())),
        Err(RecvTimeoutError::Timeout) => Err(ServeError::Locked {
            path: path.into(),
            patience,
        }),
        Err(error @ RecvTimeoutError::Disconnected) => Err(unlocked(path, io::Error::other(error))),
    }
}

/// The same, but nobody waits for another who holds it: [`io::ErrorKind::WouldBlock`].
pub(super) fn try_lock(path: &Path) -> Result<Flock<File>, ServeError> {
    let file = lock_file(path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| unlocked(path, errno.into()))
}

fn lock_file(path: &Path) -> Result<File, ServeError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|source| unlocked(path, source))
}

fn unlocked(path: &Path, source: io::Error) -> ServeError {
    ServeError::Lock {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_the_lock_is_not_waited_for_for_ever() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lock");
        let held = try_lock(&path).unwrap();
        let refused = lock(&path, Duration::from_millis(10)).unwrap_err();
        assert!(matches!(refused, ServeError::Locked { .. }), "{refused:?}");
        assert!(refused.to_string().contains("stopped"), "{refused}");
        drop(held);
        // Who gave up does not keep what it is given.
        drop(lock(&path, PATIENCE).unwrap());
    }

    #[test]
    fn whoever_waits_gets_the_lock_when_it_is_free() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lock");
        let held = try_lock(&path).unwrap();
        thread::scope(|scope| {
            let waits = scope.spawn(|| lock(&path, PATIENCE).map(drop));
            drop(held);
            waits.join().unwrap().unwrap();
        });
    }
}
