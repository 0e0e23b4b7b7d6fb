//! Collecting the exits of every child, and telling whoever waits for one.
//!
//! One place calls `waitpid`: a pid is the shim's until then, so a signal sent to a known pid never meets a stranger.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Exits of processes nobody has claimed yet: a child made by a child may end before its pid is reported.
const UNCLAIMED_LIMIT: usize = 64;

/// The status of one whose exit was dropped among many others'.
const UNKNOWN: u32 = 255;

/// Hands exit statuses (a code, or 128 plus a signal) to those who wait.
#[derive(Debug, Default)]
pub struct Reaper {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<i32, oneshot::Sender<u32>>,
    unclaimed: VecDeque<(i32, u32)>,
}

impl Reaper {
    /// Waits for a process just made by `clone`: it cannot have been collected, because no await lies between.
    pub fn expect(&self, pid: Pid) -> oneshot::Receiver<u32> {
        let (sender, receiver) = oneshot::channel();
        self.lock().waiting.insert(pid.as_raw(), sender);
        receiver
    }

    /// Waits for a process made by a child of ours, which may have been collected already: that is so when no process has its
    /// number now, whether its exit is still among the unclaimed ones or not.
    pub fn adopt(&self, pid: Pid) -> oneshot::Receiver<u32> {
        let receiver = self.expect(pid);
        let mut state = self.lock();
        let found = state.unclaimed.iter().rposition(|(p, _)| *p == pid.as_raw());
        let found = found.and_then(|at| state.unclaimed.remove(at));
        if nix::sys::signal::kill(pid, None) == Err(Errno::ESRCH) {
            state.deliver(pid.as_raw(), found.map_or(UNKNOWN, |(_, status)| status));
        }
        drop(state);
        receiver
    }

    /// Runs for the life of the shim.
    pub async fn run(&self, mut children: Signal) {
        loop {
            self.collect();
            if children.recv().await.is_none() {
                return;
            }
        }
    }

    fn collect(&self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.lock().deliver(pid.as_raw(), code.cast_unsigned()),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.lock()
                        .deliver(pid.as_raw(), 128 + (signal as i32).cast_unsigned());
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!(%error, "waitpid");
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn deliver(&mut self, pid: i32, status: u32) {
        match self.waiting.remove(&pid) {
            // Nobody may be waiting any more; then the exit has no one to matter to.
            Some(sender) => drop(sender.send(status)),
            None => {
                self.unclaimed.push_back((pid, status));
                if self.unclaimed.len() > UNCLAIMED_LIMIT {
                    self.unclaimed.pop_front();
                }
            }
        }
    }
}

/// The signal [`Reaper::run`] listens to; taken before any child is made.
pub fn children() -> std::io::Result<Signal> {
    signal(SignalKind::child())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_early_exit_is_kept_for_its_adopter() {
        let reaper = Reaper::default();
        let gone = Pid::from_raw(i32::MAX);
        reaper.lock().deliver(gone.as_raw(), 3);
        assert_eq!(reaper.adopt(gone).try_recv(), Ok(3));
        // A process of that number is there: the exit was of another one.
        let alive = nix::unistd::getpid();
        reaper.lock().deliver(alive.as_raw(), 4);
        assert!(reaper.adopt(alive).try_recv().is_err());
    }

    #[test]
    fn unclaimed_exits_are_few() {
        let reaper = Reaper::default();
        (1..1000).for_each(|pid| reaper.lock().deliver(pid, 0));
        assert_eq!(reaper.lock().unclaimed.len(), UNCLAIMED_LIMIT);
    }

    /// Nothing would ever come of it.
    #[test]
    fn an_exit_that_was_dropped_is_not_waited_for() {
        let reaper = Reaper::default();
        let gone = i32::MAX;
        reaper.lock().deliver(gone, 3);
        (1..=64).for_each(|pid| reaper.lock().deliver(pid, 0));
        assert_eq!(reaper.adopt(Pid::from_raw(gone)).try_recv(), Ok(UNKNOWN));
    }
}
