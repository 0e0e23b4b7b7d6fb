//! Which attachments concern a node, as the caches have them: by index, for one node is looked at at a time, and there may be
//! very many attachments.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::ResourceExt;

use super::decide::{Attachment, Volume};
use crate::controllers::context::Watches;
use crate::toolkit::ObjectKey;

/// Index of VolumeAttachments: by the node.
const BY_HOST: usize = 0;
/// Index of VolumeAttachments: by the PersistentVolume.
const BY_VOLUME: usize = 1;
/// Index of PersistentVolumes: by what it is of a driver's, which several may be.
const BY_UNIQUE: usize = 0;

pub fn host_index(attachment: &VolumeAttachment) -> Option<String> {
    Some(attachment.spec.node_name.clone())
}

pub fn volume_index(attachment: &VolumeAttachment) -> Option<String> {
    attachment.spec.source.persistent_volume_name.clone()
}

pub fn unique_index(volume: &PersistentVolume) -> Option<String> {
    Volume::of(volume).map(|volume| volume.unique())
}

/// The attachments to a node, and those to others of the volumes that are wanted there, by unique name.
pub fn attachments<'a>(
    watches: &Watches,
    node: &str,
    wanted: impl Iterator<Item = &'a String>,
) -> BTreeMap<String, Attachment> {
    let volumes = wanted.flat_map(|unique| watches.volumes.indexed(BY_UNIQUE, unique));
    let of_wanted = volumes.flat_map(|volume| watches.attachments.indexed(BY_VOLUME, &volume.name_any()));
    let here = watches.attachments.indexed(BY_HOST, node);
    let all = here.into_iter().chain(of_wanted);
    let seen = all.filter_map(|attachment| {
        let source = attachment.spec.source.persistent_volume_name.as_ref();
        let volume = source.and_then(|name| watches.volumes.get(&ObjectKey::cluster(name)));
        Attachment::of(
            &attachment,
            volume.and_then(|volume| Volume::of(&volume)).as_ref(),
        )
    });
    seen.map(|one| (one.name.clone(), one)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume(watches: &Watches, name: &str, handle: &str) -> Volume {
        let volume =
            json!({"metadata": {"name": name}, "spec": {"csi": {"driver": "d", "volumeHandle": handle}}});
        watches.volumes.show(&volume);
        Volume::of(&serde_json::from_value(volume).expect("a volume")).expect("a driver's")
    }

    fn attach(watches: &Watches, volume: &Volume, node: &str) -> String {
        let name = volume.attachment(node);
        watches.attachments.show(
            &json!({"metadata": {"name": name}, "spec": {"attacher": "d", "nodeName": node,
            "source": {"persistentVolumeName": volume.name}}}),
        );
        name
    }

    #[test]
    fn attachments_of_other_nodes_count_where_they_are_of_what_is_wanted() {
        let watches = Watches::default();
        let (wanted, other) = (volume(&watches, "v1", "h-1"), volume(&watches, "v2", "h-2"));
        let same = volume(&watches, "v3", "h-1");
        let mut expected = vec![
            attach(&watches, &other, "a"),
            attach(&watches, &wanted, "b"),
            attach(&watches, &same, "c"),
        ];
        attach(&watches, &other, "b");
        expected.sort();
        let found = attachments(&watches, "a", [wanted.unique()].iter());
        assert_eq!(found.into_keys().collect::<Vec<_>>(), expected);
    }
}
