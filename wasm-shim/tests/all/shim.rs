//! A shim of a cluster of its own, and bundles for it.

use crate::netns::Netns;
use amphipod_shim_api::{CreateTask, Exit, ShimCommand, TaskClient, TaskError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Longest any single thing may take on a loaded machine before a test fails.
pub const LIMIT: Duration = Duration::from_secs(60);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether this test can run; says why not.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skipped("needs root");
    }
    root
}

/// Says why a test does not run.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// Waits for what nothing tells of (threads, descriptors, lines of a log): it is looked for, until [`LIMIT`].
pub async fn until(what: &str, is: impl Fn() -> bool) {
    let waiting = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(LIMIT, waiting).await;
    waited.unwrap_or_else(|_| panic!("never: {what}"));
}

/// The directory of the committed demo programs.
pub fn workload(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../workloads/wasm")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

/// One cluster's shims. Everything it made is removed when it is dropped.
pub struct Shim {
    pub command: ShimCommand,
    pub home: tempfile::TempDir,
    pids: std::sync::Mutex<Vec<u32>>,
}

impl Shim {
    pub fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("amphipod-wasmtest-{}-{number}", std::process::id());
        let words = vec![env!("CARGO_BIN_EXE_containerd-shim-amphipod-wasm-v1").into()];
        Self {
            command: ShimCommand { words, namespace },
            home: tempfile::tempdir().unwrap(),
            pids: std::sync::Mutex::default(),
        }
    }

    /// A bundle of `wasm`, with a valid `config.json`; `change` makes it the test's own.
    pub fn bundle(&self, id: &str, wasm: &[u8], change: impl FnOnce(&mut Value)) -> PathBuf {
        let bundle = self.home.path().join(id);
        std::fs::create_dir_all(&bundle).unwrap();
        let module = bundle.join("module.wasm");
        std::fs::write(&module, wasm).unwrap();
        let mut config = json!({
            "ociVersion": "1.2.0",
            "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["program"], "env": []},
            "root": {"path": "rootfs"},
            "annotations": {
                "io.kubernetes.cri.sandbox-namespace": "default",
                "io.kubernetes.cri.sandbox-id": id,
                "dev.amphipod.wasm/module": module,
                "dev.amphipod.wasm/digest": format!("sha256:{}", hex::encode(Sha256::digest(wasm))),
                "dev.amphipod.wasm/cache": self.home.path().join("cache"),
            },
            "mounts": [],
            "linux": {"namespaces": [], "resources": {}},
        });
        change(&mut config);
        std::fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        bundle
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.home.path().join(format!("{id}.log"))
    }

    /// What follows the time in each line of a container's log.
    pub fn log(&self, id: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.log_path(id)).unwrap();
        text.lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    pub async fn client(&self, id: &str, bundle: &Path) -> TaskClient {
        let address = self.command.start(id, bundle).await.unwrap();
        TaskClient::connect(address).await.unwrap()
    }

    /// Finds or starts the shim, which ends with the test.
    pub async fn find(&self, id: &str, bundle: &Path) -> TaskClient {
        let client = self.client(id, bundle).await;
        let pid = client.shim_pid(id).await.unwrap();
        self.pids.lock().unwrap().push(pid);
        client
    }

    /// Finds or starts the shim and creates a container.
    pub async fn try_create(&self, id: &str, bundle: &Path) -> Result<TaskClient, TaskError> {
        let client = self.find(id, bundle).await;
        self.create_by(&client, id, bundle).await?;
        Ok(client)
    }

    /// Creates a container by a shim that was found.
    pub async fn create_by(&self, client: &TaskClient, id: &str, bundle: &Path) -> Result<(), TaskError> {
        let log = format!("cri://{}", self.log_path(id).display());
        let task = CreateTask {
            id: id.into(),
            bundle: bundle.into(),
            stdout: log.clone(),
            stderr: log,
            ..CreateTask::default()
        };
        client.create(&task).await.map(drop)
    }

    /// The process of the last container made.
    pub fn pid(&self) -> u32 {
        *self.pids.lock().unwrap().last().unwrap()
    }

    pub async fn create(&self, id: &str, wasm: &[u8], change: impl FnOnce(&mut Value)) -> TaskClient {
        let bundle = self.bundle(id, wasm, change);
        self.try_create(id, &bundle)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    pub async fn refusal(&self, id: &str, wasm: &[u8], change: impl FnOnce(&mut Value)) -> String {
        let bundle = self.bundle(id, wasm, change);
        match self.try_create(id, &bundle).await {
            Ok(_) => panic!("{id} was created"),
            Err(error) => error.to_string(),
        }
    }

    pub async fn start(&self, id: &str, wasm: &[u8], change: impl FnOnce(&mut Value)) -> TaskClient {
        let client = self.create(id, wasm, change).await;
        client.start(id).await.unwrap();
        client
    }

    /// Runs a container to its end.
    pub async fn run(&self, id: &str, wasm: &[u8], change: impl FnOnce(&mut Value)) -> Exit {
        let client = self.start(id, wasm, change).await;
        ended(&client, id).await
    }
}

/// Waits for a container's end.
pub async fn ended(client: &TaskClient, id: &str) -> Exit {
    tokio::time::timeout(LIMIT, client.wait(id))
        .await
        .expect("the container did not end")
        .unwrap()
}

impl Drop for Shim {
    fn drop(&mut self) {
        for pid in self.pids.lock().unwrap().iter() {
            // Gone already, if the test ended it.
            let _ = kill(Pid::from_raw(*pid as i32), Signal::SIGKILL);
        }
        drop(std::fs::remove_dir_all(
            Path::new("/run/amphipod").join(&self.command.namespace),
        ));
        remove_cgroups(&self.command.namespace);
    }
}

fn remove_cgroups(cluster: &str) {
    use amphipod_shim_api::cgroup::CgroupHost;
    let Ok(cgroup) = CgroupHost::discover().and_then(|host| host.cgroup_everywhere(&format!("/{cluster}")))
    else {
        return;
    };
    let deadline = std::time::Instant::now() + LIMIT;
    while !cgroup.try_remove().unwrap_or(true) && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
}

/// Puts a container into a network namespace.
pub fn in_network(config: &mut Value, netns: &Netns) {
    config["linux"]["namespaces"] = json!([{"type": "network", "path": netns.path()}]);
}
