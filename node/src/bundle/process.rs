//! The process of a container: words, environment, directory, user, capabilities. Pure.

use std::collections::HashSet;
use std::path::PathBuf;
use std::str::FromStr;

use amphipod_shim_api::program::places;
use k8s_openapi::api::core::v1::Container;
use oci_spec::runtime::{Capability, LinuxCapabilities, Process, User};

use super::{Parts, Runtime, is_privileged, security};
use crate::env::Environment;
use crate::env::expand::expand;
use crate::images::ImageConfig;
use crate::pods::qos;

/// Where programs are looked for when neither image nor Pod says.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Capabilities a container has by default; containerd's and Docker's set.
const DEFAULT_CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// Every capability of Linux by its kernel number order (capability.h).
const ALL_CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Whether set-user-id programs work. Stricter than upstream, where they do unless forbidden: here only a container that
/// is privileged or says `allowPrivilegeEscalation: true` may gain rights that it did not start with (KEP-624's field,
/// the restricted Pod Security Standard's value as default).
fn may_gain_privileges(container: &Container) -> bool {
    let security = security(container);
    security
        .and_then(|s| s.allow_privilege_escalation)
        .unwrap_or(security.and_then(|s| s.privileged) == Some(true))
}

/// Builds `process`.
pub fn process(parts: &Parts<'_>) -> Process {
    let mut user = User::default();
    user.set_uid(parts.identity.uid).set_gid(parts.identity.gid);
    if !parts.identity.additional_gids.is_empty() {
        user.set_additional_gids(Some(parts.identity.additional_gids.clone()));
    }
    let no_new_privileges = !may_gain_privileges(parts.container);
    let mut process = Process::default();
    process
        .set_terminal(Some(parts.container.tty == Some(true)))
        .set_user(user)
        .set_args(Some(words(parts)))
        .set_env(Some(environment(parts)))
        .set_cwd(directory(parts.container, parts.image))
        .set_capabilities(Some(capabilities(parts.container)))
        .set_rlimits(None)
        .set_no_new_privileges(Some(no_new_privileges))
        .set_apparmor_profile(parts.apparmor.map(str::to_owned))
        .set_oom_score_adj(Some(qos::oom_score_adj(
            parts.pod.spec,
            parts.container,
            parts.memory_capacity,
        )));
    process
}

/// `command` replaces the image's entrypoint and command, `args` only its command (core/v1 Container).
fn command_line(container: &Container, image: &ImageConfig, environment: &Environment) -> Vec<String> {
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        let lookup = |name: &str| environment.get(name).map(str::to_owned);
        words.iter().flatten().map(|word| expand(word, lookup)).collect()
    };
    let command = expanded(&container.command);
    let args = expanded(&container.args);
    match (command.is_empty(), args.is_empty()) {
        (false, _) => [command, args].concat(),
        (true, false) => [image.entrypoint.clone(), args].concat(),
        (true, true) => [image.entrypoint.clone(), image.cmd.clone()].concat(),
    }
}

/// Where in an image of files the program may be that a container is to run.
pub fn program(container: &Container, image: &ImageConfig, environment: &Environment) -> Vec<PathBuf> {
    let words = command_line(container, image, environment);
    let image_path = || image.env.iter().find_map(|word| word.strip_prefix("PATH="));
    let path = environment.get("PATH").or_else(image_path);
    let directory = directory(container, image);
    let places = words.first().map(|word| places(word, &directory, path));
    places.unwrap_or_default()
}

fn words(parts: &Parts<'_>) -> Vec<String> {
    let mut made = command_line(parts.container, parts.image, parts.environment);
    if names_nothing(parts) {
        made.insert(0, parts.container.name.clone());
    }
    made
}

fn has_command(container: &Container) -> bool {
    container.command.as_ref().is_some_and(|words| !words.is_empty())
}

/// Whether the Pod has another program of the image run than the image says.
pub fn names_another(parts: &Parts<'_>) -> bool {
    let image = parts.image.entrypoint.first().or(parts.image.cmd.first());
    has_command(parts.container) && words(parts).first() != image
}

/// A Wasm artifact has no entrypoint: `argv[0]` is then the container's name. So it is where arguments take the place of the
/// image's command, which is the program all the same.
fn names_nothing(parts: &Parts<'_>) -> bool {
    let Runtime::Wasm {
        module: Some(_),
        has_root,
        ..
    } = parts.runtime
    else {
        return false;
    };
    let has_args = parts
        .container
        .args
        .as_ref()
        .is_some_and(|words| !words.is_empty());
    let by_cmd = has_root && !has_args && !parts.image.cmd.is_empty();
    !has_command(parts.container) && parts.image.entrypoint.is_empty() && !by_cmd
}

fn environment(parts: &Parts<'_>) -> Vec<String> {
    let mut base = match parts.runtime {
        Runtime::Native => vec![format!("PATH={DEFAULT_PATH}")],
        Runtime::Wasm { .. } => Vec::new(),
    };
    base.push(format!("HOSTNAME={}", parts.hostname));
    if parts.container.tty == Some(true) {
        base.push("TERM=xterm".into());
    }
    if let (Runtime::Native, Some(home)) = (parts.runtime, &parts.identity.home) {
        base.push(format!("HOME={home}"));
    } else if matches!(parts.runtime, Runtime::Native) {
        base.push("HOME=/".into());
    }
    let mut image = Environment::default();
    for word in parts.image.env.iter() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        image.set(name, value);
    }
    parts.environment.over(&image.over(&base))
}

fn directory(container: &Container, image: &ImageConfig) -> PathBuf {
    let own = container.working_dir.as_deref().filter(|d| !d.is_empty());
    let image = Some(image.working_dir.as_str()).filter(|d| !d.is_empty());
    own.or(image).unwrap_or("/").into()
}

fn capabilities(container: &Container) -> LinuxCapabilities {
    let set = chosen(container);
    let mut made = LinuxCapabilities::default();
    made.set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(None)
        .set_ambient(None);
    made
}

fn chosen(container: &Container) -> HashSet<Capability> {
    if is_privileged(container) {
        return all();
    }
    let given = security(container).and_then(|s| s.capabilities.as_ref());
    let names = |list: Option<&Vec<String>>| -> Vec<String> {
        let bare = |name: &String| name.to_ascii_uppercase().trim_start_matches("CAP_").to_owned();
        list.into_iter().flatten().map(bare).collect()
    };
    let add = names(given.and_then(|c| c.add.as_ref()));
    let drop = names(given.and_then(|c| c.drop.as_ref()));
    let is_all = |list: &[String]| list.iter().any(|name| name == "ALL");
    let mut set = match (is_all(&add), is_all(&drop)) {
        (true, _) => all(),
        (false, true) => HashSet::new(),
        (false, false) => DEFAULT_CAPABILITIES.into_iter().collect(),
    };
    set.extend(add.iter().filter_map(|name| capability(name)));
    for dropped in drop.iter().filter_map(|name| capability(name)) {
        set.remove(&dropped);
    }
    set
}

fn all() -> HashSet<Capability> {
    ALL_CAPABILITIES
        .iter()
        .filter_map(|name| capability(name))
        .collect()
}

fn capability(name: &str) -> Option<Capability> {
    Capability::from_str(name).ok()
}
