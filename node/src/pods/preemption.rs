//! Room for critical Pods: one that the node has none for gets what others were promised, who are ended (upstream's
//! pkg/kubelet/preemption, with its order, reasons and messages). Who goes is decided purely; [`make_room`] ends them and
//! waits. Refuses to know why the Pod is taken otherwise.

use std::cmp::Ordering;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::allocations::Insufficient;
use super::context::Context;
use super::eviction::Eviction;
use super::observed::Verdict;
use super::qos;
use super::view::PodView;
use crate::events::Severity::Warning;
use crate::pressure::rank::is_critical;
use crate::server::PodTable;

const REASON: &str = "Preempting";
const MESSAGE: &str = "Preempted in order to admit critical pod";
/// What the condition DisruptionTarget says.
const DISRUPTION: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";
/// Least time that a Pod has to be gone before it counts as stuck; else it is half as long again as its grace period.
const LEAST_PATIENCE: Duration = Duration::from_secs(10);

/// A Pod that may go.
#[derive(Clone, Debug)]
struct Candidate {
    pod: Arc<Pod>,
    /// What it was promised, in the order of resources.
    promised: Vec<(&'static str, i64)>,
}

impl Candidate {
    fn promised(&self, resource: &str) -> i64 {
        let found = self.promised.iter().find(|(name, _)| *name == resource);
        found.map_or(0, |(_, amount)| *amount)
    }

    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    fn class(&self) -> &'static str {
        self.pod.spec.as_ref().map_or(qos::BEST_EFFORT, qos::class)
    }
}

/// What is still missing, by resource.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Missing(Vec<(&'static str, i64)>);

impl Missing {
    /// What is left of it once these have gone.
    fn without(&self, pods: &[&Candidate]) -> Missing {
        let left = self.0.iter().map(|(resource, amount)| {
            let freed = pods
                .iter()
                .fold(0i64, |sum, pod| sum.saturating_add(pod.promised(resource)));
            (*resource, amount.saturating_sub(freed))
        });
        Missing(left.filter(|(_, amount)| *amount > 0).collect())
    }

    /// How far a Pod is from freeing all of it: the squared shares that would stay missing.
    fn distance(&self, pod: &Candidate) -> f64 {
        let shares = self.0.iter().map(|(resource, amount)| {
            let left = amount.saturating_sub(pod.promised(resource)).max(0);
            left as f64 / *amount as f64
        });
        shares.map(|share| share * share).sum()
    }
}

/// No Pods that may go have as much.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no set of running pods found to reclaim resources: {}", shown(.0))]
struct Unreclaimable(Missing);

/// As upstream's log and status show it.
fn shown(missing: &Missing) -> String {
    let mut text = String::from("[");
    for (resource, amount) in &missing.0 {
        // Writing to a String does not fail.
        let _ = write!(text, "(res: {resource}, q: {amount}), ");
    }
    text + "]"
}

/// The fewest that free what is missing: of those that were guaranteed theirs only what all others together do not, of
/// burstable ones only what best-effort ones do not.
fn choose(all: &[Candidate], missing: &Missing) -> Result<Vec<Candidate>, Unreclaimable> {
    let of = |class: &str| -> Vec<&Candidate> { all.iter().filter(|pod| pod.class() == class).collect() };
    let best_effort = of(qos::BEST_EFFORT);
    let burstable = of(qos::BURSTABLE);
    let guaranteed = of(qos::GUARANTEED);
    let beyond = missing.without(&all.iter().collect::<Vec<_>>());
    if !beyond.0.is_empty() {
        return Err(Unreclaimable(beyond));
    }
    let lesser = [best_effort.as_slice(), &burstable].concat();
    let guaranteed = nearest(guaranteed, missing.without(&lesser))?;
    let others = [best_effort.as_slice(), &guaranteed].concat();
    let burstable = nearest(burstable, missing.without(&others))?;
    let others = [burstable.as_slice(), &guaranteed].concat();
    let best_effort = nearest(best_effort, missing.without(&others))?;
    let chosen = [best_effort, burstable, guaranteed].concat();
    Ok(chosen.into_iter().cloned().collect())
}

/// Takes whoever is nearest to what is still missing until nothing is.
fn nearest(mut pods: Vec<&Candidate>, mut missing: Missing) -> Result<Vec<&Candidate>, Unreclaimable> {
    let mut chosen = Vec::new();
    while !missing.0.is_empty() {
        let order = |a: &&Candidate, b: &&Candidate| {
            let by_distance = missing.distance(a).total_cmp(&missing.distance(b));
            by_distance.then_with(|| by_size(a, b))
        };
        let best = (0..pods.len()).min_by(|a, b| order(&pods[*a], &pods[*b]));
        let Some(best) = best else {
            return Err(Unreclaimable(missing));
        };
        let pod = pods.swap_remove(best);
        missing = missing.without(&[pod]);
        chosen.push(pod);
    }
    Ok(chosen)
}

fn by_size(a: &Candidate, b: &Candidate) -> Ordering {
    let size = |pod: &Candidate| (pod.promised("memory"), pod.promised("cpu"));
    size(a).cmp(&size(b))
}

/// Upstream's `Preemptable`.
fn yields(pod: &Pod, to: &Pod) -> bool {
    let priority = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.priority);
    (is_critical(to) && !is_critical(pod))
        || priority(pod)
            .zip(priority(to))
            .is_some_and(|(its, other)| other > its)
}

/// Ends Pods until the node has what it is short of for `critical`, which has been promised it already, and waits until they
/// have given theirs back, though not for one that is stuck. An error says why nobody was ended.
pub async fn make_room(ctx: &Context, critical: PodView<'_>, short: &[Insufficient]) -> Result<(), String> {
    let missing = Missing(short.iter().map(|s| (s.resource, s.missing())).collect());
    let pods = ctx.table.pods().into_iter();
    let candidates = pods.filter(|pod| yields(pod, critical.pod)).filter_map(|pod| {
        let promised = ctx.allocations.promised_to(pod.metadata.uid.as_deref()?)?;
        Some(Candidate { pod, promised })
    });
    let candidates: Vec<Candidate> = candidates.collect();
    let chosen = choose(&candidates, &missing)
        .map_err(|error| format!("preemption: error finding a set of pods to preempt: {error}"))?;
    let mut freed = ctx.allocations.freed();
    for pod in &chosen {
        end(ctx, critical, pod, &missing).await;
    }
    let gone = async {
        while chosen.iter().any(|pod| ctx.allocations.has(pod.uid())) && freed.changed().await.is_ok() {}
    };
    if tokio::time::timeout(patience(&chosen), gone).await.is_err() {
        tracing::warn!(pod = %critical.full_name(), "a Pod that is to make room for another does not end");
    }
    Ok(())
}

async fn end(ctx: &Context, critical: PodView<'_>, pod: &Candidate, missing: &Missing) {
    if let Some(view) = PodView::new(&pod.pod) {
        tracing::info!(pod = %view.full_name(), critical = %critical.full_name(), "ending a Pod to make room");
        ctx.recorder.pod(view, Warning, REASON, MESSAGE.to_owned());
    }
    let verdict = Verdict {
        reason: REASON.into(),
        message: MESSAGE.into(),
        grace: None,
        disruption: Some(DISRUPTION.into()),
        ..Verdict::default()
    };
    let uid = pod.uid().to_owned();
    if ctx.evictions.send(Eviction { uid, verdict }).await.is_err() {
        tracing::debug!("the agent ends, and takes no more Pods");
        return;
    }
    let first = missing.0.first();
    let signal = first.map_or("", |(resource, _)| resource);
    ctx.station.preemptions.count(signal);
}

/// Upstream's: half as long again as the longest grace period, and ten seconds at least.
fn patience(chosen: &[Candidate]) -> Duration {
    let grace = |pod: &Candidate| PodView::new(&pod.pod).map_or(0, |view| view.grace_seconds());
    let longest = chosen.iter().map(grace).max().unwrap_or(0);
    let longest = u64::try_from(longest).unwrap_or(0);
    Duration::from_secs(longest.saturating_add(longest / 2)).max(LEAST_PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn candidate(uid: &str, class: &str, cpu: i64, memory: i64) -> Candidate {
        let resources = match class {
            "guaranteed" => {
                json!({"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "1", "memory": "1"}})
            }
            "burstable" => json!({"requests": {"cpu": "1"}}),
            _ => json!({}),
        };
        let pod = json!({"metadata": {"uid": uid}, "spec": {"containers": [{"name": "c", "resources": resources}]}});
        Candidate {
            pod: Arc::new(serde_json::from_value(pod).unwrap()),
            promised: vec![("cpu", cpu), ("memory", memory), ("pods", 1)],
        }
    }

    /// Who goes, in order of their names, or what is said.
    fn chosen(all: &[Candidate], missing: &[(&'static str, i64)]) -> Result<Vec<String>, String> {
        let chosen = choose(all, &Missing(missing.to_vec())).map_err(|error| error.to_string())?;
        let mut uids: Vec<String> = chosen.iter().map(|pod| pod.uid().to_owned()).collect();
        uids.sort();
        Ok(uids)
    }

    #[test]
    fn the_fewest_of_the_least_promised_go() {
        let all = [
            candidate("best-effort", "best-effort", 0, 0),
            candidate("small", "burstable", 100, 10),
            candidate("large", "burstable", 1000, 100),
            candidate("guaranteed", "guaranteed", 2000, 200),
            candidate("guaranteed-small", "guaranteed", 500, 20),
        ];
        for (missing, expected) in [
            (vec![], vec![]),
            (vec![("cpu", 50)], vec!["small"]),
            (vec![("cpu", 100), ("memory", 10)], vec!["small"]),
            (vec![("cpu", 101)], vec!["large"]),
            (vec![("cpu", 1100)], vec!["large", "small"]),
            // All burstable ones together have too little by 400, which the small guaranteed one has; then they are not needed all.
            (vec![("cpu", 1500)], vec!["guaranteed-small", "large"]),
            (vec![("cpu", 2000)], vec!["guaranteed"]),
            (vec![("pods", 1)], vec!["best-effort"]),
            (vec![("pods", 2)], vec!["best-effort", "small"]),
        ] {
            let expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(chosen(&all, &missing), Ok(expected), "{missing:?}");
        }
    }

    #[test]
    fn what_nobody_has_cannot_be_had() {
        let all = [candidate("a", "burstable", 100, 10)];
        let said = "no set of running pods found to reclaim resources: [(res: cpu, q: 50), ]";
        assert_eq!(chosen(&all, &[("cpu", 150), ("memory", 5)]), Err(said.to_owned()));
    }

    #[test]
    fn only_lesser_pods_yield() {
        let pod = |priority: Value| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [], "priority": priority}})).unwrap()
        };
        let (none, low) = (pod(Value::Null), pod(json!(5)));
        let (critical, more) = (pod(json!(2_000_000_000)), pod(json!(2_000_001_000)));
        let of_a_file: Pod = serde_json::from_value(
            json!({"metadata": {"annotations": {"kubernetes.io/config.source": "file"}}, "spec": {"containers": []}}),
        )
        .unwrap();
        for (its, other, yielding) in [
            (&none, &critical, true),
            (&low, &critical, true),
            (&critical, &critical, false),
            (&critical, &more, true),
            (&more, &critical, false),
            (&none, &of_a_file, true),
            (&critical, &of_a_file, false),
            (&of_a_file, &critical, false),
        ] {
            assert_eq!(yields(its, other), yielding, "{its:?} {other:?}");
        }
    }

    #[test]
    fn a_stuck_pod_is_not_waited_for_for_ever() {
        let with_grace = |seconds: i64| {
            let mut one = candidate("a", "burstable", 1, 1);
            let pod = json!({"metadata": {"uid": "a"}, "spec": {"containers": [],
                "terminationGracePeriodSeconds": seconds}});
            one.pod = Arc::new(serde_json::from_value(pod).unwrap());
            one
        };
        assert_eq!(patience(&[with_grace(1)]), LEAST_PATIENCE);
        assert_eq!(
            patience(&[with_grace(1), with_grace(30)]),
            Duration::from_secs(45)
        );
    }
}
