//! Work in a mount namespace that nobody else sees: nothing of what it mounts is left when it ends, or the process is killed.

use std::io;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Does `work` in a thread that leaves the mount namespace and the working directory of the process, and ends with it. The
/// thread is called `name`.
///
/// # Errors
/// There can be no such thread, or the work panicked.
pub fn run<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(name.into());
        let running = thread.spawn_scoped(scope, || leave().map(|()| work()))?;
        let panicked = |_| Err(io::Error::other("a panic"));
        running.join().unwrap_or_else(panicked)
    })
}

fn leave() -> io::Result<()> {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    // What the host unmounts meanwhile goes here too; nothing of ours goes there.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    Ok(())
}
