//! The Pods of a workload as its autoscaler sees them: who is measured, who is not, and what each asks for. Pure.
use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::kinds::quantity::Quantity;
use crate::kinds::resources;
use crate::kinds::time;
use crate::kinds::view::View;

/// How long after its start a Pod's processor time counts only while it is ready, and by looks begun since it became so
/// (upstream's `--horizontal-pod-autoscaler-cpu-initialization-period`).
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// A Pod that turned unready within this of its start has never been ready
/// (`--horizontal-pod-autoscaler-initial-readiness-delay`).
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);
/// What may be asked for by a Pod as a whole (KEP-2837).
const POD_LEVEL: [&str; 2] = ["cpu", "memory"];

/// What one Pod uses, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub value: i64,
    /// When it was measured, and over how long a time before.
    pub at: Option<Timestamp>,
    pub window: SignedDuration,
}

/// By the names of Pods.
pub type Samples = BTreeMap<String, Sample>;

/// Pods by what their measurements are worth.
#[derive(Debug, Default, PartialEq)]
pub struct Groups {
    pub ready: usize,
    /// Those that do not serve yet: what they use says nothing.
    pub unready: BTreeSet<String>,
    /// Those that should have been measured and were not.
    pub missing: BTreeSet<String>,
    /// Those that are over.
    pub ignored: BTreeSet<String>,
}

/// `cpu` says that processor time was measured, of which starting takes much.
pub fn group(pods: &[Value], samples: &Samples, cpu: bool, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.text("metadata.name").to_owned();
        let phase = pod.text("status.phase");
        let sample = samples.get(&name);
        if pod.has("metadata.deletionTimestamp") || phase == "Failed" {
            groups.ignored.insert(name);
        } else if phase == "Pending" {
            groups.unready.insert(name);
        } else if let Some(sample) = sample {
            match cpu && is_starting(pod, sample, now) {
                true => drop(groups.unready.insert(name)),
                false => groups.ready += 1,
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

/// Whether processor time that was measured may be that of starting.
fn is_starting(pod: &Value, sample: &Sample, now: Timestamp) -> bool {
    let conditions = pod.list("status.conditions");
    let ready = conditions.iter().find(|c| c.text("type") == "Ready");
    let (Some(ready), Some(start)) = (ready, time::parse(pod.text("status.startTime"))) else {
        return true;
    };
    let unready = ready.text("status") == "False";
    let turned = time::parse(ready.text("lastTransitionTime")).unwrap_or(Timestamp::MIN);
    if now.duration_since(start) < CPU_INITIALIZATION {
        let since_then = sample
            .at
            .is_some_and(|at| at.duration_since(turned) >= sample.window);
        unready || !since_then
    } else {
        unready && turned.duration_since(start) < INITIAL_READINESS
    }
}

/// How many Pods run and are ready.
pub fn count_ready(pods: &[Value]) -> usize {
    let is_ready = |pod: &&Value| {
        let mut conditions = pod.list("status.conditions").iter();
        pod.text("status.phase") == "Running"
            && conditions.any(|c| c.text("type") == "Ready" && c.text("status") == "True")
    };
    pods.iter().filter(is_ready).count()
}

/// What each Pod, or its container of this name, asks for, in thousandths.
pub fn requests(
    pods: &[Value],
    container: Option<&str>,
    resource: &str,
) -> Result<BTreeMap<String, i64>, String> {
    let of = |pod: &Value| match container {
        None if asks_as_a_whole(pod) => whole_request(pod, resource),
        _ => containers_request(pod, container, resource),
    };
    pods.iter()
        .map(|pod| Ok((pod.text("metadata.name").to_owned(), of(pod)?)))
        .collect()
}

fn asks_as_a_whole(pod: &Value) -> bool {
    let asked = pod.map("spec.resources.requests").into_iter().flatten();
    asked
        .map(|(name, _)| name.as_str())
        .any(|name| POD_LEVEL.contains(&name) || name.starts_with("hugepages-"))
}

fn whole_request(pod: &Value, resource: &str) -> Result<i64, String> {
    let all = resources::with_overhead(pod, resources::pod(pod, "requests"));
    let amount = all.get(resource).map(milli);
    amount.ok_or_else(|| {
        format!(
            "missing pod-level request for {resource} in Pod {}",
            pod.text("metadata.name")
        )
    })
}

/// Those that run beside each other: containers and sidecars.
fn containers_request(pod: &Value, container: Option<&str>, resource: &str) -> Result<i64, String> {
    let name = pod.text("metadata.name");
    let sidecars = pod.list("spec.initContainers").iter();
    let sidecars = sidecars.filter(|c| c.text("restartPolicy") == "Always");
    let all = pod.list("spec.containers").iter().chain(sidecars);
    let meant = all.filter(|c| container.is_none_or(|wanted| wanted == c.text("name")));
    let (mut sum, mut found) = (0_i64, false);
    for own in meant {
        let asked = own.at("resources.requests").get(resource);
        let amount = asked.and_then(|text| Quantity::parse(text.as_str()?).ok());
        let amount = amount.ok_or_else(|| {
            format!(
                "missing request for {resource} in container {} of Pod {name}",
                own.text("name")
            )
        })?;
        (sum, found) = (sum.saturating_add(milli(&amount)), true);
    }
    match container {
        Some(wanted) if !found => Err(format!("container {wanted} not found in Pod {name}")),
        _ => Ok(sum),
    }
}

/// An amount in thousandths, as far as they can be counted.
pub fn milli(amount: &Quantity) -> i64 {
    i64::try_from(amount.milli_value()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn at(text: &str) -> Timestamp {
        time::parse(text).expect("a time")
    }

    fn sample(measured: &str) -> Sample {
        Sample {
            value: 1,
            at: Some(at(measured)),
            window: SignedDuration::from_secs(15),
        }
    }

    #[test]
    fn who_is_measured() {
        let running = |start: &str, ready: &str, turned: &str| {
            json!({"metadata": {"name": "p"}, "status": {"phase": "Running", "startTime": start,
                "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": turned}]}})
        };
        let young = |ready, turned| running("2026-01-01T00:59:00Z", ready, turned);
        let old = |ready, turned| running("2026-01-01T00:00:00Z", ready, turned);
        let phase = |phase: &str| json!({"metadata": {"name": "p"}, "status": {"phase": phase}});
        let dying =
            json!({"metadata": {"name": "p", "deletionTimestamp": NOW}, "status": {"phase": "Running"}});
        let measured = Some("2026-01-01T00:59:50Z");
        for (what, pod, measured, cpu, group_of) in [
            ("failed", phase("Failed"), measured, false, "ignored"),
            ("on its way out", dying, measured, false, "ignored"),
            ("not begun", phase("Pending"), measured, false, "unready"),
            ("not measured", phase("Running"), None, false, "missing"),
            ("memory counts always", phase("Running"), measured, false, "ready"),
            ("without conditions", phase("Running"), measured, true, "unready"),
            (
                "young and ready for a window",
                young("True", "2026-01-01T00:59:35Z"),
                measured,
                true,
                "ready",
            ),
            (
                "young, ready within it",
                young("True", "2026-01-01T00:59:36Z"),
                measured,
                true,
                "unready",
            ),
            (
                "young and unready",
                young("False", "2026-01-01T00:59:10Z"),
                measured,
                true,
                "unready",
            ),
            (
                "old and unready since",
                old("False", "2026-01-01T00:00:31Z"),
                measured,
                true,
                "ready",
            ),
            (
                "old and never ready",
                old("False", "2026-01-01T00:00:29Z"),
                measured,
                true,
                "unready",
            ),
            ("old and just ready", old("True", NOW), measured, true, "ready"),
        ] {
            let samples: Samples = measured
                .map(|m| ("p".to_owned(), sample(m)))
                .into_iter()
                .collect();
            let groups = group(&[pod], &samples, cpu, at(NOW));
            let found = match groups {
                Groups { ready: 1, .. } => "ready",
                Groups { ref unready, .. } if !unready.is_empty() => "unready",
                Groups { ref missing, .. } if !missing.is_empty() => "missing",
                _ => "ignored",
            };
            assert_eq!(found, group_of, "{what}: {groups:?}");
        }
    }

    #[test]
    fn what_is_asked_for() {
        let asks = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = asks("s", "50m");
        sidecar["restartPolicy"] = "Always".into();
        let spec = json!({"containers": [asks("a", "100m"), asks("b", "1")], "initContainers": [asks("i", "9"), sidecar]});
        let mut whole = spec.clone();
        whole["resources"] = json!({"requests": {"cpu": "3"}});
        let bare = json!({"containers": [asks("a", "1"), {"name": "b"}]});
        let only_memory =
            json!({"containers": [{"name": "b"}], "resources": {"requests": {"memory": "1Gi"}}});
        for (spec, container, asked) in [
            (&spec, None, Ok(1150)),
            (&spec, Some("a"), Ok(100)),
            (&spec, Some("s"), Ok(50)),
            (&spec, Some("i"), Err("container i not found in Pod p")),
            (&whole, None, Ok(3000)),
            (&whole, Some("b"), Ok(1000)),
            (
                &bare,
                None,
                Err("missing request for cpu in container b of Pod p"),
            ),
            (
                &only_memory,
                None,
                Err("missing pod-level request for cpu in Pod p"),
            ),
        ] {
            let pod = json!({"metadata": {"name": "p"}, "spec": spec});
            let found = requests(&[pod], container, "cpu").map(|all| all["p"]);
            assert_eq!(found, asked.map_err(str::to_owned), "{spec} {container:?}");
        }
    }
}
