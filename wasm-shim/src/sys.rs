//! The only unsafe code of this crate: mapping compiled code, and the nice value of a thread.
#![allow(unsafe_code)]

use crate::program::cache::TrustedArtifact;
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};

/// Compiled code mapped into this process.
pub enum Mapped {
    Module(Module),
    Component(Component),
}

/// Maps compiled code. wasmtime refuses code of another version, target or configuration.
///
/// # Errors
/// When the file is no compiled artifact of this engine, or the engine's instance allocator cannot hold it.
pub fn map(engine: &Engine, artifact: &TrustedArtifact) -> wasmtime::Result<Mapped> {
    let path = artifact.path();
    match Engine::detect_precompiled_file(&path)? {
        // SAFETY: deserializing runs whatever machine code the file holds, so the file must have been written by
        // wasmtime and by nobody else. `TrustedArtifact` exists only for a regular file which this user owns and
        // nobody else may write, in a directory of the same kind; it is pinned by an open descriptor, and artifacts
        // are replaced by rename, never written in place, so the mapping cannot change under us.
        Some(Precompiled::Module) => Ok(Mapped::Module(unsafe { Module::deserialize_file(engine, path) }?)),
        // SAFETY: as above.
        Some(Precompiled::Component) => Ok(Mapped::Component(unsafe {
            Component::deserialize_file(engine, path)
        }?)),
        None => Err(wasmtime::format_err!("not a compiled artifact")),
    }
}

/// Sets the nice value of one thread: Linux schedules threads, and `PRIO_PROCESS` takes a thread id.
///
/// # Errors
/// `EPERM` or `EACCES` without the right to raise a priority; `ESRCH` when the thread is gone.
pub fn set_thread_nice(thread: nix::unistd::Pid, nice: i32) -> nix::Result<()> {
    // SAFETY: setpriority takes three integers and touches no memory of ours.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, thread.as_raw() as libc::id_t, nice) };
    nix::errno::Errno::result(result).map(drop)
}
