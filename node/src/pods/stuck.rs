//! Shims that do not answer. Owns how long they are waited for, whoever it is that waits, and their end.
//!
//! Refuses to know what is left of their containers: whoever waits for those learns that they are lost, and cleans up.

mod diagnosis;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use amphipod_shim_api::{ShimAddress, TaskClient, TaskError};
use nix::unistd::Pid;
use rustix::process::{Pid as Process, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;

use self::diagnosis::Bound;

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
    /// The first of the calls was made at `begun`.
    fn since(begun: Instant) -> Self {
        Self {
            since: Some(begun),
            pause: Duration::ZERO,
        }
    }

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

/// What the event of a Pod says of which it is not known yet what runs, in upstream's words: its shim keeps that to itself.
pub const UNTOLD: &str =
    "error determining status: rpc error: code = DeadlineExceeded desc = context deadline exceeded";

/// What has been told of a Pod several of whose containers are asked after at a time: upstream's kubelet asks after all in one go, and
/// tells once what is wrong with any.
#[derive(Debug, Default)]
pub struct ToldOnce(Mutex<Option<Instant>>);

impl ToldOnce {
    /// Whether it is to be told, `now`, of the silence of one of them. Silences of one time are one; none is asked again before
    /// its first pause is over.
    pub fn is_due(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= FIRST_PAUSE);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

/// What a shim answers, asked again and again; silent since `begun`. One that keeps silent for too long is ended and asked once
/// more: nobody answers then. `tell` is called at each silence but the last.
///
/// # Errors
/// The shim's; [`TaskError::Timeout`] only where its end was in vain.
pub async fn answer_of<A, F: Future<Output = Result<A, TaskError>>>(
    shim: &ShimAddress,
    begun: Instant,
    ask: impl Fn() -> F,
    tell: impl Fn(),
) -> Result<A, TaskError> {
    let mut unanswered = Unanswered::since(begun);
    loop {
        let (begun, answer) = (Instant::now(), ask().await);
        match unanswered.note(begun, Instant::now(), !is_silence(&answer)) {
            Next::Fine => return answer,
            Next::Wait(pause) => {
                tell();
                tokio::time::sleep(pause).await;
            }
            Next::End(_) => {
                end_shim(shim.clone()).await;
                return ask().await;
            }
        }
    }
}

fn is_silence<A>(answer: &Result<A, TaskError>) -> bool {
    matches!(answer, Err(TaskError::Timeout(_)))
}

/// Tells a shim that it may go, on behalf of the container `id` or of none. Nobody waits for one that does not answer: it is asked
/// on aside, and ended when that lasts, since nobody else may ever ask it for anything.
///
/// # Errors
/// Those of the first call: the shim stays, or is gone already.
pub async fn let_go(client: TaskClient, id: String) -> Result<(), TaskError> {
    let begun = Instant::now();
    let told = client.shutdown(&id).await;
    if is_silence(&told) {
        tokio::spawn(async move {
            let told = answer_of(client.address(), begun, || client.shutdown(&id), || {}).await;
            tracing::debug!(?told, ?client, "a shim was told again that it may go");
        });
    }
    told
}

/// Whoever has tasks there, of other Pods too, has waited in vain as long.
pub async fn end_shim(shim: ShimAddress) {
    let address = shim.address.clone();
    match tokio::task::spawn_blocking(move || end(&shim)).await {
        Ok(Ok(pids)) if pids.is_empty() => {
            tracing::warn!(address, "a shim does not answer, and nobody was found who is it")
        }
        Ok(Ok(pids)) => tracing::warn!(address, ?pids, "a shim that did not answer was ended"),
        Ok(Err(error)) => {
            tracing::error!(address, %error, "a shim does not answer, and it is not known who it is")
        }
        Err(error) => tracing::error!(address, %error, "a shim that does not answer was not ended"),
    }
}

/// Ends the processes that hold the socket of a shim: itself, and what it was about to become a container. They need not answer
/// to anything. Who listens elsewhere, in another network namespace, is not looked at.
///
/// # Errors
/// When it is not known who they are.
fn end(shim: &ShimAddress) -> io::Result<Vec<Pid>> {
    let path = shim.address.strip_prefix("unix://").unwrap_or(&shim.address);
    let sockets = fs::read_to_string(SOCKETS)?;
    let inode = match inodes(&sockets, path)[..] {
        [] => return Ok(Vec::new()),
        [inode] => inode,
        ref all => bound_at(Path::new(path), all)?,
    };
    let file = format!("socket:[{inode}]");
    let ended = processes()?.into_iter().filter(|pid| end_holder(*pid, &file));
    Ok(ended.collect())
}

/// The one of several sockets that is bound to what is at `path`. The others' are of the same name below root directories of their
/// own.
fn bound_at<'a>(path: &Path, inodes: &[&'a str]) -> io::Result<&'a str> {
    let here = Bound::at(path)?;
    let is_here = |inode: &&&str| {
        let bound = inode.parse().ok().and_then(|inode| Bound::of(inode).ok()?);
        bound.as_ref() == Some(&here)
    };
    let found = inodes.iter().find(is_here).copied();
    found.ok_or_else(|| {
        io::Error::other("several listen at a path of this name, none of them known for this one")
    })
}

/// The inodes of all who listen at `path`, whatever root directory it is below. Lines are `Num RefCount Protocol Flags Type St Inode
/// Path`; flag 0x10000 is for listening.
fn inodes<'a>(sockets: &'a str, path: &str) -> Vec<&'a str> {
    let inode = |line: &'a str| {
        let words = line.strip_suffix(path)?.strip_suffix(' ')?;
        let words: Vec<&str> = words.split_ascii_whitespace().collect();
        match words[..] {
            [_, _, _, "00010000", _, _, inode] => Some(inode),
            _ => None,
        }
    };
    sockets.lines().filter_map(inode).collect()
}

/// All processes but this one.
fn processes() -> io::Result<Vec<Pid>> {
    let this = Pid::this();
    let pids = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .filter(|pid| *pid != this);
    Ok(pids.collect())
}

/// Ends a process if it has a descriptor of this file. What was looked at is what is ended: the number may be another's by then, the
/// descriptor of a process is not.
fn end_holder(pid: Pid, file: &str) -> bool {
    let process = || pidfd_open(Process::from_raw(pid.as_raw())?, PidfdFlags::empty()).ok();
    // One that has ended meanwhile holds nothing.
    let Some(process) = process() else { return false };
    let mut all = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    let holds = all.any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == Path::new(file)));
    holds && pidfd_send_signal(process, Signal::KILL).is_ok()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;
    use std::process::{Child, Command};

    use futures::FutureExt;

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
    fn containers_that_are_silent_at_a_time_are_told_of_once() {
        let start = Instant::now();
        let told = ToldOnce::default();
        for (milliseconds, expected) in [
            (10_000, true),
            (10_000, false),
            (10_400, false),
            (25_000, true),
            (25_100, false),
            (45_050, true),
        ] {
            let now = start + Duration::from_millis(milliseconds);
            assert_eq!(told.is_due(now), expected, "after {milliseconds} ms");
        }
    }

    /// Starts one that holds a socket and answers nobody.
    fn silent(home: &Path, name: &str) -> (PathBuf, Child) {
        let path = home.join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let mut process = Command::new("/bin/sleep");
        let process = process.arg("1000").stdin(OwnedFd::from(listener));
        (path, process.spawn().unwrap())
    }

    /// Who was asked before is not waited for as long again.
    #[tokio::test]
    async fn who_was_silent_for_long_is_ended_and_then_gone() {
        let home = tempfile::tempdir().unwrap();
        let (path, mut process) = silent(home.path(), "s");
        let client = TaskClient::new(address(&path));
        let ask = async || {
            let limit = Duration::from_millis(10);
            let answer = tokio::time::timeout(limit, client.state("c")).await;
            answer.unwrap_or_else(|_| Err(TaskError::Timeout("State".into())))
        };
        let begun = Instant::now().checked_sub(PATIENCE).unwrap();
        let mut answer = answer_of(client.address(), begun, ask, || panic!("it is ended at once")).await;
        assert!(!process.wait().unwrap().success());
        // The kernel may have taken its time.
        while is_silence(&answer) {
            answer = ask().await;
        }
        assert!(matches!(answer, Err(TaskError::Disconnected(_))), "{answer:?}");
    }

    #[tokio::test]
    async fn who_is_silent_is_told_of_before_it_is_waited_for() {
        let told = Cell::new(0);
        let ask = async || Err::<(), _>(TaskError::Timeout("State".into()));
        let shim = address(Path::new("/nowhere"));
        let waits = answer_of(&shim, Instant::now(), ask, || told.set(told.get() + 1));
        assert!(waits.now_or_never().is_none());
        assert_eq!(told.get(), 1);
    }

    #[test]
    fn who_holds_a_socket_is_ended_and_nobody_else() {
        let home = tempfile::tempdir().unwrap();
        let listen = |name: &str| silent(home.path(), name);
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

    /// A host's Pod may have the path in its own root directory.
    #[test]
    fn who_listens_at_another_file_of_that_name_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let (path, mut decoy) = silent(home.path(), "s");
        fs::rename(&path, home.path().join("elsewhere")).unwrap();
        let (_, mut stuck) = silent(home.path(), "s");
        let ended = end(&address(&path)).unwrap();
        assert_eq!(ended, [Pid::from_raw(i32::try_from(stuck.id()).unwrap())]);
        stuck.wait().unwrap();
        assert_eq!(decoy.try_wait().unwrap(), None);
        decoy.kill().and_then(|()| decoy.wait()).unwrap();
    }

    #[test]
    fn only_who_listens_at_the_very_path_counts() {
        let line = |flags: &str, inode: usize, path: &str| {
            format!("0000000000000000: 00000002 00000000 {flags} 0001 01 {inode:>5} {path}\n")
        };
        let sockets = [
            "Num       RefCount Protocol Flags    Type St Inode Path\n".to_owned(),
            line("00000000", 1, "/run/a b/s.sock"),
            line("00010000", 2, "/run/a b/s.sock"),
            line("00010000", 3, "/other /run/a b/s.sock"),
            line("00010000", 4, "/run/s.sock"),
            line("00010000", 5, "/run/s.sock"),
        ]
        .concat();
        for (path, expected) in [
            ("/run/a b/s.sock", &["2"][..]),
            ("/run/s.sock", &["4", "5"]),
            ("b/s.sock", &[]),
        ] {
            assert_eq!(inodes(&sockets, path), expected, "{path}");
        }
    }
}
