//! Drivers come and go with the sockets in the registration directory (kubelet's plugin registration, v1): who is new is asked
//! who it is and told whether it was taken.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use kube::Client;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::grpc::CallError;
use super::{Csi, Driver, messages, node_object};

/// How often the directory is looked at: short enough for a Pod that waits for its driver.
const EVERY: Duration = Duration::from_secs(2);
/// Drivers a node may have.
const MOST: usize = 64;
const KIND: &str = "CSIPlugin";

/// Sockets, each with what tells it from a later one of the same name, and the driver behind it.
pub(super) type Known = BTreeMap<PathBuf, ((u64, i64), Option<String>)>;

/// Why a driver was not taken.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("plugin type {0:?} is not one of CSI")]
    Kind(String),
    #[error("none of the versions {0:?} is known here: 1.x")]
    Version(Vec<String>),
    #[error("{0:?} is no name of a driver")]
    Name(String),
    #[error("a node has {MOST} drivers at most")]
    TooMany,
}

/// Follows the directory until `shutdown`.
pub async fn run(csi: Csi, client: Client, node: String, shutdown: CancellationToken) {
    let dir = csi.layout.registration();
    if let Err(error) = fs::create_dir_all(&dir) {
        return tracing::warn!(%error, path = %dir.display(), "CSI drivers cannot register");
    }
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut known, mut told) = (Known::new(), None);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let look = async {
            csi.look(&dir, &mut known).await;
            let drivers = csi.drivers();
            if csi.untold.swap(false, Ordering::AcqRel) {
                told = None;
            }
            if told.as_ref() == Some(&drivers) || (told.is_none() && drivers.is_empty()) {
                return;
            }
            match node_object::write(&client, &node, told.as_deref().unwrap_or_default(), &drivers).await {
                Ok(()) => told = Some(drivers),
                Err(error) => tracing::warn!(%error, "the CSINode was not written; trying again"),
            }
        };
        if shutdown.run_until_cancelled(look).await.is_none() {
            return;
        }
    }
}

/// The sockets there now.
fn sockets(dir: &Path) -> BTreeMap<PathBuf, (u64, i64)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sockets = entries.filter_map(|entry| {
        let meta = entry
            .metadata()
            .ok()
            .filter(|meta| meta.file_type().is_socket())?;
        Some((entry.path(), (meta.ino(), meta.ctime())))
    });
    sockets.collect()
}

impl Csi {
    /// Takes in what came and went since the last look.
    pub(super) async fn look(&self, dir: &Path, known: &mut Known) {
        let now = sockets(dir);
        let mut gone = Vec::new();
        known.retain(|path, (identity, driver)| {
            let stays = now.get(path) == Some(identity);
            gone.extend(driver.clone().filter(|_| !stays));
            stays
        });
        for driver in &gone {
            tracing::info!(%driver, "a socket of a CSI driver is gone");
            self.lock().remove(driver);
        }
        // While a driver is replaced it has two: the other one is asked again.
        known.retain(|_, (_, driver)| driver.as_ref().is_none_or(|driver| !gone.contains(driver)));
        for (path, identity) in now {
            let before = known.get(&path);
            if before.is_some_and(|(_, driver)| driver.is_some()) {
                continue;
            }
            let first = before.is_none();
            let driver = self.take(&path, first).await;
            known.insert(path, (identity, driver));
        }
    }

    /// Registers the driver behind a socket; says which.
    async fn take(&self, socket: &Path, first: bool) -> Option<String> {
        let outcome = self.examine(socket).await;
        let words = outcome.as_ref().err().map(ToString::to_string);
        let told = messages::notify(socket, words.as_deref().map_or(Ok(()), Err)).await;
        match (outcome, told) {
            (Ok(driver), Ok(())) => {
                let name = driver.name.clone();
                tracing::info!(driver = name, "a CSI driver is there");
                self.lock().insert(name.clone(), driver);
                Some(name)
            }
            (Ok(_), Err(error)) => {
                tracing::debug!(%error, socket = %socket.display(), "a registrar did not listen");
                None
            }
            (Err(error), _) => {
                if first {
                    tracing::warn!(%error, socket = %socket.display(), "a plugin was not taken; trying again");
                }
                None
            }
        }
    }

    async fn examine(&self, socket: &Path) -> Result<Driver, Refusal> {
        let plugin = messages::plugin(socket).await?;
        if plugin.kind != KIND {
            return Err(Refusal::Kind(plugin.kind));
        }
        let usable = |version: &String| version.trim_start_matches('v').split('.').next() == Some("1");
        if !plugin.versions.iter().any(usable) {
            return Err(Refusal::Version(plugin.versions));
        }
        if !is_name(&plugin.name) {
            return Err(Refusal::Name(plugin.name));
        }
        if self.lock().len() >= MOST {
            return Err(Refusal::TooMany);
        }
        let endpoint = match plugin.endpoint.as_str() {
            "" => socket.to_owned(),
            endpoint => PathBuf::from(endpoint.trim_start_matches("unix://")),
        };
        let info = messages::node_info(&endpoint).await?;
        let can = messages::abilities(&endpoint).await?;
        Ok(Driver {
            name: plugin.name,
            endpoint,
            node_id: info.id,
            limit: info.limit,
            topology: info.topology,
            stages: can.stages,
            gives_groups: can.gives_groups,
            expands: can.expands,
        })
    }
}

/// A domain name of 63 characters (CSI, GetPluginInfo): it becomes a directory.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    name.len() <= 63 && name.bytes().all(plain) && edge(bytes.first()) && edge(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_of_drivers() {
        for name in ["hostpath.csi.k8s.io", "a", "A-1.b"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "-a", "a.", &"a".repeat(64)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
