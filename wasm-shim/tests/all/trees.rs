//! What a guest sees of its image's files and of mounts in them, as a native container would.

use crate::shim::{Shim, ended, is_root, workload};
use amphipod_shim_api::{CreateTask, RootfsMount};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// EROFS, for which Rust has no kind where programs are made for preview 1.
const READ_ONLY: &str = "Uncategorized";

/// An image of two layers, and what its container writes.
fn layers(home: &Path) -> RootfsMount {
    let dir = |name: &str| {
        let path = home.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let (low, high) = (dir("low"), dir("high"));
    fs::create_dir(low.join("assets")).unwrap();
    fs::write(low.join("assets/low"), "from below").unwrap();
    fs::write(low.join("assets/both"), "from below").unwrap();
    fs::create_dir(low.join("data")).unwrap();
    fs::write(low.join("data/hidden"), "by the volume").unwrap();
    fs::create_dir(high.join("assets")).unwrap();
    fs::write(high.join("assets/both"), "from above").unwrap();
    fs::write(high.join("witness.wasm"), workload("witness.wasm")).unwrap();
    let options = [
        format!("lowerdir={}:{}", high.display(), low.display()),
        format!("upperdir={}", dir("upper").display()),
        format!("workdir={}", dir("work").display()),
    ];
    RootfsMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        options: options.to_vec(),
    }
}

/// What the witness says of its files, in a container with this root and these mounts.
async fn says(
    shim: &Shim,
    id: &str,
    root: Option<RootfsMount>,
    words: &[&str],
    mounts: Value,
) -> Vec<String> {
    let module = workload("witness.wasm");
    let bundle = shim.bundle(id, &module, |config| {
        config["process"]["args"] = json!([&["/witness.wasm"], words].concat());
        config["mounts"] = mounts;
        if id.starts_with("named") {
            let notes = config["annotations"].as_object_mut().unwrap();
            notes.remove("dev.amphipod.wasm/module");
        }
        config["root"]["readonly"] = json!(id.ends_with("sealed"));
    });
    let client = shim.find(id, &bundle).await;
    let log = format!("cri://{}", shim.log_path(id).display());
    let task = CreateTask {
        id: id.into(),
        bundle,
        rootfs: root.into_iter().collect(),
        stdout: log.clone(),
        stderr: log,
        ..CreateTask::default()
    };
    client.create(&task).await.unwrap();
    client.start(id).await.unwrap();
    ended(&client, id).await;
    let said = shim.log(id);
    client.delete(id).await.unwrap();
    said
}

fn bind(source: &Path, destination: &str, access: &str) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", access]})
}

/// A directory and a file to mount.
fn volume(home: &Path) -> (PathBuf, PathBuf) {
    let (volume, words) = (home.join("volume"), home.join("words"));
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("own"), "of the volume").unwrap();
    fs::write(&words, "").unwrap();
    (volume, words)
}

#[tokio::test]
async fn an_images_files_are_the_root_and_mounts_are_in_it() {
    if !is_root() {
        return;
    }
    let (shim, home) = (Shim::new(), tempfile::tempdir().unwrap());
    let (volume, words) = volume(home.path());
    let root = layers(home.path());
    let mounts = json!([
        bind(&volume, "/data", "rw"),
        bind(&volume, "/made/ro", "ro"),
        bind(&words, "/data/end", "rw")
    ]);
    let look = ["list", "/", "/data", "/made", "/data/../assets"];
    assert_eq!(
        says(&shim, "a", Some(root.clone()), &look, mounts.clone()).await,
        [
            "stdout F /: assets/ data/ made/ witness.wasm",
            "stdout F /data: end own",
            "stdout F /made: ro/",
            "stdout F /data/../assets: both low",
        ]
    );
    let read = [
        "read",
        "/assets/both",
        "/assets/low",
        "/made/ro/own",
        "/data/hidden",
    ];
    assert_eq!(
        says(&shim, "named", Some(root.clone()), &read, mounts.clone()).await,
        [
            "stdout F /assets/both: \"from above\"",
            "stdout F /assets/low: \"from below\"",
            "stdout F /made/ro/own: \"of the volume\"",
            "stdout F /data/hidden: NotFound",
        ]
    );
    for (id, path, outcome) in [
        ("b", "/assets/low", "done"),
        ("c", "/new", "done"),
        ("d", "/data/end", "done"),
        ("e", "/made/ro/own", READ_ONLY),
        ("f-sealed", "/new", READ_ONLY),
        ("g-sealed", "/data/own", "done"),
    ] {
        let said = says(
            &shim,
            id,
            Some(root.clone()),
            &["write", path, "mine"],
            mounts.clone(),
        )
        .await;
        assert_eq!(said, [format!("stdout F write: {outcome}")], "{id}");
    }
    let text = |path: PathBuf| fs::read_to_string(path).unwrap();
    assert_eq!(text(words), "mine");
    assert_eq!(text(volume.join("end")), "", "the place of the mount");
    assert_eq!(text(home.path().join("upper/assets/low")), "mine");
    assert_eq!(
        text(home.path().join("low/assets/low")),
        "from below",
        "layers are shared"
    );
}

#[tokio::test]
async fn a_file_may_be_mounted_in_a_directory_that_is() {
    if !is_root() {
        return;
    }
    let (shim, home) = (Shim::new(), tempfile::tempdir().unwrap());
    let (volume, words) = volume(home.path());
    let mounts = |access| json!([bind(&volume, "/data", access), bind(&words, "/data/end", "rw")]);
    let write = ["write", "/data/end", "last"];
    assert_eq!(
        says(&shim, "a", None, &write, mounts("rw")).await,
        ["stdout F write: done"]
    );
    assert_eq!(fs::read_to_string(&words).unwrap(), "last");
    assert_eq!(fs::read_to_string(volume.join("end")).unwrap(), "");
    assert_eq!(
        says(&shim, "b", None, &write, mounts("ro")).await,
        ["stdout F write: done"]
    );
    let own = ["write", "/data/own", "x"];
    let refused = [format!("stdout F write: {READ_ONLY}")];
    assert_eq!(says(&shim, "c", None, &own, mounts("ro")).await, refused);
    fs::remove_file(volume.join("end")).unwrap();
    let said = says(&shim, "d", None, &["list", "/data"], mounts("ro")).await;
    assert_eq!(
        said,
        ["stdout F /data: own"],
        "nothing is made in what is read-only"
    );
}
