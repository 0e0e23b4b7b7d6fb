//! A real driver behind a real socket, with real mounts.

use std::fs;
use std::path::Path;

use super::testing::{DEVICE, LARGEST, NAME, SmallDriver};
use super::{Csi, CsiError, Obstacle, Wish};
use crate::layout::Layout;
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

    fn layout(&self) -> Layout {
        Layout::below(self.0.path().to_owned())
    }

    fn pod(&self, uid: &str) -> std::path::PathBuf {
        let pod = self.0.path().join("pods").join(uid);
        fs::create_dir_all(pod.join("volumes")).unwrap();
        pod
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        crate::mounts::release_under(self.0.path()).unwrap();
    }
}

async fn registered(place: &Place) -> (Csi, SmallDriver) {
    let csi = Csi::new(place.layout());
    let dir = place.layout().registration();
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
    let csi = Csi::new(Layout::below(dir.path().to_owned()));
    let registration = Layout::below(dir.path().to_owned()).registration();
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
async fn a_driver_that_takes_the_place_of_another_stays_when_that_goes() {
    let dir = tempfile::tempdir().unwrap();
    let csi = Csi::new(Layout::below(dir.path().to_owned()));
    let registration = Layout::below(dir.path().to_owned()).registration();
    let old = SmallDriver::at(&registration.join("old.sock"));
    let mut known = Default::default();
    csi.look(&registration, &mut known).await;
    let new = SmallDriver::at(&registration.join("new.sock"));
    csi.look(&registration, &mut known).await;
    drop(old);
    csi.look(&registration, &mut known).await;
    let found = csi.driver(NAME).map(|driver| driver.endpoint);
    assert_eq!(found, Some(new.socket.clone()));
    csi.look(&registration, &mut known).await;
    assert_eq!(csi.driver(NAME).map(|driver| driver.endpoint), found);
}

/// Volumes that lead to the same PersistentVolume have one path.
#[tokio::test]
async fn what_a_pod_has_twice_is_shown_once_and_stays_until_both_are_given_back() {
    let Some(place) = Place::new() else { return };
    let (csi, driver) = registered(&place).await;
    let pod = place.pod("a");
    let target = super::target::target(&pod, "one", "pv").unwrap();
    for volume in ["one", "other"] {
        csi.mount(&wish(true), &pod, volume, &target).await.unwrap();
    }
    csi.unmount_all(&pod).await.unwrap();
    for call in ["NodePublishVolume", "NodeUnpublishVolume", "NodeUnstageVolume"] {
        let calls = driver.calls();
        let count = calls.iter().filter(|made| made.starts_with(call)).count();
        assert_eq!(count, 1, "{call} in {calls:?}");
    }
    assert!(!crate::mounts::is_point(&target).unwrap());
    assert_eq!(super::published::of_pod(&pod).unwrap(), []);
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
    let later = Csi::new(place.layout());
    assert!(
        matches!(later.unmount_all(&b).await, Err(CsiError::NoDriver(_))),
        "its driver is not there yet"
    );
    later
        .look(&place.layout().registration(), &mut Default::default())
        .await;
    later.unmount_all(&b).await.unwrap();
    later.unmount_all(&b).await.unwrap();
    assert!(!crate::mounts::is_point(&b.join("volumes/data")).unwrap());
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
async fn what_is_shown_is_published_once_more_with_what_is_new() {
    let Some(place) = Place::new() else { return };
    let (csi, driver) = registered(&place).await;
    let pod = place.pod("a");
    let at = |color: &str| Wish {
        pod_info: [("token".to_owned(), color.to_owned())].into(),
        publish_secrets: [("key".to_owned(), color.to_owned())].into(),
        ..wish(true)
    };
    csi.republish(&at("0"), &pod, "data").await.unwrap();
    mount(&csi, &at("1"), &pod).await.unwrap();
    mount(&csi, &at("2"), &pod).await.unwrap();
    let said = |file: &str| fs::read_to_string(pod.join("volumes/data").join(file)).unwrap();
    assert_eq!(said("published"), "color=blue\ntoken=1");
    csi.republish(&at("3"), &pod, "data").await.unwrap();
    assert_eq!(
        (said("published").as_str(), said("secrets").as_str()),
        ("color=blue\ntoken=3", "key=3")
    );
    csi.unmount_all(&pod).await.unwrap();
    csi.republish(&at("4"), &pod, "data").await.unwrap();
    let expected = ["Stage", "Publish", "Publish", "Unpublish", "Unstage"];
    assert_eq!(
        driver.calls()[1..],
        expected.map(|call| format!("Node{call}Volume vol-1"))
    );
}

#[tokio::test]
async fn a_device_is_staged_and_published_as_one() {
    let Some(place) = Place::new() else { return };
    let (csi, driver) = registered(&place).await;
    let pod = place.pod("a");
    let link = pod.join("volume-devices/data");
    let wish = Wish {
        block: true,
        ..wish(true)
    };
    for _ in 0..2 {
        match csi.mount(&wish, &pod, "data", &link).await {
            Err(CsiError::Call { step, .. }) if driver.calls().len() == 2 => {
                eprintln!("skipped: {step}: device nodes cannot be made here");
                return;
            }
            made => made.unwrap(),
        }
    }
    let rdev = std::os::unix::fs::MetadataExt::rdev(&fs::metadata(&link).unwrap());
    assert_eq!(rdev, nix::sys::stat::makedev(DEVICE.0, DEVICE.1));
    csi.unmount_all(&pod).await.unwrap();
    assert!(!link.exists());
    let calls = driver.calls();
    let expected = [
        "NodeStageVolume vol-1",
        "NodePublishVolume vol-1",
        "NodeUnpublishVolume vol-1",
        "NodeUnstageVolume vol-1",
    ];
    assert_eq!(calls[1..], expected, "once each");
    let mut left = walk(&place.layout().staging());
    left.retain(|path| !path.is_dir());
    assert!(left.is_empty(), "{left:?}");
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| [vec![path.clone()], walk(&path)].concat())
        .collect()
}

#[tokio::test]
async fn an_attached_volume_is_in_use_from_before_it_is_attached_until_it_is_unstaged() {
    let Some(place) = Place::new() else { return };
    let (csi, driver) = registered(&place).await;
    let pod = place.pod("a");
    let target = pod.join("volumes/data");
    let name = format!("kubernetes.io/csi/{NAME}^vol-1");
    let wish = Wish {
        attaches: true,
        publish_context: [("lun".to_owned(), "3".to_owned())].into(),
        ..wish(true)
    };
    csi.reserve(&wish, &pod, "data", &target).await.unwrap();
    assert_eq!(csi.in_use(), std::slice::from_ref(&name));
    csi.use_changed().await;
    csi.unmount_all(&pod).await.unwrap();
    assert!(csi.in_use().is_empty());
    assert_eq!(driver.calls().len(), 1, "the driver was never asked for it");

    csi.reserve(&wish, &pod, "data", &target).await.unwrap();
    mount(&csi, &wish, &pod).await.unwrap();
    let said = fs::read_to_string(target.join("context")).unwrap();
    assert_eq!(said, "color=blue\nlun=3");
    let later = Csi::new(place.layout());
    assert_eq!(later.in_use(), [name], "also for a later agent");
    later
        .look(&place.layout().registration(), &mut Default::default())
        .await;
    later.unmount_all(&pod).await.unwrap();
    assert!(later.in_use().is_empty());
}

#[tokio::test]
async fn a_volume_grows_where_it_is_published() {
    let Some(place) = Place::new() else { return };
    let (csi, driver) = registered(&place).await;
    let (pod, wish) = (place.pod("a"), wish(true));
    csi.expand(&wish, &pod, "data", 7).await.unwrap();
    assert_eq!(driver.calls().len(), 1, "there was nothing to grow");
    mount(&csi, &wish, &pod).await.unwrap();
    csi.expand(&wish, &pod, "data", 1 << 30).await.unwrap();
    let size = fs::read_to_string(pod.join("volumes/data/size")).unwrap();
    assert_eq!(size, "1073741824");
    let more = i64::try_from(LARGEST).unwrap() + 1;
    let error = csi.expand(&wish, &pod, "data", more).await.unwrap_err();
    assert_eq!(error.obstacle(), Obstacle::Infeasible, "{error}");
}

#[tokio::test]
async fn without_a_driver_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let csi = Csi::new(Layout::below(dir.path().to_owned()));
    let error = mount(&csi, &wish(true), dir.path()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("driver name {NAME} not found in the list of registered CSI drivers")
    );
}
