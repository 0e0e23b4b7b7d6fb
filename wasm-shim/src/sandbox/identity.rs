//! Whose rights a guest's threads have over files: those of its container's user, as a native process would.
//!
//! Owns how one thread of many becomes somebody: credentials are a thread's own (credentials(7)). It does so for files alone
//! (setfsuid(2)): for signals and priorities it stays the server's, or any process of the host with the same number could end
//! all the server's containers. Threads that it starts are the same. Refuses to know who asks for it.

use super::capabilities;
use crate::sys;
use caps::Capability;
use nix::unistd::{Uid, geteuid, setfsuid};
use std::io;

/// What root may beyond its own, as far as a guest could.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// `CAP_DAC_OVERRIDE`.
    pub any_file: bool,
    /// `CAP_FOWNER`.
    pub others_files: bool,
    /// `CAP_NET_BIND_SERVICE`.
    pub low_ports: bool,
}

/// A user, its groups, and its rights if it is root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Beside `gid`.
    pub groups: Vec<u32>,
    pub rights: Rights,
}

impl Identity {
    /// Makes the calling thread this user. There is a way back to root, which the nursery's filter closes. A server without root
    /// runs root's guests as itself, as a container of its own user namespace would.
    ///
    /// # Errors
    /// When this process may not become somebody else.
    pub fn assume(&self) -> io::Result<()> {
        if self.uid == 0 && !geteuid().is_root() {
            return Ok(());
        }
        match sys::set_thread_groups(&self.groups) {
            // A user namespace may forbid it (user_namespaces(7)); to its root the server's groups give nothing.
            Err(error) if self.is_plain_root() && error.kind() == io::ErrorKind::PermissionDenied => {}
            given => given?,
        }
        sys::set_thread_group(self.gid)?;
        let (root, wanted) = (Uid::from_raw(0), Uid::from_raw(self.uid));
        if wanted == root {
            return Ok(());
        }
        setfsuid(wanted);
        // It tells only who it was before; nobody has this number, and nothing changes by it.
        let now = setfsuid(Uid::from_raw(u32::MAX));
        if now == wanted {
            Ok(())
        } else {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }

    fn is_plain_root(&self) -> bool {
        self.uid == 0 && self.groups.is_empty()
    }

    /// The capabilities that are left to it. Whoever is not root has none (capabilities(7), at exec).
    pub fn capabilities(&self) -> Vec<Capability> {
        let Rights {
            any_file,
            others_files,
            low_ports,
        } = self.rights;
        let given = [any_file, others_files, low_ports];
        let kept = capabilities::OF_GUESTS.iter().zip(given);
        kept.filter(|(_, given)| self.uid == 0 && *given)
            .map(|(one, _)| *one)
            .collect()
    }
}

/// Root, as the default is.
#[cfg(test)]
pub fn root() -> Identity {
    Identity {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        rights: Rights {
            any_file: true,
            others_files: true,
            low_ports: true,
        },
    }
}
