//! Making a process and waiting until it is ready, in a program that does nothing else meanwhile. The processes are
//! those of the shim ([`crate::launch`]), and so is what is done for them ([`crate::overseer`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::OciError;
use super::log::Log;
use crate::init::ChildStreams;
use crate::init::channel::{self, ChildEnd, Report, WaitingEnd};
use crate::launch::LaunchError;
use crate::null;
use crate::overseer::Overseer;

/// A process that waits for the word.
#[derive(Debug)]
pub struct Born {
    pub pid: Pid,
    /// The terminal's master, if one was asked for.
    pub master: Option<OwnedFd>,
    pub end: WaitingEnd,
}

/// How a process is made.
pub struct Birth<'a> {
    pub overseer: Overseer<'a>,
    /// It is known by the pid it reports.
    pub handed_over: bool,
    /// Where it waits, if not on the line to us.
    pub gate: Option<OwnedFd>,
    pub streams: ChildStreams,
    pub log: &'a Log,
}

impl Birth<'_> {
    /// Makes the process; one that does not become ready is gone when this returns.
    pub fn give(
        self,
        launch: impl FnOnce(&ChildStreams, &mut ChildEnd) -> Result<Pid, LaunchError>,
    ) -> Result<Born, OciError> {
        let (ours, mut theirs) = channel::waiting_pair(self.gate).map_err(OciError::Channel)?;
        let child = launch(&self.streams, &mut theirs)?;
        drop(theirs);
        let mut pid = child;
        let result = loop {
            match ours.next().map_err(OciError::Channel)? {
                Some(Report::Pid(reported)) if self.handed_over => pid = Pid::from_raw(reported),
                Some(Report::Pid(_)) => {}
                Some(Report::Warning(text)) => self.log.warn(&text),
                Some(Report::Ask(ask)) => {
                    let answered = self.overseer.answer(ask, pid);
                    if let Err(error) = answered {
                        break Err(error.into());
                    }
                    ours.done(pid).map_err(OciError::Channel)?;
                }
                Some(Report::Ready(master)) => break Ok(master),
                Some(Report::Failed(text)) => break Err(OciError::Init(text)),
                None => break Err(OciError::Vanished),
            }
        };
        if child != pid {
            // The intermediate process has done its part.
            let _ = waitpid(child, None);
        }
        match result {
            Ok(master) => Ok(Born {
                pid,
                master,
                end: ours,
            }),
            Err(error) => {
                end(pid);
                Err(error)
            }
        }
    }
}

/// Kills a child and waits for its end.
pub fn end(pid: Pid) {
    // ESRCH, ECHILD: it is gone already.
    let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
    let _ = waitpid(pid, None);
}

/// Lets the program run; an error means that it does not.
pub fn let_go(end: &WaitingEnd) -> Result<(), OciError> {
    end.go().map_err(|_| OciError::Vanished)?;
    loop {
        match end.next().map_err(OciError::Channel)? {
            None => return Ok(()),
            Some(Report::Failed(text)) => return Err(OciError::Init(text)),
            Some(_) => {}
        }
    }
}

/// The streams of this very program, or none where a terminal takes their place.
pub fn own_streams(terminal: bool, preserved: u32) -> io::Result<ChildStreams> {
    if terminal {
        return Ok(ChildStreams {
            preserved,
            ..Default::default()
        });
    }
    let copy = |fd| null::harmless(fd).map(Some);
    Ok(ChildStreams {
        stdin: copy(io::stdin().as_fd())?,
        stdout: copy(io::stdout().as_fd())?,
        stderr: copy(io::stderr().as_fd())?,
        preserved,
    })
}
