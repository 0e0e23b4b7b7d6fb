//! Those who drive runtimes, driving this one: podman the command line, containerd the shim and the command line.
//!
//! Each is Debian's; where it is not installed its test says so and passes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{PATIENCE, SHIM, can_run, image};
use crate::oci_harness::OCI;

pub fn installed(program: &str) -> bool {
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

fn home() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let rootfs = home.path().join("rootfs");
    image(&rootfs);
    (home, rootfs)
}

/// podman with nothing of the host's: its own storage, state and containers.
struct Podman(TempDir);

impl Podman {
    fn call(&self, words: &[&str]) -> Output {
        let dir = |name: &str| self.0.path().join(name);
        Command::new("podman")
            .arg("--root")
            .arg(dir("storage"))
            .arg("--runroot")
            .arg(dir("run"))
            .arg("--tmpdir")
            .arg(dir("tmp"))
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"])
            .args(["--storage-driver", "vfs", "--runtime", OCI])
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

/// A containerd of our own, which finds our shim on its path.
struct Containerd {
    home: TempDir,
    daemon: Child,
}

/// Plugins that need what a test has not.
const CONFIG: &str = r#"
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
"#;

impl Containerd {
    fn start(home: TempDir) -> Self {
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
        let deadline = Instant::now() + PATIENCE;
        while !this.call(&["version"]).status.success() {
            assert!(Instant::now() < deadline, "containerd never answered");
            std::thread::park_timeout(Duration::from_millis(50));
        }
        this
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
        format!("amphipod-ctr-{}", self.daemon.id())
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
        if let Ok(host) = amphipod_shim_api::cgroup::CgroupHost::discover() {
            let _ = host.cgroup_everywhere(&self.namespace()).and_then(|c| {
                c.kill()?;
                c.remove_waiting()
            });
        }
    }
}

#[test]
fn containerd_runs_containers_by_shim_and_by_command_line() {
    if !can_run() || !installed("containerd") || !installed("ctr") {
        return;
    }
    let (home, rootfs) = home();
    let containerd = Containerd::start(home);
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
