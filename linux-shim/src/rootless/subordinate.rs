//! The subordinate ids of a user (subuid(5), subgid(5)), and the helpers that give him the use of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use amphipod_shim_api::subordinate_ids::{Entry, entries};
use nix::unistd::{Gid, Uid, User};

use crate::sys::names::ask_built_in_services_only;

/// Setuid programs that write maps of ranges a user has been given (Debian package `uidmap`).
const HELPERS: [&str; 2] = ["newuidmap", "newgidmap"];

/// What an ordinary user has to work with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub uid: u32,
    pub gid: u32,
    /// First id and count.
    pub users: Vec<(u32, u32)>,
    pub groups: Vec<(u32, u32)>,
    /// Whether maps of more than the own id can be written.
    pub helpers: bool,
}

impl Facts {
    pub fn of_this_user() -> Self {
        let uid = Uid::effective();
        let name = name_of(uid);
        let read = |file| {
            let text = fs::read_to_string(file).unwrap_or_default();
            ranges(&text, name.as_deref(), uid.as_raw())
        };
        Self {
            uid: uid.as_raw(),
            gid: Gid::effective().as_raw(),
            users: read("/etc/subuid"),
            groups: read("/etc/subgid"),
            helpers: HELPERS.iter().all(|name| find(name).is_some()),
        }
    }
}

/// As in /etc/passwd, or in what else the host has for users (LDAP), which its own program knows to ask (getent(1)).
fn name_of(uid: Uid) -> Option<String> {
    ask_built_in_services_only();
    if let Some(user) = User::from_uid(uid).ok().flatten() {
        return Some(user.name);
    }
    let found = Command::new("getent")
        .args(["passwd", &uid.to_string()])
        .output()
        .ok()?;
    let line = String::from_utf8(found.stdout).ok()?;
    let (name, _) = line.split_once(':')?;
    Some(name.to_owned())
}

impl Facts {
    /// Whether a container can have more ids than the user's own.
    pub fn may_map_many(&self) -> bool {
        self.helpers && !self.users.is_empty() && !self.groups.is_empty()
    }
}

/// A program on the path.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|file| Path::is_file(file))
}

/// Lines are `NAME:FIRST:COUNT`, with a user's number in the place of his name if one likes.
fn ranges(text: &str, name: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    let ours = |entry: &Entry| Some(entry.owner.as_str()) == name || entry.owner.parse() == Ok(uid);
    let is_whole = |entry: &Entry| entry.count > 0 && entry.first.checked_add(entry.count - 1).is_some();
    let own = entries(text).filter(|entry| ours(entry) && is_whole(entry));
    own.map(|entry| (entry.first, entry.count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text = "alice:100000:65536\nbob:165536:65536\n1000:300000:10\nalice:x:1\nalice:5\n\nalice:7:0\n";
        assert_eq!(
            ranges(text, Some("alice"), 1000),
            [(100_000, 65_536), (300_000, 10)]
        );
        assert_eq!(ranges(text, None, 1000), [(300_000, 10)]);
        assert_eq!(ranges("1000:4294967295:2\n", None, 1000), []);
    }
}
