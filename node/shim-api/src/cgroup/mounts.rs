//! Finding the hierarchies: v2 alone where it usually is, else by `/proc/self/mountinfo` (proc(5)).

use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::{Cgroup, CgroupError, Leg, read};
use crate::mountinfo::unescape;

/// Where the v2 hierarchy is on hosts that have it alone, and a directory of mounts on others (file-hierarchy(7)).
const USUAL: &str = "/sys/fs/cgroup";

/// v1 controllers a container is put under; others (`perf_event`, `misc`) stay with the host.
const USED: [&str; 12] = [
    "cpu", "cpuacct", "cpuset", "memory", "pids", "freezer", "devices", "blkio", "hugetlb", "net_cls",
    "net_prio", "rdma",
];

/// The hierarchies of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupHost {
    v1: Vec<(Vec<String>, PathBuf)>,
    v2: Option<PathBuf>,
    /// Hierarchies without controllers, by name: `name=systemd`.
    named: Vec<(String, PathBuf)>,
}

impl CgroupHost {
    /// Looks at the calling process's mounts: at one only if that is all of v2, since a host may have thousands.
    pub fn discover() -> Result<Self, CgroupError> {
        if statfs(USUAL).is_ok_and(|seen| seen.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            return Ok(Self::of_v2(USUAL.into()));
        }
        let host = Self::from_mountinfo(&read(Path::new("/proc/self/mountinfo"))?);
        if host.v1.is_empty() && host.v2.is_none() {
            Err(CgroupError::NoHierarchy)
        } else {
            Ok(host)
        }
    }

    fn of_v2(mount: PathBuf) -> Self {
        Self {
            v1: Vec::new(),
            v2: Some(mount),
            named: Vec::new(),
        }
    }

    /// As first discovered by this program: what a shim, an agent or a command line asks for again and again does not move.
    pub fn known() -> Result<&'static Self, CgroupError> {
        static KNOWN: OnceLock<CgroupHost> = OnceLock::new();
        match KNOWN.get() {
            Some(host) => Ok(host),
            None => {
                let host = Self::discover()?;
                Ok(KNOWN.get_or_init(|| host))
            }
        }
    }

    /// Reads the text of a mountinfo file.
    pub fn from_mountinfo(text: &str) -> Self {
        let mut host = Self {
            v1: Vec::new(),
            v2: None,
            named: Vec::new(),
        };
        for line in text.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = left.split(' ').nth(4).map(unescape) else {
                continue;
            };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") if host.v2.is_none() => host.v2 = Some(point),
                Some("cgroup") => host.add_v1(right.nth(1).unwrap_or_default(), point),
                _ => {}
            }
        }
        host
    }

    fn add_v1(&mut self, options: &str, point: PathBuf) {
        let controllers: Vec<String> = options
            .split(',')
            .filter(|o| USED.contains(o))
            .map(str::to_owned)
            .collect();
        if let Some(name) = options.split(',').find(|o| o.starts_with("name=")) {
            // Others are seen again where a container's root is mounted in this namespace.
            if !self.named.iter().any(|(known, _)| known == name) {
                self.named.push((name.to_owned(), point));
            }
            return;
        }
        let known = |c: &String| self.v1.iter().any(|(have, _)| have.contains(c));
        if !controllers.is_empty() && !controllers.iter().any(known) {
            self.v1.push((controllers, point));
        }
    }

    /// Where the v2 hierarchy is mounted.
    pub(super) fn unified_mount(&self) -> Option<&Path> {
        self.v2.as_deref()
    }

    /// True when controllers are in the v2 hierarchy; false on v1 and hybrid hosts.
    pub fn is_v2(&self) -> bool {
        self.v2.is_some()
            && !self
                .v1
                .iter()
                .any(|(c, _)| c.iter().any(|c| c == "memory" || c == "cpu"))
    }

    /// True when `memory`, `cpu`, … can be limited here at all. Beside a v1 that limits, v2 only follows processes.
    pub fn has_controller(&self, name: &str) -> bool {
        let on_v1 = self
            .v1
            .iter()
            .any(|(controllers, _)| controllers.iter().any(|c| c == name));
        let listed = |mount: &PathBuf| {
            let list = read(&mount.join("cgroup.controllers")).unwrap_or_default();
            list.split_whitespace().any(|c| c == name)
        };
        on_v1 || (self.is_v2() && self.v2.as_ref().is_some_and(listed))
    }

    /// As [`CgroupHost::cgroup`], in the hierarchies too that only name their processes, such as systemd's on v1: for
    /// what is to leave its starter's unit altogether, and may be a systemd itself, which needs a place there.
    pub fn cgroup_everywhere(&self, path: &str) -> Result<Cgroup, CgroupError> {
        let mut cgroup = self.cgroup(path)?;
        let relative = Path::new(path.trim_start_matches('/'));
        let leg = |(name, mount): &(String, PathBuf)| Leg {
            controllers: vec![name.clone()],
            mount: mount.clone(),
            dir: mount.join(relative),
        };
        cgroup.legs.extend(self.named.iter().map(leg));
        Ok(cgroup)
    }

    /// The cgroup of a path such as `/amphipod-1234/podUID/ID`, below each hierarchy's mount.
    pub fn cgroup(&self, path: &str) -> Result<Cgroup, CgroupError> {
        let relative = Path::new(path.trim_start_matches('/'));
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
        if relative.as_os_str().is_empty() || !relative.components().all(plain) {
            return Err(CgroupError::BadPath(path.into()));
        }
        let leg = |controllers: &[String], mount: &Path| Leg {
            controllers: controllers.to_vec(),
            mount: mount.into(),
            dir: mount.join(relative),
        };
        let mut legs: Vec<Leg> = self.v1.iter().map(|(c, m)| leg(c, m)).collect();
        legs.extend(self.v2.iter().map(|m| leg(&[], m)));
        if legs.is_empty() {
            return Err(CgroupError::NoHierarchy);
        }
        Ok(Cgroup {
            legs,
            v2_controllers: self.is_v2(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
34 31 0:31 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
36 31 0:31 /a /bundle/rootfs/sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
35 31 0:32 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";
    const V2: &str =
        "30 23 0:26 / /sys/fs/cg\\040roup rw - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";

    #[test]
    fn hybrid_keeps_controllers_on_v1() {
        let host = CgroupHost::from_mountinfo(HYBRID);
        assert!(!host.is_v2());
        assert!(host.has_controller("memory") && !host.has_controller("pids"));
        assert!(
            !host.has_controller("hugetlb"),
            "v2 has it, and does not limit beside v1"
        );
        let cgroup = host.cgroup("/a/b").unwrap();
        assert_eq!(
            cgroup.v1_dir("cpuacct"),
            Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/a/b"))
        );
        assert_eq!(
            cgroup.unified_dir(),
            Some(Path::new("/sys/fs/cgroup/unified/a/b"))
        );
        assert_eq!(cgroup.v1_dir("pids"), None);
        assert_eq!(cgroup.legs.len(), 3);
        let everywhere = host.cgroup_everywhere("/a/b").unwrap();
        assert_eq!(
            everywhere.v1_dir("name=systemd"),
            Some(Path::new("/sys/fs/cgroup/systemd/a/b"))
        );
        assert_eq!(everywhere.legs.len(), 4);
    }

    #[test]
    fn v2_alone_has_the_controllers() {
        let host = CgroupHost::from_mountinfo(V2);
        assert!(host.is_v2());
        assert_eq!(
            host.cgroup("x").unwrap().unified_dir(),
            Some(Path::new("/sys/fs/cg roup/x"))
        );
    }

    #[test]
    fn paths_stay_inside() {
        let host = CgroupHost::from_mountinfo(V2);
        for bad in ["", "/", "/a/../b", "../x", "."] {
            assert!(host.cgroup(bad).is_err(), "{bad}");
        }
        assert!(CgroupHost::from_mountinfo("").cgroup("/a").is_err());
    }
}
