//! Kernel settings under /proc/sys/net: those the node needs, those every Pod starts with, and those
//! a Pod may ask for (`spec.securityContext.sysctls`).
//!
//! /proc/sys shows the namespaces of the thread that opens a file, so a Pod's settings are written by
//! the thread that made its namespaces.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// The settings a Pod may choose: namespaced, and unable to harm a neighbour. The list is the kubelet's
/// (documentation: Tasks, "Using sysctls in a Kubernetes Cluster", safe set).
const SAFE: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// What every Pod starts with, as under containerd: ports below 1024 and ping without privilege.
const POD_DEFAULTS: &[(&str, &str)] = &[
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];

/// What holds in every Pod whatever it asks for. A Pod reaches its neighbours through the gateway only;
/// the node, forwarding out of the interface a packet came in by, may tell it of a shorter way that
/// does not exist, so it must not listen.
const POD_FIXED: &[(&str, &str)] = &[
    ("net.ipv4.conf.all.accept_redirects", "0"),
    ("net.ipv4.conf.default.accept_redirects", "0"),
];

/// A setting that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    #[error("forbidden sysctl: {name:?} not allowlisted")]
    Forbidden { name: String },
    #[error("forbidden sysctl: {name:?} not allowed with host {namespace} enabled")]
    OfHost { name: String, namespace: &'static str },
    #[error("cannot set sysctl {name} to {value:?}")]
    Write {
        name: String,
        value: String,
        source: io::Error,
    },
}

/// The settings of a Pod in the order they are written: defaults, the Pod's own over them, fixed ones last. Who may choose which
/// was decided before; what is the host's is nobody's.
pub fn pod_settings(asked: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, SysctlError> {
    let mut settings = pairs(POD_DEFAULTS);
    for (name, value) in asked {
        let name = dotted(name);
        if namespace_of(&name).is_none() {
            return Err(SysctlError::Forbidden { name });
        }
        settings.insert(name, value.clone());
    }
    settings.extend(pairs(POD_FIXED));
    Ok(settings)
}

/// The name of a setting with dots between its parts. Where slashes are between them, dots are part of them (sysctl.d(5)).
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => swapped(name),
        _ => name.to_owned(),
    }
}

fn swapped(name: &str) -> String {
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        c => c,
    };
    name.chars().map(swap).collect()
}

/// The namespace whose setting this is, if it is not the host's (ipc_namespaces(7), network_namespaces(7)).
fn namespace_of(name: &str) -> Option<&'static str> {
    let is_ipc = |name: &str| {
        let mut beginnings = ["kernel.sem", "kernel.shm", "kernel.msg", "fs.mqueue."].into_iter();
        beginnings.any(|beginning| name.starts_with(beginning))
    };
    match name {
        _ if !name.split(['.', '/']).all(is_part) => None,
        _ if name.starts_with("net.") => Some("Net"),
        _ if is_ipc(name) => Some("IPC"),
        _ => None,
    }
}

/// A part of a setting's name as the API takes it; `..` is none.
fn is_part(part: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    let outer = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    part.bytes().all(inner) && outer(part.bytes().next()) && outer(part.bytes().last())
}

/// A setting beyond the safe ones that Pods of this node may choose, or the beginning of some, with `*` (the kubelet's
/// `--allowed-unsafe-sysctls`).
///
/// # Errors
/// It is neither, or the host's.
pub fn pattern(text: &str) -> Result<String, String> {
    let name = dotted(text);
    let known = match name.strip_suffix('*') {
        // Whatever follows is of the same namespace.
        Some(beginning) => namespace_of(&format!("{beginning}x")),
        None => namespace_of(&name),
    };
    match known {
        Some(_) => Ok(name),
        None => Err(format!("the sysctls {text:?} are not known to be namespaced")),
    }
}

/// Whether a Pod may choose this setting, as a safe one or one of those [`pattern`]s; in a namespace of the host's nobody may.
pub fn check(name: &str, allowed: &[String], host_network: bool, host_ipc: bool) -> Result<(), SysctlError> {
    let name = dotted(name);
    let fits = |pattern: &String| match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => *pattern == name,
    };
    let may_choose = SAFE.contains(&name.as_str()) || allowed.iter().any(fits);
    match namespace_of(&name).filter(|_| may_choose) {
        None => Err(SysctlError::Forbidden { name }),
        Some(namespace @ "IPC") if host_ipc => Err(SysctlError::OfHost { name, namespace }),
        Some(namespace @ "Net") if host_network => Err(SysctlError::OfHost { name, namespace }),
        Some(_) => Ok(()),
    }
}

/// Whether only the root of the user namespace that owns a Pod's namespaces may write this setting (ipc_namespaces(7)):
/// those of the network also the host's may.
pub fn is_owners(name: &str) -> bool {
    namespace_of(&dotted(name)) == Some("IPC")
}

/// Writes one setting, for the namespaces of the calling thread.
pub fn write(name: &str, value: &str) -> Result<(), SysctlError> {
    let path = PathBuf::from("/proc/sys").join(swapped(name));
    std::fs::write(path, value).map_err(|source| SysctlError::Write {
        name: name.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// One setting the node needs on the host, and what does not work without it.
pub struct HostSetting {
    pub name: &'static str,
    pub value: &'static str,
    pub without: &'static str,
}

/// What else must hold for packets of Pods is a setting of their own links.
pub const FORWARDING: HostSetting = HostSetting {
    name: "net.ipv4.ip_forward",
    value: "1",
    without: "Pods reach neither each other nor anything outside this host",
};

/// Takes IPv6 off a link that leads to a Pod, which else could present itself to this host as a router. A kernel without
/// IPv6 has nothing to take off.
pub fn without_ipv6(link: &str) -> Result<(), SysctlError> {
    match write(&format!("net.ipv6.conf.{link}.disable_ipv6"), "1") {
        Err(SysctlError::Write { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn pairs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, value: &str) -> BTreeMap<String, String> {
        pairs(&[(name, value)])
    }

    #[test]
    fn a_pod_may_change_defaults_but_not_what_is_fixed() {
        let settings = pod_settings(&asked("net.ipv4.ip_unprivileged_port_start", "80")).unwrap();
        assert_eq!(settings["net.ipv4.ip_unprivileged_port_start"], "80");
        assert_eq!(settings["net.ipv4.ping_group_range"], "0 2147483647");
        assert_eq!(settings["net.ipv4.conf.all.accept_redirects"], "0");
        let slashed = pod_settings(&asked("net/ipv4/tcp_syncookies", "0")).unwrap();
        assert_eq!(slashed["net.ipv4.tcp_syncookies"], "0");
    }

    #[test]
    fn settings_of_the_host_are_nobodys() {
        let words = |name, network, ipc| check(name, &[], network, ipc).map_err(|e| e.to_string());
        let (ipc, net) = ("kernel/shm_rmid_forced", "net.ipv4.tcp_syncookies");
        assert_eq!(words(ipc, true, false), Ok(()));
        assert_eq!(words(net, false, true), Ok(()));
        let refused = |name, kind| {
            Err(format!(
                "forbidden sysctl: {name:?} not allowed with host {kind} enabled"
            ))
        };
        assert_eq!(words(ipc, false, true), refused("kernel.shm_rmid_forced", "IPC"));
        assert_eq!(words(net, true, false), refused(net, "Net"));
        let unsafe_one = words("net.core.somaxconn", false, false);
        assert_eq!(
            unsafe_one,
            Err("forbidden sysctl: \"net.core.somaxconn\" not allowlisted".to_owned())
        );
    }

    #[test]
    fn what_the_node_allows_may_be_chosen() {
        let allowed: Vec<String> = ["kernel.msg*", "net/core/somaxconn", "net.ipv4.conf.*"]
            .map(|text| pattern(text).unwrap())
            .into();
        for (name, expected) in [
            ("kernel.msgmax", true),
            ("kernel/msgmnb", true),
            ("net.core.somaxconn", true),
            ("net.core.somaxconn2", false),
            ("net.ipv4.conf.eth0.forwarding", true),
            ("net.ipv4.conf.../../kernel.hostname", false),
            ("kernel.shmmax", false),
        ] {
            assert_eq!(check(name, &allowed, false, false).is_ok(), expected, "{name}");
        }
        assert!(check("kernel.msgmax", &allowed, true, false).is_ok());
        assert!(check("kernel.msgmax", &allowed, false, true).is_err());
        assert!(check("net.core.somaxconn", &allowed, true, false).is_err());
        for wrong in [
            "kernel.*",
            "vm.swappiness",
            "net*",
            "*",
            "",
            "net.*.x",
            "net.ipv4.",
            "net.a.*.*",
        ] {
            assert!(pattern(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_of_names_may_have_dots() {
        let settings = pod_settings(&asked("net/ipv4/conf/eth0.1/forwarding", "1")).unwrap();
        assert_eq!(settings["net.ipv4.conf.eth0/1.forwarding"], "1");
        assert_eq!(
            swapped("net.ipv4.conf.eth0/1.forwarding"),
            "net/ipv4/conf/eth0.1/forwarding"
        );
    }

    #[test]
    fn settings_of_the_host_are_not_written() {
        for name in [
            "kernel.core_pattern",
            "vm.swappiness",
            "net/../kernel/core_pattern",
            "../../etc/passwd",
            "",
        ] {
            let error = pod_settings(&asked(name, "1")).unwrap_err();
            assert!(matches!(error, SysctlError::Forbidden { .. }), "{name}: {error}");
        }
    }
}
