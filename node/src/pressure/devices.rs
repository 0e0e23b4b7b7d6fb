//! What of a Pod's use of the disk counts for a signal, where the node's directories are on several file systems: what lies on the
//! one that is short, since only that comes back to it. With images elsewhere that is upstream's way (pkg/kubelet/eviction): volumes
//! and logs count for the node's file system, writable layers for the images', and images are removed for theirs only. Logs
//! count where they are. Pure but for the look at the directories.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::thresholds::Signal;
use crate::layout::Layout;
use crate::metrics::disks::PodDisk;
use crate::volumes::usage::DiskUse;

/// The file systems that directories of the node are on (`st_dev`), as far as that is known.
#[derive(Clone, Copy, Debug)]
pub struct Devices {
    root: Option<u64>,
    data: Option<u64>,
    logs: Option<u64>,
}

/// What lies on one file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub volumes: bool,
    /// Those that containers write to, and the images they are above.
    pub layers: bool,
    pub logs: bool,
}

impl Devices {
    pub fn of(layout: &Layout) -> Self {
        Devices {
            root: device(layout.root()),
            data: device(layout.data()),
            logs: device(&layout.logs()),
        }
    }

    /// What lies on the file system that a signal is about; nothing if it is about none.
    pub fn held(self, signal: Signal) -> Held {
        let short = match signal {
            Signal::NodeFsAvailable | Signal::NodeFsInodesFree => self.root,
            Signal::ImageFsAvailable | Signal::ImageFsInodesFree => self.data,
            Signal::MemoryAvailable | Signal::PidAvailable => None,
        };
        let is_there = |device: Option<u64>| short.is_some() && device == short;
        Held {
            volumes: is_there(self.root),
            layers: is_there(self.data),
            logs: is_there(self.logs),
        }
    }
}

impl Held {
    /// How much of what a Pod has on disk that is.
    pub fn of(self, disk: &PodDisk) -> DiskUse {
        let parts = [
            (self.volumes, &disk.volumes),
            (self.layers, &disk.layers),
            (self.logs, &disk.logs),
        ];
        let held = parts.into_iter().filter(|(is_there, _)| *is_there);
        held.flat_map(|(_, part)| part.values()).sum()
    }
}

fn device(dir: &Path) -> Option<u64> {
    let found = fs::metadata(dir).inspect_err(
        |error| tracing::warn!(%error, dir = %dir.display(), "which file system a directory is on cannot be told"),
    );
    Some(found.ok()?.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Signal = Signal::NodeFsAvailable;
    const IMAGES: Signal = Signal::ImageFsAvailable;

    fn devices(root: u64, data: u64, logs: u64) -> Devices {
        Devices {
            root: Some(root),
            data: Some(data),
            logs: Some(logs),
        }
    }

    #[test]
    fn what_counts_is_what_lies_on_the_file_system_that_is_short() {
        let (one, images_apart) = (devices(1, 1, 1), devices(1, 2, 1));
        let (logs_with_images, all_apart, logs_apart) =
            (devices(1, 2, 2), devices(1, 2, 3), devices(1, 1, 3));
        for (devices, signal, volumes, layers, logs) in [
            (one, NODE, true, true, true),
            (one, IMAGES, true, true, true),
            (images_apart, NODE, true, false, true),
            (images_apart, IMAGES, false, true, false),
            (images_apart, Signal::NodeFsInodesFree, true, false, true),
            (images_apart, Signal::ImageFsInodesFree, false, true, false),
            (logs_with_images, NODE, true, false, false),
            (logs_with_images, IMAGES, false, true, true),
            (all_apart, NODE, true, false, false),
            (all_apart, IMAGES, false, true, false),
            (logs_apart, NODE, true, true, false),
            (logs_apart, IMAGES, true, true, false),
            (one, Signal::MemoryAvailable, false, false, false),
            (one, Signal::PidAvailable, false, false, false),
        ] {
            let expected = Held {
                volumes,
                layers,
                logs,
            };
            assert_eq!(devices.held(signal), expected, "{devices:?} {signal:?}");
        }
        let unknown = Devices {
            data: None,
            logs: None,
            ..one
        };
        assert_eq!(unknown.held(IMAGES), Held::default());
    }

    #[test]
    fn a_pod_has_on_a_file_system_what_lies_there() {
        let part = |bytes| {
            let used = DiskUse { bytes, inodes: bytes };
            [("c".to_owned(), used)].into()
        };
        let disk = PodDisk {
            volumes: part(1),
            layers: part(10),
            logs: part(100),
        };
        for (devices, signal, expected) in [
            (devices(1, 1, 1), NODE, 111),
            (devices(1, 2, 1), NODE, 101),
            (devices(1, 2, 1), IMAGES, 10),
            (devices(1, 2, 2), IMAGES, 110),
        ] {
            let used = devices.held(signal).of(&disk);
            assert_eq!((used.bytes, used.inodes), (expected, expected), "{devices:?}");
        }
    }

    #[test]
    fn directories_are_looked_at() {
        let place = tempfile::tempdir().unwrap();
        let layout = Layout::below(place.path().to_owned());
        fs::create_dir(layout.logs()).unwrap();
        let elsewhere = Layout::below(place.path().to_owned()).with(Some("/proc".into()), None);
        let all = Held {
            volumes: true,
            layers: true,
            logs: true,
        };
        assert_eq!(Devices::of(&layout).held(NODE), all);
        let apart = Held {
            volumes: false,
            ..all
        };
        assert_eq!(Devices::of(&elsewhere).held(IMAGES), apart);
    }
}
