//! What threads that run guests, those that serve, and the process that compiles may ask of the kernel.
//!
//! Owns three fences behind wasmtime's own, for the day when a guest gets through that: few capabilities, an allowlist of
//! system calls, and, by Landlock, no files but those that were granted. Refuses to know what runs behind them. They
//! hold threads, so a guest that writes to the memory of the threads that answer the Task API is held by theirs, which are
//! wider: those enter the networks of new Pods, mount their images and open their files. Landlock is none of them: whoever
//! is held by its rules for files cannot mount.

mod capabilities;
mod filter;
mod identity;
mod landlock;
mod nursery;

use filter::Filters;
use landlock::Rules;
use std::io;
use std::os::fd::BorrowedFd;

#[cfg(test)]
pub use identity::root;
pub use identity::{Identity, Rights};
pub use landlock::version as landlock_version;
pub use nursery::Nursery;

/// Why a fence cannot be put up.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("making a Landlock rule: {0}")]
    Rule(io::Error),
    #[error("Landlock: {0}")]
    Landlock(io::Error),
    #[error("no_new_privs: {0}")]
    Privileges(nix::Error),
    #[error("dropping capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    #[error("becoming user {uid} and group {gid}: {source}; may this process do that?")]
    Identity { uid: u32, gid: u32, source: io::Error },
    #[error("seccomp: {0}")]
    Filter(#[from] seccompiler::Error),
}

/// What is allowed beneath a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Of one file, not of a directory.
    ReadFile,
    /// Files and directories are read, written, made and removed.
    Write,
}

/// Who is fenced in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Guests,
    Compiler,
    Service,
}

/// Fences that are ready to be put up around a thread.
#[derive(Debug)]
pub struct Sandbox {
    who: Who,
    /// Whom its threads are to be.
    identity: Option<Identity>,
    rules: Option<Rules>,
}

impl Sandbox {
    /// For the threads of one container, which come from the [`Nursery`] and so have their filter already. They become its
    /// user.
    ///
    /// # Errors
    /// When the kernel refuses a rule.
    pub fn for_guests(identity: Identity, files: &[(BorrowedFd<'_>, Access)]) -> Result<Self, SandboxError> {
        Self::new(Who::Guests, Some(identity), files)
    }

    /// For the process that compiles.
    ///
    /// # Errors
    /// When the kernel refuses a rule.
    pub fn for_compiler(files: &[(BorrowedFd<'_>, Access)]) -> Result<Self, SandboxError> {
        Self::new(Who::Compiler, None, files)
    }

    /// For this process, but for those of its threads that are fenced in further. To be entered before there are others;
    /// all but the nursery are to [`stay_who_they_are`].
    pub fn for_service() -> Self {
        Self {
            who: Who::Service,
            identity: None,
            rules: None,
        }
    }

    fn new(
        who: Who,
        identity: Option<Identity>,
        files: &[(BorrowedFd<'_>, Access)],
    ) -> Result<Self, SandboxError> {
        let rules = Rules::new(files).map_err(SandboxError::Rule)?;
        Ok(Self { who, identity, rules })
    }

    /// Makes the calling thread the user whom it is to be, if any.
    ///
    /// # Errors
    /// When this process may not do that: nobody runs as somebody else then.
    pub fn become_user(&self) -> Result<(), SandboxError> {
        let Some(identity) = &self.identity else {
            return Ok(());
        };
        identity.assume().map_err(|source| SandboxError::Identity {
            uid: identity.uid,
            gid: identity.gid,
            source,
        })
    }

    /// Puts them up around the calling thread, which is the user it is to be; threads it starts are behind them too.
    ///
    /// # Errors
    /// When the kernel refuses one. Those before it stay up.
    pub fn enter(&self) -> Result<(), SandboxError> {
        nix::sys::prctl::set_no_new_privs().map_err(SandboxError::Privileges)?;
        if let Some(rules) = &self.rules {
            rules.enter().map_err(SandboxError::Landlock)?;
        }
        match self.who {
            Who::Guests => {
                let kept = self.identity.as_ref().map(Identity::capabilities);
                capabilities::keep_only(&kept.unwrap_or_default())?;
            }
            Who::Compiler => {
                capabilities::keep_only(&[])?;
                Filters::of(self.who)?.enter()?;
            }
            Who::Service => {
                capabilities::keep_only(&[capabilities::OF_SERVICE, capabilities::OF_NURSERY].concat())?;
                Filters::of(self.who)?.enter()?;
            }
        }
        Ok(())
    }
}

/// Gives up becoming another user, for the calling thread and those that it will start: the service is one.
///
/// # Errors
/// As `capset(2)`.
pub fn stay_who_they_are() -> Result<(), SandboxError> {
    Ok(capabilities::keep_only(capabilities::OF_SERVICE)?)
}

/// Whether the calling thread could still leave for another Pod's network: one that a fenced thread started cannot.
pub fn is_outside() -> bool {
    capabilities::can_administer()
}

#[cfg(test)]
mod tests;
