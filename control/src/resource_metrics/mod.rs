//! What nodes and containers use, from two looks at each node a short time apart: what the resource metrics API
//! (`metrics.k8s.io`) shows. The rules are metrics-server's.
//!
//! Owns the newest two looks, and what follows from them. Refuses to know Pods and Nodes as objects, and how metrics are
//! served.
mod exposition;
mod rates;
mod scraper;

pub use rates::Usage;
pub use scraper::run;

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use exposition::Scrape;
use rates::usage;

/// The looks at every node that answered when it was last asked.
#[derive(Debug, Default)]
pub struct ResourceMetrics(RwLock<HashMap<String, Looks>>);

#[derive(Debug)]
struct Looks {
    last: Scrape,
    before: Scrape,
}

impl ResourceMetrics {
    /// What a node uses as a whole.
    pub fn node(&self, name: &str) -> Option<Usage> {
        let looks = self.read();
        let looks = looks.get(name)?;
        usage(looks.before.node.as_ref(), looks.last.node.as_ref()?)
    }

    /// What each container of a Pod on this node uses, by name. None while any of them is too young to tell.
    pub fn pod(&self, node: &str, namespace: &str, name: &str) -> Option<Vec<(String, Usage)>> {
        let looks = self.read();
        let looks = looks.get(node)?;
        let key = (namespace.to_owned(), name.to_owned());
        let before = looks.before.pods.get(&key);
        let containers = looks.last.pods.get(&key)?.iter();
        containers
            .map(|(container, last)| {
                let before = before.and_then(|containers| containers.get(container));
                Some((container.clone(), usage(before, last)?))
            })
            .collect()
    }

    fn note(&self, node: &str, scrape: Scrape) {
        let mut looks = self.write();
        let before = looks.remove(node).map(|looks| looks.last).unwrap_or_default();
        let last = scrape;
        looks.insert(node.to_owned(), Looks { last, before });
    }

    /// Of a node that does not answer nothing is known.
    fn forget(&self, node: &str) {
        self.write().remove(node);
    }

    fn keep_only(&self, nodes: &HashSet<String>) {
        self.write().retain(|node, _| nodes.contains(node));
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<String, Looks>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<String, Looks>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: u64, cpu: f64) -> Scrape {
        let text = format!(
            "node_cpu_usage_seconds_total {cpu} {at}000\nnode_memory_working_set_bytes 2048 {at}000\n\
             container_cpu_usage_seconds_total{{container=\"c\",namespace=\"n\",pod=\"p\"}} {cpu} {at}000\n\
             container_memory_working_set_bytes{{container=\"c\",namespace=\"n\",pod=\"p\"}} 1024 {at}000\n"
        );
        exposition::read(&text).expect("metrics")
    }

    #[test]
    fn two_looks_make_a_rate_and_one_does_not() {
        let metrics = ResourceMetrics::default();
        metrics.note("a", look(100, 1.0));
        assert_eq!((metrics.node("a"), metrics.pod("a", "n", "p")), (None, None));
        metrics.note("a", look(110, 3.5));
        let node = metrics.node("a").expect("two looks");
        assert_eq!((node.nano_cores, node.memory), (250_000_000, 2048));
        let pod = metrics.pod("a", "n", "p").expect("two looks");
        assert_eq!((pod[0].0.as_str(), pod[0].1.memory), ("c", 1024));
        assert!(metrics.pod("a", "n", "q").is_none() && metrics.node("b").is_none());
        metrics.forget("a");
        assert_eq!(metrics.node("a"), None);
    }
}
