//! A Pod's worth of set-up for one test: a shim of its own, a root file system, bundles; all gone at the end.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use amphipod_shim_api::cgroup::CgroupHost;
use amphipod_shim_api::{CreateTask, Exit, RootfsMount, ShimCommand, TaskClient, TaskError};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-amphipod-v1");
const BUSYBOX: &str = "/bin/busybox";
/// Nothing a test waits for takes this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One shim and its containers.
pub struct Pod {
    pub home: TempDir,
    pub namespace: String,
    pub client: TaskClient,
    next: AtomicU32,
}

/// A container's files.
pub struct Bundle {
    pub id: String,
    pub dir: PathBuf,
    pub spec: Value,
    pub rootfs: Vec<RootfsMount>,
    pub log: PathBuf,
}

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// `None`, having said why, where the test cannot run.
pub async fn pod() -> Option<Pod> {
    pod_by(&[]).await
}

/// As [`pod`], its shim started by another program that these words are for.
pub async fn pod_by(starter: &[&str]) -> Option<Pod> {
    if !can_run() {
        return None;
    }
    let home = tempfile::tempdir().unwrap();
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let namespace = format!("amphipod-test-{}-{number}", std::process::id());
    image(&home.path().join("image"));
    let first = home.path().join("start");
    fs::create_dir(&first).unwrap();
    fs::write(
        first.join("config.json"),
        spec(&["true"], &namespace, "start").to_string(),
    )
    .unwrap();
    let mut command = command(&namespace);
    command.words.splice(0..0, starter.iter().map(Into::into));
    let address = command.start("start", &first).await.unwrap();
    let client = TaskClient::connect(address).await.unwrap();
    Some(Pod {
        home,
        namespace,
        client,
        next: AtomicU32::new(0),
    })
}

/// Says why not.
pub fn can_run() -> bool {
    let can = nix::unistd::geteuid().is_root() && Path::new(BUSYBOX).exists();
    if !can {
        eprintln!("skipped: needs root and {BUSYBOX} (Debian package busybox-static)");
    }
    can
}

pub fn command(namespace: &str) -> ShimCommand {
    ShimCommand {
        words: vec![SHIM.into()],
        namespace: namespace.into(),
    }
}

/// A root file system with every busybox applet.
pub fn image(root: &Path) {
    for dir in ["bin", "etc", "tmp", "proc", "sys", "dev", "data"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    let applets = std::process::Command::new(BUSYBOX)
        .arg("--list")
        .output()
        .unwrap()
        .stdout;
    for applet in String::from_utf8(applets)
        .unwrap()
        .lines()
        .filter(|a| *a != "busybox")
    {
        let link = root.join("bin").join(applet);
        if !link.is_symlink() {
            symlink("busybox", link).unwrap();
        }
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
    )
    .unwrap();
}

/// The host's mounts of or on something of this test: others make theirs meanwhile.
pub fn host_mounts(pod: &Pod) -> String {
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = pod.home.path().display().to_string();
    let lines = all.lines().filter(|line| line.contains(&own));
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether the host can limit `memory`, `pids`, …
pub fn limitable(controller: &str) -> bool {
    CgroupHost::discover().is_ok_and(|host| host.has_controller(controller))
}

/// The bundle a node agent writes for a small container.
pub fn spec(args: &[&str], namespace: &str, id: &str) -> Value {
    let caps = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    ];
    json!({
        "ociVersion": "1.1.0",
        "root": {"path": "rootfs"},
        "hostname": "box",
        "process": {
            "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": args, "env": ["PATH=/bin"],
            "noNewPrivileges": true,
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps}
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "annotations": {"io.kubernetes.cri.sandbox-id": namespace},
        "linux": {
            "cgroupsPath": format!("/{namespace}/pod/{id}"),
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "cgroup"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
            "resources": if limitable("pids") { json!({"pids": {"limit": 100}}) } else { json!({}) },
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/proc/acpi", "/sys/firmware", "/proc/not/there"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

impl Pod {
    /// A container running `args`, logging in CRI format; change `spec` before [`Pod::create`].
    pub fn bundle(&self, args: &[&str]) -> Bundle {
        let id = format!("c{}", self.next.fetch_add(1, Ordering::Relaxed));
        let dir = self.home.path().join(&id);
        for part in ["upper", "work"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        let path = |part: &str| dir.join(part).display().to_string();
        let lower = self.home.path().join("image").display().to_string();
        let options = [
            format!("lowerdir={lower}"),
            format!("upperdir={}", path("upper")),
            format!("workdir={}", path("work")),
        ];
        let rootfs = RootfsMount {
            kind: "overlay".into(),
            source: "overlay".into(),
            options: options.into(),
        };
        let spec = spec(args, &self.namespace, &id);
        Bundle {
            log: dir.join("0.log"),
            spec,
            rootfs: vec![rootfs],
            id,
            dir,
        }
    }

    /// A shell script in a container.
    pub fn script(&self, script: &str) -> Bundle {
        self.bundle(&["sh", "-c", script])
    }

    pub async fn create(&self, bundle: &Bundle) -> Result<u32, TaskError> {
        fs::write(bundle.dir.join("config.json"), bundle.spec.to_string()).unwrap();
        let log = format!("cri://{}", bundle.log.display());
        self.client
            .create(&CreateTask {
                id: bundle.id.clone(),
                bundle: bundle.dir.clone(),
                rootfs: bundle.rootfs.clone(),
                stdout: log.clone(),
                stderr: log,
                ..Default::default()
            })
            .await
    }

    pub async fn wait(&self, id: &str) -> Exit {
        tokio::time::timeout(PATIENCE, self.client.wait(id))
            .await
            .expect("the container never ended")
            .unwrap()
    }

    /// Runs a container to its end: exit status and output.
    pub async fn run(&self, bundle: &Bundle) -> (u32, String) {
        self.create(bundle).await.unwrap();
        self.client.start(&bundle.id).await.unwrap();
        let exit = self.wait(&bundle.id).await;
        self.client.delete(&bundle.id).await.unwrap();
        (exit.status, bundle.output())
    }

    /// Runs a script as it is; for what needs no change of the spec.
    pub async fn sh(&self, script: &str) -> (u32, String) {
        self.run(&self.script(script)).await
    }

    /// Waits until a container has written `text`.
    pub async fn until_logged(&self, bundle: &Bundle, text: &str) {
        let seen = async {
            while !bundle.output().contains(text) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, seen)
            .await
            .unwrap_or_else(|_| panic!("{text:?} never came: {}", bundle.output()));
    }
}

impl Bundle {
    /// What the container wrote, without the log's own words.
    pub fn output(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines()
            .filter_map(|l| l.splitn(4, ' ').nth(3))
            .map(|l| format!("{l}\n"))
            .collect()
    }

    /// Puts a file into the container's own layer.
    pub fn add(&self, path: &str, content: &str, mode: u32) {
        let file = self.dir.join("upper").join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }

    pub fn mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }
}

impl Drop for Pod {
    /// Whatever the test did: the Pod's cgroups are killed and removed, which ends its containers; the shim goes by
    /// its pid, and its socket with it.
    fn drop(&mut self) {
        if let Ok(cgroup) = CgroupHost::discover().and_then(|h| h.cgroup_everywhere(&self.namespace)) {
            // A cgroup that cannot be killed is not removed either, which ends the loop below and shows at the next run.
            let _ = cgroup.kill();
            let until = std::time::Instant::now() + Duration::from_secs(10);
            while !cgroup.try_remove().unwrap_or(true) && std::time::Instant::now() < until {
                std::thread::yield_now();
            }
        }
        for pid in self.shims() {
            // One that has left by itself meanwhile needs no signal.
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        if amphipod_shim_api::systemd::is_running() {
            let slice = amphipod_shim_api::systemd::names::cluster_slice(&self.namespace);
            // Most tests have none.
            let _ = std::process::Command::new("systemctl")
                .args(["stop", &slice])
                .output();
        }
        // A shim that left by itself has removed what was there.
        let _ = fs::remove_dir_all(Path::new("/run/amphipod").join(&self.namespace));
    }
}

impl Pod {
    /// Processes serving this Pod's namespace.
    pub fn shims(&self) -> Vec<i32> {
        let all = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
        all.filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|b| *b == 0);
            words.any(|w| w == self.namespace.as_bytes()) && words.any(|w| w == b"serve")
        })
        .collect()
    }
}
