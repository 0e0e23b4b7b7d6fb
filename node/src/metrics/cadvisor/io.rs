//! What containers read from and wrote to disks.

use std::collections::BTreeMap;

use amphipod_shim_api::DeviceIo;

use super::super::bytes;
use super::super::exposition::{Stability, Type};
use super::Out;

impl Out<'_> {
    /// What went to and came from disks, each by its name.
    pub(super) fn io(&mut self) {
        let families: [(&'static str, &str, fn(&DeviceIo) -> u64); 4] = [
            (
                "container_fs_reads_bytes_total",
                "Cumulative count of bytes read",
                |io| io.read_bytes,
            ),
            (
                "container_fs_reads_total",
                "Cumulative count of reads completed",
                |io| io.reads,
            ),
            (
                "container_fs_writes_bytes_total",
                "Cumulative count of bytes written",
                |io| io.written_bytes,
            ),
            (
                "container_fs_writes_total",
                "Cumulative count of writes completed",
                |io| io.writes,
            ),
        ];
        let all = self.all.iter().flat_map(|(_, c)| &c.stats.io);
        let devices: BTreeMap<(u64, u64), String> =
            all.map(|io| (io.device, device_name(io.device))).collect();
        for (name, help, of) in families {
            self.text.family_as(name, Type::Counter, Stability::None, help);
            for (device, path) in &devices {
                self.samples(&[("device", path)], |c| {
                    let io = c.stats.io.iter().find(|io| io.device == *device);
                    io.map(|io| bytes(of(io)))
                });
            }
        }
    }
}

/// What the host calls a block device; nothing where it has none of that number.
fn device_name((major, minor): (u64, u64)) -> String {
    let found = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    let name = found
        .ok()
        .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    name.map_or_else(String::new, |name| format!("/dev/{name}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use amphipod_shim_api::TaskStats;
    use jiff::Timestamp;
    use serde_json::json;

    use super::super::super::containers::Container;
    use super::super::super::exposition::Exposition;
    use super::super::super::processes::{Open, Processes};
    use super::*;

    #[test]
    fn disks_and_processes_are_told_as_cadvisor_tells_them() {
        let io = |minor, read_bytes, writes| DeviceIo {
            device: (u64::MAX, minor),
            read_bytes,
            writes,
            ..DeviceIo::default()
        };
        let container = |id: &str, io| Container {
            id: id.to_owned(),
            pod: Arc::new(serde_json::from_value(json!({"metadata": {"name": "p"}})).unwrap()),
            name: id.to_owned(),
            started_at: Timestamp::UNIX_EPOCH,
            at: Timestamp::UNIX_EPOCH,
            is_guest: false,
            stats: TaskStats {
                io,
                ..TaskStats::default()
            },
        };
        let all = [container("a", vec![io(0, 7, 2)]), container("guest", Vec::new())];
        let labels = |c: &Container| vec![("container", c.name.clone())];
        let mut out = Out {
            text: Exposition::default(),
            all: all.iter().map(|c| (labels(c), c)).collect(),
        };
        out.io();
        let three = Processes {
            processes: 3,
            open: Some(Open {
                descriptors: 9,
                sockets: 2,
            }),
        };
        out.processes(&[("a".to_owned(), three)].into());
        let text = out.text.finish();
        for line in [
            "# TYPE container_fs_reads_bytes_total counter",
            "container_fs_reads_bytes_total{container=\"a\",device=\"\"} 7 0",
            "container_fs_writes_total{container=\"a\",device=\"\"} 2 0",
            "# TYPE container_processes gauge",
            "container_processes{container=\"a\"} 3 0",
            "container_file_descriptors{container=\"a\"} 9 0",
            "container_sockets{container=\"a\"} 2 0",
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
        }
        assert!(!text.contains("guest"), "a guest has neither");
    }
}
