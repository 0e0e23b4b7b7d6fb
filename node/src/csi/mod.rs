//! Container Storage Interface: drivers of this node that others wrote, spoken to over their sockets.
//!
//! Flow: a driver's registrar puts a socket into the registration directory → it is asked who the driver is, and the driver
//! for its id of this node → both are told in the CSINode → volumes of Pods are staged and published by calls. Guarantees: a
//! volume is given back by the calls that took it, in reverse, also by a later agent: what was published is on disk first.
//! It refuses to know Pods beyond their names.

pub mod attachment;
pub mod expansion;
pub mod grpc;
mod messages;
mod node_object;
pub mod published;
mod registrar;
pub mod target;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod volumes;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::layout::Layout;

pub use messages::access_mode;
pub use registrar::run;
pub use volumes::{CsiError, Obstacle, Wish, is_device};

/// A driver that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    pub name: String,
    pub endpoint: PathBuf,
    /// What the driver calls this node.
    pub node_id: String,
    /// How many volumes it takes here; 0 for as many as there are.
    pub limit: u64,
    pub topology: BTreeMap<String, String>,
    pub stages: bool,
    /// The driver itself gives volumes to `fsGroup`.
    pub gives_groups: bool,
    /// Volumes grow on the node too.
    pub expands: bool,
}

/// A handle on the drivers of this node.
#[derive(Clone, Debug)]
pub struct Csi {
    layout: Layout,
    drivers: Arc<Mutex<BTreeMap<String, Driver>>>,
    /// What had to be attached for a Pod, by the Pod's directory and the volume's name there.
    attached: Arc<Mutex<BTreeMap<(PathBuf, String), String>>>,
    used: Arc<Notify>,
    /// What the cluster was told of the drivers is gone.
    untold: Arc<AtomicBool>,
    /// One call about a volume at a time, as the specification asks for.
    turns: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Csi {
    /// What an earlier agent had published counts.
    pub fn new(layout: Layout) -> Self {
        let attached = published::attached(&layout.pods()).unwrap_or_else(|error| {
            tracing::warn!(%error, "it is not known which attached volumes an earlier agent used");
            BTreeMap::new()
        });
        Csi {
            layout,
            drivers: Arc::default(),
            attached: Arc::new(Mutex::new(attached)),
            used: Arc::default(),
            untold: Arc::default(),
            turns: Arc::default(),
        }
    }

    /// Has the cluster told of all drivers once more: the Node is another, and what belonged to the one before is gone.
    pub fn tell_again(&self) {
        self.untold.store(true, Ordering::Release);
    }

    pub fn driver(&self, name: &str) -> Option<Driver> {
        self.lock().get(name).cloned()
    }

    pub fn drivers(&self) -> Vec<Driver> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Driver>> {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attached(&self) -> MutexGuard<'_, BTreeMap<(PathBuf, String), String>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attached volumes that this node uses or is about to: nobody may detach them (`status.volumesInUse`).
    pub fn in_use(&self) -> Vec<String> {
        let all: BTreeSet<String> = self.attached().values().cloned().collect();
        all.into_iter().collect()
    }

    /// Waits until what is in use has changed.
    pub async fn use_changed(&self) {
        self.used.notified().await;
    }

    /// The turn of one volume of one driver.
    fn turn(&self, driver: &str, volume: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(format!("{driver}/{volume}")).or_default().clone()
    }
}
