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

fn range(mapping: &LinuxIdMapping) -> Result<Range, IdMapError> {
    let (inside, outside, size) = (mapping.container_id(), mapping.host_id(), mapping.size());
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
}
