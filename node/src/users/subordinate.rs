//! Which ids of the host are there for Pods: those of the user `kubelet` in /etc/subuid and /etc/subgid (subuid(5)), or
//! all above the first 65,536 that are nobody's there.

use std::fs;
use std::io;
use std::ops::Range;

use amphipod_shim_api::subordinate_ids::{Entry, entries};

use super::{IDS_PER_POD, IdRange};

/// Who the ids are given to in these files; upstream's name.
const USER: &str = "kubelet";

/// Places for a Pod's range: multiples of its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Numbers of places, the first 65,536 ids being number 0.
    runs: Vec<Range<u32>>,
}

impl Slots {
    /// Reads this host's files; absent ones say nothing.
    pub fn of_host() -> Result<Self, String> {
        Self::of_files(&read("/etc/subuid")?, &read("/etc/subgid")?)
    }

    fn of_files(users: &str, groups: &str) -> Result<Self, String> {
        let all = |text| entries(text).collect::<Vec<_>>();
        let (users, groups) = (all(users), all(groups));
        let range = |entry: &Entry| (u64::from(entry.first), u64::from(entry.count));
        let own = |all: &[Entry]| -> Vec<(u64, u64)> {
            all.iter()
                .filter(|entry| entry.owner == USER)
                .map(range)
                .collect()
        };
        let (uids, gids) = (own(&users), own(&groups));
        if uids != gids {
            return Err(format!(
                "/etc/subuid and /etc/subgid give the user {USER} different ranges"
            ));
        }
        if !uids.is_empty() {
            let slots = Self::of(&uids);
            return match slots.count() {
                0 => Err(format!(
                    "no range of the user {USER} in /etc/subuid holds {IDS_PER_POD} ids from a multiple of that on"
                )),
                _ => Ok(slots),
            };
        }
        Ok(Self::without(users.iter().chain(&groups).map(range)))
    }

    /// Those that are whole in the given ranges (first id, count).
    pub fn of(ranges: &[(u64, u64)]) -> Self {
        let run = |(first, count): &(u64, u64)| {
            number(first.div_ceil(LENGTH)).max(1)..number((first + count) / LENGTH)
        };
        let runs = ranges.iter().map(run).filter(|run| !run.is_empty());
        Self { runs: runs.collect() }
    }

    /// All that no given range (first id, count) has a part of.
    fn without(ranges: impl Iterator<Item = (u64, u64)>) -> Self {
        let mut used: Vec<Range<u32>> = ranges
            .filter(|(_, count)| *count > 0)
            .map(|(first, count)| number(first / LENGTH)..number((first + count).div_ceil(LENGTH)))
            .collect();
        used.sort_by_key(|run| run.start);
        let (mut runs, mut from) = (Vec::new(), 1);
        for run in used {
            if from < run.start {
                runs.push(from..run.start);
            }
            from = from.max(run.end);
        }
        if from < LAST {
            runs.push(from..LAST);
        }
        Self { runs }
    }

    pub fn count(&self) -> usize {
        self.runs.iter().map(|run| run.len()).sum()
    }

    /// The range at a place below [`Slots::count`].
    pub fn range(&self, place: usize) -> IdRange {
        let all = self.runs.iter().flat_map(Clone::clone);
        let number = all.clone().nth(place).unwrap_or(1);
        IdRange {
            first: number * IDS_PER_POD,
        }
    }
}

const LENGTH: u64 = IDS_PER_POD as u64;
/// The last place ends with -1, which is no id and which no map may reach.
const LAST: u32 = u32::MAX / IDS_PER_POD;

/// Not to know whose ids are given away already is an error; a file that is not there gives none away.
fn read(path: &str) -> Result<String, String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| format!("{path} cannot be read: {error}")),
    }
}

fn number(of: u64) -> u32 {
    u32::try_from(of).unwrap_or(LAST).min(LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_own_ids_come_first() {
        let text = "me:100000:65536\nkubelet:131072:131072\n";
        let slots = Slots::of_files(text, text).unwrap();
        assert_eq!(
            (slots.count(), slots.range(0).first, slots.range(1).first),
            (2, 131_072, 196_608)
        );
        assert!(Slots::of_files(text, "").is_err(), "other groups than users");
        let small = "kubelet:70000:65536\n";
        assert!(Slots::of_files(small, small).is_err());
    }

    #[test]
    fn else_all_that_nobody_has() {
        let all = Slots::of_files("", "").unwrap();
        assert_eq!((all.count(), all.range(0).first), (65_534, 65_536));
        assert_eq!(all.range(65_533).first, u32::MAX - 2 * IDS_PER_POD + 1);
        let some = Slots::of_files("me:100000:65536\n", "me:100000:65536\nbad\n").unwrap();
        assert_eq!((some.count(), some.range(0).first), (65_532, 196_608));
        assert_eq!(Slots::of_files("me:0:4294967295\n", "").unwrap().count(), 0);
    }

    #[test]
    fn files_that_are_not_there_say_nothing_and_others_must_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        assert_eq!(read(&path("none")), Ok(String::new()));
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        assert!(read(&path("directory")).is_err());
    }
}
