//! Keeping the shim's own program out of a container's reach.
//!
//! A process on its way into a container is a copy of the shim, and a container may look at it through
//! `/proc/PID/exe` (CVE-2019-5736). So the server runs from a detached read-only mount of its program: nothing can
//! be written through it, it has no path in any mount namespace, and its pages are those of the file itself (a sealed
//! copy in memory would cost the whole program once per Pod).

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::statvfs::{FsFlags, fstatvfs};

use crate::sys::mount::{Attributes, clone_tree, set_attributes};

/// A program to execute; valid while this lives, in this process and its children.
#[derive(Debug)]
pub struct GuardedProgram {
    mount: OwnedFd,
}

impl GuardedProgram {
    /// Guards the running program.
    pub fn this() -> io::Result<Self> {
        Self::of(&File::open("/proc/self/exe")?)
    }

    fn of(program: &File) -> io::Result<Self> {
        let mount = clone_tree(Some(program.as_fd()), "".as_ref(), false)?;
        let read_only = Attributes {
            set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
            clear: 0,
            propagation: libc::MS_PRIVATE,
        };
        set_attributes(mount.as_fd(), read_only, false)?;
        Ok(Self { mount })
    }

    /// True when nobody can write through the program this process runs, by whatever mount it was found.
    pub fn runs_already() -> io::Result<bool> {
        let program = File::open("/proc/self/exe")?;
        Ok(fstatvfs(&program)?.flags().contains(FsFlags::ST_RDONLY))
    }

    /// Becomes the guarded program, with the same arguments and environment; comes back only to say why not. The
    /// descriptor is gone then: the kernel has opened the file before it closes what is to be closed.
    pub fn execute(&self, args: &[CString]) -> io::Error {
        let path = CString::new(self.path().into_os_string().into_encoded_bytes());
        match path.map(|path| nix::unistd::execv(&path, args)) {
            Ok(Err(errno)) => errno.into(),
            Ok(Ok(never)) => match never {},
            Err(nul) => nul.into(),
        }
    }

    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.mount.as_raw_fd()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_cannot_be_written_through_its_mount() {
        let home = tempfile::tempdir().unwrap();
        let program = home.path().join("program");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        let guarded = match GuardedProgram::of(&File::open(&program).unwrap()) {
            Ok(guarded) => guarded,
            Err(error) => return eprintln!("skipped: needs root ({error})"),
        };
        let error = std::fs::OpenOptions::new()
            .write(true)
            .open(guarded.path())
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem, "{error}");
        std::fs::File::open(guarded.path()).unwrap();
    }
}
