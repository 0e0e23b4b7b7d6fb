//! What drivers were asked to publish for a Pod, one file for each of its volumes: written before they are asked, removed when
//! they have taken it back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Directory of these files, below a Pod's.
pub const DIRECTORY: &str = "csi";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    pub driver: String,
    pub id: String,
    pub target: PathBuf,
    /// Where it is staged, if the driver stages.
    pub staged: Option<PathBuf>,
}

fn file(pod: &Path, volume: &str) -> PathBuf {
    pod.join(DIRECTORY).join(format!("{volume}.json"))
}

impl Published {
    pub fn save(&self, pod: &Path, volume: &str) -> io::Result<()> {
        let path = file(pod, volume);
        fs::create_dir_all(pod.join(DIRECTORY))?;
        let partial = path.with_extension("partial");
        fs::write(&partial, serde_json::to_vec(self)?)?;
        fs::rename(partial, path)
    }

    pub fn exists(pod: &Path, volume: &str) -> bool {
        file(pod, volume).is_file()
    }
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

/// Whether a Pod has the volume that was staged there.
pub fn is_in_use(pods: &Path, staged: &Path) -> io::Result<bool> {
    for pod in fs::read_dir(pods)? {
        let mut all = of_pod(&pod?.path())?.into_iter();
        if all.any(|(_, published)| published.staged.as_deref() == Some(staged)) {
            return Ok(true);
        }
    }
    Ok(false)
}
