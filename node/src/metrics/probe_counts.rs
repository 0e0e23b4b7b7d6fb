//! How often probes succeeded and failed, and how long those took that succeeded, as `/metrics/probes` tells it. A Pod that is gone
//! takes its counts along.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::exposition::{Exposition, Stability, Type};

/// Seconds up to which durations are counted; Prometheus' usual ones.
const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upstream measures those only.
const MEASURED: &str = "successful";

/// Which probe of which container, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub pod_uid: String,
    pub container: String,
    pub namespace: String,
    pub pod: String,
    /// `Liveness`, `Readiness` or `Startup`.
    pub probe: &'static str,
    /// `successful` or `failed`.
    pub result: &'static str,
}

/// How often, how often within each of [`BOUNDS`] (each counts for all larger ones), and seconds together.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    times: u64,
    within: [u64; BOUNDS.len()],
    seconds: f64,
}

impl Counted {
    fn add(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        self.times += 1;
        self.seconds += took;
        let met = self.within.iter_mut().zip(BOUNDS);
        met.filter(|(_, bound)| took <= *bound)
            .for_each(|(count, _)| *count += 1);
    }
}

/// A cheap handle on all counts.
#[derive(Clone, Debug, Default)]
pub struct ProbeCounts {
    counts: Arc<Mutex<BTreeMap<Key, Counted>>>,
}

impl ProbeCounts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Counted>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn count(&self, key: Key, took: Duration) {
        self.lock().entry(key).or_default().add(took);
    }

    /// Of one container of a Pod, or of all.
    pub fn forget(&self, pod_uid: &str, container: Option<&str>) {
        let is_its = |key: &Key| key.pod_uid == pod_uid && container.is_none_or(|name| key.container == name);
        self.lock().retain(|key, _| !is_its(key));
    }

    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        let mut out = Exposition::default();
        let counts = self.lock().clone();
        durations(&counts, &mut out);
        out.family_as(
            "prober_probe_total",
            Type::Counter,
            Stability::Beta,
            "Cumulative number of a liveness, readiness or startup probe for a container by result.",
        );
        for (key, counted) in &counts {
            let labels = [
                ("container", key.container.as_str()),
                ("namespace", &key.namespace),
                ("pod", &key.pod),
                ("pod_uid", &key.pod_uid),
                ("probe_type", key.probe),
                ("result", key.result),
            ];
            out.sample(&labels, super::bytes(counted.times), None);
        }
        out.finish()
    }
}

/// A Pod that takes another's name has its series, as upstream's labels have it: they do not tell the uid.
fn durations(counts: &BTreeMap<Key, Counted>, out: &mut Exposition) {
    let mut series: BTreeMap<[(&str, &str); 4], Counted> = BTreeMap::new();
    for (key, counted) in counts.iter().filter(|(key, _)| key.result == MEASURED) {
        let labels = [
            ("container", key.container.as_str()),
            ("namespace", &key.namespace),
            ("pod", &key.pod),
            ("probe_type", key.probe),
        ];
        let sum = series.entry(labels).or_default();
        sum.times += counted.times;
        sum.seconds += counted.seconds;
        for (sum, count) in sum.within.iter_mut().zip(counted.within) {
            *sum += count;
        }
    }
    if series.is_empty() {
        return;
    }
    out.family_as(
        "prober_probe_duration_seconds",
        Type::Histogram,
        Stability::Alpha,
        "Duration in seconds for a probe response.",
    );
    for (labels, counted) in series {
        let bounds = BOUNDS.map(|bound| bound.to_string());
        let met = bounds.iter().map(String::as_str).zip(counted.within);
        for (bound, count) in met.chain([("+Inf", counted.times)]) {
            let labels: Vec<_> = labels.into_iter().chain([("le", bound)]).collect();
            out.sample_of("_bucket", &labels, super::bytes(count));
        }
        out.sample_of("_sum", &labels, counted.seconds);
        out.sample_of("_count", &labels, super::bytes(counted.times));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_with_their_container_or_pod() {
        let counts = ProbeCounts::default();
        let key = |pod_uid: &str, container: &str, result| Key {
            pod_uid: pod_uid.into(),
            container: container.into(),
            namespace: "n".into(),
            pod: "p".into(),
            probe: "Liveness",
            result,
        };
        for (key, millis) in [
            (key("u", "a", "failed"), 1),
            (key("u", "a", "failed"), 1),
            (key("u", "b", "failed"), 1),
            (key("u", "a", "successful"), 10),
            (key("u", "a", "successful"), 300),
            (key("u", "a", "successful"), 11_000),
            (key("v", "c", "successful"), 1),
        ] {
            counts.count(key, Duration::from_millis(millis));
        }
        counts.forget("u", Some("b"));
        counts.forget("v", None);
        let text = counts.render();
        let labels = "container=\"a\",namespace=\"n\",pod=\"p\"";
        let total = |result: &str, count: u64| {
            format!(
                "prober_probe_total{{{labels},pod_uid=\"u\",probe_type=\"Liveness\",result=\"{result}\"}} {count}"
            )
        };
        let bucket = |bound: &str, count: u64| {
            format!(
                "prober_probe_duration_seconds_bucket{{{labels},probe_type=\"Liveness\",le=\"{bound}\"}} {count}"
            )
        };
        for line in [
            total("failed", 2),
            total("successful", 3),
            "# TYPE prober_probe_duration_seconds histogram".to_owned(),
            bucket("0.005", 0),
            bucket("0.01", 1),
            bucket("0.5", 2),
            bucket("1", 2),
            bucket("10", 2),
            bucket("+Inf", 3),
            format!("prober_probe_duration_seconds_sum{{{labels},probe_type=\"Liveness\"}} 11.31"),
            format!("prober_probe_duration_seconds_count{{{labels},probe_type=\"Liveness\"}} 3"),
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
        assert!(
            !text.contains("container=\"b\"") && !text.contains("container=\"c\""),
            "{text}"
        );
    }
}
