//! Where this process is in the v2 hierarchy, and what of it somebody without root has been given (delegation,
//! cgroups(7)).

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::{Cgroup, CgroupHost, PROCESSES, read};

impl CgroupHost {
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

fn may_write(path: &Path) -> bool {
    access(path, AccessFlags::W_OK).is_ok()
}

/// This process's path below the hierarchy's mount, without the slash before it.
fn own_path() -> Option<PathBuf> {
    parse(&read(Path::new("/proc/self/cgroup")).ok()?)
}

fn parse(text: &str) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
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
        let text = "2:cpu:/a\n1:name=systemd:/b\n0::/user.slice/x.scope\n";
        assert_eq!(parse(text), Some("user.slice/x.scope".into()));
        assert_eq!(parse("0::/\n"), Some("".into()));
        assert_eq!(parse("0::/../x\n"), None);
        assert_eq!(parse("2:cpu:/a\n"), None);
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
