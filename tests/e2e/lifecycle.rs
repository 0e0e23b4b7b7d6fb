//! A cluster's life on a host: side by side with another, stopped, removed without a trace.

use nix::sys::signal::Signal;

use crate::cluster::{Cluster, is_root, run, text};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: sleeper}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: native, image: amphipod.local/burn:v1, resources: {limits: {cpu: 50m}}}
";

/// A manifest in the cluster's folder, and the image that it names in the folder's images.yaml.
fn sleeper(cluster: &Cluster) -> std::path::PathBuf {
    let burn = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/wasm/burn.wasm");
    let images = format!(
        "images:\n- {{name: 'amphipod.local/burn:v1', path: '{}'}}\n",
        burn.display()
    );
    std::fs::write(cluster.dir().join("images.yaml"), images).unwrap();
    let manifest = cluster.dir().join("pod.yaml");
    std::fs::write(&manifest, POD).unwrap();
    manifest
}

/// Everything on this host that carries the cluster's id: links, mounts, cgroups, run files, nft tables, processes.
fn traces(id: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/class/net").unwrap() {
        found.push(format!("link {}", entry.unwrap().file_name().display()));
    }
    for file in ["/proc/self/mounts", "/proc/self/cgroup"] {
        found.extend(
            std::fs::read_to_string(file)
                .unwrap()
                .lines()
                .map(|line| format!("{file} {line}")),
        );
    }
    for root in ["/sys/fs/cgroup", "/run/amphipod"] {
        walk(std::path::Path::new(root), 4, &mut found);
    }
    for process in std::fs::read_dir("/proc").unwrap() {
        let command = std::fs::read(process.unwrap().path().join("cmdline")).unwrap_or_default();
        found.push(format!(
            "process {}",
            String::from_utf8_lossy(&command).replace('\0', " ")
        ));
    }
    if let Ok(tables) = std::process::Command::new("nft")
        .args(["list", "tables"])
        .output()
    {
        found.extend(text(&tables).lines().map(|line| format!("nft {line}")));
    }
    found.retain(|name| name.contains(id));
    found
}

fn walk(dir: &std::path::Path, depth: usize, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        found.push(entry.path().display().to_string());
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), depth - 1, found);
        }
    }
}

#[test]
fn ctrl_c_leaves_pods_running_and_down_leaves_nothing() {
    if !is_root("down") {
        return;
    }
    let mut cluster = Cluster::new();
    let manifest = sleeper(&cluster);
    cluster.start(&[&manifest]);
    let id = cluster.id();
    assert!(cluster.stop(Signal::SIGINT).success());
    assert!(
        traces(&id).iter().any(|trace| trace.contains("wasm-shim")),
        "the shim outlives the agent: {:?}",
        traces(&id)
    );
    let down = cluster.down();
    assert!(down.status.success(), "{}", text(&down));
    assert_eq!(traces(&id), [""; 0]);
}

#[test]
fn a_clean_stop_with_rm_leaves_nothing_at_all() {
    if !is_root("--rm") {
        return;
    }
    let cluster = Cluster::new();
    let manifest = sleeper(&cluster);
    let mut child = cluster
        .up_command(&[&manifest])
        .arg("--rm")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(out).map_while(Result::ok);
    assert!(lines.by_ref().any(|line| line.contains("Ctrl-C stops")));
    let id = cluster.id();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    for _rest in lines {} // a full pipe would hold `up` back
    assert!(child.wait().unwrap().success());
    assert_eq!(traces(&id), [""; 0]);
    assert!(!cluster.data_dir().exists());
}

#[test]
fn two_clusters_live_side_by_side() {
    if !is_root("two clusters") {
        return;
    }
    let mut first = Cluster::new();
    let mut second = Cluster::new();
    let (one, two) = (sleeper(&first), sleeper(&second));
    first.start(&[&one]);
    second.start(&[&two]);
    assert_ne!(first.id(), second.id());
    first.stop(Signal::SIGINT);
    assert!(first.down().status.success());
    let id = second.id();
    assert!(
        traces(&id).iter().any(|trace| trace.contains("link ")),
        "the other cluster's links are still there"
    );
    let mut get = std::process::Command::new(crate::cluster::AMPHIPOD);
    let listed = run(get.args(["image", "ls", "--data-dir"]).arg(second.data_dir()));
    assert!(text(&listed).contains("burn"), "{}", text(&listed));
}
