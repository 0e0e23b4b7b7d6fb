//! Labels of the host's security modules, put on the program when it is executed.
//!
//! Which of them the host has is looked at before a container is made: a confinement asked for and not to be had is
//! refused, never dropped.

use std::io::{self, Write};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::error::{During, InitError};
use crate::sys::mount::new_filesystem;

/// What config.json names, empty for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    pub apparmor: Option<String>,
    pub selinux: Option<String>,
}

/// True where AppArmor confines.
pub fn has_apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// True where SELinux is loaded.
pub fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Sets what the next `execve` of this thread changes to.
pub fn apply(labels: &Labels) -> Result<(), InitError> {
    if let Some(profile) = &labels.apparmor {
        let step = || format!("take the AppArmor profile {profile:?}");
        let value = format!("exec {profile}");
        let own = write("self/attr/apparmor/exec", &value);
        // Kernels before 5.8 have the file the security modules share only.
        own.or_else(|_| write("self/attr/exec", &value)).during(step)?;
    }
    if let Some(label) = &labels.selinux {
        write("self/attr/exec", label).during(|| format!("take the SELinux label {label:?}"))?;
    }
    Ok(())
}

/// Through a procfs of our own: what the container has on `/proc` is not to be trusted (CVE-2019-16884).
fn write(path: &str, value: &str) -> io::Result<()> {
    let proc = new_filesystem("proc", Some("proc"), &[], 0)?;
    let how = OpenHow::new()
        .flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = openat2(&proc, path, how)?;
    std::fs::File::from(file).write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::errno::Errno;
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// Whatever is mounted on `/proc`: a file there takes every label, and confines nobody.
    #[test]
    fn a_procfs_that_is_none_is_not_believed() {
        let fake = tempfile::tempdir().unwrap();
        let files = ["self/attr/exec", "self/attr/apparmor/exec"].map(|name| fake.path().join(name));
        for file in &files {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        let on_proc = fake.path().to_owned();
        let applied = std::thread::spawn(move || {
            match unshare(CloneFlags::CLONE_NEWNS) {
                Err(Errno::EPERM) => return None,
                done => done.unwrap(),
            }
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            mount(
                Some(&on_proc),
                "/proc",
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .unwrap();
            let label = Some("unconfined".to_owned());
            let [apparmor, selinux] = [(label.clone(), None), (None, label)];
            Some([apparmor, selinux].map(|(apparmor, selinux)| apply(&Labels { apparmor, selinux })))
        });
        let Some(applied) = applied.join().unwrap() else {
            return eprintln!("skipped: needs root");
        };
        for file in &files {
            assert_eq!(fs::read_to_string(file).unwrap(), "", "{file:?} {applied:?}");
        }
    }
}
