//! Maps of a user namespace: which ids of the container are which of the host's. Written by whoever made the process.

use std::fs;
use std::io;

use nix::unistd::Pid;
use oci_spec::runtime::LinuxIdMapping;

/// The kernel takes at most this many lines per map (`UID_GID_MAP_MAX_EXTENTS`, Linux 4.15).
const LINES_LIMIT: usize = 340;

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub inside: u32,
    pub outside: u32,
    pub size: u32,
}

/// Maps of users and groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMaps {
    pub users: Vec<Range>,
    pub groups: Vec<Range>,
}

/// A map no kernel would take.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdMapError {
    #[error("a user namespace needs both uidMappings and gidMappings")]
    Half,
    #[error("{0} id ranges are more than the {LINES_LIMIT} a map may have")]
    TooMany(usize),
    #[error("the id range {0}:{1}:{2} is empty or leaves 32 bits")]
    Range(u32, u32, u32),
    #[error("{0:?} is no id map: three numbers with colons, several maps with commas")]
    Words(String),
    #[error("{0:?} is no id map: uids= and gids=, each of three numbers with dashes, several with #")]
    Triples(String),
    #[error("{0} is no id of the container's user namespace, which an id map with @ is relative to")]
    Relative(u32),
}

impl IdMaps {
    /// Reads both maps of config.json; `None` when neither is given.
    pub fn parse(
        users: Option<&Vec<LinuxIdMapping>>,
        groups: Option<&Vec<LinuxIdMapping>>,
    ) -> Result<Option<Self>, IdMapError> {
        let given = |map: Option<&Vec<LinuxIdMapping>>| map.cloned().unwrap_or_default();
        match (given(users), given(groups)) {
            (users, groups) if users.is_empty() && groups.is_empty() => Ok(None),
            (users, groups) if users.is_empty() || groups.is_empty() => Err(IdMapError::Half),
            (users, groups) => Ok(Some(Self {
                users: ranges(&users)?,
                groups: ranges(&groups)?,
            })),
        }
    }

    /// Reads the options `uidmap=` and `gidmap=` of a rootfs mount, as containerd writes them (`0:65536:65536`).
    pub fn of_options(options: &[String]) -> Result<Option<Self>, IdMapError> {
        let given = |name: &str| options.iter().find_map(|o| o.strip_prefix(name));
        match (given("uidmap="), given("gidmap=")) {
            (None, None) => Ok(None),
            (Some(users), Some(groups)) => Ok(Some(Self {
                users: words(users)?,
                groups: words(groups)?,
            })),
            _ => Err(IdMapError::Half),
        }
    }

    /// Reads what crun has after `idmap=`: `uids=0-1-10#10-11-5;gids=@0-100-10`. Behind `@` the second number is an id of
    /// the container's, of which `own` are the maps. Who has no map belongs to nobody.
    pub fn of_words(text: &str, own: Option<&Self>) -> Result<Self, IdMapError> {
        let mut maps = Self::default();
        for list in text.split(';').filter(|list| !list.is_empty()) {
            match list.split_once('=') {
                Some(("uids", list)) => maps.users = triples(list, own.map(|own| &own.users[..]))?,
                Some(("gids", list)) => maps.groups = triples(list, own.map(|own| &own.groups[..]))?,
                _ => return Err(IdMapError::Triples(text.into())),
            }
        }
        Ok(maps)
    }

    /// What a user of the container is on the host.
    pub fn user_outside(&self, inside: u32) -> Option<u32> {
        outside(&self.users, inside)
    }

    /// Writes the maps of a process that waits in a namespace it has just made.
    pub fn write(&self, pid: Pid) -> io::Result<()> {
        fs::write(format!("/proc/{pid}/uid_map"), text(&self.users))?;
        fs::write(format!("/proc/{pid}/gid_map"), text(&self.groups))
    }
}

fn ranges(map: &[LinuxIdMapping]) -> Result<Vec<Range>, IdMapError> {
    if map.len() > LINES_LIMIT {
        return Err(IdMapError::TooMany(map.len()));
    }
    map.iter().map(range).collect()
}

fn words(text: &str) -> Result<Vec<Range>, IdMapError> {
    text.split(',')
        .map(|triple| {
            let numbers: Vec<u32> = triple.split(':').filter_map(|n| n.parse().ok()).collect();
            match numbers[..] {
                [inside, outside, size] => checked(inside, outside, size),
                _ => Err(IdMapError::Words(text.into())),
            }
        })
        .collect()
}

fn outside(ranges: &[Range], inside: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = inside.checked_sub(range.inside)?;
        (offset < range.size).then(|| range.outside + offset)
    })
}

fn triples(list: &str, own: Option<&[Range]>) -> Result<Vec<Range>, IdMapError> {
    let read = |triple: &str| {
        let (relative, numbers) = match triple.strip_prefix('@') {
            Some(numbers) => (true, numbers),
            None => (false, triple),
        };
        let read: Result<Vec<u32>, _> = numbers.split('-').map(str::parse).collect();
        let Ok([inside, given, size]) = read.as_deref() else {
            return Err(IdMapError::Triples(list.into()));
        };
        let shown = match relative {
            true => outside(own.unwrap_or_default(), *given).ok_or(IdMapError::Relative(*given))?,
            false => *given,
        };
        checked(*inside, shown, *size)
    };
    list.split('#').filter(|t| !t.is_empty()).map(read).collect()
}

fn range(mapping: &LinuxIdMapping) -> Result<Range, IdMapError> {
    checked(mapping.container_id(), mapping.host_id(), mapping.size())
}

fn checked(inside: u32, outside: u32, size: u32) -> Result<Range, IdMapError> {
    let fits = |first: u32| size > 0 && first.checked_add(size - 1).is_some();
    if fits(inside) && fits(outside) {
        Ok(Range {
            inside,
            outside,
            size,
        })
    } else {
        Err(IdMapError::Range(inside, outside, size))
    }
}

fn text(ranges: &[Range]) -> String {
    ranges
        .iter()
        .map(|r| format!("{} {} {}\n", r.inside, r.outside, r.size))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(json: &str) -> Vec<LinuxIdMapping> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn maps_are_text_of_three_numbers() {
        let users = map(
            r#"[{"containerID":0,"hostID":100000,"size":65536},{"containerID":65536,"hostID":5,"size":1}]"#,
        );
        let maps = IdMaps::parse(Some(&users), Some(&users)).unwrap().unwrap();
        assert_eq!(text(&maps.users), "0 100000 65536\n65536 5 1\n");
        assert_eq!(IdMaps::parse(None, Some(&Vec::new())), Ok(None));
    }

    #[test]
    fn impossible_maps_are_refused() {
        let good = map(r#"[{"containerID":0,"hostID":0,"size":1}]"#);
        assert_eq!(IdMaps::parse(Some(&good), None), Err(IdMapError::Half));
        for bad in [
            r#"[{"containerID":0,"hostID":0,"size":0}]"#,
            r#"[{"containerID":0,"hostID":4294967295,"size":2}]"#,
        ] {
            let bad = map(bad);
            assert!(IdMaps::parse(Some(&bad), Some(&good)).is_err());
        }
        let many = vec![good[0]; LINES_LIMIT + 1];
        assert_eq!(
            IdMaps::parse(Some(&many), Some(&good)),
            Err(IdMapError::TooMany(341))
        );
    }

    #[test]
    fn maps_are_words_of_a_mount_option() {
        let own = IdMaps {
            users: words("0:100000:10,10:5:1").unwrap(),
            groups: words("0:200000:10").unwrap(),
        };
        let maps = IdMaps::of_words("uids=0-1-10#@10-10-1;gids=@3-2-4", Some(&own)).unwrap();
        assert_eq!(text(&maps.users), "0 1 10\n10 5 1\n");
        assert_eq!(text(&maps.groups), "3 200002 4\n");
        assert!(IdMaps::of_words("uids=0-1-1", None).unwrap().groups.is_empty());
        assert_eq!(
            IdMaps::of_words("gids=@0-10-1", Some(&own)),
            Err(IdMapError::Relative(10))
        );
        for bad in ["0-1-2", "uids=0-1", "uids=a-b-c", "uids=0-1-0", "gids=@0-0-1"] {
            assert!(IdMaps::of_words(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn maps_are_options_too() {
        let options = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let maps = IdMaps::of_options(&options("uidmap=0:65536:65536 gidmap=0:131072:10,10:65536:1"));
        let maps = maps.unwrap().unwrap();
        assert_eq!(
            maps.users,
            ranges(&map(r#"[{"containerID":0,"hostID":65536,"size":65536}]"#)).unwrap()
        );
        assert_eq!(maps.groups.len(), 2);
        assert_eq!(maps.user_outside(7), Some(65543));
        assert_eq!(maps.user_outside(65536), None);
        assert_eq!(IdMaps::of_options(&options("lowerdir=/a")), Ok(None));
        for bad in [
            "uidmap=0:1:1",
            "uidmap=0:1 gidmap=0:1",
            "uidmap=a:b:c gidmap=0:1:1",
            "uidmap=0:1:0 gidmap=0:1:1",
        ] {
            assert!(IdMaps::of_options(&options(bad)).is_err(), "{bad}");
        }
    }
}
