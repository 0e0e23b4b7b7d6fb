//! The cgroup around a Pod's containers: what they may use together, as the kubelet computes it (KEP-2837 for
//! `spec.resources`). The decision is pure, and guests' shims are told it too; [`apply`] writes it, or has systemd
//! do so where that runs the host. Containers' own cgroups are their shim's.

use amphipod_shim_api::TaskStats;
use amphipod_shim_api::cgroup::{CgroupError, CgroupHost, Limits};
use amphipod_shim_api::systemd::{self, Manager, SystemdError, names, properties};
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};

use super::allocations::Amounts;
use super::context::Context;
use super::qos;
use super::view::PodView;
use crate::bundle::resources::{CgroupFacts, PERIOD_MICROS, quota_of, shares_of};

/// What a Pod may use: its share by what it asks for, and a limit of each resource that all its containers, or the Pod
/// itself, have one of.
pub fn limits(spec: &PodSpec) -> Limits {
    let (asked, most) = (Amounts::of_pod(spec), Amounts::limits_of_pod(spec));
    let mut made = Limits {
        cpu_shares: Some(shares_of(asked.cpu)),
        ..Limits::default()
    };
    if qos::class(spec) == qos::BEST_EFFORT {
        return made;
    }
    if is_limited(spec, "cpu") {
        made.cpu_quota = Some(quota_of(most.cpu));
        made.cpu_period = Some(PERIOD_MICROS);
    }
    if is_limited(spec, "memory") {
        made.memory = Some(most.memory);
    }
    made
}

/// The memory that all the Pod's containers may use together, if that is limited.
pub fn memory_limit(spec: &PodSpec) -> Option<i64> {
    limits(spec).memory
}

fn is_limited(spec: &PodSpec, resource: &str) -> bool {
    let limited = |r: &ResourceRequirements| qos::limit(r, resource).is_some();
    let each = |c: &Container| c.resources.as_ref().is_some_and(limited);
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    spec.resources.as_ref().is_some_and(limited) || all.all(each)
}

/// Why a Pod's cgroup is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum PodCgroupError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Systemd(#[from] SystemdError),
}

/// Before a container of the Pod is made: systemd's slice for it, which is there until the Pod is torn down.
pub async fn prepare(ctx: &Context, pod: PodView<'_>) -> Result<(), PodCgroupError> {
    match ctx.cgroups.systemd {
        true => apply(ctx, pod).await,
        false => Ok(()),
    }
}

/// Once a container of the Pod is made: from then on nobody removes a cgroup that is only a directory, as its shim does
/// with the last container.
pub async fn settle(ctx: &Context, pod: PodView<'_>) -> Result<(), PodCgroupError> {
    match ctx.cgroups.systemd {
        true => Ok(()),
        false => apply(ctx, pod).await,
    }
}

/// With what the node itself limits.
fn of_cgroup(spec: &PodSpec, facts: CgroupFacts) -> Limits {
    Limits {
        pids: facts.pod_pids,
        ..limits(spec)
    }
}

/// Limits the cgroup of a Pod, making it when it is not there.
pub async fn apply(ctx: &Context, pod: PodView<'_>) -> Result<(), PodCgroupError> {
    let limits = of_cgroup(pod.spec, ctx.cgroups);
    if ctx.cgroups.systemd {
        let slice = names::pod_slice(&ctx.options.cluster, pod.uid());
        let mut manager = Manager::of_host().await?;
        return Ok(manager.limit_slice(&slice, properties(&limits)).await?);
    }
    let path = format!("/{}/pod{}", ctx.options.cluster, pod.uid());
    let cgroup = CgroupHost::known()?.cgroup(&path)?;
    cgroup.create()?;
    Ok(cgroup.apply(&limits)?)
}

/// What native containers of a Pod have used together, also those that have ended; nothing where the Pod has no cgroup, or it cannot
/// be read.
pub fn used(cluster: &str, uid: &str) -> Option<TaskStats> {
    let path = match systemd::is_running() {
        true => names::slice_path(&names::pod_slice(cluster, uid)),
        false => format!("/{cluster}/pod{uid}"),
    };
    let cgroup = CgroupHost::known().ok()?.cgroup(&path).ok()?;
    cgroup.exists().then(|| cgroup.stats().ok())?
}

/// Ends the cgroup of a Pod none of whose containers is left. One that is only a directory is mostly gone with the last of
/// them; an agent that was killed while it made another may have made it again.
pub async fn remove(ctx: &Context, uid: &str) -> Result<(), PodCgroupError> {
    if ctx.cgroups.systemd {
        return end_slice(&names::pod_slice(&ctx.options.cluster, uid)).await;
    }
    let cgroup = match CgroupHost::known() {
        Err(CgroupError::NoHierarchy) => return Ok(()),
        host => host?.cgroup_everywhere(&format!("/{}/pod{uid}", ctx.options.cluster))?,
    };
    if cgroup.exists() {
        cgroup.remove().await?;
    }
    Ok(())
}

/// Ends a slice with all that is in it, and takes away what v1's hierarchies have of it that systemd does not use.
pub async fn end_slice(slice: &str) -> Result<(), PodCgroupError> {
    Manager::of_host().await?.stop(slice).await?;
    let cgroup = CgroupHost::known()?.cgroup(&names::slice_path(slice))?;
    if cgroup.exists() {
        cgroup.remove().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn seen(spec: Value) -> (Option<u64>, Option<i64>, Option<i64>) {
        let made = limits(&serde_json::from_value(spec).unwrap());
        (made.cpu_shares, made.cpu_quota, made.memory)
    }

    #[test]
    fn processes_are_limited_as_the_node_says() {
        let spec: PodSpec = serde_json::from_value(json!({"containers": containers(&[json!({})])})).unwrap();
        for pod_pids in [None, Some(100)] {
            let facts = CgroupFacts {
                pod_pids,
                ..CgroupFacts::default()
            };
            let made = of_cgroup(&spec, facts);
            assert_eq!((made.pids, made.cpu_shares), (pod_pids, Some(2)));
        }
    }

    fn containers(resources: &[Value]) -> Vec<Value> {
        let all = resources.iter().enumerate();
        all.map(|(n, r)| json!({"name": format!("c{n}"), "resources": r}))
            .collect()
    }

    #[test]
    fn as_the_kubelet_computes() {
        let both =
            json!({"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "500m", "memory": "1Mi"}});
        for (resources, expected) in [
            (vec![json!({})], (Some(2), None, None)),
            (
                vec![both.clone(), both.clone()],
                (Some(1024), Some(200_000), Some(128 << 20)),
            ),
            (vec![both.clone(), json!({})], (Some(512), None, None)),
            (
                vec![
                    both.clone(),
                    json!({"limits": {"memory": "1Mi"}, "requests": {"memory": "1Mi"}}),
                ],
                (Some(512), None, Some(65 << 20)),
            ),
            (
                vec![
                    json!({"limits": {"cpu": "5m", "memory": "1Mi"}, "requests": {"cpu": "5m", "memory": "1Mi"}}),
                ],
                (Some(5), Some(1000), Some(1 << 20)),
            ),
        ] {
            let spec = json!({"containers": containers(&resources)});
            assert_eq!(seen(spec), expected, "{resources:?}");
        }
    }

    #[test]
    fn init_containers_count_when_they_are_the_larger_part() {
        let (small, large) = (
            json!({"limits": {"cpu": "1", "memory": "1Mi"}, "requests": {"cpu": "1", "memory": "1Mi"}}),
            json!({"limits": {"cpu": "3", "memory": "1Mi"}, "requests": {"cpu": "3", "memory": "1Mi"}}),
        );
        let mut spec = json!({"containers": containers(std::slice::from_ref(&small)), "initContainers": containers(&[large])});
        assert_eq!(seen(spec.clone()), (Some(3072), Some(300_000), Some(1 << 20)));
        spec["initContainers"][0]["resources"] = json!({});
        assert_eq!(seen(spec.clone()), (Some(1024), None, None), "one without limits");
        spec["initContainers"][0] = json!({"name": "side", "restartPolicy": "Always", "resources": small});
        spec["overhead"] = json!({"cpu": "250m", "memory": "1Mi"});
        assert_eq!(seen(spec), (Some(2304), Some(225_000), Some(3 << 20)));
    }

    #[test]
    fn what_the_pod_itself_says_counts() {
        let mut spec = json!({"containers": containers(&[json!({"requests": {"cpu": "1"}}), json!({})]),
            "resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "2"}}});
        assert_eq!(seen(spec.clone()), (Some(2048), Some(200_000), None));
        spec["resources"] = json!({"limits": {"memory": "8Mi"}});
        assert_eq!(seen(spec), (Some(1024), None, Some(8 << 20)));
    }
}
