//! What the node says of itself: short of something, ending, and its object as it was seen last. Its conditions and its admission
//! of Pods come from here; who finds out is not known here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Node;
use tokio::sync::Notify;

use super::thresholds::Signal;

/// What the node is short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

impl Pressure {
    pub(super) fn of(signals: impl IntoIterator<Item = Signal>) -> Self {
        let mut pressure = Pressure::default();
        for signal in signals {
            match signal {
                Signal::MemoryAvailable => pressure.memory = true,
                Signal::PidAvailable => pressure.pids = true,
                _ => pressure.disk = true,
            }
        }
        pressure
    }

    /// The conditions' types, as upstream lists them.
    fn names(self) -> Vec<&'static str> {
        let all = [
            (self.disk, "DiskPressure"),
            (self.memory, "MemoryPressure"),
            (self.pids, "PIDPressure"),
        ];
        all.into_iter()
            .filter(|(holds, _)| *holds)
            .map(|(_, name)| name)
            .collect()
    }
}

/// The state of the node that its conditions and its admission of Pods come from. A cheap handle.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    inner: Arc<Mutex<Held>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Held {
    pressure: Pressure,
    shutting_down: bool,
    node: Option<Arc<Node>>,
}

impl NodeState {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn pressure(&self) -> Pressure {
        self.lock().pressure
    }

    /// The Node as the API server had it when it was asked last.
    pub fn node(&self) -> Option<Arc<Node>> {
        self.lock().node.clone()
    }

    pub fn saw(&self, node: Node) {
        self.lock().node = Some(Arc::new(node));
    }

    pub fn is_shutting_down(&self) -> bool {
        self.lock().shutting_down
    }

    pub fn shut_down(&self) {
        self.lock().shutting_down = true;
        self.changed.notify_one();
    }

    pub(super) fn set(&self, pressure: Pressure) {
        let before = std::mem::replace(&mut self.lock().pressure, pressure);
        if before != pressure {
            self.changed.notify_one();
        }
    }

    /// Waits until there is something to tell the API server.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Reason and message for a Pod that comes while the node is short of something; `best_effort` and `tolerant` as the Pod is.
pub fn refusal(pressure: Pressure, best_effort: bool, tolerant: bool) -> Option<String> {
    let names = pressure.names();
    let spared = names == ["MemoryPressure"] && (!best_effort || tolerant);
    (!names.is_empty() && !spared).then(|| format!("The node had condition: [{}]. ", names.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_under_pressure() {
        let pressure = |memory, disk| Pressure {
            memory,
            disk,
            pids: false,
        };
        for (pressure, best_effort, tolerant, expected) in [
            (pressure(false, false), true, false, None),
            (pressure(true, false), false, false, None),
            (
                pressure(true, false),
                true,
                false,
                Some("The node had condition: [MemoryPressure]. "),
            ),
            (pressure(true, false), true, true, None),
            (
                pressure(true, true),
                false,
                true,
                Some("The node had condition: [DiskPressure MemoryPressure]. "),
            ),
        ] {
            let said = refusal(pressure, best_effort, tolerant);
            assert_eq!(said.as_deref(), expected, "{pressure:?} {best_effort} {tolerant}");
        }
    }
}
