//! What Pods hold of the node's disk: their volumes, their containers' writable layers and logs. Measuring walks through
//! directories, so that what was found counts for a minute.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;

use crate::images::Images;
use crate::layout::Layout;
use crate::pods::uses::Uses;
use crate::pods::view::PodView;
use crate::volumes::is_on_disk;
use crate::volumes::usage::{DiskUse, disk_use};

/// How long a measurement counts; upstream's volumeStatsAggPeriod.
const FRESH: Duration = Duration::from_secs(60);

/// What one Pod holds, by name of volume or container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDisk {
    pub volumes: BTreeMap<String, DiskUse>,
    pub layers: BTreeMap<String, DiskUse>,
    pub logs: BTreeMap<String, DiskUse>,
}

impl PodDisk {
    /// All of it. What lies in memory is none.
    pub fn total(&self) -> DiskUse {
        let parts = [&self.volumes, &self.layers, &self.logs];
        parts.into_iter().flat_map(BTreeMap::values).sum()
    }
}

/// Where things are, and what was measured last.
#[derive(Debug)]
pub struct Disks {
    layout: Layout,
    images: Option<Images>,
    last: Mutex<HashMap<String, (Instant, Arc<PodDisk>)>>,
}

impl Disks {
    pub fn new(layout: Layout, images: Option<Images>) -> Self {
        Disks {
            layout,
            images,
            last: Mutex::default(),
        }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Bytes of all images of the node.
    pub fn images_bytes(&self) -> Option<u64> {
        let all = self.images.as_ref()?.list().ok()?;
        Some(all.iter().map(|image| image.size).sum())
    }

    /// What a Pod holds; `running` are the ids of its running containers. Blocks.
    pub fn of(&self, pod: PodView<'_>, running: &BTreeMap<String, String>) -> Arc<PodDisk> {
        let lock = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, found)) = lock().get(pod.uid()).filter(|(at, _)| at.elapsed() < FRESH) {
            tracing::debug!(?at, "measured already");
            return found.clone();
        }
        let found = Arc::new(self.measure(pod, running));
        let mut last = lock();
        last.retain(|_, (at, _)| at.elapsed() < FRESH);
        last.insert(pod.uid().to_owned(), (Instant::now(), found.clone()));
        found
    }

    fn measure(&self, pod: PodView<'_>, running: &BTreeMap<String, String>) -> PodDisk {
        let volumes = self.layout.pods().join(pod.uid()).join("volumes");
        let logs = self.layout.logs_of(pod.namespace(), pod.name(), pod.uid());
        let mut disk = PodDisk::default();
        let made = Uses::of(pod).among(pod).into_iter();
        for volume in made.filter(|volume| is_on_disk(volume)) {
            disk.volumes
                .insert(volume.name.clone(), look(&volumes.join(&volume.name)));
        }
        for (container, _) in pod.containers() {
            let name = &container.name;
            disk.logs.insert(name.clone(), look(&logs.join(name)));
            let layer = running.get(name).zip(self.images.as_ref());
            if let Some(layer) = layer.and_then(|(id, images)| images.writable_layer(id)) {
                disk.layers.insert(name.clone(), look(&layer));
            }
        }
        disk
    }
}

fn look(path: &Path) -> DiskUse {
    disk_use(path).unwrap_or_else(|error| {
        tracing::debug!(%error, path = %path.display(), "what is in a directory cannot be told");
        DiskUse::default()
    })
}

/// Ids of a Pod's running containers, by name, as its status shows them.
pub fn running(pod: &Pod) -> BTreeMap<String, String> {
    let status = pod.status.iter();
    let all = status.flat_map(|s| {
        let mains = s.container_statuses.iter().flatten();
        mains.chain(s.init_container_statuses.iter().flatten())
    });
    let running = all.filter(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()));
    running
        .filter_map(|c| {
            let id = c.container_id.as_deref()?;
            let (_, id) = id.split_once("://")?;
            Some((c.name.clone(), id.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn volumes_that_no_container_shows_are_not_told_of() {
        let mounts = json!([{"name": "shown", "mountPath": "/a"}, {"name": "memory", "mountPath": "/b"}]);
        let volumes = json!([{"name": "shown", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}},
            {"name": "nobodys", "emptyDir": {}}]);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "c", "volumeMounts": mounts}], "volumes": volumes}}))
        .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let disks = Disks::new(Layout::below(dir.path().to_owned()), None);
        let found = disks.of(PodView::new(&pod).unwrap(), &BTreeMap::new());
        assert_eq!(found.volumes.keys().collect::<Vec<_>>(), ["shown"]);
    }
}
