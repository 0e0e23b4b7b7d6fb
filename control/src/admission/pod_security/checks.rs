//! The checks of the Pod Security Standards, in upstream's order and words: those of `baseline` are here.
mod restricted;

use super::level::{Level, LevelVersion};
use crate::kinds::view::View;
use serde_json::Value;
use std::collections::BTreeSet;

/// A rule that a Pod breaks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub reason: String,
    pub detail: String,
}

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation {
        reason: reason.to_owned(),
        detail,
    })
}

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Kernel parameters that are a Pod's own, and the minor version since which each is allowed.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];
const SELINUX: [&str; 4] = ["", "container_t", "container_init_t", "container_kvm_t"];
const SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/";
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Everything that the level forbids about this Pod.
pub(super) fn violations(at: &LevelVersion, meta: &Value, spec: &Value) -> Vec<Violation> {
    let pod = Pod { at, meta, spec };
    let baseline = || {
        // A stricter check of the same takes the place of some.
        let stricter_since = |minor| at.level == Level::Restricted && at.since(minor);
        [
            pod.app_armor(),
            pod.capabilities().filter(|_| !stricter_since(22)),
            pod.host_namespaces(),
            pod.host_paths().filter(|_| !stricter_since(0)),
            pod.host_ports(),
            pod.probe_hosts(),
            pod.privileged(),
            pod.proc_mount().filter(|_| !stricter_since(35)),
            pod.selinux(),
            pod.seccomp().filter(|_| !stricter_since(19)),
            pod.sysctls(),
            pod.host_process(),
        ]
    };
    let restricted = || {
        [
            pod.escalation(),
            pod.dropped_capabilities(),
            pod.proc_mount().filter(|_| at.since(35)),
            pod.volume_types(),
            pod.non_root(),
            pod.root_user(),
            pod.strict_seccomp(),
        ]
    };
    match at.level {
        Level::Privileged => Vec::new(),
        Level::Baseline => baseline().into_iter().flatten().collect(),
        Level::Restricted => baseline().into_iter().chain(restricted()).flatten().collect(),
    }
}

struct Pod<'a> {
    at: &'a LevelVersion,
    meta: &'a Value,
    spec: &'a Value,
}

fn plural<'t>(one: &'t str, many: &'t str, count: usize) -> &'t str {
    if count == 1 { one } else { many }
}

fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|i| format!("\"{}\"", i.as_ref())).collect();
    items.join(", ")
}

/// `container "a"` or `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!(
        "{} {}",
        plural("container", "containers", names.len()),
        quoted(names)
    )
}

/// The Pod itself, and containers, that set something bad.
fn setters(pod: bool, bad: &[&str]) -> Option<String> {
    let mut all = Vec::new();
    all.extend(pod.then(|| "pod".to_owned()));
    all.extend((!bad.is_empty()).then(|| containers(bad)));
    (!all.is_empty()).then(|| all.join(" and "))
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(|list| self.spec.list(list))
    }

    /// Names of the containers for which this holds.
    fn those(&self, bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        let bad = self.containers().filter(|c| bad(c));
        bad.map(|c| c.text("name")).collect()
    }

    fn is_windows(&self) -> bool {
        self.at.since(25) && self.spec.text("os.name") == "windows"
    }

    /// Users of a Pod with a user namespace are nobody on the node (KEP-127).
    fn has_own_users(&self) -> bool {
        self.at.since(35) && *self.spec.at("hostUsers") == Value::Bool(false)
    }

    fn app_armor(&self) -> Option<Violation> {
        let path = "securityContext.appArmorProfile.type";
        let bad = |holder: &Value| {
            holder.has("securityContext.appArmorProfile")
                && !["RuntimeDefault", "Localhost"].contains(&holder.text(path))
        };
        let (own, names) = (bad(self.spec), self.those(bad));
        let mut values: BTreeSet<String> = BTreeSet::new();
        values.extend(own.then(|| self.spec.text(path).to_owned()));
        values.extend(
            self.containers()
                .filter(|c| bad(c))
                .map(|c| c.text(path).to_owned()),
        );
        let annotations = self.meta.map("annotations").into_iter().flatten();
        let annotations: BTreeSet<String> = annotations
            .filter_map(|(key, value)| Some((key, value.as_str()?)))
            .filter(|(key, value)| {
                let fine = value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
                key.starts_with(APPARMOR) && !fine
            })
            .map(|(key, value)| format!("{key}={value:?}"))
            .collect();
        let mut who: Vec<String> = setters(own, &names).into_iter().collect();
        if !annotations.is_empty() {
            who.push(plural("annotation", "annotations", annotations.len()).to_owned());
        }
        let values: Vec<String> = values.into_iter().chain(annotations).collect();
        let reason = plural(
            "forbidden AppArmor profile",
            "forbidden AppArmor profiles",
            values.len(),
        );
        (!who.is_empty()).then_some(())?;
        violation(
            reason,
            format!(
                "{} must not set AppArmor profile type to {}",
                who.join(" and "),
                quoted(values)
            ),
        )
    }

    fn capabilities(&self) -> Option<Violation> {
        let added = |c: &Value| c.list("securityContext.capabilities.add").to_vec();
        let bad = |c: &Value| !CAPABILITIES.contains(&c.as_str().unwrap_or_default());
        let names = self.those(|c| added(c).iter().any(bad));
        (!names.is_empty()).then_some(())?;
        violation(
            "non-default capabilities",
            format!(
                "{} must not include {} in securityContext.capabilities.add",
                containers(&names),
                quoted(self.texts(added, bad))
            ),
        )
    }

    /// What these lists of all containers hold of bad texts, sorted, each once.
    fn texts(&self, list: impl Fn(&Value) -> Vec<Value>, bad: impl Fn(&Value) -> bool) -> BTreeSet<String> {
        let all = self.containers().flat_map(list).filter(bad);
        all.filter_map(|v| v.as_str().map(str::to_owned)).collect()
    }

    fn host_namespaces(&self) -> Option<Violation> {
        let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
            .iter()
            .filter(|key| self.spec.flag(key))
            .map(|key| format!("{key}=true"))
            .collect();
        (!shared.is_empty()).then_some(())?;
        violation("host namespaces", shared.join(", "))
    }

    fn host_paths(&self) -> Option<Violation> {
        let volumes = self.spec.list("volumes").iter().filter(|v| v.has("hostPath"));
        let names: Vec<&str> = volumes.map(|v| v.text("name")).collect();
        (!names.is_empty()).then_some(())?;
        let word = plural("volume", "volumes", names.len());
        violation("hostPath volumes", format!("{word} {}", quoted(names)))
    }

    fn host_ports(&self) -> Option<Violation> {
        let taken = |c: &Value| -> Vec<String> {
            let ports = c.list("ports").iter().filter_map(|p| p.int("hostPort"));
            ports.filter(|p| *p != 0).map(|p| p.to_string()).collect()
        };
        let names = self.those(|c| !taken(c).is_empty());
        (!names.is_empty()).then_some(())?;
        let ports: BTreeSet<String> = self.containers().flat_map(taken).collect();
        let count = ports.len();
        violation(
            "hostPort",
            format!(
                "{} {} {} {}",
                containers(&names),
                plural("uses", "use", names.len()),
                plural("hostPort", "hostPorts", count),
                ports.into_iter().collect::<Vec<_>>().join(", ")
            ),
        )
    }

    /// A probe of another host is a request in the node's name (KEP-4559).
    fn probe_hosts(&self) -> Option<Violation> {
        const HANDLERS: [&str; 5] = [
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle.postStart",
            "lifecycle.preStop",
        ];
        let hosts = |c: &Value| -> Vec<Value> {
            let handlers = HANDLERS.iter().map(|h| c.at(h));
            let hosts = handlers.flat_map(|h| [h.at("httpGet.host"), h.at("tcpSocket.host")]);
            hosts
                .filter(|h| h.as_str().is_some_and(|h| !h.is_empty()))
                .cloned()
                .collect()
        };
        let names: BTreeSet<&str> = self.those(|c| !hosts(c).is_empty()).into_iter().collect();
        (!names.is_empty() && self.at.since(34)).then_some(())?;
        let names: Vec<&str> = names.into_iter().collect();
        let forbidden = self.texts(hosts, |_| true);
        violation(
            "probe or lifecycle host",
            format!(
                "{} {} {} {}",
                containers(&names),
                plural("uses", "use", names.len()),
                plural(
                    "probe or lifecycle host",
                    "probe or lifecycle hosts",
                    forbidden.len()
                ),
                quoted(forbidden)
            ),
        )
    }

    fn privileged(&self) -> Option<Violation> {
        let names = self.those(|c| c.flag("securityContext.privileged"));
        (!names.is_empty()).then_some(())?;
        violation(
            "privileged",
            format!(
                "{} must not set securityContext.privileged=true",
                containers(&names)
            ),
        )
    }

    fn proc_mount(&self) -> Option<Violation> {
        let mount = |c: &Value| vec![c.at("securityContext.procMount").clone()];
        let bad = |m: &Value| m.as_str().is_some_and(|m| m != "Default");
        let names = self.those(|c| mount(c).iter().any(bad));
        let relaxed = self.has_own_users() && self.at.level == Level::Baseline;
        (!names.is_empty() && !relaxed).then_some(())?;
        violation(
            "procMount",
            format!(
                "{} must not set securityContext.procMount to {}",
                containers(&names),
                quoted(self.texts(mount, bad))
            ),
        )
    }

    fn selinux(&self) -> Option<Violation> {
        let path = "securityContext.seLinuxOptions";
        let known = |t: &str| SELINUX.contains(&t) || self.at.since(31) && t == "container_engine_t";
        let bad_type = |h: &Value| !known(h.at(path).text("type"));
        let set = |h: &Value, key: &str| !h.at(path).text(key).is_empty();
        let bad = |h: &Value| bad_type(h) || set(h, "user") || set(h, "role");
        let who = setters(bad(self.spec), &self.those(bad))?;
        let holders = || std::iter::once(self.spec).chain(self.containers());
        let types: BTreeSet<&str> = holders()
            .filter(|h| bad_type(h))
            .map(|h| h.at(path).text("type"))
            .collect();
        let mut what = Vec::new();
        if !types.is_empty() {
            what.push(format!(
                "{} {}",
                plural("type", "types", types.len()),
                quoted(types)
            ));
        }
        for key in ["user", "role"] {
            what.extend(
                holders()
                    .any(|h| set(h, key))
                    .then(|| format!("{key} may not be set")),
            );
        }
        violation(
            "seLinuxOptions",
            format!(
                "{who} set forbidden securityContext.seLinuxOptions: {}",
                what.join("; ")
            ),
        )
    }

    fn seccomp(&self) -> Option<Violation> {
        match self.at.since(19) {
            true => self.seccomp_fields(),
            false => self.seccomp_annotations(),
        }
    }

    /// Where profiles were said before there were fields for them.
    fn seccomp_annotations(&self) -> Option<Violation> {
        let of_containers = self
            .containers()
            .map(|c| format!("container.{SECCOMP}{}", c.text("name")));
        let keys = std::iter::once(format!("{SECCOMP}pod")).chain(of_containers);
        let fine = |value: &str| {
            ["runtime/default", "docker/default"].contains(&value) || value.starts_with("localhost/")
        };
        let said = |key: String| {
            let value = self.meta.at("annotations").get(&key)?.as_str()?;
            (!fine(value)).then(|| format!("{key}={value:?}"))
        };
        let forbidden: BTreeSet<String> = keys.filter_map(said).collect();
        (!forbidden.is_empty()).then_some(())?;
        let word = plural("annotation", "annotations", forbidden.len());
        let forbidden: Vec<String> = forbidden.into_iter().collect();
        violation(
            "seccompProfile",
            format!("forbidden {word} {}", forbidden.join(", ")),
        )
    }

    fn seccomp_fields(&self) -> Option<Violation> {
        let path = "securityContext.seccompProfile";
        let bad =
            |h: &Value| h.has(path) && !["Localhost", "RuntimeDefault"].contains(&h.at(path).text("type"));
        let who = setters(bad(self.spec), &self.those(bad))?;
        let holders = std::iter::once(self.spec).chain(self.containers());
        let values: BTreeSet<&str> = holders
            .filter(|h| bad(h))
            .map(|h| h.at(path).text("type"))
            .collect();
        violation(
            "seccompProfile",
            format!(
                "{who} must not set securityContext.seccompProfile.type to {}",
                quoted(values)
            ),
        )
    }

    fn sysctls(&self) -> Option<Violation> {
        let known = |name: &str| {
            SYSCTLS
                .iter()
                .any(|(n, since)| *n == name && self.at.since(*since))
        };
        let set = self
            .spec
            .list("securityContext.sysctls")
            .iter()
            .map(|s| s.text("name"));
        let forbidden: Vec<&str> = set.filter(|name| !known(name)).collect();
        (!forbidden.is_empty()).then_some(())?;
        violation("forbidden sysctls", forbidden.join(", "))
    }

    fn host_process(&self) -> Option<Violation> {
        let bad = |h: &Value| h.flag("securityContext.windowsOptions.hostProcess");
        let who = setters(bad(self.spec), &self.those(bad))?;
        violation(
            "hostProcess",
            format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
        )
    }
}
