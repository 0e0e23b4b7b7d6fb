//! Limits and requests as cgroup values, computed as the kubelet does. Pure.

use amphipod_shim_api::cgroup::CgroupHost;
use amphipod_shim_api::systemd;
use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use oci_spec::runtime::{
    LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources,
};

use crate::hugepages;
use crate::options::PidsLimit;
use crate::quantity;

/// Length of a CFS period in microseconds; upstream's default.
pub const PERIOD_MICROS: u64 = 100_000;
/// The kernel refuses shorter quotas.
const MIN_QUOTA_MICROS: i64 = 1000;
/// The kernel's least weight.
const MIN_SHARES: i64 = 2;
/// The kernel's greatest weight.
const MAX_SHARES: i64 = 262_144;

/// What this host's cgroups offer, and the node's own limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupFacts {
    /// A container of several processes ends as a whole when memory runs out: cgroup v2's `memory.oom.group`, which
    /// the kubelet sets likewise.
    pub oom_group: bool,
    /// Processes and threads a container may have; `None` where nothing limits them.
    pub pids: Option<i64>,
    /// The same of a Pod.
    pub pod_pids: Option<i64>,
    /// Huge pages can be limited.
    pub huge_pages: bool,
    /// systemd runs the host: it is asked for cgroups.
    pub systemd: bool,
}

impl CgroupFacts {
    /// Looks at this host. `pids` is the limit wanted.
    pub fn of_host(pids: PidsLimit) -> Self {
        match CgroupHost::discover() {
            Ok(host) => Self {
                oom_group: host.is_v2() && host.has_controller("memory"),
                pids: pids.of_container().filter(|_| host.has_controller("pids")),
                pod_pids: pids.of_pod().filter(|_| host.has_controller("pids")),
                huge_pages: host.has_controller("hugetlb"),
                systemd: systemd::is_running(),
            },
            // Nothing can be limited: each container says so where it asks for a limit.
            Err(_) => Self::default(),
        }
    }
}

/// The cgroup values of a container, in a Pod that has `around` as a whole. It may use `given` devices beside what every
/// container has.
pub fn resources(
    container: &Container,
    around: Option<&ResourceRequirements>,
    privileged: bool,
    given: &[LinuxDevice],
    facts: CgroupFacts,
) -> LinuxResources {
    let mut made = limits_of(container, around);
    if facts.oom_group {
        let group = ("memory.oom.group".to_owned(), "1".to_owned());
        made.set_unified(Some([group].into()));
    }
    if let Some(limit) = facts.pids {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        made.set_pids(Some(pids));
    }
    // Only of who asks for some: where a host does not hand the controller down, all others start as before.
    if facts.huge_pages && hugepages::are_asked_for(container) {
        let limits = hugepages::limits(&hugepages::pools(), container);
        made.set_hugepage_limits(Some(limits.into_iter().map(of_huge_pages).collect()));
    }
    let mut devices = LinuxDeviceCgroup::default();
    devices.set_allow(privileged).set_access(Some("rwm".into()));
    made.set_devices(Some(
        [devices].into_iter().chain(given.iter().map(may_use)).collect(),
    ));
    made
}

fn of_huge_pages((size, limit): (String, i64)) -> LinuxHugepageLimit {
    let mut made = LinuxHugepageLimit::default();
    made.set_page_size(size).set_limit(limit);
    made
}

fn may_use(device: &LinuxDevice) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true)
        .set_typ(Some(device.typ()))
        .set_major(Some(device.major()))
        .set_minor(Some(device.minor()))
        .set_access(Some("rwm".into()));
    rule
}

/// What of them may change while the container runs.
pub fn limits_of(container: &Container, around: Option<&ResourceRequirements>) -> LinuxResources {
    let own = container.resources.as_ref();
    let mut made = LinuxResources::default();
    let mut cpu = LinuxCpu::default();
    let limit = limit(own, around, "cpu").and_then(quantity::milli);
    let requested = own.and_then(|own| quantity::milli(own.requests.as_ref()?.get("cpu")?));
    cpu.set_shares(Some(shares_of(requested.or(limit).unwrap_or(0))));
    if let Some(limit) = limit.filter(|milli| *milli > 0) {
        cpu.set_quota(Some(quota_of(limit)))
            .set_period(Some(PERIOD_MICROS));
    }
    made.set_cpu(Some(cpu));
    if let Some(limit) = memory_limit(own, around) {
        let mut memory = LinuxMemory::default();
        // OCI's swap is memory and swap together: none beyond the limit, as the kubelet's NoSwap (KEP-2400) has it.
        memory.set_limit(Some(limit)).set_swap(Some(limit));
        made.set_memory(Some(memory));
    }
    made
}

/// Bytes that a container is held to: its own limit, else what its Pod has `around` it.
pub fn memory_limit(
    own: Option<&ResourceRequirements>,
    around: Option<&ResourceRequirements>,
) -> Option<i64> {
    quantity::value(limit(own, around, "memory")?).filter(|bytes| *bytes > 0)
}

/// One of zero is none. A container without a limit is held to its Pod's, as the kubelet has it (KEP-2837).
fn limit<'a>(
    own: Option<&'a ResourceRequirements>,
    around: Option<&'a ResourceRequirements>,
    resource: &str,
) -> Option<&'a Quantity> {
    let of = |of: Option<&'a ResourceRequirements>| -> Option<&'a Quantity> {
        let limit = of?.limits.as_ref()?.get(resource)?;
        (!quantity::is_zero(limit)).then_some(limit)
    };
    of(own).or_else(|| of(around))
}

/// Thousandths of a CPU as cgroup v1 `cpu.shares`; on v2 they are converted.
pub fn shares_of(milli: i64) -> u64 {
    milli
        .saturating_mul(1024)
        .saturating_div(1000)
        .clamp(MIN_SHARES, MAX_SHARES) as u64
}

/// Thousandths of a CPU as microseconds of a period.
pub fn quota_of(milli: i64) -> i64 {
    milli
        .saturating_mul(PERIOD_MICROS as i64)
        .saturating_div(1000)
        .max(MIN_QUOTA_MICROS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn as_the_kubelet_computes() {
        for (given, expected) in [
            (json!({}), (2, None, None)),
            (json!({"requests": {"cpu": "250m"}}), (256, None, None)),
            (json!({"limits": {"cpu": "1500m"}}), (1536, Some(150_000), None)),
            (
                json!({"limits": {"cpu": "1m"}, "requests": {"cpu": "1m"}}),
                (2, Some(1000), None),
            ),
            (json!({"limits": {"memory": "64Mi"}}), (2, None, Some(64 << 20))),
        ] {
            let c: Container = serde_json::from_value(json!({"name": "c", "resources": given})).unwrap();
            let made = resources(&c, None, false, &[], CgroupFacts::default());
            let cpu = made.cpu().as_ref().unwrap();
            let memory = made.memory().as_ref().and_then(|m| m.limit());
            assert_eq!((cpu.shares().unwrap(), cpu.quota(), memory), expected, "{given}");
            assert_eq!(made.memory().as_ref().and_then(|m| m.swap()), memory, "{given}");
        }
    }

    #[test]
    fn a_container_without_a_limit_is_held_to_its_pods() {
        let around = json!({"limits": {"cpu": "500m", "memory": "48Mi"}, "requests": {"cpu": "400m"}});
        for (own, expected) in [
            (json!({}), (512, Some(50_000), Some(48 << 20))),
            (
                json!({"requests": {"cpu": "100m"}}),
                (102, Some(50_000), Some(48 << 20)),
            ),
            (
                json!({"limits": {"memory": "8Mi"}}),
                (512, Some(50_000), Some(8 << 20)),
            ),
            (
                json!({"limits": {"cpu": "250m", "memory": "0"}}),
                (256, Some(25_000), Some(48 << 20)),
            ),
        ] {
            let container: Container =
                serde_json::from_value(json!({"name": "c", "resources": own})).unwrap();
            let around: ResourceRequirements = serde_json::from_value(around.clone()).unwrap();
            let made = limits_of(&container, Some(&around));
            let cpu = made.cpu().as_ref().unwrap();
            let memory = made.memory().as_ref().and_then(|m| m.limit());
            assert_eq!((cpu.shares().unwrap(), cpu.quota(), memory), expected, "{own}");
        }
    }

    #[test]
    fn what_the_host_offers_is_used() {
        let c: Container = serde_json::from_value(json!({"name": "c"})).unwrap();
        let made = |oom_group, pids| {
            let made = resources(
                &c,
                None,
                false,
                &[],
                CgroupFacts {
                    oom_group,
                    pids,
                    ..CgroupFacts::default()
                },
            );
            let group = made
                .unified()
                .as_ref()
                .and_then(|u| u.get("memory.oom.group").cloned());
            (group, made.pids().as_ref().map(|p| p.limit()))
        };
        assert_eq!(made(false, None), (None, None));
        assert_eq!(made(true, Some(7)), (Some("1".to_owned()), Some(7)));
    }
}
