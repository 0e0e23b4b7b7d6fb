//! Being told when memory runs out in a cgroup, by a descriptor to be polled.
//!
//! v1 signals an eventfd (memory controller documentation, "OOM Control"); v2 has a file whose change is an exceptional
//! condition for poll(2).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::poll::PollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Cgroup, CgroupError, write};

/// Watches one cgroup for as long as it lives.
#[derive(Debug)]
pub struct OomWatch {
    cgroup: Cgroup,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Signalled {
        event: EventFd,
        control: PathBuf,
        /// The kernel forgets the event with it.
        _control: File,
    },
    Counted {
        events: File,
        kills: u64,
    },
}

impl OomWatch {
    /// `None` where memory is not counted.
    pub fn of(cgroup: &Cgroup) -> Result<Option<Self>, CgroupError> {
        let found = match (cgroup.unified_dir(), cgroup.v1_dir("memory")) {
            (Some(dir), _) if cgroup.is_v2() => counted(cgroup, &dir.join("memory.events")),
            (_, Some(dir)) => signalled(dir),
            _ => return Ok(None),
        };
        match found {
            Err(CgroupError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            found => found.map(|source| {
                let cgroup = cgroup.clone();
                Some(Self { cgroup, source })
            }),
        }
    }

    /// What to poll, and for what.
    pub fn descriptor(&self) -> (BorrowedFd<'_>, PollFlags) {
        match &self.source {
            Source::Signalled { event, .. } => (event.as_fd(), PollFlags::POLLIN),
            Source::Counted { events, .. } => (events.as_fd(), PollFlags::POLLPRI),
        }
    }

    /// To be called when the descriptor is ready: whether memory has run out, or the cgroup has only changed or gone.
    pub fn has_run_out(&mut self) -> Result<bool, CgroupError> {
        match &mut self.source {
            // Nobody else reads it: it is there, or somebody woke us for nothing.
            Source::Signalled { event, control, .. } => Ok(event.read().is_ok() && control.exists()),
            Source::Counted { events, kills } => {
                rearm(events);
                let now = self.cgroup.oom_kills()?;
                Ok(std::mem::replace(kills, now) < now)
            }
        }
    }
}

fn opened(path: &Path) -> Result<File, CgroupError> {
    File::open(path).map_err(|source| CgroupError::Read {
        path: path.into(),
        source,
    })
}

fn signalled(dir: &Path) -> Result<Source, CgroupError> {
    let control = dir.join("memory.oom_control");
    let file = opened(&control)?;
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let event = EventFd::from_value_and_flags(0, flags).map_err(|errno| CgroupError::Read {
        path: control.clone(),
        source: errno.into(),
    })?;
    let asked = format!("{} {}", event.as_raw_fd(), file.as_raw_fd());
    write(&dir.join("cgroup.event_control"), &asked)?;
    Ok(Source::Signalled {
        event,
        control,
        _control: file,
    })
}

fn counted(cgroup: &Cgroup, path: &Path) -> Result<Source, CgroupError> {
    let mut events = opened(path)?;
    rearm(&mut events);
    let kills = cgroup.oom_kills()?;
    Ok(Source::Counted { events, kills })
}

/// The file is ready again when it changes after it has been read.
fn rearm(events: &mut File) {
    use std::os::unix::fs::FileExt;
    // What it says is read anew; of a cgroup that is gone nothing is.
    let _ = events.read_at(&mut [0; 512], 0);
}
