//! Debian's containerd drives the stand-alone shim, with an OCI image for `wasi/wasm` as Docker builds them. Where containerd
//! is not installed the test says so and passes.

#[path = "../../../node/shim-api/tests/shared/containerd.rs"]
mod daemon;

use crate::shim::{is_root, workload};
use daemon::{Containerd, installed, text};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::Path;
use std::process::Command;

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-amphipod-wasm-v1");
const RUNTIME: &str = "io.containerd.amphipod-wasm.v1";
const IMAGE: &str = "example.com/print:v1";

fn tar(dir: &Path, archive: &Path) {
    let done = Command::new("tar")
        .arg("-C")
        .arg(dir)
        .arg("-cf")
        .arg(archive)
        .arg(".")
        .status();
    assert!(done.unwrap().success());
}

/// Stores a blob of an OCI layout and describes it.
fn blob(layout: &Path, kind: &str, bytes: &[u8]) -> Value {
    let digest = hex::encode(Sha256::digest(bytes));
    fs::write(layout.join("blobs/sha256").join(&digest), bytes).unwrap();
    json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len()})
}

/// An archive of an image for `wasi/wasm`: one layer with the module and nothing else.
fn archive(home: &Path, module: &[u8]) -> std::path::PathBuf {
    let (layer, layout) = (home.join("layer"), home.join("layout"));
    fs::create_dir_all(&layer).unwrap();
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    fs::write(layer.join("print.wasm"), module).unwrap();
    tar(&layer, &home.join("layer.tar"));
    let bytes = fs::read(home.join("layer.tar")).unwrap();
    let layer = blob(&layout, "application/vnd.oci.image.layer.v1.tar", &bytes);
    let config = json!({"os": "wasi", "architecture": "wasm",
        "config": {"Entrypoint": ["/print.wasm"], "Env": ["FROM=image"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}});
    let config = blob(
        &layout,
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    );
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [layer]});
    let mut manifest = blob(
        &layout,
        "application/vnd.oci.image.manifest.v1+json",
        manifest.to_string().as_bytes(),
    );
    manifest["platform"] = json!({"os": "wasi", "architecture": "wasm"});
    manifest["annotations"] =
        json!({"io.containerd.image.name": IMAGE, "org.opencontainers.image.ref.name": "v1"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    let whole = home.join("image.tar");
    tar(&layout, &whole);
    whole
}

#[test]
fn containerd_runs_an_image_for_wasm() {
    if !is_root() || !installed("containerd") || !installed("ctr") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let mut containerd = Containerd::start(home, Path::new(SHIM).parent().unwrap(), "amphipod-wasmctr");
    let events = containerd.listen();
    let image = archive(containerd.home.path(), &workload("print.wasm"));
    containerd.ok(&[
        "image",
        "import",
        "--platform",
        "wasi/wasm",
        image.to_str().unwrap(),
    ]);
    let run = ["run", "--runtime", RUNTIME, "--platform", "wasi/wasm"];
    let said = containerd.ok(&[
        &run[..],
        &["--rm", "--env", "A=b", IMAGE, "one", "/print.wasm", "x y"],
    ]
    .concat());
    for words in ["arg 0: /print.wasm\n", "arg 1: x y\n", "A=b\n", "FROM=image\n"] {
        assert!(said.contains(words), "no {words:?} in: {said}");
    }

    containerd.told(&events, "one", &["create", "start", "exit", "delete"]);

    let root = containerd.home.path().join("root-of-two");
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("burn.wasm"), workload("burn.wasm")).unwrap();
    fs::write(root.join("fail.wasm"), workload("fail.wasm")).unwrap();
    let by_root = ["--rootfs", "--runtime", RUNTIME, root.to_str().unwrap()];
    let failed = containerd.call(&[&["run", "--rm"], &by_root[..], &["three", "/fail.wasm", "3"]].concat());
    assert_eq!(failed.status.code(), Some(3), "{}", text(&failed));
    containerd.ok(&[&["run", "--detach"], &by_root[..], &["two", "/burn.wasm"]].concat());
    containerd.restart();
    let events = containerd.listen();
    assert!(containerd.ok(&["task", "ls"]).contains("RUNNING"));
    let exec = ["task", "exec", "--exec-id", "e", "two", "ls", "/"];
    assert_eq!(containerd.ok(&exec), "burn.wasm\nfail.wasm\n");
    containerd.ok(&["task", "kill", "--signal", "SIGTERM", "two"]);
    containerd.until(|| containerd.ok(&["task", "ls"]).contains("STOPPED"), "it stops");
    let told = ["exec-added", "exec-started", "exit", "exit"];
    containerd.told(&events, "two", &told);
}
