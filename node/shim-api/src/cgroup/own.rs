//! Where this process is in the hierarchies, and what of v2's somebody without root has been given (delegation,
//! cgroups(7)).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::{Cgroup, CgroupError, CgroupHost, PROCESSES, read, write};

impl CgroupHost {
    /// The cgroup this process is in, in every hierarchy, which whoever gets none of its own is in too. A hierarchy in which
    /// it has no directory in sight is all there is to see of it.
    pub fn own(&self) -> Result<Cgroup, CgroupError> {
        // Of any path: only the hierarchies are taken from it.
        let mut cgroup = self.cgroup_everywhere("own")?;
        let text = read(Path::new(OWN))?;
        for leg in &mut cgroup.legs {
            let at = in_hierarchy(&text, leg.controllers.first().map_or("", String::as_str));
            let dir = at.map(|at| leg.mount.join(at)).filter(|dir| dir.is_dir());
            leg.dir = dir.unwrap_or_else(|| leg.mount.clone());
        }
        Ok(cgroup)
    }

    /// A path for a new cgroup of that name: beside this process's own where one can be made, else below it.
    pub fn path_near_own(&self, name: &str) -> Option<String> {
        let (mount, own) = (self.unified_mount()?, own_path()?);
        let beside = own.parent().filter(|parent| may_write(&mount.join(parent)));
        let path = beside.unwrap_or(&own).join(name);
        Some(format!("/{}", path.display()))
    }

    /// Whether this process may go from its own cgroup to `cgroup`, which need not exist: the kernel asks for the right
    /// to move processes in the cgroup above both.
    pub fn may_enter(&self, cgroup: &Cgroup) -> bool {
        let (Some(mount), Some(own), Some(dir)) = (self.unified_mount(), own_path(), cgroup.unified_dir())
        else {
            return false;
        };
        may_write(&common(&mount.join(own), dir).join(PROCESSES))
    }
}

impl Cgroup {
    /// Where a process of this cgroup is in the v2 hierarchy: below it, where it has divided its cgroup among its own
    /// processes. Then nobody may be in the one above them any more (`EBUSY`; "No Internal Process Constraint", cgroup-v2).
    pub fn unified_dir_of(&self, pid: u32) -> Option<PathBuf> {
        let leg = self.legs.iter().find(|leg| leg.is_unified())?;
        let text = read(Path::new(&format!("/proc/{pid}/cgroup"))).ok()?;
        let dir = leg.mount.join(in_hierarchy(&text, "")?);
        // Elsewhere it is no longer the cgroup's.
        dir.starts_with(&leg.dir).then_some(dir)
    }

    /// As [`Cgroup::enter`], where that process is if nobody else may be in the cgroup itself.
    pub fn enter_beside(&self, pid: u32) -> Result<(), CgroupError> {
        match self.enter() {
            Err(CgroupError::Write { source, .. }) if source.kind() == ErrorKind::ResourceBusy => {
                let below = self.unified_dir_of(pid);
                let dir = below.as_deref().or(self.unified_dir());
                write(&dir.ok_or(CgroupError::NoHierarchy)?.join(PROCESSES), "0")?;
                self.enter_v1()
            }
            entered => entered,
        }
    }
}

fn may_write(path: &Path) -> bool {
    access(path, AccessFlags::W_OK).is_ok()
}

/// Where a process is told where it is (cgroups(7)).
const OWN: &str = "/proc/self/cgroup";

/// This process's path below the v2 hierarchy's mount, without the slash before it.
fn own_path() -> Option<PathBuf> {
    in_hierarchy(&read(Path::new(OWN)).ok()?, "")
}

/// The same in the hierarchy of a v1 controller, or of none.
fn in_hierarchy(text: &str, controller: &str) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(":/")?;
        controllers.split(',').any(|c| c == controller).then_some(path)
    })?;
    // A path that goes up is outside of this process's cgroup namespace.
    (!path.starts_with("..")).then(|| path.into())
}

fn common(a: &Path, b: &Path) -> PathBuf {
    let both = a.components().zip(b.components());
    both.take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_path_is_the_one_without_controllers() {
        let text = "2:cpu,cpuacct:/a\n1:name=systemd:/b\n0::/user.slice/x.scope\n";
        let parse = |text, controller| in_hierarchy(text, controller);
        assert_eq!(parse(text, ""), Some("user.slice/x.scope".into()));
        assert_eq!(parse(text, "cpuacct"), Some("a".into()));
        assert_eq!(parse(text, "name=systemd"), Some("b".into()));
        assert_eq!(parse("0::/\n", ""), Some("".into()));
        assert_eq!(parse("0::/../x\n", ""), None);
        assert_eq!(parse("2:cpu:/a\n", ""), None);
    }

    #[test]
    fn the_own_cgroup_is_where_this_process_is() {
        let Ok(host) = CgroupHost::discover() else {
            return eprintln!("skipped: this host has no cgroups");
        };
        let own = std::process::id().to_string();
        for (name, dir) in host.own().unwrap().directories() {
            let inside = std::fs::read_to_string(dir.join(PROCESSES)).unwrap();
            assert!(inside.lines().any(|pid| pid == own), "{name}");
        }
    }

    #[test]
    fn both_are_below_what_they_share() {
        assert_eq!(
            common(Path::new("/c/a/b"), Path::new("/c/a/d/e")),
            Path::new("/c/a")
        );
        assert_eq!(common(Path::new("/c"), Path::new("/c/a")), Path::new("/c"));
    }
}
