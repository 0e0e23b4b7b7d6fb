//! How many Pods were ended to make room for critical ones, as `/metrics` tells it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::exposition::{Exposition, Stability, Type};

/// Counts by the resource that was short, the first of them where there were several: all together are the Pods that were ended.
#[derive(Debug, Default)]
pub struct Preemptions(Mutex<BTreeMap<&'static str, u64>>);

impl Preemptions {
    pub fn count(&self, resource: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(resource).or_default() += 1;
    }

    /// Nothing as long as there were none, as upstream.
    pub(super) fn tell(&self, out: &mut Exposition) {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.is_empty() {
            return;
        }
        out.family_as(
            "kubelet_preemptions",
            Type::Counter,
            Stability::Alpha,
            "Cumulative number of pod preemptions by preemption resource",
        );
        for (resource, count) in counts.iter() {
            out.sample(&[("preemption_signal", resource)], super::bytes(*count), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(preemptions: &Preemptions) -> String {
        let mut out = Exposition::default();
        preemptions.tell(&mut out);
        out.finish()
    }

    #[test]
    fn they_are_told_by_what_was_short() {
        let preemptions = Preemptions::default();
        assert_eq!(told(&preemptions), "");
        for resource in ["memory", "cpu", "memory"] {
            preemptions.count(resource);
        }
        let expected = "# HELP kubelet_preemptions [ALPHA] Cumulative number of pod preemptions by preemption resource\n\
            # TYPE kubelet_preemptions counter\n\
            kubelet_preemptions{preemption_signal=\"cpu\"} 1\n\
            kubelet_preemptions{preemption_signal=\"memory\"} 2\n";
        assert_eq!(told(&preemptions), expected);
    }
}
