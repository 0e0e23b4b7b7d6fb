//! Staging and publishing of volumes, and the way back.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::grpc::CallError;
use super::messages::{self, Capability, Volume};
use super::published::{self, Published};
use super::{Csi, Driver};
use crate::images::Digest;
use crate::mounts;
use crate::volumes::host::{self, HostError, at};
use crate::volumes::ownership::{self, Group};
use crate::volumes::tokens;

/// Why a driver's volume could not be had, or be given back.
#[derive(Debug, thiserror::Error)]
pub enum CsiError {
    #[error("driver name {0} not found in the list of registered CSI drivers")]
    NoDriver(String),
    #[error("{step} failed: {source}")]
    Call { step: &'static str, source: CallError },
    #[error("NodePublishVolume left no block device at {}", .0.display())]
    NoDevice(PathBuf),
    #[error("NodeExpand is not supported by the CSI driver {0}")]
    CannotGrow(String),
    #[error(transparent)]
    Host(#[from] HostError),
}

/// How far what a driver said is the end of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It may work next time, or later.
    Passing,
    /// The volume is as it is; asking for the same again helps nobody.
    Infeasible,
    /// The driver is done with it, without success.
    Refused,
}

impl CsiError {
    /// By the codes of gRPC that upstream calls final and infeasible.
    pub fn obstacle(&self) -> Obstacle {
        let code = match self {
            CsiError::Call { source, .. } => source.code(),
            _ => None,
        };
        match code {
            // InvalidArgument, NotFound, OutOfRange.
            Some("3" | "5" | "11") => Obstacle::Infeasible,
            // Canceled, DeadlineExceeded, ResourceExhausted, FailedPrecondition, Aborted, Unavailable.
            None | Some("1" | "4" | "8" | "9" | "10" | "14") => Obstacle::Passing,
            Some(_) => Obstacle::Refused,
        }
    }
}

pub(super) fn calling(step: &'static str) -> impl FnOnce(CallError) -> CsiError {
    move |source| CsiError::Call { step, source }
}

/// A volume that a Pod wants.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    pub driver: String,
    pub id: String,
    pub context: BTreeMap<String, String>,
    /// It has to be attached to the node first.
    pub attaches: bool,
    /// What the driver's controller said when it attached the volume.
    pub publish_context: BTreeMap<String, String>,
    /// As a device, not as files.
    pub block: bool,
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
    /// What the driver's object asks for: tokens of the Pod's account.
    pub tokens: Vec<tokens::Wish>,
    /// They are secrets, not `pod_info`.
    pub tokens_in_secrets: bool,
    pub expand_secrets: BTreeMap<String, String>,
}

impl Wish {
    pub(super) fn capability(&self, driver: &Driver) -> Capability {
        let group = self.group.filter(|_| driver.gives_groups);
        Capability {
            block: self.block,
            fs_type: self.fs_type.clone(),
            mount_flags: self.mount_flags.clone(),
            group: group.map(|group| group.id.to_string()).unwrap_or_default(),
            access_mode: self.access_mode,
        }
    }
}

impl Csi {
    fn pods(&self) -> PathBuf {
        self.layout.pods()
    }

    /// Where a driver keeps what is between the volume and the Pods that have it; a device apart from files.
    fn staging(&self, wish: &Wish) -> PathBuf {
        let id = Digest::of(wish.id.as_bytes());
        let dir = self.layout.staging().join(&wish.driver).join(id.hex());
        dir.join(if wish.block { "device" } else { "globalmount" })
    }

    async fn save(&self, record: &Published, pod: &Path, volume: &str) -> Result<(), CsiError> {
        let saved = record.save(pod, volume).await;
        saved.map_err(at("note the volume of", pod))?;
        if record.attached {
            let key = (pod.to_owned(), volume.to_owned());
            self.attached().insert(key, record.unique_name());
            self.used.notify_one();
        }
        Ok(())
    }

    fn forget(&self, pod: &Path, volume: &str) -> Result<(), CsiError> {
        published::forget(pod, volume).map_err(at("forget the volume of", pod))?;
        let key = (pod.to_owned(), volume.to_owned());
        if self.attached().remove(&key).is_some() {
            self.used.notify_one();
        }
        Ok(())
    }

    /// Notes that the Pod is to have the volume as soon as it is attached: from now on the node says that it uses it.
    pub async fn reserve(
        &self,
        wish: &Wish,
        pod: &Path,
        volume: &str,
        target: &Path,
    ) -> Result<(), CsiError> {
        let held = Published::load(pod, volume).map_err(at("read the volume of", pod))?;
        let record = match held {
            Some(held) if held.attached => return Ok(()),
            // Its driver did not attach when the volume was published here.
            Some(held) => Published {
                attached: true,
                ..held
            },
            None => Published {
                driver: wish.driver.clone(),
                id: wish.id.clone(),
                target: target.to_owned(),
                staged: None,
                attached: true,
                waiting: true,
            },
        };
        self.save(&record, pod, volume).await
    }

    /// Has the volume published at `target` for the Pod whose directory is `pod`.
    pub async fn mount(&self, wish: &Wish, pod: &Path, volume: &str, target: &Path) -> Result<(), CsiError> {
        let name = &wish.driver;
        let driver = self
            .driver(name)
            .ok_or_else(|| CsiError::NoDriver(name.clone()))?;
        let turn = self.turn(name, &wish.id);
        let _turn = turn.lock().await;
        let is_shown = is_there(wish, target)?;
        if is_shown && Published::exists(pod, volume) {
            return Ok(());
        }
        let staged = (driver.stages && wish.persistent).then(|| self.staging(wish));
        let record = Published {
            driver: name.clone(),
            id: wish.id.clone(),
            target: target.to_owned(),
            staged: staged.clone(),
            attached: wish.attaches,
            waiting: false,
        };
        self.save(&record, pod, volume).await?;
        if is_shown && is_shared(pod, volume, target)? {
            return Ok(());
        }
        let capability = wish.capability(&driver);
        let asked = Volume {
            id: &wish.id,
            attached: &wish.publish_context,
            context: &wish.context,
            capability: &capability,
        };
        if let Some(staged) = &staged {
            fs::create_dir_all(staged).map_err(at("create", staged))?;
            let done = messages::stage(&driver.endpoint, &asked, staged, &wish.stage_secrets).await;
            done.map_err(calling("NodeStageVolume"))?;
        }
        self.publish(&driver, wish, staged.as_deref(), target).await
    }

    /// Has what is shown to the Pod published once more, with what the driver is to be told by now (`requiresRepublish`). What was
    /// given back meanwhile stays so.
    pub async fn republish(&self, wish: &Wish, pod: &Path, volume: &str) -> Result<(), CsiError> {
        let name = &wish.driver;
        let driver = self
            .driver(name)
            .ok_or_else(|| CsiError::NoDriver(name.clone()))?;
        let turn = self.turn(name, &wish.id);
        let _turn = turn.lock().await;
        let held = Published::load(pod, volume).map_err(at("read the volume of", pod))?;
        match held {
            Some(held) if is_there(wish, &held.target)? => {
                self.publish(&driver, wish, held.staged.as_deref(), &held.target)
                    .await
            }
            _ => Ok(()),
        }
    }

    async fn publish(
        &self,
        driver: &Driver,
        wish: &Wish,
        staged: Option<&Path>,
        target: &Path,
    ) -> Result<(), CsiError> {
        let mut context = wish.context.clone();
        context.extend(wish.pod_info.clone());
        let capability = wish.capability(driver);
        let told = Volume {
            id: &wish.id,
            attached: &wish.publish_context,
            context: &context,
            capability: &capability,
        };
        if let Some(parent) = target.parent() {
            // The target itself is the driver's to make.
            host::make_dir(parent, 0o755)?;
        }
        let secrets = &wish.publish_secrets;
        let done = messages::publish(&driver.endpoint, &told, staged, target, wish.read_only, secrets).await;
        done.map_err(calling("NodePublishVolume"))?;
        if wish.block {
            return match is_device(target) {
                true => Ok(()),
                false => Err(CsiError::NoDevice(target.to_owned())),
            };
        }
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
        if record.waiting {
            return self.forget(pod, volume);
        }
        let (name, id) = (&record.driver, &record.id);
        let driver = self
            .driver(name)
            .ok_or_else(|| CsiError::NoDriver(name.clone()))?;
        let turn = self.turn(name, id);
        let _turn = turn.lock().await;
        if is_shared(pod, volume, &record.target)? {
            return self.forget(pod, volume);
        }
        let done = messages::unpublish(&driver.endpoint, id, &record.target).await;
        gone_is_done(done).map_err(calling("NodeUnpublishVolume"))?;
        let Some(staged) = &record.staged else {
            return self.forget(pod, volume);
        };
        let pods = self.pods();
        if published::is_in_use(&pods, staged, (pod, volume)).map_err(at("list", &pods))? {
            return self.forget(pod, volume);
        }
        let done = messages::unstage(&driver.endpoint, id, staged).await;
        gone_is_done(done).map_err(calling("NodeUnstageVolume"))?;
        // Not before: until then it may not be detached, and the next try gets here again.
        self.forget(pod, volume)?;
        // Only if they are empty: what is mounted there is data.
        for dir in [Some(staged.as_path()), staged.parent()].into_iter().flatten() {
            if let Err(error) = fs::remove_dir(dir) {
                tracing::debug!(%error, path = %dir.display(), "a staging directory stays");
            }
        }
        Ok(())
    }
}

fn is_shared(pod: &Path, volume: &str, target: &Path) -> Result<bool, HostError> {
    published::is_shared(pod, volume, target).map_err(at("read the volumes of", pod))
}

/// Whether the driver has shown the volume already.
fn is_there(wish: &Wish, target: &Path) -> Result<bool, HostError> {
    match wish.block {
        true => Ok(is_device(target)),
        false => mounts::is_point(target).map_err(at("look at", target)),
    }
}

/// A device node, or a link or mount of one.
pub fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}

/// A driver that knows nothing of a volume has nothing to take back.
fn gone_is_done(done: Result<(), CallError>) -> Result<(), CallError> {
    match done {
        Err(error) if error.is_not_found() => Ok(()),
        done => done,
    }
}
