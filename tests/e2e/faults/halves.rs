//! A control plane and a node agent as two processes, either of which can be killed and started again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tempfile::TempDir;

use crate::cluster::{AMPHIPOD, PATIENCE, free_port, is_root, next_net, run, text};
use crate::streams::busybox_image;

/// Between two looks at what nobody tells.
const LOOK: Duration = Duration::from_millis(50);

pub struct Halves {
    dir: TempDir,
    net: u8,
    listen: u16,
    registry: u16,
    control: Option<Child>,
    node: Option<Child>,
    /// The node asks for its certificate by this kubeconfig.
    pub bootstrap: Option<PathBuf>,
    /// More flags of the node.
    pub flags: Vec<&'static str>,
}

impl Halves {
    /// Both running, with the images `busybox:v1` and `server-wasm:v1`; `None`, having said why, where that cannot be.
    pub async fn start(test: &str) -> Option<Self> {
        let this = Self::control_only(test).await?;
        Some(this.with_node().await)
    }

    /// Without its node agent, whose data directory may be prepared then.
    pub async fn control_only(test: &str) -> Option<Self> {
        if !is_root(test) {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let image = busybox_image(test, dir.path())?;
        let mut this = Self {
            dir,
            net: next_net(),
            listen: free_port(),
            registry: free_port(),
            control: None,
            node: None,
            bootstrap: None,
            flags: Vec::new(),
        };
        this.start_control().await;
        this.push(&image, "busybox:v1");
        let wasm = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/wasm/server.wasm");
        this.push(&wasm, "server-wasm:v1");
        std::fs::create_dir(this.node_dir()).unwrap();
        Some(this)
    }

    pub async fn with_node(mut self) -> Self {
        self.start_node();
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(self.client().await);
        until("the node is there", async || {
            nodes.get("node-a").await.is_ok().then_some(())
        })
        .await;
        self
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn control_dir(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    /// The administrator's kubeconfig.
    pub fn admin(&self) -> String {
        std::fs::read_to_string(self.control_dir().join("kubeconfig")).unwrap()
    }

    pub fn node_dir(&self) -> PathBuf {
        self.dir.path().join("node")
    }

    /// Of what the node makes on the host; known once it has been started.
    pub fn id(&self) -> String {
        let text = std::fs::read_to_string(self.node_dir().join("cluster.json")).unwrap();
        let cluster: serde_json::Value = serde_json::from_str(&text).unwrap();
        cluster["id"].as_str().unwrap().to_owned()
    }

    fn log(&self, name: &str) -> File {
        let path = self.dir.path().join(format!("{name}.log"));
        File::options().create(true).append(true).open(path).unwrap()
    }

    /// The end of what the agent has said.
    pub fn last_of_node(&self) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("node.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn service_cidr(&self) -> String {
        format!("10.{}.0.0/16", self.net + 1)
    }

    pub async fn start_control(&mut self) {
        let mut command = Command::new(AMPHIPOD);
        command.args(["control", "--data-dir"]).arg(self.control_dir());
        command.args(["--listen", &format!("127.0.0.1:{}", self.listen)]);
        command.args(["--registry", &format!("127.0.0.1:{}", self.registry)]);
        command.args(["--pod-cidr", &format!("10.{}.0.0/16", self.net)]);
        command.args(["--service-cidr", &self.service_cidr()]);
        let child = command.stdout(Stdio::null()).stderr(self.log("control"));
        self.control = Some(child.spawn().unwrap());
        let kubeconfig = self.control_dir().join("kubeconfig");
        until("the API server answers", async || {
            let client = client(&kubeconfig).await?;
            client.apiserver_version().await.ok()
        })
        .await;
    }

    pub fn kill_control(&mut self) {
        kill(self.control.take());
    }

    pub fn start_node(&mut self) {
        let server = format!("https://127.0.0.1:{}", self.listen);
        let kubeconfig = self.dir.path().join("node.kubeconfig");
        if !kubeconfig.exists() && self.bootstrap.is_none() {
            let mut command = Command::new(AMPHIPOD);
            command.args([
                "kubeconfig",
                "--node",
                "node-a",
                "--server",
                &server,
                "--data-dir",
            ]);
            let made = run(command.arg(self.control_dir()));
            assert!(made.status.success(), "{}", text(&made));
            std::fs::write(&kubeconfig, made.stdout).unwrap();
        }
        let mut command = Command::new(AMPHIPOD);
        command.args([
            "node",
            "--node-name",
            "node-a",
            "--server",
            &server,
            "--kubeconfig",
        ]);
        command.arg(kubeconfig).arg("--data-dir").arg(self.node_dir());
        command.args(["--registry", &format!("http://127.0.0.1:{}", self.registry)]);
        command.args(["--service-cidr", &self.service_cidr()]);
        if let Some(file) = &self.bootstrap {
            command.arg("--bootstrap-kubeconfig").arg(file);
        }
        command.args(&self.flags);
        // Few more than there are: whoever is gone from the API and not from the host must not count.
        command.args(["--max-pods", "8"]);
        // A full disk is to be got over here, not to end Pods.
        command.args(["--eviction-hard", "memory.available<1Mi"]);
        let child = command.stdout(Stdio::null()).stderr(self.log("node"));
        self.node = Some(child.spawn().unwrap());
    }

    pub fn kill_node(&mut self) {
        kill(self.node.take());
    }

    /// Whether the agent has not ended by itself.
    pub fn node_runs(&mut self) -> bool {
        self.node
            .as_mut()
            .is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub fn push(&self, path: &Path, name: &str) {
        let reference = format!("amphipod.local/{name}");
        let mut command = Command::new(AMPHIPOD);
        command.args(["image", "push"]).arg(path).arg(&reference);
        let output = run(command.arg("--data-dir").arg(self.control_dir()));
        assert!(output.status.success(), "{}", text(&output));
    }

    pub async fn client(&self) -> Client {
        client(&self.control_dir().join("kubeconfig")).await.unwrap()
    }

    pub async fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client().await)
    }

    /// What Pods have left on the host and on the node's disk.
    pub fn left(&self) -> Vec<String> {
        let id = self.id();
        let mut found = Vec::new();
        let data = self.node_dir().join("node");
        let run = Path::new("/run/amphipod").join(format!("amphipod-{id}"));
        for dir in [
            data.join("pods"),
            data.join("network/ips"),
            data.join("images/snapshots"),
            run.join("ns"),
            run.join("x"),
            run.join("a"),
        ] {
            let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        let links = std::fs::read_dir("/sys/class/net").unwrap().flatten();
        let links = links.map(|link| link.file_name().display().to_string());
        found.extend(links.filter(|name| name.starts_with(&format!("v{id}"))));
        // A shim whose agent was killed before it could ask it to leave goes by itself when it has had nothing to do for
        // long: such processes, and the cgroup of those for Wasm, are not counted.
        cgroups(Path::new("/sys/fs/cgroup"), 4, &mut found);
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        found.extend(
            mounts
                .lines()
                .filter(|line| line.contains("/pods/"))
                .map(str::to_owned),
        );
        let own = self.dir.path().display().to_string();
        let is_ours = |name: &String| name.contains(&id) || name.contains(&own);
        found.retain(is_ours);
        found
    }

    /// Waits until nothing of any Pod is left.
    pub async fn nothing_is_left(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "left: {left:#?}");
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Cgroups of Pods.
fn cgroups(dir: &Path, depth: usize, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().display().to_string();
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if name.starts_with("pod") || name.contains("-pod") {
            found.push(entry.path().display().to_string());
        }
        if depth > 0 {
            cgroups(&entry.path(), depth - 1, found);
        }
    }
}

async fn client(kubeconfig: &Path) -> Option<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).ok()?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.ok()?).ok()
}

fn kill(child: Option<Child>) {
    let Some(mut child) = child else { return };
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Asks again and again until there is an answer.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let seen = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let seen = tokio::time::timeout(PATIENCE, seen).await;
    seen.unwrap_or_else(|_| panic!("{what}: never so"))
}

impl Drop for Halves {
    fn drop(&mut self) {
        for child in [self.node.take(), self.control.take()] {
            kill(child);
        }
        let down = |dir: PathBuf| run(Command::new(AMPHIPOD).arg("down").arg("--data-dir").arg(dir));
        if self.node_dir().join("cluster.json").exists() {
            let output = down(self.node_dir());
            if !output.status.success() && !std::thread::panicking() {
                panic!("down failed: {}", text(&output));
            }
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("node.log")).unwrap_or_default();
            let from = log.len().saturating_sub(4000);
            eprintln!("the agent's last words: {}", log.get(from..).unwrap_or(&log));
        }
    }
}
