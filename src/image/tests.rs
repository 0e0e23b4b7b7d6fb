//! Pushing to the embedded registry and pulling into a node store, all real, in one process.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use amphipod_node::images::{ImageKind, Rootfs};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;

/// The embedded registry on a free port, a node store, and what is pushed.
struct World {
    dir: tempfile::TempDir,
    url: String,
    stop: CancellationToken,
}

impl World {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let (at, until) = (dir.path().join("registry"), stop.clone());
        tokio::spawn(async move { amphipod_control::registry::serve(listener, &at, until).await });
        Self { dir, url, stop }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn endpoints(&self) -> Endpoints {
        Endpoints {
            mirrors: [("amphipod.local".to_owned(), self.url.clone())].into(),
            ..Endpoints::default()
        }
    }

    async fn push(&self, path: &Path, name: &str, config: ConfigOverrides) -> (Digest, Vec<PushEvent>) {
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = events.clone();
        let request = PushRequest {
            path: path.to_owned(),
            reference: name.to_owned(),
            endpoints: self.endpoints(),
            auth: RegistryAuth::Anonymous,
            config,
            progress: Arc::new(move |event| seen.lock().unwrap().push(event)),
        };
        let (_, digest) = push(request).await.unwrap();
        let events = events.lock().unwrap().clone();
        (digest, events)
    }

    fn images(&self) -> Images {
        let mirrors = self.endpoints().mirrors;
        let options = ImagesOptions {
            mirrors,
            ..ImagesOptions::default()
        };
        Images::open(&node_store(self.dir.path()), options).unwrap()
    }

    async fn pull(&self, name: &str) -> Image {
        self.images().pull(name, &RegistryAuth::Anonymous).await.unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn root_or_skip() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: unpacking layers needs root");
    }
    root
}

fn workload(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("workloads/wasm")
        .join(name)
}

/// The directory an image's only layer was unpacked into.
fn only_layer(world: &World, image: &Image) -> PathBuf {
    assert_eq!(image.layers.len(), 1);
    node_store(world.dir.path())
        .join("layers")
        .join(image.layers[0].hex())
}

#[tokio::test]
async fn a_component_goes_round() {
    let world = World::start().await;
    let (digest, events) = world
        .push(
            &workload("server.wasm"),
            "amphipod.local/server",
            ConfigOverrides::default(),
        )
        .await;
    assert!(events.iter().any(|event| matches!(event, PushEvent::Sent { .. })));
    let (again, events) = world
        .push(
            &workload("server.wasm"),
            "amphipod.local/server:v2",
            ConfigOverrides::default(),
        )
        .await;
    assert_eq!(again, digest, "pushing the same file twice gives one digest");
    assert!(
        !events.iter().any(|event| matches!(event, PushEvent::Sent { .. })),
        "nothing is sent twice"
    );
    let image = world.pull("amphipod.local/server:v2").await;
    assert_eq!((image.kind, &image.digest), (ImageKind::Wasm, &digest));
    let images = world.images();
    assert_eq!(
        images
            .find("amphipod.local/server:v2", ImageKind::Native)
            .unwrap(),
        Some(image.clone())
    );
    let Rootfs::Wasm { module, .. } = images.prepare(&image, "c1", None).unwrap() else {
        panic!("not Wasm")
    };
    assert_eq!(
        fs::read(module.unwrap().file).unwrap(),
        fs::read(workload("server.wasm")).unwrap()
    );
    let listed = ls(world.dir.path(), Some("amphipod.local"), world.endpoints())
        .await
        .unwrap();
    let references: Vec<&str> = listed.iter().map(|image| image.reference.as_str()).collect();
    assert_eq!(
        references,
        [
            "amphipod.local/server:v2",
            "amphipod.local/server:latest",
            "amphipod.local/server:v2"
        ]
    );
    assert!(list::table(&listed).contains("wasm"));
}

#[tokio::test]
async fn a_directory_becomes_the_same_image_every_time() {
    if !root_or_skip() {
        return;
    }
    let world = World::start().await;
    let make = |name: &str| {
        let dir = world.path(name);
        fs::create_dir_all(dir.join("bin")).unwrap();
        fs::write(dir.join("bin/tool"), "#!x").unwrap();
        fs::set_permissions(dir.join("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("bin/tool", dir.join("tool")).unwrap();
        fs::create_dir_all(dir.join("etc")).unwrap();
        fs::write(dir.join("etc/passwd"), "me:x:5:6::/home/me:/bin/sh\n").unwrap();
        dir
    };
    let config = || ConfigOverrides {
        entrypoint: vec!["/bin/tool".to_owned()],
        user: Some("me".to_owned()),
        expose: vec!["80".to_owned()],
        ..ConfigOverrides::default()
    };
    let (first, _) = world.push(&make("a"), "amphipod.local/dir:v1", config()).await;
    let (second, _) = world.push(&make("b"), "amphipod.local/dir:v2", config()).await;
    assert_eq!(first, second);
    let image = world.pull("amphipod.local/dir:v1").await;
    assert_eq!(image.kind, ImageKind::Native);
    assert_eq!(
        (&image.config.entrypoint[..], &*image.config.user),
        (&["/bin/tool".to_owned()][..], "me")
    );
    assert!(image.config.exposed_ports.contains_key("80/tcp"));
    let layer = only_layer(&world, &image);
    let tool = fs::metadata(layer.join("bin/tool")).unwrap();
    assert_eq!((tool.mode() & 0o7777, tool.uid(), tool.mtime()), (0o755, 0, 0));
    assert_eq!(fs::read_link(layer.join("tool")).unwrap(), Path::new("bin/tool"));
    let user = world.images().user(&image, &image.config.user).unwrap();
    assert_eq!((user.uid, user.gid, &*user.home), (5, 6, "/home/me"));
}

#[tokio::test]
async fn executables_must_be_static() {
    if !root_or_skip() {
        return;
    }
    let world = World::start().await;
    let busybox = Path::new("/usr/bin/busybox");
    if fs::read(busybox).is_ok_and(|bytes| elf::parse(&bytes).is_ok_and(|elf| !elf.dynamic)) {
        world
            .push(busybox, "amphipod.local/busybox", ConfigOverrides::default())
            .await;
        let image = world.pull("amphipod.local/busybox").await;
        assert_eq!(image.config.entrypoint, ["/busybox"]);
        assert!(only_layer(&world, &image).join("busybox").is_file());
    } else {
        eprintln!("skipped in part: no static busybox here");
    }
    let error = build(Path::new("/bin/sh"), &ConfigOverrides::default()).unwrap_err();
    assert!(error.to_string().contains("dynamically linked"), "{error}");
    let script = world.path("script");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    let error = build(&script, &ConfigOverrides::default()).unwrap_err();
    assert!(error.to_string().contains("interpreter"), "{error}");
}

/// A docker archive of one plain layer, as `docker save` wrote them for years.
fn write_docker_archive(path: &Path) {
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    layer.append_data(&mut header, "hello", &b"hi"[..]).unwrap();
    let layer = layer.into_inner().unwrap();
    let config = serde_json::json!({
        "architecture": amphipod_node::images::native_arch(), "os": "linux",
        "config": {"Cmd": ["/hello"]},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]},
    });
    let manifest = serde_json::json!([{"Config": "c.json", "RepoTags": ["x:y"], "Layers": ["1/layer.tar"]}]);
    let mut archive = tar::Builder::new(fs::File::create(path).unwrap());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    add("c.json", config.to_string().as_bytes());
    add("1/layer.tar", &layer);
    add("manifest.json", manifest.to_string().as_bytes());
    archive.into_inner().unwrap();
}

#[tokio::test]
async fn docker_archives_and_layouts_go_round() {
    if !root_or_skip() {
        return;
    }
    let world = World::start().await;
    let archive = world.path("saved.tar");
    write_docker_archive(&archive);
    world
        .push(&archive, "amphipod.local/saved", ConfigOverrides::default())
        .await;
    let image = world.pull("amphipod.local/saved").await;
    assert_eq!(image.config.cmd, ["/hello"]);
    assert_eq!(
        fs::read_to_string(only_layer(&world, &image).join("hello")).unwrap(),
        "hi"
    );
    if Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("skipped in part: skopeo is not installed");
        return;
    }
    let source = format!("docker://{}/saved", world.url.trim_start_matches("http://"));
    let (layout, packed) = (world.path("layout"), world.path("layout.tar"));
    for target in [
        format!("oci:{}", layout.display()),
        format!("oci-archive:{}", packed.display()),
    ] {
        let args = [
            "--insecure-policy",
            "copy",
            "--src-tls-verify=false",
            &source,
            &target,
        ];
        let output = tokio::process::Command::new("skopeo")
            .args(args)
            .output()
            .await
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let (from_dir, _) = world
        .push(&layout, "amphipod.local/from-dir", ConfigOverrides::default())
        .await;
    let (from_tar, _) = world
        .push(&packed, "amphipod.local/from-tar", ConfigOverrides::default())
        .await;
    assert_eq!(from_dir, from_tar);
    assert_eq!(world.pull("amphipod.local/from-dir").await.id, image.id);
}

#[tokio::test]
async fn what_cannot_be_pushed_says_so() {
    let world = World::start().await;
    let request = |path: &Path, reference: &str| PushRequest {
        path: path.to_owned(),
        reference: reference.to_owned(),
        endpoints: world.endpoints(),
        auth: RegistryAuth::Anonymous,
        config: ConfigOverrides::default(),
        progress: Arc::new(|_| ()),
    };
    let digest = Digest::of(b"x");
    let wasm = workload("fail.wasm");
    let pinned = push(request(&wasm, &format!("amphipod.local/x@{digest}"))).await;
    assert!(matches!(pinned, Err(ImageError::PushByDigest { .. })));
    assert!(matches!(
        push(request(&wasm, "UPPER")).await,
        Err(ImageError::Reference { .. })
    ));
    assert!(matches!(
        push(request(Path::new("/nonexistent"), "x")).await,
        Err(ImageError::Io { .. })
    ));
    let refused = push(request(&wasm, "127.0.0.1:1/x")).await.unwrap_err();
    assert!(refused.to_string().contains("refused"), "{refused}");
}
