//! What outlives a run, and what a container stands on.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::*;
use crate::images::ingest;
use crate::images::layers;
use crate::images::manifest::{Descriptor, Layer};
use crate::images::media::Compression;

/// Puts layers into a store as a pull would, and records an image over them.
pub(super) fn install(images: &Images, name: &str, tars: &[Vec<u8>]) -> Image {
    let inner = &images.inner;
    let mut diff_ids = Vec::new();
    for tar in tars {
        let digest = Digest::of(tar);
        fs::write(inner.layout.blob(&digest), tar).unwrap();
        let blob = json!({"digest": digest.to_string(), "size": tar.len()});
        let blob: Descriptor = serde_json::from_value(blob).unwrap();
        let layer = Layer {
            blob,
            diff_id: digest.clone(),
            compression: Compression::None,
        };
        layers::unpack_once(&inner.layout, &layer, &inner.options.limits.unpack).unwrap();
        diff_ids.push(digest);
    }
    let reference: ImageReference = name.parse().unwrap();
    let digest = Digest::of(name.as_bytes());
    let image = Image {
        reference: reference.to_string(),
        id: digest.clone(),
        repo_digest: reference.pinned(&digest),
        manifest: digest.clone(),
        digest,
        size: 1,
        kind: ImageKind::Native,
        choice: None,
        config: ImageConfig::default(),
        blobs: diff_ids.clone(),
        layers: diff_ids,
        module: None,
    };
    inner.record(&image).unwrap();
    image
}

#[test]
fn a_store_remembers_and_sweeps() {
    if !root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let kept = install(&images, "kept:v1", &[layer(&[("a", "1")])]);
    let used = install(&images, "used:v1", &[layer(&[("a", "2")])]);
    let unused = install(&images, "unused:v1", &[layer(&[("a", "3")])]);
    images.prepare(&used, "c1", None).unwrap();
    assert!(images.forget("used:v1").unwrap() && images.forget("unused:v1").unwrap());
    assert!(!images.forget("unused:v1").unwrap());
    let half = fs::File::create(images.inner.layout.ingest().join("half")).unwrap();
    half.set_modified(std::time::SystemTime::now() - 2 * ingest::KEPT)
        .unwrap();
    half.lock().unwrap();
    fs::create_dir(images.inner.layout.layers().join(".tmp-half")).unwrap();
    let second = open(dir.path(), ImagesOptions::default());
    assert_eq!(
        names(&second.inner.layout.ingest()),
        ["half"],
        "somebody else has the store open"
    );
    drop((images, second, half));
    let images = open(dir.path(), ImagesOptions::default());
    assert_no_leftovers(&images);
    assert_eq!(
        images.find("kept:v1", ImageKind::Native).unwrap(),
        Some(kept.clone())
    );
    assert_eq!(
        images.find(&kept.repo_digest, ImageKind::Native).unwrap(),
        Some(kept.clone()),
        "by digest, under its tag's record"
    );
    assert_eq!(images.list().unwrap(), [kept]);
    assert_eq!(images.find("used:v1", ImageKind::Native).unwrap(), None);
    let layers = names(&images.inner.layout.layers());
    assert!(
        layers.contains(&used.layers[0].hex().to_owned()),
        "a container stands on it"
    );
    assert!(!layers.contains(&unused.layers[0].hex().to_owned()));
    assert!(
        matches!(images.find("UPPER", ImageKind::Native), Err(error) if error.reason() == "InvalidImageName")
    );
}

#[test]
fn unused_images_go_while_the_store_is_open() {
    if !root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let shared = layer(&[("a", "shared")]);
    let used = install(&images, "used:v1", std::slice::from_ref(&shared));
    let old = install(&images, "old:v1", &[shared, layer(&[("a", "old")])]);
    let new = install(&images, "new:v1", &[layer(&[("a", "new")])]);
    let in_use = BTreeSet::from([used.repo_digest.clone()]);
    let collect = |idle, enough: usize| {
        let is_enough = || images.list().unwrap().len() <= enough;
        images
            .collect(&in_use, Duration::from_secs(idle), is_enough)
            .unwrap()
    };
    images.find("new:v1", ImageKind::Native).unwrap();
    assert!(collect(3600, 0).is_empty(), "wanted within the hour");
    {
        let _a_pull = images.inner.pulling.try_read().unwrap();
        assert!(collect(0, 0).is_empty(), "a pull is under way");
    }
    assert_eq!(collect(0, 2), [old.reference], "the one not used for longest");
    let layers = names(&images.inner.layout.layers());
    assert!(
        layers.contains(&used.layers[0].hex().to_owned())
            && !layers.contains(&old.layers[1].hex().to_owned())
    );
    assert_eq!(collect(0, 0), [new.reference]);
    assert_eq!(images.list().unwrap(), std::slice::from_ref(&used));
    let shown = BTreeSet::from([used.reference.clone()]);
    let gone = images.collect(&shown, Duration::ZERO, || false).unwrap();
    assert!(gone.is_empty(), "a volume shows it: {gone:?}");
}

/// A mount that goes with the value.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        umount2(self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_container_sees_its_layers_merged() {
    if !root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = open(&dir.path().join("store"), ImagesOptions::default());
    let tars = [
        layer(&[("low", "l"), ("both", "low"), ("gone", "x"), ("dir/old", "x")]),
        layer(&[
            ("both", "high"),
            (".wh.gone", ""),
            ("dir/.wh..wh..opq", ""),
            ("dir/new", "n"),
        ]),
    ];
    let image = install(&images, "app", &tars);
    let Rootfs::Native { mounts } = images.prepare(&image, "pod1-app-0", None).unwrap() else {
        panic!("not native")
    };
    assert_eq!(
        images.prepare(&image, "pod1-app-0", None).unwrap(),
        Rootfs::Native {
            mounts: mounts.clone()
        }
    );
    let root = dir.path().join("merged");
    fs::create_dir(&root).unwrap();
    let [overlay] = &mounts[..] else {
        panic!("one mount")
    };
    let options = overlay.options.join(",");
    let mounted = mount(
        Some(&*overlay.source),
        &root,
        Some(&*overlay.fs_type),
        MsFlags::empty(),
        Some(&*options),
    );
    if let Err(errno) = mounted {
        eprintln!("skipped: overlayfs cannot be mounted here ({errno})");
        return;
    }
    let mounted = Mounted(&root);
    let read = |name: &str| fs::read_to_string(root.join(name)).ok();
    assert_eq!(
        (read("low").as_deref(), read("both").as_deref(), read("gone")),
        (Some("l"), Some("high"), None)
    );
    assert_eq!((read("dir/old"), read("dir/new").as_deref()), (None, Some("n")));
    fs::write(root.join("written"), "w").unwrap();
    drop(mounted);
    assert_eq!(images.snapshots().unwrap(), ["pod1-app-0"]);
    images.release("pod1-app-0").unwrap();
    images.release("pod1-app-0").unwrap();
    assert_eq!(images.snapshots().unwrap(), [""; 0]);
}

/// A directory that a layer does not name is as the layers below have it, for a root of the container's own too.
#[test]
fn a_directory_that_a_layer_only_implies_keeps_its_attributes() {
    if !root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let tars = [
        directories(&[
            ("tmp", 0o1777),
            ("tmp/in", 0o700),
            ("gone", 0o1777),
            ("named", 0o1777),
        ]),
        layer(&[(".wh.gone", ""), ("tmp/in/one", "1")]),
        directories(&[("named", 0o711)]),
        layer(&[
            ("tmp/in/two", "2"),
            ("gone/x", ""),
            ("named/x", ""),
            ("new/x", ""),
        ]),
    ];
    let image = install(&images, "app", &tars);
    for (key, owner, uid) in [("a", None, 7), ("b", Some(65536), 65543)] {
        images.prepare(&image, key, owner).unwrap();
        let upper = images.writable_layer(key).unwrap();
        assert_eq!(names(&upper), ["named", "tmp"]);
        let of = |path: &str| {
            fs::metadata(upper.join(path))
                .map(|m| (m.mode() & 0o7777, m.uid()))
                .unwrap()
        };
        assert_eq!(of("tmp"), (0o1777, uid));
        assert_eq!(of("tmp/in"), (0o700, uid));
        assert_eq!(of("named"), (0o711, uid));
    }
}

fn directories(all: &[(&str, u32)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, mode) in all {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(*mode);
        header.set_uid(7);
        header.set_gid(7);
        builder.append_data(&mut header, path, &[][..]).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn too_many_layers_for_one_mount_are_refused_in_words() {
    if !root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let mut image = install(&images, "app", &[layer(&[("a", "1")])]);
    image.layers = vec![image.layers[0].clone(); 127];
    let deep = "x".repeat(60);
    let images = open(&dir.path().join(&deep), ImagesOptions::default());
    install(&images, "app", &[layer(&[("a", "1")])]);
    assert!(matches!(
        images.prepare(&image, "c", None),
        Err(StoreError::TooManyLayers { count: 127, .. })
    ));
}

#[test]
fn keys_are_plain_names() {
    if !root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let image = install(&images, "app", &[layer(&[("a", "1")])]);
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "../x",
        "a,b",
        "a:b",
        ".hidden",
        &"x".repeat(300),
    ] {
        assert!(
            matches!(images.prepare(&image, bad, None), Err(StoreError::Key(_))),
            "{bad:?}"
        );
        assert!(images.release(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn accounts_are_read_through_layers() {
    if !root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let low = layer(&[("etc/passwd", "low:x:1:1::/:\n"), ("etc/group", "g:x:9:low\n")]);
    let high = layer(&[("etc/passwd", "high:x:2:2::/:\n"), ("other", "")]);
    let hidden = layer(&[("etc/.wh.passwd", "")]);
    let opaque = layer(&[("etc/.wh..wh..opq", "")]);
    let image = install(&images, "a", &[low.clone(), high.clone()]);
    assert_eq!(images.user(&image, "high").unwrap().uid, 2);
    assert_eq!(images.user(&image, "2:g").unwrap().gid, 9);
    assert!(images.user(&image, "low").is_err(), "replaced by the upper layer");
    for top in [hidden, opaque] {
        let image = install(&images, "b", &[low.clone(), top]);
        assert!(images.user(&image, "low").is_err());
    }
}

/// What an image declares as volumes is there as the image has it, links of the image followed inside it.
#[test]
fn volumes_of_an_image_have_what_it_has_there() {
    if !root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = open(&dir.path().join("store"), ImagesOptions::default());
    let tars = [
        directories(&[
            ("data", 0o750),
            ("data/in", 0o1777),
            ("srv", 0o711),
            ("tmp", 0o1777),
        ]),
        layer(&[
            ("data/in/one", "1"),
            ("data/gone", "x"),
            ("var/run/x", "x"),
            ("tmp/y", "y"),
        ]),
        linked_layer(),
    ];
    let mut image = install(&images, "app", &tars);
    let declared = [
        "/data",
        "srv/",
        "/none",
        "/",
        "/taken",
        "/link/../data/in",
        "/far",
    ];
    image.config.volumes = declared.map(|path| (path.to_owned(), json!({}))).into();
    images.prepare(&image, "c", Some(65536)).unwrap();
    let made = match images.volumes(&image, "c", &["/taken/".into()]) {
        Err(StoreError::Io { step, source, .. }) if step.contains("mount") => {
            eprintln!("skipped: overlayfs cannot be mounted here ({source})");
            return;
        }
        made => made.unwrap(),
    };
    let places: Vec<&str> = made.iter().map(|v| v.destination.to_str().unwrap()).collect();
    assert_eq!(places, ["/data", "/data/in", "/far", "/none", "/srv"]);
    let [data, inner, far, none, srv] = &made[..] else {
        panic!("five volumes")
    };
    assert_eq!(names(&data.source), ["again", "in", "link"]);
    let of = |path: &Path| {
        let found = fs::symlink_metadata(path).unwrap();
        (found.mode() & 0o7777, found.uid())
    };
    assert_eq!(of(&data.source), (0o750, 7));
    assert_eq!(of(&inner.source), (0o1777, 7));
    assert_eq!(of(&srv.source), (0o711, 7));
    assert_eq!(of(&none.source), (0o755, 0), "the image has nothing there");
    let again = fs::metadata(data.source.join("again")).unwrap();
    assert_eq!(again.nlink(), 2, "one file with two names");
    assert_eq!(fs::read_to_string(data.source.join("in/one")).unwrap(), "1");
    assert_eq!(
        fs::read_link(data.source.join("link")).unwrap(),
        Path::new("/etc/shadow")
    );
    assert_eq!(names(&far.source), ["y"], "a link is followed inside the image");
    assert_eq!(
        names(&images.writable_layer("c").unwrap()).len(),
        2,
        "the container's own layer"
    );
    images.release("c").unwrap();
    assert_eq!(images.snapshots().unwrap(), [""; 0]);
}

/// Below what the layers only imply are the layers themselves, or an empty one; a module alone has nothing to show.
#[test]
fn what_shows_an_image_is_its_layers() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(&dir.path().join("store"), ImagesOptions::default());
    let tars = [directories(&[("data", 0o750)]), layer(&[("data/in", "x")])];
    let image = install(&images, "app", &tars);
    let shown = images.show(&image, "volume-u-v").unwrap();
    let found: Vec<Vec<String>> = shown.iter().map(|dir| names(dir)).collect();
    assert_eq!(found, [["data"]; 3]);
    assert_eq!(names(&shown[0].join("data")), Vec::<String>::new());
    let mode = fs::metadata(shown[0].join("data")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o750, "what is on top has what is said below");
    let mut bare = install(&images, "bare", &[]);
    let shown = images.show(&bare, "volume-u-w").unwrap();
    assert_eq!(
        shown.iter().map(|dir| names(dir).len()).collect::<Vec<_>>(),
        [0, 0]
    );
    assert_eq!(images.snapshots().unwrap().len(), 2);
    bare.module = Some(bare.id.clone());
    assert_eq!(images.show(&bare, "volume-u-x").unwrap(), Vec::<PathBuf>::new());
    assert_eq!(images.snapshots().unwrap().len(), 2);
}

/// A second name, a symlink, a whiteout, and a symlink that would lead out.
fn linked_layer() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |kind, path: &str, target: Option<&str>| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(0);
        match target {
            Some(target) => builder.append_link(&mut header, path, target).unwrap(),
            None => builder.append_data(&mut header, path, &b""[..]).unwrap(),
        }
    };
    add(tar::EntryType::Regular, "data/again", None);
    add(tar::EntryType::Link, "data/in/other", Some("data/again"));
    add(tar::EntryType::Symlink, "data/link", Some("/etc/shadow"));
    add(tar::EntryType::Regular, "data/.wh.gone", None);
    add(tar::EntryType::Symlink, "far", Some("../../tmp"));
    builder.into_inner().unwrap()
}
