//! Shims that do not answer when a container of theirs is to end. Owns how long they are waited for, and their end.
//!
//! Refuses to know what is left of their containers: whoever waits for those learns that they are lost, and cleans up.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use amphipod_shim_api::ShimAddress;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

/// A shim that has not answered for so long is ended: upstream's `runtimeRequestTimeout`, after which its kubelet has given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause after the first call that was not answered; twice as long after each that follows.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(40);
/// Listening sockets of the namespace this process is in, with their paths (proc(5)).
const SOCKETS: &str = "/proc/net/unix";

/// Calls in a row that a shim has not answered.
#[derive(Debug, Default)]
pub struct Unanswered {
    since: Option<Instant>,
    pause: Duration,
}

/// What follows from a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// It was answered.
    Fine,
    /// Ask again after the pause.
    Wait(Duration),
    /// Enough: end the shim, and ask again after the pause, should that be in vain.
    End(Duration),
}

impl Unanswered {
    /// Notes whether a call that was made at `begun` was answered, `now`.
    pub fn note(&mut self, begun: Instant, now: Instant, answered: bool) -> Next {
        if answered {
            *self = Self::default();
            return Next::Fine;
        }
        let since = *self.since.get_or_insert(begun);
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        match now.saturating_duration_since(since) >= PATIENCE {
            true => Next::End(self.pause),
            false => Next::Wait(self.pause),
        }
    }
}

/// What a Pod's event says of a container that such a shim keeps alive, in upstream's words.
pub fn told(container: &str) -> String {
    format!(
        "error killing pod: failed to \"KillContainer\" for {container:?} with KillContainerError: \"rpc error: code = \
         DeadlineExceeded desc = context deadline exceeded\""
    )
}

/// Ends the processes that hold the socket of a shim: itself, and what it was about to become a container. They need not answer
/// to anything.
///
/// # Errors
/// When it is not known who they are.
pub fn end(shim: &ShimAddress) -> io::Result<Vec<Pid>> {
    let path = shim.address.strip_prefix("unix://").unwrap_or(&shim.address);
    let holders = match inode(&fs::read_to_string(SOCKETS)?, path) {
        Some(inode) => holders(&format!("socket:[{inode}]"))?,
        None => Vec::new(),
    };
    for pid in &holders {
        // One that is gone by now has ended too.
        let _ = kill(*pid, Signal::SIGKILL);
    }
    Ok(holders)
}

/// The inode of who listens at `path`. Lines are `Num RefCount Protocol Flags Type St Inode Path`; flag 0x10000 is for listening.
fn inode<'a>(sockets: &'a str, path: &str) -> Option<&'a str> {
    sockets.lines().find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            [_, _, _, "00010000", _, _, inode, found] if found == path => Some(inode),
            _ => None,
        }
    })
}

/// Processes with a descriptor of this file, but this one.
fn holders(file: &str) -> io::Result<Vec<Pid>> {
    let this = std::process::id();
    let pids = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != this);
    let holds = |pid: &u32| {
        // A process that ends meanwhile holds nothing.
        let mut all = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        all.any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == Path::new(file)))
    };
    let pids = pids.filter(holds).filter_map(|pid| i32::try_from(pid).ok());
    Ok(pids.map(Pid::from_raw).collect())
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::Command;

    use super::*;

    fn address(path: &Path) -> ShimAddress {
        ShimAddress {
            address: format!("unix://{}", path.display()),
            version: 3,
        }
    }

    #[test]
    fn who_does_not_answer_is_asked_less_and_less_and_then_ended() {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let mut calls = Unanswered::default();
        let wait = |second| Next::Wait(Duration::from_secs(second));
        for (begun, now, answered, expected) in [
            (0, 0, true, Next::Fine),
            (10, 20, false, wait(5)),
            (25, 35, false, wait(10)),
            (45, 45, true, Next::Fine),
            (50, 60, false, wait(5)),
            (65, 75, false, wait(10)),
            (85, 95, false, wait(20)),
            (115, 125, false, wait(40)),
            (165, 175, false, Next::End(LONGEST_PAUSE)),
            (215, 225, false, Next::End(LONGEST_PAUSE)),
        ] {
            let next = calls.note(at(begun), at(now), answered);
            assert_eq!(next, expected, "at {now}");
        }
    }

    #[test]
    fn who_holds_a_socket_is_ended_and_nobody_else() {
        let home = tempfile::tempdir().unwrap();
        let listen = |name: &str| {
            let path = home.path().join(name);
            let listener = UnixListener::bind(&path).unwrap();
            let mut process = Command::new("/bin/sleep");
            let process = process.arg("1000").stdin(OwnedFd::from(listener));
            (path, process.spawn().unwrap())
        };
        let ((stuck, mut process), (other, mut living)) = (listen("stuck"), listen("other"));
        let client = UnixStream::connect(&stuck).unwrap();
        let ended = end(&address(&stuck)).unwrap();
        assert_eq!(ended, [Pid::from_raw(i32::try_from(process.id()).unwrap())]);
        assert!(!process.wait().unwrap().success());
        assert_eq!(living.try_wait().unwrap(), None);
        assert_eq!(end(&address(&stuck)).unwrap(), [], "nobody listens there");
        end(&address(&other)).unwrap();
        living.wait().unwrap();
        drop(client);
    }
}
