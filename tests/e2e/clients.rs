//! Other clients than `kubectl` against a real cluster. Skips visibly where they are not installed.

use std::path::Path;
use std::process::Command;

use crate::cluster::{Cluster, is_root, run, text};

fn has_python_client() -> bool {
    let import = Command::new("python3").args(["-c", "import kubernetes"]).output();
    import.is_ok_and(|output| output.status.success())
}

#[test]
fn the_python_client() {
    if !has_python_client() {
        eprintln!(
            "skipped the Python client: python3 has no package kubernetes (Debian: python3-kubernetes)"
        );
        return;
    }
    if !is_root("the Python client") {
        return;
    }
    let cluster = Cluster::up(&[]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    cluster.push(&root.join("workloads/wasm/server.wasm"), "server-wasm:v1");
    let script = root.join("tests/e2e/client.py");
    let output = run(Command::new("python3")
        .arg(script)
        .arg(cluster.kubeconfig())
        .env("HOME", cluster.dir())
        .env("TMPDIR", cluster.dir())
        .env_remove("KUBECONFIG"));
    let said = text(&output);
    assert!(output.status.success() && said.contains("all well"), "{said}");
}
