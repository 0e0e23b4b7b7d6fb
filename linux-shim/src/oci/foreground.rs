//! Staying with a process that was not detached: signals go to it, its terminal is ours, its exit code too.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use amphipod_shim_api::terminal::{set_size, size};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::notify::Notify;

/// What is passed on; the rest stays with us.
const PASSED_ON: [Signal; 6] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];
/// One read from either side of a terminal.
const CHUNK: usize = 4096;

/// Signals are kept from the moment before the process is made, so that none of them is lost.
#[derive(Debug)]
pub struct Watch {
    signals: SignalFd,
}

/// A terminal that is given back as it was.
struct Raw<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Raw<'a> {
    /// `None` where standard input is none.
    fn enter(terminal: BorrowedFd<'a>) -> Option<Self> {
        let before = tcgetattr(terminal).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(terminal, SetArg::TCSANOW, &raw).ok()?;
        Some(Self { terminal, before })
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        let _ = tcsetattr(self.terminal, SetArg::TCSANOW, &self.before);
    }
}

impl Watch {
    pub fn begin() -> io::Result<Self> {
        let mut set = SigSet::from_iter(PASSED_ON);
        set.add(Signal::SIGCHLD);
        set.add(Signal::SIGWINCH);
        set.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { signals })
    }

    /// Answers the exit code, 128 and the signal for one that was killed.
    pub fn until_end(self, pid: Pid, master: Option<OwnedFd>, mut notify: Option<Notify>) -> io::Result<u8> {
        let stdin = io::stdin();
        let _raw = master.as_ref().and_then(|_| Raw::enter(stdin.as_fd()));
        let mut relay = Relay { master, input: true };
        relay.resize();
        loop {
            if let Some(code) = ended(pid)? {
                relay.drain()?;
                return Ok(code);
            }
            if let Some(waiting) = &notify
                && waiting.relay(pid)?
            {
                notify = None;
            }
            self.wait(&mut relay, notify.as_ref())?;
            while let Some(seen) = self.signals.read_signal()? {
                let number = i32::try_from(seen.ssi_signo).map_err(io::Error::other)?;
                match Signal::try_from(number)? {
                    Signal::SIGWINCH => relay.resize(),
                    signal if PASSED_ON.contains(&signal) => {
                        // ESRCH: it has just ended.
                        let _ = nix::sys::signal::kill(pid, signal);
                    }
                    _ => {}
                }
            }
        }
    }

    fn wait(&self, relay: &mut Relay, notify: Option<&Notify>) -> io::Result<()> {
        let stdin = io::stdin();
        let mut watched = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(master) = &relay.master {
            watched.push(PollFd::new(master.as_fd(), PollFlags::POLLIN));
            if relay.input {
                watched.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
        }
        let of_relay = watched.len();
        watched.extend(notify.map(|notify| PollFd::new(notify.fd(), PollFlags::POLLIN)));
        match poll(&mut watched, PollTimeout::NONE) {
            Err(Errno::EINTR) => return Ok(()),
            other => other?,
        };
        watched.truncate(of_relay);
        let ready: Vec<bool> = watched.iter().map(|w| w.any().unwrap_or(true)).collect();
        if ready.get(1) == Some(&true) {
            relay.output()?;
        }
        if ready.get(2) == Some(&true) {
            relay.input()?;
        }
        Ok(())
    }
}

/// Carries bytes between our terminal and the process's.
struct Relay {
    /// `None` without a terminal, and once its other side is closed.
    master: Option<OwnedFd>,
    input: bool,
}

impl Relay {
    fn resize(&self) {
        let Some(master) = &self.master else { return };
        if let Ok((width, height)) = size(io::stdin().as_fd()) {
            // A terminal that takes no size keeps its own.
            let _ = set_size(master.as_fd(), width, height);
        }
    }

    /// `false` at the end: a terminal whose last user is gone answers EIO.
    fn output(&mut self) -> io::Result<bool> {
        let Some(master) = &self.master else {
            return Ok(false);
        };
        let mut bytes = [0; CHUNK];
        match nix::unistd::read(master, &mut bytes) {
            Ok(0) | Err(Errno::EIO) => {
                self.master = None;
                Ok(false)
            }
            Ok(length) => write_all(io::stdout().as_fd(), &bytes[..length]).map(|()| true),
            Err(errno) => Err(errno.into()),
        }
    }

    fn input(&mut self) -> io::Result<()> {
        let mut bytes = [0; CHUNK];
        let length = nix::unistd::read(io::stdin().as_fd(), &mut bytes)?;
        self.input = length > 0;
        match &self.master {
            Some(master) => write_all(master.as_fd(), &bytes[..length]),
            None => Ok(()),
        }
    }

    fn drain(&mut self) -> io::Result<()> {
        while let Some(master) = &self.master {
            let mut watched = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut watched, PollTimeout::ZERO)? == 0 || !self.output()? {
                break;
            }
        }
        Ok(())
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = nix::unistd::write(to, bytes)?;
        bytes = &bytes[written..];
    }
    Ok(())
}

fn ended(pid: Pid) -> io::Result<Option<u8>> {
    let code = match waitpid(pid, Some(WaitPidFlag::WNOHANG))? {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => return Ok(None),
    };
    Ok(Some(u8::try_from(code).unwrap_or(u8::MAX)))
}
