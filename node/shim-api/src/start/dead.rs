//! What servers that were killed have left: they could not take their sockets, marks and logs with them.
//!
//! Owns who counts as dead: nobody listens on the socket, as seen under the lock under which servers are made and go. Refuses to
//! know whose they were.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::lock::try_lock;
use super::presence::is_dead;
use super::server::{ServeError, full_mark, old_logs, remove};

/// Removes what the server of this socket has left, if it is dead. What it had to say is kept as of one that went by itself.
///
/// # Errors
/// When the directory cannot be locked: nobody waits for another here ([`ServeError::is_busy`]).
pub fn forget_dead(socket: &Path) -> Result<(), ServeError> {
    let Some(directory) = socket.parent().filter(|directory| directory.is_dir()) else {
        return Ok(());
    };
    let _lock = try_lock(&directory.join("lock"))?;
    forget(socket);
    old_logs(directory).into_iter().for_each(remove);
    Ok(())
}

/// The same of every server that has something in `directory`.
///
/// # Errors
/// As of [`forget_dead`], and when the directory cannot be read.
pub fn forget_all_dead(directory: &Path) -> Result<(), ServeError> {
    if !directory.is_dir() {
        return Ok(());
    }
    let _lock = try_lock(&directory.join("lock"))?;
    let sockets = sockets(directory).map_err(|source| ServeError::Directory {
        path: directory.into(),
        source,
    })?;
    sockets.iter().for_each(|socket| forget(socket));
    old_logs(directory).into_iter().for_each(remove);
    Ok(())
}

/// Where the servers listen, or did, of which there is anything.
fn sockets(directory: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let end = path.extension().and_then(|end| end.to_str());
        if matches!(end, Some("sock" | "log" | "full")) {
            found.insert(path.with_extension("sock"));
        }
    }
    Ok(found)
}

fn forget(socket: &Path) {
    if !is_dead(socket) {
        return;
    }
    let log = socket.with_extension("log");
    let said_nothing = fs::metadata(&log).is_ok_and(|m| m.len() == 0);
    let all = [
        Some(socket.to_owned()),
        Some(full_mark(socket)),
        said_nothing.then_some(log),
    ];
    all.into_iter().flatten().for_each(remove);
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{Flock, FlockArg};
    use std::os::unix::net::UnixListener;

    fn left(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// What there is of a server: its socket, mark and log.
    fn server(directory: &Path, name: &str, said: &str) -> UnixListener {
        let socket = directory.join(format!("{name}.sock"));
        fs::write(socket.with_extension("log"), said).unwrap();
        fs::write(full_mark(&socket), "").unwrap();
        UnixListener::bind(socket).unwrap()
    }

    #[test]
    fn what_killed_servers_have_left_goes_and_what_they_said_stays() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path();
        let _living = server(directory, "living", "");
        drop(server(directory, "killed", ""));
        drop(server(directory, "talker", "out of memory"));
        fs::write(directory.join("older.log"), "").unwrap();
        forget_all_dead(directory).unwrap();
        let stay = ["living.full", "living.log", "living.sock", "lock", "talker.log"];
        assert_eq!(left(directory), stay);
        forget_all_dead(&directory.join("none")).unwrap();
    }

    #[test]
    fn one_is_forgotten_alone_and_only_when_it_is_dead() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path();
        let living = server(directory, "a", "");
        drop(server(directory, "b", ""));
        for socket in ["a.sock", "b.sock", "never.sock"] {
            forget_dead(&directory.join(socket)).unwrap();
        }
        assert_eq!(left(directory), ["a.full", "a.log", "a.sock", "lock"]);
        drop(living);
        forget_dead(&directory.join("a.sock")).unwrap();
        assert_eq!(left(directory), ["lock"]);
    }

    #[test]
    fn who_keeps_the_lock_is_not_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path();
        drop(server(directory, "killed", ""));
        let file = fs::File::create(directory.join("lock")).unwrap();
        let held = Flock::lock(file, FlockArg::LockExclusive).unwrap();
        let socket = directory.join("killed.sock");
        for forgotten in [forget_all_dead(directory), forget_dead(&socket)] {
            assert!(forgotten.unwrap_err().is_busy());
        }
        drop(held);
        forget_dead(&socket).unwrap();
        assert_eq!(left(directory), ["lock"]);
    }
}
