//! A real driver behind a real socket, with real mounts.

use std::fs;
use std::path::Path;

use super::testing::{NAME, SmallDriver};
use super::{Csi, CsiError, REGISTRATION, Wish};
use crate::volumes::host;
use crate::volumes::ownership::Group;

/// A node's directory; unmounted when dropped.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Option<Place> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return None;
        }
        Some(Place(tempfile::tempdir().unwrap()))
    }

    fn pod(&self, uid: &str) -> std::path::PathBuf {
        let pod = self.0.path().join("pods").join(uid);
        fs::create_dir_all(pod.join("volumes")).unwrap();
        pod
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        host::unmount_under(self.0.path()).unwrap();
    }
}

async fn registered(place: &Place) -> (Csi, SmallDriver) {
    let csi = Csi::new(place.0.path().to_owned());
    let dir = place.0.path().join(REGISTRATION);
    let driver = SmallDriver::start(&dir);
    csi.look(&dir, &mut Default::default()).await;
    (csi, driver)
}

fn wish(persistent: bool) -> Wish {
    Wish {
        driver: NAME.into(),
        id: "vol-1".into(),
        context: [("color".to_owned(), "blue".to_owned())].into(),
        pod_info: [("pod".to_owned(), "a".to_owned())].into(),
        access_mode: 1,
        persistent,
        ..Wish::default()
    }
}

async fn mount(csi: &Csi, wish: &Wish, pod: &Path) -> Result<(), CsiError> {
    csi.mount(wish, pod, "data", &pod.join("volumes/data")).await
}

#[tokio::test]
async fn a_driver_registers_and_is_known_until_its_socket_goes() {
    let dir = tempfile::tempdir().unwrap();
    let csi = Csi::new(dir.path().to_owned());
    let registration = dir.path().join(REGISTRATION);
    let driver = SmallDriver::start(&registration);
    let mut known = Default::default();
    csi.look(&registration, &mut known).await;
    csi.look(&registration, &mut known).await;
    assert_eq!(driver.calls(), ["NotifyRegistrationStatus taken"]);
    let found = csi.driver(NAME).unwrap();
    assert_eq!(
        (found.node_id.as_str(), found.limit, found.stages),
        ("node-7", 5, true)
    );
    assert_eq!(found.topology["example/zone"], "z1");
    drop(driver);
    csi.look(&registration, &mut known).await;
    assert_eq!(csi.driver(NAME), None);
}

#[tokio::test]
async fn a_volume_is_staged_until_the_last_pod_gives_it_back() {
    let Some(place) = Place::new() else { return };
    let (csi, driver) = registered(&place).await;
    let (a, b) = (place.pod("a"), place.pod("b"));
    let group = Group {
        id: 4242,
        always: true,
    };
    let wish = Wish {
        group: Some(group),
        ..wish(true)
    };
    mount(&csi, &wish, &a).await.unwrap();
    mount(&csi, &wish, &a).await.unwrap();
    let said = fs::read_to_string(a.join("volumes/data/context")).unwrap();
    assert_eq!(said, "color=blue");
    let owner = std::os::unix::fs::MetadataExt::gid(&fs::metadata(a.join("volumes/data/context")).unwrap());
    assert_eq!(owner, 4242);
    fs::write(a.join("volumes/data/f"), "shared").unwrap();
    mount(&csi, &wish, &b).await.unwrap();
    assert_eq!(fs::read_to_string(b.join("volumes/data/f")).unwrap(), "shared");
    csi.unmount_all(&a).await.unwrap();
    assert!(!a.join("volumes/data").exists());
    assert_eq!(
        driver.calls().last().unwrap(),
        "NodeUnpublishVolume vol-1",
        "the other Pod has it"
    );
    let later = Csi::new(place.0.path().to_owned());
    assert!(
        matches!(later.unmount_all(&b).await, Err(CsiError::NoDriver(_))),
        "its driver is not there yet"
    );
    later
        .look(&place.0.path().join(REGISTRATION), &mut Default::default())
        .await;
    later.unmount_all(&b).await.unwrap();
    later.unmount_all(&b).await.unwrap();
    assert!(!host::is_mount_point(&b.join("volumes/data")).unwrap());
    assert_eq!(driver.calls().last().unwrap(), "NodeUnstageVolume vol-1");
}

#[tokio::test]
async fn a_volume_of_a_pod_alone_is_not_staged() {
    let Some(place) = Place::new() else { return };
    let (csi, driver) = registered(&place).await;
    let pod = place.pod("a");
    mount(&csi, &wish(false), &pod).await.unwrap();
    let said = fs::read_to_string(pod.join("volumes/data/published")).unwrap();
    assert_eq!(said, "color=blue\npod=a");
    csi.unmount_all(&pod).await.unwrap();
    assert_eq!(
        driver.calls()[1..],
        ["NodePublishVolume vol-1", "NodeUnpublishVolume vol-1"]
    );
}

#[tokio::test]
async fn without_a_driver_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let csi = Csi::new(dir.path().to_owned());
    let error = mount(&csi, &wish(true), dir.path()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("driver name {NAME} not found in the list of registered CSI drivers")
    );
}
