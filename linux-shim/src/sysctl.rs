//! Which kernel parameters a container may set: those the kernel keeps apart per namespace, and only for namespaces
//! that are not the host's. Pure but for [`is_hosts`].

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Parameters of the IPC namespace (ipc_namespaces(7)).
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];
const UTS: [&str; 2] = ["kernel.domainname", "kernel.hostname"];

/// Namespaces the container has to itself, as far as parameters go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Own {
    pub ipc: bool,
    pub network: bool,
    pub user: bool,
    pub uts: bool,
}

/// A parameter that would change the host.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SysctlError {
    #[error("sysctl {0:?} is not in a separate kernel namespace: setting it would change the host")]
    Hosts(String),
    #[error("sysctl {0:?} is no name of a kernel parameter")]
    Name(String),
}

/// Checks one parameter, written with dots or slashes.
pub fn check(name: &str, own: Own) -> Result<(), SysctlError> {
    let path = path_of(name);
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(SysctlError::Name(name.into()));
    }
    let dotted = path.replace('/', ".");
    let group = dotted.split('.').next().unwrap_or_default();
    let allowed = match group {
        "net" => own.network,
        "user" => own.user,
        _ if dotted.starts_with("fs.mqueue.") || IPC.contains(&dotted.as_str()) => own.ipc,
        _ if UTS.contains(&dotted.as_str()) => own.uts,
        _ => false,
    };
    if allowed {
        Ok(())
    } else {
        Err(SysctlError::Hosts(name.into()))
    }
}

/// The path below `/proc/sys`. Whichever of `.` and `/` comes first parts the name, the other one belongs to it, as an
/// interface `eth0.1` does (sysctl.d(5)).
pub fn path_of(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name.to_owned(),
        _ => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
    }
}

/// Whether a namespace given by path is the one the runtime itself is in.
pub fn is_hosts(kind: &str, path: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino()));
    let own = identity(&Path::new("/proc/self/ns").join(kind));
    matches!((identity(path), own), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_of_own_namespaces_are_set() {
        let all = Own {
            ipc: true,
            network: true,
            user: true,
            uts: true,
        };
        for name in [
            "net.ipv4.ip_forward",
            "net/ipv4/conf/eth0.1/rp_filter",
            "kernel.shmmax",
            "fs.mqueue.msg_max",
        ] {
            assert_eq!(check(name, all), Ok(()), "{name}");
            assert!(check(name, Own::default()).is_err(), "{name}");
        }
        for name in [
            "vm.swappiness",
            "kernel.core_pattern",
            "kernel.panic",
            "net/../kernel/core_pattern",
            "",
        ] {
            assert!(check(name, all).is_err(), "{name}");
        }
    }

    #[test]
    fn names_become_paths() {
        for (name, path) in [
            ("net.ipv4.conf.eth0/1.x", "net/ipv4/conf/eth0.1/x"),
            ("net/ipv4/conf/eth0.1/x", "net/ipv4/conf/eth0.1/x"),
            ("kernel.sem", "kernel/sem"),
        ] {
            assert_eq!(path_of(name), path);
        }
    }

    #[test]
    fn the_hosts_own_namespace_is_known() {
        assert!(is_hosts("net", Path::new("/proc/self/ns/net")));
        assert!(!is_hosts("net", Path::new("/nowhere")));
    }
}
