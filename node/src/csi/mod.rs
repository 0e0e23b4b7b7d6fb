//! Container Storage Interface: drivers of this node that others wrote, spoken to over their sockets.
//!
//! Flow: a driver's registrar puts a socket into the registration directory → it is asked who the driver is, and the driver
//! for its id of this node → both are told in the CSINode → volumes of Pods are staged and published by calls. Guarantees: a
//! volume is given back by the calls that took it, in reverse, also by a later agent: what was published is on disk first.
//! It refuses to know Pods beyond their names.

mod grpc;
mod messages;
mod node_object;
mod published;
mod registrar;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod volumes;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

pub use messages::access_mode;
pub use registrar::run;
pub use volumes::{CsiError, Wish};

/// Where sockets of registrars are, below the node's data directory: upstream's name.
const REGISTRATION: &str = "plugins_registry";
/// Where volumes are staged, below the node's data directory: upstream's names.
const STAGING: &str = "plugins/kubernetes.io/csi";

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
}

/// A handle on the drivers of this node.
#[derive(Clone, Debug)]
pub struct Csi {
    data_dir: PathBuf,
    drivers: Arc<Mutex<BTreeMap<String, Driver>>>,
    /// One call about a volume at a time, as the specification asks for.
    turns: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Csi {
    /// `data_dir` is the node's.
    pub fn new(data_dir: PathBuf) -> Self {
        Csi {
            data_dir,
            drivers: Arc::default(),
            turns: Arc::default(),
        }
    }

    pub fn driver(&self, name: &str) -> Option<Driver> {
        self.lock().get(name).cloned()
    }

    pub fn drivers(&self) -> Vec<Driver> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Driver>> {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn of one volume of one driver.
    fn turn(&self, driver: &str, volume: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(format!("{driver}/{volume}")).or_default().clone()
    }
}
