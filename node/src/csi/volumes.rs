//! Staging and publishing of volumes, and the way back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::grpc::CallError;
use super::messages::{self, Capability, Volume};
use super::published::{self, Published};
use super::{Csi, Driver, STAGING};
use crate::images::Digest;
use crate::volumes::host::{self, HostError};
use crate::volumes::ownership::{self, Group};

/// Why a driver's volume could not be had, or be given back.
#[derive(Debug, thiserror::Error)]
pub enum CsiError {
    #[error("driver name {0} not found in the list of registered CSI drivers")]
    NoDriver(String),
    #[error("{step} failed: {source}")]
    Call { step: &'static str, source: CallError },
    #[error("{step} {}: {source}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Host(#[from] HostError),
}

fn at<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CsiError + 'a {
    move |source| CsiError::Io {
        step,
        path: path.to_owned(),
        source,
    }
}

fn calling(step: &'static str) -> impl FnOnce(CallError) -> CsiError {
    move |source| CsiError::Call { step, source }
}

/// A volume that a Pod wants.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    pub driver: String,
    pub id: String,
    pub context: BTreeMap<String, String>,
    /// What the driver is told of the Pod when the volume is published.
    pub pod_info: BTreeMap<String, String>,
    pub fs_type: String,
    pub mount_flags: Vec<String>,
    pub access_mode: u64,
    pub read_only: bool,
    /// Of a PersistentVolume: one of a Pod alone is never staged.
    pub persistent: bool,
    /// `fsGroup`, if the driver's object has it given.
    pub group: Option<Group>,
    pub stage_secrets: BTreeMap<String, String>,
    pub publish_secrets: BTreeMap<String, String>,
}

impl Wish {
    fn capability(&self, driver: &Driver) -> Capability {
        let group = self.group.filter(|_| driver.gives_groups);
        Capability {
            fs_type: self.fs_type.clone(),
            mount_flags: self.mount_flags.clone(),
            group: group.map(|group| group.id.to_string()).unwrap_or_default(),
            access_mode: self.access_mode,
        }
    }
}

impl Csi {
    fn pods(&self) -> PathBuf {
        self.data_dir.join("pods")
    }

    fn staging(&self, driver: &str, id: &str) -> PathBuf {
        let id = Digest::of(id.as_bytes());
        let dir = self.data_dir.join(STAGING).join(driver);
        dir.join(id.hex()).join("globalmount")
    }

    /// Has the volume published at `target` for the Pod whose directory is `pod`.
    pub async fn mount(&self, wish: &Wish, pod: &Path, volume: &str, target: &Path) -> Result<(), CsiError> {
        let name = &wish.driver;
        let driver = self
            .driver(name)
            .ok_or_else(|| CsiError::NoDriver(name.clone()))?;
        let turn = self.turn(name, &wish.id);
        let _turn = turn.lock().await;
        if host::is_mount_point(target)? && Published::exists(pod, volume) {
            return Ok(());
        }
        let staged = (driver.stages && wish.persistent).then(|| self.staging(name, &wish.id));
        let record = Published {
            driver: name.clone(),
            id: wish.id.clone(),
            target: target.to_owned(),
            staged: staged.clone(),
        };
        record.save(pod, volume).map_err(at("note the volume of", pod))?;
        let capability = wish.capability(&driver);
        let asked = Volume {
            id: &wish.id,
            context: &wish.context,
            capability: &capability,
        };
        if let Some(staged) = &staged {
            fs::create_dir_all(staged).map_err(at("create", staged))?;
            let done = messages::stage(&driver.endpoint, &asked, staged, &wish.stage_secrets).await;
            done.map_err(calling("NodeStageVolume"))?;
        }
        let mut context = wish.context.clone();
        context.extend(wish.pod_info.clone());
        let told = Volume {
            context: &context,
            ..asked
        };
        let staged = staged.as_deref();
        let secrets = &wish.publish_secrets;
        let done = messages::publish(&driver.endpoint, &told, staged, target, wish.read_only, secrets).await;
        done.map_err(calling("NodePublishVolume"))?;
        match wish.group.filter(|_| !driver.gives_groups && !wish.read_only) {
            Some(group) => Ok(ownership::give(target, group)?),
            None => Ok(()),
        }
    }

    /// Has everything taken back that was published for the Pod.
    pub async fn unmount_all(&self, pod: &Path) -> Result<(), CsiError> {
        let all = published::of_pod(pod).map_err(at("read the volumes of", pod))?;
        for (volume, record) in all {
            self.unmount(pod, &volume, &record).await?;
        }
        Ok(())
    }

    async fn unmount(&self, pod: &Path, volume: &str, record: &Published) -> Result<(), CsiError> {
        let (name, id) = (&record.driver, &record.id);
        let driver = self
            .driver(name)
            .ok_or_else(|| CsiError::NoDriver(name.clone()))?;
        let turn = self.turn(name, id);
        let _turn = turn.lock().await;
        let done = messages::unpublish(&driver.endpoint, id, &record.target).await;
        gone_is_done(done).map_err(calling("NodeUnpublishVolume"))?;
        published::forget(pod, volume).map_err(at("forget the volume of", pod))?;
        let Some(staged) = &record.staged else {
            return Ok(());
        };
        let pods = self.pods();
        if published::is_in_use(&pods, staged).map_err(at("list", &pods))? {
            return Ok(());
        }
        let done = messages::unstage(&driver.endpoint, id, staged).await;
        if let Err(error) = gone_is_done(done) {
            // The record comes back, so that the next try gets here again.
            record.save(pod, volume).map_err(at("note the volume of", pod))?;
            return Err(calling("NodeUnstageVolume")(error));
        }
        // Only if they are empty: what is mounted there is data.
        for dir in [Some(staged.as_path()), staged.parent()].into_iter().flatten() {
            if let Err(error) = fs::remove_dir(dir) {
                tracing::debug!(%error, path = %dir.display(), "a staging directory stays");
            }
        }
        Ok(())
    }
}

/// A driver that knows nothing of a volume has nothing to take back.
fn gone_is_done(done: Result<(), CallError>) -> Result<(), CallError> {
    match done {
        Err(error) if error.is_not_found() => Ok(()),
        done => done,
    }
}
