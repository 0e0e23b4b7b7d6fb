//! Against the kernel and the host's programs, on loop devices.

use std::process::Command;

use serde_json::{Value, json};

use super::*;

/// A device of a file of its own, and a node's data directory; both go, mounted or not.
struct Place {
    dir: tempfile::TempDir,
    device: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let emptied = mounts::release_under(&self.dir.path().canonicalize().unwrap());
        let detached = Command::new("losetup").args(["-d", &self.device]).status();
        eprintln!("{}: {emptied:?} {detached:?}", self.device);
    }
}

impl Place {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk");
        File::create(&file).unwrap().set_len(16 << 20).unwrap();
        let made = Command::new("losetup").args(["-f", "--show"]).arg(&file).output();
        let device = made.ok().filter(|made| made.status.success());
        let Some(device) = device else {
            eprintln!("skipped: it needs root, losetup and loop devices");
            return None;
        };
        let device = String::from_utf8(device.stdout).unwrap().trim().to_owned();
        Some(Place { dir, device })
    }

    fn disk(&self, more: Value, read_only: bool) -> Disk {
        let mut spec = json!({"local": {"path": self.device}});
        for (key, value) in more.as_object().unwrap() {
            match key.as_str() {
                "fsType" => spec["local"]["fsType"] = value.clone(),
                _ => spec[key] = value.clone(),
            }
        }
        let volume = json!({"metadata": {"name": "pv-1"}, "spec": spec});
        Disk::of(&serde_json::from_value(volume).unwrap(), read_only).unwrap()
    }

    fn layout(&self) -> Layout {
        Layout::below(self.dir.path().to_owned())
    }

    fn agent(&self) -> Disks {
        Disks::new(self.layout())
    }

    fn point(&self) -> PathBuf {
        self.layout().devices().join("pv-1")
    }

    fn target(&self, pod: &str) -> PathBuf {
        self.dir.path().join("pods").join(pod).join("volumes/data")
    }

    async fn refused(&self, disk: Disk) -> String {
        let refused = self.agent().mount(disk).await.unwrap_err().to_string();
        assert!(!self.point().exists(), "{refused}");
        refused
    }
}

#[tokio::test]
async fn an_empty_device_is_formatted_and_shared_and_unmounted_when_nobody_shows_it() {
    let Some(place) = Place::new() else { return };
    let (a, b) = (place.target("a"), place.target("b"));
    let plain = || place.disk(json!({"mountOptions": ["noexec", "data=ordered"]}), false);
    let agent = place.agent();
    let group = Group {
        id: 4242,
        always: true,
    };
    agent.mount(plain()).await.unwrap().show(&a, Some(group)).unwrap();
    fs::write(a.join("f"), "kept").unwrap();
    assert_eq!(fs::metadata(&a).unwrap().gid(), 4242);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of_pod = table.lines().find(|line| line.contains(a.to_str().unwrap()));
    let of_pod = of_pod.unwrap();
    assert!(
        of_pod.contains("noexec") && of_pod.contains(" - ext4 "),
        "{of_pod}"
    );
    // Another agent finds what the one before has mounted, and what its Pods show stays.
    let later = place.agent();
    later.release_unused().unwrap();
    later.mount(plain()).await.unwrap().show(&b, None).unwrap();
    assert_eq!(fs::read_to_string(b.join("f")).unwrap(), "kept");
    for (target, is_mounted) in [(&a, true), (&b, false)] {
        host::remove_tree(target).unwrap();
        later.release_unused().unwrap();
        assert_eq!(mounts::is_point(&place.point()).unwrap(), is_mounted);
    }
    assert!(!place.point().exists());
    // What has data is not formatted again, and who may only read cannot write.
    let held = later.mount(place.disk(json!({}), true)).await.unwrap();
    held.show(&a, None).unwrap();
    assert_eq!(fs::read_to_string(a.join("f")).unwrap(), "kept");
    assert!(fs::write(a.join("g"), "").is_err());
    // What `down` does.
    host::remove_tree(&place.dir.path().join("pods")).unwrap();
    host::remove_tree(&place.layout().devices()).unwrap();
    assert!(!mounts::is_point(&place.point()).unwrap());
}

/// Whether the kernel lets this process grow a file system that is mounted (CAP_SYS_RESOURCE).
fn may_resize() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mut capabilities = status.lines().filter_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = u64::from_str_radix(capabilities.next().unwrap().trim(), 16).unwrap();
    capabilities >> 24 & 1 == 1
}

#[tokio::test]
async fn a_file_system_that_is_shown_grows_with_its_device() {
    let Some(place) = Place::new() else { return };
    let (target, plain) = (place.target("a"), || place.disk(json!({}), false));
    let agent = place.agent();
    agent.grow(plain()).await.unwrap();
    assert!(!agent.is_shown(&target).unwrap());
    let held = agent.mount(plain()).await.unwrap();
    held.show(&target, None).unwrap();
    assert!(agent.is_shown(&target).unwrap());
    assert!(!agent.is_shown(&place.target("b")).unwrap());
    let size = || crate::host::disk(&target).unwrap().bytes;
    let before = size();
    let file = File::options().write(true).open(place.dir.path().join("disk"));
    file.unwrap().set_len(64 << 20).unwrap();
    let seen = Command::new("losetup").args(["-c", &place.device]).status();
    assert!(seen.unwrap().success());
    let grown = agent.grow(plain()).await;
    if !may_resize() {
        let refused = grown.unwrap_err().to_string();
        let begins = format!(
            "resize of device {} failed: exit status: 1. resize2fs output: ",
            place.device
        );
        assert!(refused.starts_with(&begins), "{refused}");
        eprintln!("skipped the rest: it needs CAP_SYS_RESOURCE");
        return;
    }
    grown.unwrap();
    assert!(size() > 2 * before, "{before} {}", size());
    agent.grow(plain()).await.unwrap();
    assert!(agent.is_shown(&target).unwrap(), "it stays mounted");
}

#[tokio::test]
async fn what_was_mounted_and_never_shown_is_unmounted() {
    let Some(place) = Place::new() else { return };
    let agent = place.agent();
    let held = agent.mount(place.disk(json!({}), false)).await.unwrap();
    assert!(mounts::is_point(&place.point()).unwrap());
    // Who has its turn is not disturbed.
    agent.release_unused().unwrap();
    assert!(mounts::is_point(&place.point()).unwrap());
    // A killed agent drops nothing.
    std::mem::forget(held);
    place.agent().release_unused().unwrap();
    assert!(!mounts::is_point(&place.point()).unwrap());
}

#[tokio::test]
async fn devices_that_are_not_what_they_should_be_are_refused() {
    let Some(place) = Place::new() else { return };
    let device = &place.device;
    let point = place.point().canonicalize().unwrap_or(place.point());
    let told = |kind: &str, cause: &str| {
        let point = point.display();
        format!("local: failed to mount device {device} at {point} (fstype: {kind}), error {cause}")
    };
    let unformatted =
        format!("cannot mount unformatted disk {device} as we are manipulating it in read-only mode");
    for disk in [
        place.disk(json!({}), true),
        place.disk(json!({"mountOptions": ["noatime,ro"]}), false),
    ] {
        assert_eq!(place.refused(disk).await, told("ext4", &unformatted));
    }
    let strange = place.disk(json!({"fsType": "x/../ext4"}), false);
    let words = told("x/../ext4", "\"x/../ext4\" is no type of a file system");
    assert_eq!(place.refused(strange).await, words);
    // Another program has it; the first look at it is enough here.
    let other = File::open(device).unwrap();
    flock(&other, FlockOperation::LockExclusive).unwrap();
    let words = told(
        "ext4",
        "the device is locked: another program formats or checks it",
    );
    assert_eq!(place.refused(place.disk(json!({}), false)).await, words);
    drop(other);
    // One partition.
    let mut table = [0_u8; 512];
    table[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 0, 0x10, 0, 0]);
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    fs::write(device, table).unwrap();
    let words = format!("disk {device} has unknown data, probably partitions: it is not formatted");
    assert_eq!(
        place.refused(place.disk(json!({}), false)).await,
        told("ext4", &words)
    );
    assert_eq!(fs::read(device).unwrap()[..512], table);
}

#[tokio::test]
async fn another_file_system_is_not_taken_for_the_one_that_is_asked_for() {
    let Some(place) = Place::new() else { return };
    let agent = place.agent();
    drop(agent.mount(place.disk(json!({}), false)).await.unwrap());
    let refused = place.refused(place.disk(json!({"fsType": "ext2"}), false)).await;
    assert!(refused.ends_with("(what is on it is of type ext4)"), "{refused}");
}

#[tokio::test]
async fn another_device_of_the_same_name_is_not_taken_for_it() {
    let (Some(place), Some(other)) = (Place::new(), Place::new()) else {
        return;
    };
    let agent = place.agent();
    let target = place.target("a");
    let held = agent.mount(place.disk(json!({}), false)).await.unwrap();
    held.show(&target, None).unwrap();
    let later = Disk {
        device: PathBuf::from(&other.device),
        ..place.disk(json!({}), false)
    };
    let refused = agent.mount(later.clone()).await.unwrap_err().to_string();
    let words = format!("{} is mounted there already", place.device);
    assert!(refused.ends_with(&words), "{refused}");
    host::remove_tree(&target).unwrap();
    let held = agent.mount(later.clone()).await.unwrap();
    assert!(held.has(&later).unwrap());
}

#[test]
fn volumes_of_directories_are_no_disks() {
    for path in ["/", "/dev/null", "/nonexistent"] {
        let volume = json!({"metadata": {"name": "v"}, "spec": {"local": {"path": path}}});
        assert_eq!(
            Disk::of(&serde_json::from_value(volume).unwrap(), false),
            None,
            "{path}"
        );
    }
}
