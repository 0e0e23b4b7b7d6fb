//! Where volumes of drivers are shown: at the paths of upstream's kubelet below a Pod's directory, from which drivers and tools read
//! whose a volume is; or where an agent before this one had it shown.

use std::io;
use std::path::{Path, PathBuf};

use super::published::Published;

/// Upstream's directory of its CSI plugin, below a Pod's `volumes`.
const PLUGIN: &str = "kubernetes.io~csi";
const MOUNT: &str = "mount";

/// Where the Pod's `volume` is to be shown: by the name of the PersistentVolume, or its own if the Pod's object has it. `pod` is the
/// Pod's directory.
///
/// # Errors
/// When it cannot be read where it was to be before.
pub fn target(pod: &Path, volume: &str, name: &str) -> io::Result<PathBuf> {
    let ours = || pod.join("volumes").join(PLUGIN).join(name).join(MOUNT);
    Ok(shown_at(pod, volume)?.unwrap_or_else(ours))
}

/// Where a driver has been asked to show it, or is about to be; of one that no driver has to do with nothing.
///
/// # Errors
/// When that cannot be read.
pub fn shown_at(pod: &Path, volume: &str) -> io::Result<Option<PathBuf>> {
    Ok(Published::load(pod, volume)?.map(|held| held.target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn volumes_are_where_upstream_has_them_or_where_they_were() {
        let pod = tempfile::tempdir().unwrap();
        let pod = pod.path();
        assert_eq!(shown_at(pod, "data").unwrap(), None);
        let new = pod.join("volumes/kubernetes.io~csi/pvc-1/mount");
        assert_eq!(target(pod, "data", "pvc-1").unwrap(), new);
        let before = Published {
            driver: "d".into(),
            id: "v".into(),
            target: pod.join("volumes/data"),
            staged: None,
            attached: false,
            waiting: false,
        };
        before.save(pod, "data").await.unwrap();
        assert_eq!(target(pod, "data", "pvc-1").unwrap(), before.target);
        assert_eq!(shown_at(pod, "data").unwrap(), Some(before.target));
        std::fs::write(pod.join("csi/data.json"), "{").unwrap();
        assert!(target(pod, "data", "pvc-1").is_err());
    }
}
