//! What drivers were asked to publish for a Pod, one file for each of its volumes: written before they are asked, removed when
//! they have taken it back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::write_atomic;
use crate::pods::record::subdirectories;

/// Directory of these files, below a Pod's.
pub const DIRECTORY: &str = "csi";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    pub driver: String,
    pub id: String,
    pub target: PathBuf,
    /// Where it is staged, if the driver stages.
    pub staged: Option<PathBuf>,
    /// It had to be attached to this node.
    #[serde(default)]
    pub attached: bool,
    /// Only waited for yet: the driver was asked for nothing.
    #[serde(default)]
    pub waiting: bool,
}

fn file(pod: &Path, volume: &str) -> PathBuf {
    pod.join(DIRECTORY).join(format!("{volume}.json"))
}

impl Published {
    pub async fn save(&self, pod: &Path, volume: &str) -> io::Result<()> {
        fs::create_dir_all(pod.join(DIRECTORY))?;
        write_atomic(&file(pod, volume), serde_json::to_vec(self)?).await
    }

    /// What is published, or was asked for, under this name.
    pub fn load(pod: &Path, volume: &str) -> io::Result<Option<Self>> {
        match fs::read(file(pod, volume)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            bytes => Ok(Some(serde_json::from_slice(&bytes?)?)),
        }
    }

    pub fn exists(pod: &Path, volume: &str) -> bool {
        file(pod, volume).is_file()
    }

    /// What nodes and controllers call a volume that is attached (upstream's `UniqueVolumeName`).
    pub fn unique_name(&self) -> String {
        unique_name(&self.driver, &self.id)
    }
}

pub fn unique_name(driver: &str, id: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{id}")
}

pub fn forget(pod: &Path, volume: &str) -> io::Result<()> {
    fs::remove_file(file(pod, volume))
}

/// What is published for the Pod, by name of the volume.
pub fn of_pod(pod: &Path) -> io::Result<Vec<(String, Published)>> {
    let entries = match fs::read_dir(pod.join(DIRECTORY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let volume = path.file_stem().and_then(|name| name.to_str());
        if let Some(volume) = volume.filter(|_| path.extension().is_some_and(|e| e == "json")) {
            found.push((volume.to_owned(), serde_json::from_slice(&fs::read(&path)?)?));
        }
    }
    Ok(found)
}

/// Whether another volume of the Pod than this is shown there, or is to be: a Pod may have the same under two names.
pub fn is_shared(pod: &Path, volume: &str, target: &Path) -> io::Result<bool> {
    let mut others = of_pod(pod)?.into_iter().filter(|(name, _)| name != volume);
    Ok(others.any(|(_, published)| !published.waiting && published.target == target))
}

/// What is published for all Pods, with the Pod's directory and the volume's name.
fn of_all(pods: &Path) -> io::Result<Vec<((PathBuf, String), Published)>> {
    let entries = match fs::read_dir(pods) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for pod in entries {
        let pod = pod?.path();
        let its = of_pod(&pod)?.into_iter();
        found.extend(its.map(|(volume, published)| ((pod.clone(), volume), published)));
    }
    Ok(found)
}

/// What had to be attached, by the Pod's directory and the volume's name there. A Pod whose records cannot be read hides no
/// other's: what the node does not say it uses may be taken from it.
pub fn attached(pods: &Path) -> io::Result<BTreeMap<(PathBuf, String), String>> {
    let mut all = BTreeMap::new();
    for pod in subdirectories(pods)? {
        let its = of_pod(&pod).unwrap_or_else(|error| {
            tracing::warn!(%error, pod = %pod.display(), "it is not known which attached volumes a Pod uses");
            Vec::new()
        });
        let attached = its.into_iter().filter(|(_, published)| published.attached);
        all.extend(attached.map(|(volume, published)| ((pod.clone(), volume), published.unique_name())));
    }
    Ok(all)
}

/// Whether another volume of a Pod than `this` is the one that was staged there.
pub fn is_in_use(pods: &Path, staged: &Path, this: (&Path, &str)) -> io::Result<bool> {
    let all = of_all(pods)?.into_iter();
    let mut others = all.filter(|((pod, volume), _)| (pod.as_path(), volume.as_str()) != this);
    Ok(others.any(|(_, published)| published.staged.as_deref() == Some(staged)))
}
