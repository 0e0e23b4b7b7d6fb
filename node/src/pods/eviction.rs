//! Pods that use more of the node's disk than they may are ended: `emptyDir.sizeLimit`, and limits of
//! `ephemeral-storage` of a container and of all of a Pod's together (KEP-361; reasons and messages are the kubelet's). The
//! decision is pure, the look at the disk is not. Owns no Pod: verdicts go to the manager.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::context::{Context, PodDirs};
use super::observed::Verdict;
use super::view::PodView;
use crate::pressure::rank::is_critical;
use crate::quantity;
use crate::server::PodTable;
use crate::volumes::is_on_disk;
use crate::volumes::usage::disk_usage;

/// Pause between two looks; upstream's monitoring interval.
const INTERVAL: Duration = Duration::from_secs(10);
/// Seconds the containers get to end; upstream's immediate eviction.
const GRACE_SECONDS: i64 = 1;
const RESOURCE: &str = "ephemeral-storage";

/// A Pod to be ended.
#[derive(Debug)]
pub struct Eviction {
    pub uid: String,
    pub verdict: Verdict,
}

/// Bytes on disk, as found.
#[derive(Debug, Default)]
struct Usage {
    /// By name of the volume: what is on disk, not in memory.
    volumes: BTreeMap<String, u64>,
    /// By name of the container: its writable layer and its logs.
    containers: BTreeMap<String, u64>,
}

/// Looks now and then until the agent ends.
pub async fn run(ctx: Arc<Context>, evictions: mpsc::Sender<Eviction>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let shutdown = ctx.shutdown.clone();
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        for pod in ctx.table.pods() {
            let Some(view) = PodView::new(&pod).filter(|view| is_looked_at(*view)) else {
                continue;
            };
            let uid = view.uid().to_owned();
            let Some(message) = look(&ctx, &pod).await else {
                continue;
            };
            let verdict = Verdict {
                reason: "Evicted".into(),
                message,
                grace: Some(GRACE_SECONDS),
                ..Verdict::default()
            };
            if evictions.send(Eviction { uid, verdict }).await.is_err() {
                return;
            }
        }
    }
}

/// Pods that the node needs are spared.
fn is_looked_at(pod: PodView<'_>) -> bool {
    is_limited(pod) && !pod.is_deleted() && !is_critical(pod.pod)
}

/// Whether there is a limit to look after.
fn is_limited(pod: PodView<'_>) -> bool {
    let volumes = pod.spec.volumes.iter().flatten();
    volumes.filter_map(size_limit).next().is_some() || pod.containers().any(|(c, _)| limit(c).is_some())
}

async fn look(ctx: &Arc<Context>, pod: &Arc<Pod>) -> Option<String> {
    let (ctx, pod) = (ctx.clone(), pod.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let view = PodView::new(&pod)?;
        match measure(&ctx, view) {
            Ok(usage) => excess(view, &usage),
            Err(error) => {
                tracing::debug!(%error, pod = %view.full_name(), "what a Pod uses of the disk is not known");
                None
            }
        }
    });
    looked.await.unwrap_or_else(|error| {
        tracing::error!(%error, "measuring what a Pod uses failed");
        None
    })
}

fn measure(ctx: &Context, pod: PodView<'_>) -> io::Result<Usage> {
    let dirs = ctx.dirs(pod);
    let mut usage = Usage::default();
    for volume in pod.spec.volumes.iter().flatten().filter(|v| is_on_disk(v)) {
        let bytes = disk_usage(&dirs.volumes().join(&volume.name))?;
        usage.volumes.insert(volume.name.clone(), bytes);
    }
    for (container, _) in pod.containers() {
        let mut bytes = 0;
        for path in written_by(ctx, pod, &dirs, &container.name) {
            bytes += disk_usage(&path)?;
        }
        usage.containers.insert(container.name.clone(), bytes);
    }
    Ok(usage)
}

/// Logs of a container, and the writable layer of its running attempt.
fn written_by(ctx: &Context, pod: PodView<'_>, dirs: &PodDirs, container: &str) -> Vec<PathBuf> {
    let running = ctx.table.running(pod.uid(), container);
    let layer = running.and_then(|id| ctx.images.writable_layer(&id));
    [dirs.logs.join(container)].into_iter().chain(layer).collect()
}

fn size_limit(volume: &Volume) -> Option<&Quantity> {
    let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
    quantity::value(limit)
        .is_some_and(|bytes| bytes > 0)
        .then_some(limit)
}

fn limit(container: &Container) -> Option<&Quantity> {
    container.resources.as_ref()?.limits.as_ref()?.get(RESOURCE)
}

fn bytes(quantity: &Quantity) -> u64 {
    quantity::value(quantity).map_or(u64::MAX, |bytes| u64::try_from(bytes).unwrap_or(0))
}

/// The kubelet's words for the first limit that is passed, in its order (pkg/kubelet/eviction, local storage).
fn excess(pod: PodView<'_>, usage: &Usage) -> Option<String> {
    volume_excess(pod, usage)
        .or_else(|| pod_excess(pod, usage))
        .or_else(|| container_excess(pod, usage))
}

fn volume_excess(pod: PodView<'_>, usage: &Usage) -> Option<String> {
    pod.spec.volumes.iter().flatten().find_map(|volume| {
        let limit = size_limit(volume)?;
        let used = *usage.volumes.get(&volume.name)?;
        (used > bytes(limit)).then(|| {
            format!(
                "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                volume.name, limit.0
            )
        })
    })
}

fn pod_excess(pod: PodView<'_>, usage: &Usage) -> Option<String> {
    let most = limit_of_all(pod.spec)?;
    let used: u64 = usage.volumes.values().chain(usage.containers.values()).sum();
    (used > bytes(&most)).then(|| {
        let shown = most.0;
        format!("Pod ephemeral local storage usage exceeds the total limit of containers {shown}. ")
    })
}

/// What a Pod may use: its containers and sidecars together, or an init container beside the sidecars before it, and its
/// overhead (upstream's `PodLimits`). Containers without a limit count nothing.
fn limit_of_all(spec: &PodSpec) -> Option<Quantity> {
    let running = spec.containers.iter().map(limit);
    let running = running.fold(None, |sum, limit| together(sum, limit.cloned()));
    let (mut sidecars, mut peak) = (None, None);
    for container in spec.init_containers.iter().flatten() {
        let at_once = together(sidecars.clone(), limit(container).cloned());
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.clone_from(&at_once);
        }
        peak = more(peak, at_once);
    }
    let most = more(together(running, sidecars), peak)?;
    let overhead = spec.overhead.as_ref().and_then(|all| all.get(RESOURCE));
    match overhead.filter(|_| !quantity::is_zero(&most)) {
        Some(overhead) => Some(quantity::plus(&most, overhead)),
        None => Some(most),
    }
}

fn together(one: Option<Quantity>, other: Option<Quantity>) -> Option<Quantity> {
    match (one, other) {
        (Some(one), Some(other)) => Some(quantity::plus(&one, &other)),
        (one, other) => one.or(other),
    }
}

fn more(one: Option<Quantity>, other: Option<Quantity>) -> Option<Quantity> {
    match (one, other) {
        (Some(one), Some(other)) if bytes(&other) > bytes(&one) => Some(other),
        (one, other) => one.or(other),
    }
}

/// The limits of init containers and sidecars count with the Pod's, as upstream.
fn container_excess(pod: PodView<'_>, usage: &Usage) -> Option<String> {
    pod.spec.containers.iter().find_map(|container| {
        let limit = limit(container)?;
        let used = *usage.containers.get(&container.name)?;
        (used > bytes(limit)).then(|| {
            format!(
                "Container {} exceeded its local ephemeral storage limit {:?}. ",
                container.name, limit.0
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(limits: [Value; 2], size_limit: Value) -> Pod {
        let container = |name: &str, limits: &Value| json!({"name": name, "resources": {"limits": limits}});
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {
                "containers": [container("a", &limits[0]), container("b", &limits[1])],
                "volumes": [
                    {"name": "v", "emptyDir": {"sizeLimit": size_limit}},
                    {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1"}},
                ],
            }}),
        )
        .unwrap()
    }

    fn usage(v: u64, a: u64, b: u64) -> Usage {
        let named = |pairs: &[(&str, u64)]| pairs.iter().map(|(n, u)| ((*n).to_owned(), *u)).collect();
        Usage {
            volumes: named(&[("v", v)]),
            containers: named(&[("a", a), ("b", b)]),
        }
    }

    #[test]
    fn each_limit_has_its_words() {
        let none = json!({});
        let of = |amount: &str| json!({"ephemeral-storage": amount});
        let volume = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". ";
        let container = "Container a exceeded its local ephemeral storage limit \"1Ki\". ";
        let total = |shown: &str| {
            format!("Pod ephemeral local storage usage exceeds the total limit of containers {shown}. ")
        };
        for (limits, size_limit, used, expected) in [
            (
                [none.clone(), none.clone()],
                Value::Null,
                usage(1 << 40, 9, 9),
                None,
            ),
            (
                [none.clone(), none.clone()],
                json!("1Ki"),
                usage(1024, 9, 9),
                None,
            ),
            (
                [none.clone(), none.clone()],
                json!("1Ki"),
                usage(1025, 9, 9),
                Some(volume.to_owned()),
            ),
            (
                [of("1Ki"), none.clone()],
                Value::Null,
                usage(1000, 20, 20),
                Some(total("1Ki")),
            ),
            (
                [of("1Ki"), of("1Ki")],
                Value::Null,
                usage(2000, 40, 20),
                Some(total("2Ki")),
            ),
            (
                [of("1Ki"), of("1Mi")],
                Value::Null,
                usage(0, 1025, 0),
                Some(container.to_owned()),
            ),
        ] {
            let pod = pod(limits.clone(), size_limit.clone());
            let view = PodView::new(&pod).unwrap();
            assert_eq!(excess(view, &used), expected, "{limits:?} {size_limit}");
        }
    }

    #[test]
    fn what_all_of_a_pod_may_use_together() {
        let container = |name: &str, limit: &str, policy: Value| {
            let limits = (!limit.is_empty()).then(|| json!({RESOURCE: limit}));
            json!({"name": name, "restartPolicy": policy, "resources": {"limits": limits}})
        };
        let init = |limit| container("i", limit, Value::Null);
        let sidecar = |limit| container("s", limit, json!("Always"));
        for (mains, inits, overhead, expected) in [
            (["", ""], vec![], "1Gi", None),
            (["1Gi", ""], vec![], "", Some("1Gi")),
            (["1Gi", "512Mi"], vec![], "", Some("1536Mi")),
            (["1Gi", ""], vec![sidecar("1Gi")], "", Some("2Gi")),
            (["1Gi", ""], vec![init("3Gi")], "", Some("3Gi")),
            (["1Gi", ""], vec![init("512Mi"), init("")], "", Some("1Gi")),
            (["1Gi", ""], vec![sidecar("1Gi"), init("3Gi")], "", Some("4Gi")),
            (["", ""], vec![sidecar("1Gi")], "", Some("1Gi")),
            (["1Gi", ""], vec![], "1Mi", Some("1025Mi")),
            (["0", ""], vec![], "1Mi", Some("0")),
        ] {
            let mut spec = json!({"initContainers": inits,
                "containers": mains.map(|limit| container("c", limit, Value::Null))});
            if !overhead.is_empty() {
                spec["overhead"] = json!({RESOURCE: overhead});
            }
            let told = format!("{spec}");
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            let found = limit_of_all(&spec).map(|limit| limit.0);
            assert_eq!(found.as_deref(), expected, "{told}");
        }
    }

    #[test]
    fn pods_that_the_node_needs_are_spared() {
        let mut limited = pod([json!({}), json!({RESOURCE: "1"})], Value::Null);
        assert!(is_looked_at(PodView::new(&limited).unwrap()));
        limited.spec.as_mut().unwrap().priority = Some(2_000_000_000);
        assert!(!is_looked_at(PodView::new(&limited).unwrap()));
    }

    #[test]
    fn only_pods_with_limits_are_looked_at() {
        let plain = pod([json!({}), json!({})], Value::Null);
        let mut none = plain.clone();
        none.spec.as_mut().unwrap().volumes = None;
        assert!(!is_limited(PodView::new(&none).unwrap()));
        let limited = pod([json!({}), json!({"ephemeral-storage": "1"})], Value::Null);
        assert!(is_limited(PodView::new(&limited).unwrap()));
    }
}
