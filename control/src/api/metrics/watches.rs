//! What watchers are sent, and how long those that begin with a list wait for all of it.
use crate::kinds::Kind;
use crate::measures::{Exposition, Histogram, Named, Scale};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Upstream's buckets of `apiserver_watch_list_duration_seconds`, in microseconds.
static BUCKETS: [u64; 17] = [
    50_000, 100_000, 200_000, 400_000, 600_000, 800_000, 1_000_000, 2_000_000, 4_000_000, 6_000_000,
    8_000_000, 10_000_000, 15_000_000, 20_000_000, 30_000_000, 45_000_000, 60_000_000,
];

/// Group, version and resource of a kind.
type Resource = (String, String, String);

fn resource(kind: &Kind) -> Resource {
    (kind.group.clone(), kind.version.clone(), kind.plural.clone())
}

fn labels((group, version, resource): &Resource) -> Vec<(&'static str, String)> {
    vec![
        ("group", group.clone()),
        ("resource", resource.clone()),
        ("version", version.clone()),
    ]
}

#[derive(Debug)]
struct Lists(Histogram<{ BUCKETS.len() }>);

impl Default for Lists {
    fn default() -> Self {
        Lists(Histogram::new(Scale::Microseconds, &BUCKETS))
    }
}

#[derive(Debug, Default)]
pub(in super::super) struct Watches {
    events: RwLock<BTreeMap<Resource, Arc<AtomicU64>>>,
    /// By resource and scope.
    lists: Named<(Resource, &'static str), Lists>,
}

impl Watches {
    /// The counter of events sent to watchers of a kind.
    pub fn events(&self, kind: &Kind) -> Arc<AtomicU64> {
        let mut all = self.events.write().unwrap_or_else(PoisonError::into_inner);
        all.entry(resource(kind)).or_default().clone()
    }

    /// A watch has shown all that there was when it began.
    pub fn listed(&self, kind: &Kind, scope: &'static str, took: Duration) {
        if let Some(lists) = self.lists.of((resource(kind), scope)) {
            lists.0.observe(took);
        }
    }

    pub fn write(&self, out: &mut Exposition) {
        let name = "apiserver_watch_events_total";
        out.begin(name, "counter", "Events sent to watchers.");
        let all = self.events.read().unwrap_or_else(PoisonError::into_inner);
        for (resource, count) in all.iter() {
            out.sample(name, &labels(resource), count.load(Ordering::Relaxed));
        }
        let name = "apiserver_watch_list_duration_seconds";
        let help = "How long watches took to show what there was when they began, where that was asked for.";
        out.begin(name, "histogram", help);
        for ((resource, scope), lists) in self.lists.all() {
            let mut labels = labels(&resource);
            labels.push(("scope", scope.to_owned()));
            lists.0.write(name, &labels, out);
        }
    }
}
