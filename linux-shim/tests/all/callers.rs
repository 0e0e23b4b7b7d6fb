//! Those who drive runtimes, driving this one: podman the command line, containerd the shim and the command line.
//!
//! Each is Debian's; where it is not installed its test says so and passes.

#[path = "../../../node/shim-api/tests/shared/containerd.rs"]
mod daemon;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::harness::{PATIENCE, SHIM, can_run, image, limitable};
use crate::oci_harness::OCI;
use crate::systemd::{SLICE, property, until};
pub use daemon::installed;
use daemon::{Containerd, text};

fn home() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let rootfs = home.path().join("rootfs");
    image(&rootfs);
    (home, rootfs)
}

/// The words that give podman its own storage, state and containers below `home`, with nothing of the host's.
pub fn podman_with_own(home: &Path, oci: &str, cgroup_manager: &str) -> Vec<String> {
    let dir = |name: &str| home.join(name).display().to_string();
    let words = [
        ["--root", &dir("storage")],
        ["--runroot", &dir("state")],
        ["--tmpdir", &dir("podman")],
        ["--runtime", oci],
        ["--cgroup-manager", cgroup_manager],
        ["--events-backend", "none"],
        ["--storage-driver", "vfs"],
    ];
    words.concat().into_iter().map(str::to_owned).collect()
}

/// podman with nothing of the host's.
struct Podman(TempDir);

impl Podman {
    fn call(&self, words: &[&str]) -> Output {
        Command::new("podman")
            .args(podman_with_own(self.0.path(), OCI, "cgroupfs"))
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn ok(&self, words: &[&str]) -> String {
        let output = self.call(words);
        assert!(output.status.success(), "{words:?}: {}", text(&output));
        text(&output)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.call(&["rm", "--all", "--force", "--time", "0"]);
    }
}

#[test]
fn podman_runs_containers() {
    if !can_run() || !installed("podman") {
        return;
    }
    let (home, rootfs) = home();
    let podman = Podman(home);
    let rootfs = rootfs.to_str().unwrap();
    let run = ["run", "--network", "none", "--rootfs"];
    let script = "echo hello; grep Seccomp: /proc/self/status; exit 3";
    let output = podman.call(&[&run[..], &[rootfs, "/bin/sh", "-c", script]].concat());
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_eq!(text(&output), "hello\nSeccomp:\t2\n");
    podman.ok(&[
        "run",
        "--detach",
        "--name",
        "c",
        "--network",
        "none",
        "--rootfs",
        rootfs,
        "/bin/sleep",
        "1000",
    ]);
    assert_eq!(podman.ok(&["exec", "c", "/bin/sh", "-c", "echo in"]), "in\n");
    assert_eq!(
        podman.ok(&["exec", "--tty", "c", "/bin/sh", "-c", "test -t 1 && echo tty"]),
        "tty\r\n"
    );
    podman.ok(&["pause", "c"]);
    podman.ok(&["unpause", "c"]);
    podman.ok(&["kill", "c"]);
    assert_eq!(podman.ok(&["wait", "c"]), "137\n");
    podman.ok(&["rm", "c"]);
}

/// As a systemd in it needs, on hosts of every layout.
#[test]
fn podman_gives_a_systemd_a_cgroup_it_may_write() {
    if !can_run() || !installed("podman") {
        return;
    }
    let (home, rootfs) = home();
    let podman = Podman(home);
    let script = "at=/sys/fs/cgroup; own=$(cut -d: -f3 /proc/self/cgroup | tail -1); \
        named=$(grep :name=systemd: /proc/self/cgroup | cut -d: -f3); \
        test -z $named || { at=$at/systemd; own=$named; }; \
        mkdir $at$own/below && rmdir $at$own/below && echo made";
    let run = ["run", "--network", "none", "--systemd", "always", "--rootfs"];
    let done = podman.ok(&[&run[..], &[rootfs.to_str().unwrap(), "/bin/sh", "-c", script]].concat());
    assert_eq!(done, "made\n");
}

/// The host's own, with nothing but its `/usr`, from its start to its end.
#[test]
fn a_systemd_runs_in_a_container_of_podman() {
    let systemd = "/usr/lib/systemd/systemd";
    if !can_run() || !installed("podman") || !Path::new(systemd).exists() {
        return eprintln!("skipped: needs podman and systemd");
    }
    let (home, rootfs) = home();
    fs::remove_dir_all(rootfs.join("bin")).unwrap();
    for name in ["usr", "run", "var", "root"] {
        fs::create_dir_all(rootfs.join(name)).unwrap();
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), rootfs.join(name)).unwrap();
    }
    fs::write(rootfs.join("etc/machine-id"), "").unwrap();
    let podman = Podman(home);
    let run = [
        "run",
        "--detach",
        "--name",
        "c",
        "--network",
        "none",
        "--systemd",
        "always",
    ];
    let image = ["--volume", "/usr:/usr:ro", "--rootfs", rootfs.to_str().unwrap()];
    podman.ok(&[&run[..], &image, &[systemd]].concat());
    let deadline = std::time::Instant::now() + PATIENCE;
    let state = || text(&podman.call(&["exec", "c", "systemctl", "is-system-running", "--wait"]));
    while !["running\n", "degraded\n"].contains(&state().as_str()) {
        let log = || podman.ok(&["logs", "c"]);
        assert!(std::time::Instant::now() < deadline, "{}: {}", state(), log());
    }
    let units = podman.ok(&[
        "exec",
        "c",
        "systemctl",
        "show",
        "--property=ControlGroup",
        "systemd-journald",
    ]);
    assert!(
        units.ends_with("/system.slice/systemd-journald.service\n"),
        "{units}"
    );
    podman.ok(&["stop", "--time", "60", "c"]);
    podman.ok(&["rm", "c"]);
}

#[test]
fn containerd_runs_containers_by_shim_and_by_command_line() {
    if !can_run() || !installed("containerd") || !installed("ctr") {
        return;
    }
    let (home, rootfs) = home();
    let containerd = Containerd::start(home, Path::new(SHIM).parent().unwrap(), "amphipod-ctr");
    let rootfs = rootfs.to_str().unwrap();
    let by_shim = ["--rootfs", "--runtime", "io.containerd.amphipod.v1", rootfs];
    let run = [
        &["run", "--rm"],
        &by_shim[..],
        &["one", "/bin/sh", "-c", "echo hello"],
    ]
    .concat();
    assert_eq!(containerd.ok(&run), "hello\n");
    containerd.ok(&[&["run", "--detach"], &by_shim[..], &["two", "/bin/sleep", "1000"]].concat());
    let exec = [
        "task",
        "exec",
        "--exec-id",
        "e",
        "two",
        "/bin/sh",
        "-c",
        "echo in",
    ];
    assert_eq!(containerd.ok(&exec), "in\n");
    assert!(containerd.ok(&["task", "ls"]).contains("RUNNING"));
    containerd.ok(&["task", "rm", "--force", "two"]);
    if !installed("containerd-shim-runc-v2") {
        return;
    }
    let by_line = ["run", "--rm", "--rootfs", "--runc-binary", OCI, rootfs];
    let run = [&by_line[..], &["three", "/bin/sh", "-c", "echo by line"]].concat();
    assert_eq!(containerd.ok(&run), "by line\n");
}

#[test]
fn containerd_is_told_what_happens_to_tasks() {
    if !can_run() || !installed("containerd") || !installed("ctr") {
        return;
    }
    let (home, rootfs) = home();
    let containerd = Containerd::start(home, Path::new(SHIM).parent().unwrap(), "amphipod-ctr");
    let events = containerd.listen();
    let by_shim = [
        "--rootfs",
        "--runtime",
        "io.containerd.amphipod.v1",
        rootfs.to_str().unwrap(),
    ];
    let short = [&["run", "--rm"], &by_shim[..], &["one", "/bin/true"]].concat();
    containerd.ok(&short);
    containerd.told(&events, "one", &["create", "start", "exit", "delete"]);

    containerd.ok(&[&["run", "--detach"], &by_shim[..], &["two", "/bin/sleep", "1000"]].concat());
    containerd.ok(&["task", "exec", "--exec-id", "e", "two", "/bin/true"]);
    containerd.ok(&["task", "pause", "two"]);
    containerd.ok(&["task", "resume", "two"]);
    containerd.ok(&["task", "rm", "--force", "two"]);
    let told = [
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit",
        "paused",
        "resumed",
        "exit",
        "delete",
    ];
    containerd.told(&events, "two", &told);

    if !limitable("memory") {
        return eprintln!("skipped: this host has no memory controller");
    }
    let hungry = "x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done";
    let limited = ["run", "--rm", "--memory-limit", "16777216"];
    let child = format!("sh -c '{hungry}'; exit 0");
    containerd.ok(&[&limited[..], &by_shim, &["three", "/bin/sh", "-c", &child]].concat());
    let told = ["create", "start", "oom", "exit", "delete"];
    containerd.told(&events, "three", &told);
    let itself = [&limited[..], &by_shim, &["four", "/bin/sh", "-c", hungry]].concat();
    assert_eq!(containerd.call(&itself).status.code(), Some(137));
    containerd.told(&events, "four", &told);
}

#[test]
fn containers_outlive_containerd() {
    if !can_run() || !installed("containerd") || !installed("ctr") {
        return;
    }
    let (home, rootfs) = home();
    let mut containerd = Containerd::start(home, Path::new(SHIM).parent().unwrap(), "amphipod-ctr");
    let run = [
        "run",
        "--detach",
        "--rootfs",
        "--runtime",
        "io.containerd.amphipod.v1",
    ];
    let sleep = [rootfs.to_str().unwrap(), "one", "/bin/sleep", "1000"];
    containerd.ok(&[&run[..], &sleep].concat());
    containerd.restart();
    assert!(containerd.ok(&["task", "ls"]).contains("RUNNING"));
    let events = containerd.listen();
    containerd.ok(&["task", "rm", "--force", "one"]);
    containerd.told(&events, "one", &["exit", "delete"]);
}

/// By the option that containerd's own configuration calls `SystemdCgroup`, which `ctr` sets for the shim of one name alone;
/// and by what the container's configuration asks for.
#[test]
fn containerd_has_systemd_manage_cgroups() {
    if !can_run() || !installed("containerd") || !installed("ctr") {
        return;
    }
    if !Path::new("/run/systemd/system").is_dir() {
        return eprintln!("skipped: systemd does not run this host");
    }
    let (home, rootfs) = home();
    let shims = home.path().join("shims");
    fs::create_dir(&shims).unwrap();
    for name in ["amphipod-v1", "runc-v2"] {
        std::os::unix::fs::symlink(SHIM, shims.join(format!("containerd-shim-{name}"))).unwrap();
    }
    let containerd = Containerd::start(home, &shims, "amphipod-ctr");
    let plain = ["--runtime", "io.containerd.amphipod.v1"];
    let option = ["--runtime", "io.containerd.runc.v2", "--runc-systemd-cgroup"];
    for (id, how) in [("one", &plain[..]), ("two", &option)] {
        let name = format!("{}-{id}", containerd.namespace());
        let (cgroup, unit) = (format!("{SLICE}:ctr:{name}"), format!("ctr-{name}.scope"));
        let limited = ["--cgroup", &cgroup, "--memory-limit", "104857600", "--rootfs"];
        let words = [rootfs.to_str().unwrap(), id, "/bin/sleep", "1000"];
        containerd.ok(&[&["run", "--detach"], how, &limited, &words].concat());
        for (name, value) in [
            ("ActiveState", "active"),
            ("Slice", SLICE),
            ("MemoryMax", "104857600"),
        ] {
            assert_eq!(property(&unit, name), value, "{id}: {name}");
        }
        containerd.ok(&["task", "rm", "--force", id]);
        until(&unit, "LoadState", "not-found");
        containerd.ok(&["container", "rm", id]);
    }
}
