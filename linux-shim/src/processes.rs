//! Processes as `/proc` tells of them.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::sys::socket::{pidfd, signal as send};

/// When a process was started; `None` for one that has ended, waited for or not.
pub fn started_at(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have anything in it.
    let (_, fields) = text.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    match fields.next()? {
        "Z" | "X" => None,
        // The state was the third field.
        _ => fields.nth(22 - 4)?.parse().ok(),
    }
}

/// Signals a process if it is still the one that was started then. The number is looked at again by the descriptor that
/// is signalled, so that its being given to another is noticed. `ESRCH` for one that has ended.
pub fn signal(pid: i32, started: u64, signal: i32) -> nix::Result<()> {
    let process = pidfd(Pid::from_raw(pid)).map_err(|error| match error.raw_os_error() {
        // The number is that of a thread now (the second since Linux 6.15).
        None | Some(libc::EINVAL | libc::ENOENT) => Errno::ESRCH,
        Some(number) => Errno::from_raw(number),
    })?;
    if started_at(pid) != Some(started) {
        return Err(Errno::ESRCH);
    }
    send(process.as_fd(), signal)
}

/// Everybody in the PID namespace whose init `first` is, as this process numbers them. Where `first` is no init, or shares
/// our namespace, it alone is known to be the container's. Nobody when it has ended.
pub fn of_namespace(first: u32) -> Vec<u32> {
    let theirs = match namespace(&first.to_string()) {
        Ok(theirs) => theirs,
        // One on its way in hides from a user who has no right over it yet (`init::begin`), and is alone.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return vec![first],
        Err(_) => return Vec::new(),
    };
    let is_theirs = |process: &str| namespace(process).is_ok_and(|its| its == theirs);
    if is_theirs("self") || !is_init(first) {
        return vec![first];
    }
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| is_theirs(&pid.to_string())).collect()
}

/// Whether a process is the first of its PID namespace, whose end is the end of all others there (pid_namespaces(7)).
fn is_init(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().next_back() == Some("1"))
}

fn namespace(process: &str) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/pid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = std::process::id().cast_signed();
        assert!(started_at(own).is_some());
        assert_eq!(started_at(own), started_at(own));
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        nix::sys::wait::waitid(
            nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(child.id().cast_signed())),
            nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT,
        )
        .unwrap();
        assert_eq!(started_at(child.id().cast_signed()), None, "a zombie has ended");
        child.wait().unwrap();
    }

    #[test]
    fn of_our_own_namespace_one_process_is_meant() {
        assert_eq!(of_namespace(std::process::id()), [std::process::id()]);
        // More than a host has numbers for.
        assert!(of_namespace(i32::MAX.unsigned_abs()).is_empty());
    }

    #[test]
    fn a_process_of_another_start_is_not_signalled() {
        let mut child = Sleeper::of(&["sleep", "1000"]);
        let pid = child.0.id().cast_signed();
        let started = started_at(pid).unwrap();
        assert_eq!(signal(pid, started + 1, libc::SIGKILL), Err(Errno::ESRCH));
        assert_eq!(child.0.try_wait().unwrap(), None);
        signal(pid, started, libc::SIGKILL).unwrap();
        assert!(!child.0.wait().unwrap().success());
        assert_eq!(signal(pid, started, libc::SIGKILL), Err(Errno::ESRCH));
    }

    /// A program that is killed at the end of the test.
    struct Sleeper(std::process::Child);

    impl Sleeper {
        fn of(words: &[&str]) -> Self {
            Self(
                std::process::Command::new(words[0])
                    .args(&words[1..])
                    .spawn()
                    .unwrap(),
            )
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            // One that has ended needs no signal.
            let _ = self.0.kill();
            self.0.wait().unwrap();
        }
    }

    /// The others of a Pod's PID namespace are not those of a container that only joined it.
    #[test]
    fn only_its_init_stands_for_a_namespace() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        let words = [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            "sleep 1000 & wait",
        ];
        let outside = Sleeper::of(&words);
        let children = |pid: u32| -> Vec<u32> {
            let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            text.split_whitespace().map(|n| n.parse().unwrap()).collect()
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let (init, other) = loop {
            assert!(std::time::Instant::now() < deadline, "they never came");
            if let [init] = children(outside.0.id())[..]
                && let [other] = children(init)[..]
            {
                break (init, other);
            }
            std::thread::yield_now();
        };
        let mut both = of_namespace(init);
        both.sort_unstable();
        let mut expected = [init, other];
        expected.sort_unstable();
        assert_eq!(both, expected);
        assert_eq!(of_namespace(other), [other]);
    }
}
