//! Which volumes of a Pod its containers show, and as what: as files (`volumeMounts`) or as a device (`volumeDevices`). No others are
//! made, waited for or told of, as upstream (`GetPodVolumeNames`). Refuses to know how volumes are made.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{EphemeralContainer, Volume, VolumeDevice, VolumeMount};

use super::view::PodView;

/// Names of volumes that containers show.
#[derive(Debug, Default)]
pub struct Uses<'a> {
    files: HashSet<&'a str>,
    devices: HashSet<&'a str>,
}

impl<'a> Uses<'a> {
    /// What any container of the Pod shows, of whatever role, whether it runs or not.
    pub fn of(pod: PodView<'a>) -> Self {
        let mut uses = Uses::default();
        for (container, _) in pod.containers() {
            uses.add(
                container.volume_mounts.as_deref(),
                container.volume_devices.as_deref(),
            );
        }
        pod.ephemeral().iter().for_each(|added| uses.add_added(added));
        uses
    }

    /// What a container shows that was added to its Pod.
    pub fn of_added(container: &'a EphemeralContainer) -> Self {
        let mut uses = Uses::default();
        uses.add_added(container);
        uses
    }

    fn add_added(&mut self, container: &'a EphemeralContainer) {
        self.add(
            container.volume_mounts.as_deref(),
            container.volume_devices.as_deref(),
        );
    }

    fn add(&mut self, mounts: Option<&'a [VolumeMount]>, devices: Option<&'a [VolumeDevice]>) {
        let mounts = mounts.unwrap_or_default().iter();
        self.files.extend(mounts.map(|mount| mount.name.as_str()));
        let devices = devices.unwrap_or_default().iter();
        self.devices.extend(devices.map(|device| device.name.as_str()));
    }

    pub fn as_files(&self, volume: &str) -> bool {
        self.files.contains(volume)
    }

    pub fn as_device(&self, volume: &str) -> bool {
        self.devices.contains(volume)
    }

    /// Those of the Pod's volumes, in its order.
    pub fn among(&self, pod: PodView<'a>) -> Vec<&'a Volume> {
        let all = pod.spec.volumes.iter().flatten();
        all.filter(|volume| self.as_files(&volume.name) || self.as_device(&volume.name))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    #[test]
    fn volumes_that_no_container_shows_are_passed_over() {
        let shows = |name: &str| json!([{"name": name, "mountPath": "/v"}]);
        let block = json!([{"name": "block", "devicePath": "/dev/v"}]);
        let names = ["of-main", "nobodys", "of-init", "block", "of-sidecar", "of-added"];
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "i", "volumeMounts": shows("of-init")},
                {"name": "s", "restartPolicy": "Always", "volumeMounts": shows("of-sidecar")}],
            "containers": [{"name": "a", "volumeMounts": shows("of-main")}, {"name": "b", "volumeDevices": block}, {"name": "c"}],
            "ephemeralContainers": [{"name": "e", "volumeMounts": shows("of-added")}],
            "volumes": names.map(|name| json!({"name": name}))}}))
        .unwrap();
        let view = PodView::new(&pod).unwrap();
        let named = |uses: Uses<'_>| -> Vec<String> {
            uses.among(view)
                .iter()
                .map(|volume| volume.name.clone())
                .collect()
        };
        let all = ["of-main", "of-init", "block", "of-sidecar", "of-added"];
        assert_eq!(named(Uses::of(view)), all);
        assert_eq!(named(Uses::of_added(&view.ephemeral()[0])), ["of-added"]);
        let uses = Uses::of(view);
        for (name, files, device) in [
            ("of-main", true, false),
            ("block", false, true),
            ("nobodys", false, false),
        ] {
            assert_eq!(
                (uses.as_files(name), uses.as_device(name)),
                (files, device),
                "{name}"
            );
        }
    }
}
