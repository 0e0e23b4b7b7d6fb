//! `features`: what this runtime knows of config.json (OCI runtime-spec, "Features Structure").

use amphipod_shim_api::cgroup::CgroupHost;
use amphipod_shim_api::{annotations, systemd};
use caps::Capability;
use serde_json::{Value, json};

use super::report::pretty;
use super::{OciError, VERSIONS};
use crate::init::labels::{has_apparmor, has_selinux};
use crate::mount_plan::KNOWN_OPTIONS;
use crate::spec::KEEP_GROUPS;

/// Those a profile may list; of those that are not this kernel's nothing is made.
const ARCHITECTURES: [&str; 19] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_NATIVE",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// `features`.
pub fn features() -> Result<(), OciError> {
    pretty(&json!({
        "ociVersionMin": VERSIONS.0,
        "ociVersionMax": VERSIONS.1,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": KNOWN_OPTIONS,
        "linux": linux(),
        "potentiallyUnsafeConfigAnnotations": [annotations::SECCOMP, annotations::ATTACH, annotations::PROCESSES,
            "org.systemd.property.", KEEP_GROUPS],
    }))
}

fn linux() -> Value {
    let host = CgroupHost::discover().ok();
    let mut capabilities: Vec<Capability> = caps::all().into_iter().collect();
    capabilities.sort_by_key(Capability::index);
    let capabilities: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
    json!({
        "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
        "capabilities": capabilities,
        "cgroup": {
            "v1": true, "v2": true, "systemd": systemd::is_running(), "systemdUser": has_user_manager(),
            "rdma": host.is_some_and(|h| h.has_controller("rdma")),
        },
        "seccomp": seccomp(),
        "apparmor": {"enabled": has_apparmor()},
        "selinux": {"enabled": has_selinux()},
        "intelRdt": {"enabled": false},
        "memoryPolicy": {
            "modes": ["MPOL_BIND", "MPOL_DEFAULT", "MPOL_INTERLEAVE", "MPOL_LOCAL", "MPOL_PREFERRED",
                "MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE"],
            "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"],
        },
        "mountExtensions": {"idmap": {"enabled": true}},
        "netDevices": {"enabled": true},
    })
}

fn seccomp() -> Value {
    json!({
        "enabled": true,
        "actions": ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
            "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"],
        "operators": ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
            "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"],
        "archs": ARCHITECTURES,
        "knownFlags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
            "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
    })
}

/// Whether whoever runs this has a systemd of his own that can be asked for scopes.
fn has_user_manager() -> bool {
    systemd::waiting(systemd::Manager::of_user()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_architectures_are_those_that_are_read() {
        for name in ARCHITECTURES {
            let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [name]});
            serde_json::from_value::<oci_spec::runtime::LinuxSeccomp>(profile).expect(name);
        }
    }
}
