//! Whether memory ran out in a container: for the agent, who finds it in the bundle when the container has ended, and, as often
//! as it happens, for containerd.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use amphipod_shim_api::cgroup::{Cgroup, CgroupError, OomWatch};
use amphipod_shim_api::events::Story;
use amphipod_shim_api::oom;
use nix::poll::PollFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use crate::confine::Confined;
use crate::scope;

/// Exit status of a process that was killed.
const KILLED: u32 = 128 + libc::SIGKILL.unsigned_abs();

/// Looks, when a container has ended with a status, whether memory had run out; until then, whether it does, if somebody is
/// told of that.
pub fn look(
    cgroup: &Cgroup,
    confined: &Confined,
    bundle: &Path,
    story: &Arc<Story>,
) -> impl FnOnce(u32) + Send + use<> {
    let watching = Watching::begin(cgroup, story);
    let (cgroup, bundle, story) = (cgroup.clone(), bundle.to_owned(), Arc::clone(story));
    let unit = confined.unit.as_ref();
    let slice = unit.and_then(|unit| scope::slice_around(unit, &confined.path));
    let slice = slice.map(str::to_owned);
    let before = slice.as_deref().map_or(0, scope::kills_in);
    move |status| {
        let kills = || scope::oom_kills(&cgroup, slice.as_deref(), before);
        let happened = note(status, &bundle, kills);
        let is_told = watching.is_some_and(Watching::end);
        if happened && !is_told {
            story.out_of_memory();
        }
    }
}

/// A container whose first process outlived what the kernel killed has ended for another reason.
fn note(status: u32, bundle: &Path, kills: impl FnOnce() -> Result<u64, CgroupError>) -> bool {
    if status != KILLED {
        return false;
    }
    let noted = match kills() {
        Ok(0) => return false,
        Ok(_) => oom::mark(bundle).map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = &noted {
        tracing::warn!(%error, "cannot tell whether memory ran out");
    }
    noted.is_ok()
}

/// Tells of each time, as long as the container lives.
struct Watching {
    memory: Arc<Memory>,
    task: AbortHandle,
}

struct Memory {
    watch: Mutex<OomWatch>,
    story: Arc<Story>,
    is_told: AtomicBool,
}

impl Watching {
    fn begin(cgroup: &Cgroup, story: &Arc<Story>) -> Option<Self> {
        if !story.is_heard() {
            return None;
        }
        match Self::of(cgroup, story) {
            Ok(watching) => watching,
            Err(error) => {
                tracing::warn!(%error, "containerd is told only at the end whether memory ran out");
                None
            }
        }
    }

    fn of(cgroup: &Cgroup, story: &Arc<Story>) -> Result<Option<Self>, Box<dyn std::error::Error>> {
        let Some(watch) = OomWatch::of(cgroup)? else {
            return Ok(None);
        };
        let (fd, flags) = watch.descriptor();
        let interest = match flags.contains(PollFlags::POLLPRI) {
            true => Interest::PRIORITY,
            false => Interest::READABLE,
        };
        let ready = crate::sys::socket::watch(fd.try_clone_to_owned()?, interest)?;
        let memory = Arc::new(Memory {
            watch: Mutex::new(watch),
            story: Arc::clone(story),
            is_told: AtomicBool::new(false),
        });
        let task = tokio::spawn(Arc::clone(&memory).follow(ready, interest)).abort_handle();
        Ok(Some(Self { memory, task }))
    }

    /// What came with the end is told now; answers whether anything was told at all.
    fn end(self) -> bool {
        self.task.abort();
        self.memory.look();
        self.memory.is_told.load(Ordering::Relaxed)
    }
}

impl Memory {
    async fn follow(self: Arc<Self>, ready: AsyncFd<OwnedFd>, interest: Interest) {
        while let Ok(mut seen) = ready.ready(interest).await {
            // Forgotten before the look, so that what comes after it is seen.
            seen.clear_ready();
            self.look();
        }
    }

    fn look(&self) {
        let run_out = self
            .watch
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .has_run_out();
        match run_out {
            Ok(true) => {
                self.is_told.store(true, Ordering::Relaxed);
                self.story.out_of_memory();
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "cannot tell whether memory ran out"),
        }
    }
}
