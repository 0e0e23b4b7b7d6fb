//! Debian's containerd drives the stand-alone shim, with an OCI image for `wasi/wasm` as Docker builds them. Where containerd
//! is not installed the test says so and passes.

use crate::shim::{LIMIT, is_root, workload};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-amphipod-wasm-v1");
const RUNTIME: &str = "io.containerd.amphipod-wasm.v1";
const IMAGE: &str = "example.com/print:v1";

/// Plugins that need what a test has not.
const CONFIG: &str = r#"
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
"#;

fn installed(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// A containerd of our own, which finds the shim on its path.
struct Containerd {
    home: TempDir,
    daemon: Child,
}

impl Containerd {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().display().to_string();
        let config = format!(
            "{CONFIG}root = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            format!("{dir}/root"),
            format!("{dir}/state"),
            format!("{dir}/c.sock"),
            format!("{dir}/t.sock"),
        );
        let file = home.path().join("config.toml");
        fs::write(&file, config).unwrap();
        let own = Path::new(SHIM).parent().unwrap().to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([own].into_iter().chain(std::env::split_paths(&path))).unwrap();
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(&file)
            .env("PATH", path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let this = Self { home, daemon };
        this.until(|| this.call(&["version"]).status.success(), "containerd answers");
        this
    }

    fn until(&self, is: impl Fn() -> bool, what: &str) {
        let deadline = Instant::now() + LIMIT;
        while !is() {
            assert!(Instant::now() < deadline, "never: {what}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn call(&self, words: &[&str]) -> Output {
        Command::new("ctr")
            .arg("--address")
            .arg(self.home.path().join("c.sock"))
            .args(["--namespace", &self.namespace()])
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn namespace(&self) -> String {
        format!("amphipod-wasmctr-{}", self.daemon.id())
    }

    fn ok(&self, words: &[&str]) -> String {
        let output = self.call(words);
        assert!(output.status.success(), "{words:?}: {}", text(&output));
        text(&output)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for id in ["one", "two", "three"] {
            let _ = self.call(&["task", "rm", "--force", id]);
            let _ = self.call(&["container", "rm", id]);
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let _ = fs::remove_dir_all(Path::new("/run/amphipod").join(self.namespace()));
    }
}

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
    let containerd = Containerd::start();
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

    let root = containerd.home.path().join("root-of-two");
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("burn.wasm"), workload("burn.wasm")).unwrap();
    fs::write(root.join("fail.wasm"), workload("fail.wasm")).unwrap();
    let by_root = ["--rootfs", "--runtime", RUNTIME, root.to_str().unwrap()];
    let failed = containerd.call(&[&["run", "--rm"], &by_root[..], &["three", "/fail.wasm", "3"]].concat());
    assert_eq!(failed.status.code(), Some(3), "{}", text(&failed));
    containerd.ok(&[&["run", "--detach"], &by_root[..], &["two", "/burn.wasm"]].concat());
    assert!(containerd.ok(&["task", "ls"]).contains("RUNNING"));
    let exec = ["task", "exec", "--exec-id", "e", "two", "ls", "/"];
    assert_eq!(containerd.ok(&exec), "burn.wasm\nfail.wasm\n");
    containerd.ok(&["task", "kill", "--signal", "SIGTERM", "two"]);
    containerd.until(|| containerd.ok(&["task", "ls"]).contains("STOPPED"), "it stops");
}
