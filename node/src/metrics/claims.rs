//! `kubelet_volume_stats_…`: how full the file systems of claims are (upstream's pkg/kubelet/metrics/collectors). Those of
//! CSI drivers, which would have to be asked, are left out, and those on a network: a server that is away gives no answer.

use std::collections::BTreeMap;

use super::Station;
use super::bytes;
use super::exposition::{Exposition, Stability, Type};
use crate::host::{self, Disk};
use crate::mounts;
use crate::pods::view::PodView;
use crate::volumes;
use crate::volumes::claims::name_of;

/// Beginnings of the kinds of file systems that may wait for somebody else.
const REMOTE: [&str; 6] = ["nfs", "fuse", "cifs", "smb", "ceph", "9p"];

/// Namespace and name of a claim.
type Claim = (String, String);

/// Tells of every claim that a Pod here uses.
pub fn tell(station: &Station, out: &mut Exposition) {
    match measure(station) {
        Ok(found) => render(&found, out),
        Err(error) => tracing::warn!(%error, "how full claims are cannot be told"),
    }
}

fn measure(station: &Station) -> std::io::Result<BTreeMap<Claim, Disk>> {
    let pods = station.disks.layout().pods().canonicalize()?;
    let kinds: BTreeMap<_, _> = mounts::kinds_under(&pods)?.into_iter().collect();
    let mut found = BTreeMap::new();
    for pod in station.table.pods() {
        let Some(view) = PodView::new(&pod) else { continue };
        for volume in view.spec.volumes.iter().flatten() {
            let Some(claim) = name_of(view.name(), volume) else {
                continue;
            };
            let path = match volumes::place(&pods.join(view.uid()).join("volumes"), volume) {
                Ok(path) => path,
                Err(error) => {
                    tracing::debug!(%error, pod = %view.full_name(), claim, "where a claim is shown cannot be told");
                    continue;
                }
            };
            let is_near = |kind: &String| REMOTE.iter().all(|remote| !kind.starts_with(remote));
            if kinds.get(&path).is_some_and(is_near)
                && let Ok(disk) = host::disk(&path)
            {
                found.insert((view.namespace().to_owned(), claim), disk);
            }
        }
    }
    Ok(found)
}

fn render(found: &BTreeMap<Claim, Disk>, out: &mut Exposition) {
    let families: [(&'static str, &str, fn(&Disk) -> u64); 6] = [
        (
            "kubelet_volume_stats_available_bytes",
            "Number of available bytes in the volume",
            |d| d.free_bytes,
        ),
        (
            "kubelet_volume_stats_capacity_bytes",
            "Capacity in bytes of the volume",
            |d| d.bytes,
        ),
        (
            "kubelet_volume_stats_inodes",
            "Maximum number of inodes in the volume",
            |d| d.inodes,
        ),
        (
            "kubelet_volume_stats_inodes_free",
            "Number of free inodes in the volume",
            |d| d.free_inodes,
        ),
        (
            "kubelet_volume_stats_inodes_used",
            "Number of used inodes in the volume",
            |d| d.inodes.saturating_sub(d.free_inodes),
        ),
        (
            "kubelet_volume_stats_used_bytes",
            "Number of used bytes in the volume",
            |d| d.bytes.saturating_sub(d.free_bytes),
        ),
    ];
    for (name, help, of) in families.into_iter().filter(|_| !found.is_empty()) {
        out.family_as(name, Type::Gauge, Stability::Alpha, help);
        for ((namespace, claim), disk) in found {
            let labels = [
                ("namespace", namespace.as_str()),
                ("persistentvolumeclaim", claim.as_str()),
            ];
            out.sample(&labels, bytes(of(disk)), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_told_as_upstream_tells_them() {
        let disk = Disk {
            bytes: 100,
            free_bytes: 30,
            inodes: 10,
            free_inodes: 4,
        };
        let mut out = Exposition::default();
        render(&[(("n".to_owned(), "c".to_owned()), disk)].into(), &mut out);
        let text = out.finish();
        for line in [
            "# TYPE kubelet_volume_stats_capacity_bytes gauge",
            "kubelet_volume_stats_used_bytes{namespace=\"n\",persistentvolumeclaim=\"c\"} 70",
            "kubelet_volume_stats_inodes_used{namespace=\"n\",persistentvolumeclaim=\"c\"} 6",
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
        }
    }
}
