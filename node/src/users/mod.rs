//! Ids for Pods with a user namespace (`hostUsers: false`, KEP-127): a range of the host's for each, which no other
//! Pod has, and the record of it. Refuses to know how a range is put to use.

mod subordinate;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};

use crate::files::{sync, write_atomic};
use crate::pods::record::subdirectories;
use crate::pods::sandbox::POD_FILE;
use subordinate::Slots;

/// Ids of a Pod, as many as programs expect to be there; upstream's default.
pub const IDS_PER_POD: u32 = 65_536;
/// A Pod's record of its range, in its directory; upstream's name.
const FILE: &str = "userns";
/// The first kernel whose tmpfs can be idmapped, which Secrets are on (upstream's requirement).
const KERNEL: (u32, u32) = (6, 3);

/// The ids of one Pod: 0 inside is `first` on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    #[serde(rename = "hostId")]
    pub first: u32,
}

impl IdRange {
    /// A line of `/proc/PID/uid_map`.
    pub fn map(self) -> String {
        format!("0 {} {IDS_PER_POD}\n", self.first)
    }
}

/// Why a Pod has no ids of its own.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("can't set `spec.hostUsers: false`, runtime does not support user namespaces: {0}")]
    Unsupported(String),
    #[error("create user namespace: all {0} ranges of user ids of this node are in use")]
    Full(usize),
    #[error("{step} {}: {source}", path.display())]
    File {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// Who has which range. What is known is what the Pods' directories say.
pub struct Users {
    pods: PathBuf,
    slots: Result<Slots, String>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    by_pod: BTreeMap<String, IdRange>,
    /// Where the search for the next free range begins: one just freed is not the next one given.
    cursor: usize,
}

impl Users {
    /// Reads the ranges that an earlier agent gave out. `seed` decides which is the first, so that two nodes of one
    /// host rarely choose the same.
    pub fn open(pods: &Path, seed: &str) -> Result<Self, UsersError> {
        let slots = match obstacle() {
            Some(obstacle) => Err(obstacle),
            None => Slots::of_host(),
        };
        if let Err(why) = &slots {
            tracing::warn!("Pods with hostUsers: false cannot run here: {why}");
        }
        let count = slots.as_ref().map_or(1, |s| s.count().max(1));
        let seed = usize::from_str_radix(seed, 16).unwrap_or_default();
        let mut taken = Taken {
            cursor: seed % count,
            ..Taken::default()
        };
        for dir in subdirectories(pods).map_err(|e| at("list", pods, e))? {
            let Some(range) = load(&dir)? else { continue };
            let uid = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            taken.by_pod.insert(uid, range);
        }
        Ok(Self {
            pods: pods.to_owned(),
            slots,
            taken: Mutex::new(taken),
        })
    }

    /// The range of a Pod: the one it has, or a free one. It is on disk before it is used.
    pub async fn acquire(&self, uid: &str) -> Result<IdRange, UsersError> {
        let range = self.choose(uid)?;
        let dir = self.pods.join(uid);
        // Looked at, not remembered: writing it may have been given up, or have failed.
        if load(&dir)? != Some(range) {
            save(&dir, range).await?;
        }
        Ok(range)
    }

    /// From now on nobody else gets it.
    fn choose(&self, uid: &str) -> Result<IdRange, UsersError> {
        let slots = self
            .slots
            .as_ref()
            .map_err(|why| UsersError::Unsupported(why.clone()))?;
        let mut taken = self.taken();
        if let Some(range) = taken.by_pod.get(uid) {
            return Ok(*range);
        }
        let (at, range) = taken.next(slots).ok_or(UsersError::Full(slots.count()))?;
        taken.by_pod.insert(uid.to_owned(), range);
        taken.cursor = at + 1;
        Ok(range)
    }

    /// Nothing of the Pod runs any more; one that has no range is no error.
    pub fn release(&self, uid: &str) -> Result<(), UsersError> {
        let mut taken = self.taken();
        let path = self.pods.join(uid).join(FILE);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at("remove", &path, e)),
            _ => {}
        }
        taken.by_pod.remove(uid);
        Ok(())
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn next(&self, slots: &Slots) -> Option<(usize, IdRange)> {
        let count = slots.count();
        (0..count)
            .map(|step| (self.cursor + step) % count)
            .map(|slot| (slot, slots.range(slot)))
            .find(|(_, range)| !self.by_pod.values().any(|taken| taken == range))
    }
}

/// Why this kernel cannot give Pods users of their own; `None` where it can.
pub fn obstacle() -> Option<String> {
    let release = uname().map(|u| u.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if (major, minor) < KERNEL {
        return Some(format!("Linux {release} is older than {}.{}", KERNEL.0, KERNEL.1));
    }
    let limit = "/proc/sys/user/max_user_namespaces";
    match fs::read_to_string(limit).map(|text| text.trim().parse::<u64>()) {
        Ok(Ok(1..)) => None,
        _ => Some(format!("user namespaces are switched off ({limit})")),
    }
}

fn load(dir: &Path) -> Result<Option<IdRange>, UsersError> {
    let path = dir.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| at("understand", &path, e.into())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at("read", &path, e)),
    }
}

async fn save(dir: &Path, range: IdRange) -> Result<(), UsersError> {
    let path = dir.join(FILE);
    // Nor is the Pod forgotten that has it: its directory would go, and the range with it.
    let pod = dir.join(POD_FILE);
    sync(&pod).await.map_err(|e| at("sync", &pod, e))?;
    let bytes = serde_json::to_vec(&range).map_err(|e| at("write", &path, e.into()))?;
    write_atomic(&path, bytes)
        .await
        .map_err(|e| at("write", &path, e))
}

fn at(step: &'static str, path: &Path, source: io::Error) -> UsersError {
    UsersError::File {
        step,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(dir: &Path, slots: Slots) -> Users {
        let mut users = Users::open(dir, "1").unwrap();
        users.slots = Ok(slots);
        users
    }

    #[tokio::test]
    async fn ranges_are_told_apart_outlive_the_agent_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let three = || Slots::of(&[(65_536, 65_536 * 3)]);
        for uid in ["a", "b", "c", "d"] {
            fs::create_dir(dir.path().join(uid)).unwrap();
            fs::write(dir.path().join(uid).join(POD_FILE), "{}").unwrap();
        }
        let first = users(dir.path(), three());
        let mut given = Vec::new();
        for uid in ["a", "b", "a"] {
            given.push(first.acquire(uid).await.unwrap().first);
        }
        assert_eq!(given[0], given[2]);
        assert_ne!(given[0], given[1]);
        assert!(given.iter().all(|id| id % IDS_PER_POD == 0 && *id > 0));
        let second = users(dir.path(), three());
        assert_eq!(
            second.acquire("b").await.unwrap().first,
            given[1],
            "an agent's restart changes nothing"
        );
        second.acquire("c").await.unwrap();
        assert!(matches!(second.acquire("d").await, Err(UsersError::Full(3))));
        second.release("a").unwrap();
        second.release("a").unwrap();
        assert_eq!(second.acquire("d").await.unwrap().first, given[0]);
    }

    #[tokio::test]
    async fn what_could_not_be_written_down_is_not_had_and_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let users = users(dir.path(), Slots::of(&[(65_536, 65_536 * 2)]));
        assert!(users.acquire("a").await.is_err(), "it has no directory");
        for uid in ["a", "b"] {
            fs::create_dir(dir.path().join(uid)).unwrap();
            fs::write(dir.path().join(uid).join(POD_FILE), "{}").unwrap();
        }
        let (b, a) = (
            users.acquire("b").await.unwrap(),
            users.acquire("a").await.unwrap(),
        );
        assert_ne!(a, b);
        assert_eq!(load(&dir.path().join("a")).unwrap(), Some(a));
    }

    #[test]
    fn a_record_that_cannot_be_understood_stops_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a").join(FILE), "{").unwrap();
        assert!(Users::open(dir.path(), "0").is_err());
    }
}
