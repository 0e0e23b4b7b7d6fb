//! How often probes succeeded and failed, as `/metrics/probes` tells it. A container that ended takes its counts along.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::exposition::{Exposition, Stability, Type};

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

/// A cheap handle on all counts.
#[derive(Clone, Debug, Default)]
pub struct ProbeCounts {
    counts: Arc<Mutex<BTreeMap<Key, u64>>>,
}

impl ProbeCounts {
    pub fn count(&self, key: Key) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(key).or_default() += 1;
    }

    pub fn forget(&self, pod_uid: &str, container: &str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.retain(|key, _| key.pod_uid != pod_uid || key.container != container);
    }

    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        let mut out = Exposition::default();
        out.family_as(
            "prober_probe_total",
            Type::Counter,
            Stability::Beta,
            "Cumulative number of a liveness, readiness or startup probe for a container by result.",
        );
        for (key, count) in self.counts.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let labels = [
                ("container", key.container.as_str()),
                ("namespace", &key.namespace),
                ("pod", &key.pod),
                ("pod_uid", &key.pod_uid),
                ("probe_type", key.probe),
                ("result", key.result),
            ];
            out.sample(&labels, super::bytes(*count), None);
        }
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_with_their_container() {
        let counts = ProbeCounts::default();
        let key = |container: &str| Key {
            pod_uid: "u".into(),
            container: container.into(),
            namespace: "n".into(),
            pod: "p".into(),
            probe: "Liveness",
            result: "failed",
        };
        counts.count(key("a"));
        counts.count(key("a"));
        counts.count(key("b"));
        counts.forget("u", "b");
        let text = counts.render();
        let line = "prober_probe_total{container=\"a\",namespace=\"n\",pod=\"p\",pod_uid=\"u\",probe_type=\"Liveness\",result=\"failed\"} 2";
        assert!(text.lines().any(|l| l == line), "{text}");
        assert!(!text.contains("container=\"b\""), "{text}");
    }
}
