//! What the processes of containers have open, as the host's /proc shows it (proc_pid_fd(5)).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Looking is a call for each descriptor: of containers whose turn did not come within it nothing is told.
const LIMIT: Duration = Duration::from_secs(2);

/// Of one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processes {
    pub processes: u64,
    /// None where it was not looked.
    pub open: Option<Open>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    pub descriptors: u64,
    pub sockets: u64,
}

/// Counts, by id of the container. Blocks. The order is the same each time: where it takes too long, it is the same ones of which
/// nothing is told.
pub fn count(all: BTreeMap<String, Vec<u32>>) -> HashMap<String, Processes> {
    let end = Instant::now() + LIMIT;
    let counted = all.into_iter().map(|(id, pids)| {
        let open = open(&pids, end);
        let processes = pids.len() as u64;
        (id, Processes { processes, open })
    });
    counted.collect()
}

fn open(pids: &[u32], end: Instant) -> Option<Open> {
    let mut open = Open::default();
    for pid in pids {
        for descriptor in descriptors(*pid) {
            if Instant::now() > end {
                return None;
            }
            open.descriptors += 1;
            let leads = fs::read_link(&descriptor).unwrap_or_default();
            open.sockets += u64::from(leads.to_string_lossy().starts_with("socket:"));
        }
    }
    Some(open)
}

/// None of a process that is gone.
fn descriptors(pid: u32) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    entries.map_while(io::Result::ok).map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_and_sockets_are_counted() {
        let look = || open(&[std::process::id(), u32::MAX], Instant::now() + LIMIT).unwrap();
        let _pair = std::os::unix::net::UnixStream::pair().unwrap();
        let seen = look();
        assert!(seen.sockets >= 2 && seen.descriptors >= seen.sockets, "{seen:?}");
        let counted = count([("c".to_owned(), vec![u32::MAX])].into());
        let none = Processes {
            processes: 1,
            open: Some(Open::default()),
        };
        assert_eq!(counted["c"], none);
        assert_eq!(open(&[std::process::id()], Instant::now() - LIMIT), None);
    }
}
