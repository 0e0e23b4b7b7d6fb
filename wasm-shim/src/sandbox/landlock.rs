//! Landlock (landlock(7)): which files a thread can reach, whoever it is.
//!
//! Owns what each kernel's version can forbid. Where there is no Landlock there are no rules.

use super::Access;
use crate::sys::{self, RulesetAttributes};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_DIR: u64 = 1 << 4;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_DIR: u64 = 1 << 7;
const MAKE_REG: u64 = 1 << 8;
const MAKE_SYM: u64 = 1 << 12;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;

/// All rights that the first version knows, and those that later ones added: REFER, TRUNCATE, IOCTL_DEV.
const FIRST: u64 = (1 << 13) - 1;
const ADDED: [(u32, u64); 3] = [(2, REFER), (3, TRUNCATE), (5, 1 << 15)];

/// Abstract sockets of others, and signals to them.
const SCOPES: (u32, u64) = (6, 0b11);

const READING: u64 = READ_FILE | READ_DIR;
const WRITING: u64 =
    READING | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER;

/// A set of rules of the kernel's.
#[derive(Debug)]
pub struct Rules(OwnedFd);

/// The version of Landlock here; 0 where there is none.
pub fn version() -> u32 {
    sys::landlock_version().unwrap_or(0)
}

/// What this version can forbid.
fn known(version: u32) -> u64 {
    let added = ADDED.iter().filter(|(since, _)| version >= *since);
    FIRST | added.map(|(_, right)| right).sum::<u64>()
}

impl Rules {
    /// Forbids all files but these; `None` where the kernel cannot.
    ///
    /// # Errors
    /// When the kernel refuses a rule.
    pub fn new(files: &[(BorrowedFd<'_>, Access)]) -> io::Result<Option<Self>> {
        let version = version();
        if version == 0 {
            return Ok(None);
        }
        let known = known(version);
        let ruleset = sys::landlock_ruleset(&RulesetAttributes {
            files: known,
            network: 0,
            scope: if version >= SCOPES.0 { SCOPES.1 } else { 0 },
        })?;
        for (directory, access) in files {
            let rights = match access {
                Access::Read => READING,
                Access::ReadFile => READ_FILE,
                Access::Write => WRITING,
            };
            sys::landlock_allow(&ruleset, *directory, rights & known)?;
        }
        Ok(Some(Self(ruleset)))
    }

    /// Holds the calling thread to the rules.
    ///
    /// # Errors
    /// As `landlock_restrict_self(2)`.
    pub fn enter(&self) -> io::Result<()> {
        sys::landlock_restrict(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_versions_know() {
        assert_eq!(known(1) & (REFER | TRUNCATE), 0);
        assert_eq!(known(2) & (REFER | TRUNCATE), REFER);
        assert_eq!(known(3) & WRITING, WRITING);
        assert_eq!(known(7), (1 << 16) - 1);
    }
}
