//! A cluster under test: starts `amphipod up`, hands out clients and commands, and takes everything down at the end.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tempfile::TempDir;

/// How long anything may take on a busy machine before the test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// One `/16` for Pods and one for Services a cluster, between 10.128.0.0/16 and 10.255.0.0/16: pairs of which this process
/// took so many.
static TAKEN_NETS: AtomicU32 = AtomicU32::new(0);

/// Pairs there are.
const NETS: u32 = 64;

/// The second number of a cluster's addresses for Pods; the next one is for Services. Two suites on one machine begin in
/// different places, and leave out what is routed already.
pub fn next_net() -> u8 {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let used = used_nets(&routes);
    for _ in 0..NETS {
        let place = std::process::id().wrapping_add(TAKEN_NETS.fetch_add(1, Ordering::Relaxed)) % NETS;
        let net = 128 + 2 * place as u8;
        if !used.contains(&net) && !used.contains(&(net + 1)) {
            return net;
        }
    }
    panic!("all of 10.128.0.0/9 is routed already:\n{routes}");
}

/// The second numbers of destinations in 10.0.0.0/8 of the kernel's table, which has addresses as they are in memory.
fn used_nets(routes: &str) -> Vec<u8> {
    let destination = |line: &str| {
        let field = line.split_whitespace().nth(1)?;
        let [first, second, ..] = u32::from_str_radix(field, 16).ok()?.to_ne_bytes();
        (first == 10).then_some(second)
    };
    routes.lines().filter_map(destination).collect()
}

#[test]
fn routed_nets_are_left_out() {
    if cfg!(target_endian = "little") {
        let routes = "Iface\tDestination\tGateway\neth0\t00000000\t010200C0\nap1\t0000800A\t00000000\nap1\t0005810A\t0";
        assert_eq!(used_nets(routes), [128, 129]);
    }
    let (one, two) = (next_net(), next_net());
    assert!(one >= 128 && one != two && one.is_multiple_of(2) && two.is_multiple_of(2));
}

/// The binary under test.
pub const AMPHIPOD: &str = env!("CARGO_BIN_EXE_amphipod");

/// Says so and is false where the tests have no root.
pub fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped {test}: it needs root");
    }
    root
}

pub struct Cluster {
    dir: TempDir,
    net: u8,
    listen: u16,
    registry: u16,
    /// More of the command line, for the next start.
    pub flags: Vec<String>,
    up: Option<Up>,
}

/// A running `amphipod up`.
struct Up {
    child: Child,
    lines: Receiver<String>,
    seen: String,
}

impl Cluster {
    /// A place for a cluster that is not started yet.
    pub fn new() -> Self {
        let net = next_net();
        Self {
            dir: tempfile::tempdir().unwrap(),
            net,
            listen: free_port(),
            registry: free_port(),
            flags: Vec::new(),
            up: None,
        }
    }

    /// A cluster that is up, with these manifests applied.
    pub fn up(manifests: &[&Path]) -> Self {
        let mut cluster = Self::new();
        cluster.start(manifests);
        cluster
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("kubeconfig")
    }

    /// `amphipod-<id>`, in the name of everything it makes on the host.
    pub fn id(&self) -> String {
        let text = std::fs::read_to_string(self.data_dir().join("cluster.json")).unwrap();
        let cluster: serde_json::Value = serde_json::from_str(&text).unwrap();
        cluster["id"].as_str().unwrap().to_owned()
    }

    /// Where its shims listen.
    pub fn shims(&self) -> PathBuf {
        let run = format!("amphipod-{}", self.id());
        Path::new("/run/amphipod").join(run).join("s")
    }

    /// The `up` command line of this cluster.
    pub fn up_command(&self, manifests: &[&Path]) -> Command {
        let mut command = Command::new(AMPHIPOD);
        command
            .arg("up")
            .args(manifests)
            .arg("--data-dir")
            .arg(self.data_dir());
        command.args(["--listen", &format!("127.0.0.1:{}", self.listen)]);
        command.args(["--registry", &format!("127.0.0.1:{}", self.registry)]);
        command.args(["--pod-cidr", &format!("10.{}.0.0/16", self.net)]);
        command.args(["--service-cidr", &format!("10.{}.0.0/16", self.net + 1)]);
        command.args(["--node-name", "node-a"]);
        command.args(&self.flags);
        command
    }

    /// Starts `up` and waits until it says that it is.
    pub fn start(&mut self, manifests: &[&Path]) {
        let log = std::fs::File::create(self.dir.path().join("up.log")).unwrap();
        let mut child = self
            .up_command(manifests)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            // Ends when `up` does; a test that has ended listens no more.
            for line in stdout.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        self.up = Some(Up {
            child,
            lines,
            seen: String::new(),
        });
        self.wait_for_line("Ctrl-C stops");
    }

    /// Reads what `up` prints until a line has these words.
    pub fn wait_for_line(&mut self, words: &str) {
        let log = self.dir.path().join("up.log");
        let up = self.up.as_mut().expect("the cluster was not started");
        loop {
            match up.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    up.seen.push_str(&line);
                    up.seen.push('\n');
                    if line.contains(words) {
                        return;
                    }
                }
                Err(why) => panic!(
                    "no {words:?} from `up` ({why}); it printed:\n{}\nand logged:\n{}",
                    up.seen,
                    std::fs::read_to_string(log).unwrap_or_default()
                ),
            }
        }
    }

    /// Everything that `up` printed so far.
    pub fn printed(&self) -> &str {
        &self.up.as_ref().expect("the cluster was not started").seen
    }

    /// Ends `up` with this signal and waits for it.
    pub fn stop(&mut self, signal: nix::sys::signal::Signal) -> std::process::ExitStatus {
        let mut up = self.up.take().expect("the cluster was not started");
        let pid = nix::unistd::Pid::from_raw(up.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
        up.child.wait().unwrap()
    }

    /// A client with the administrator's rights.
    pub async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .unwrap();
        Client::try_from(config).unwrap()
    }

    /// Pushes a local file or folder into the cluster's registry as `amphipod.local/NAME`.
    pub fn push(&self, path: &Path, name: &str) {
        let reference = format!("amphipod.local/{name}");
        let output = run(Command::new(AMPHIPOD)
            .args(["image", "push"])
            .arg(path)
            .arg(&reference)
            .arg("--data-dir")
            .arg(self.data_dir()));
        assert!(output.status.success(), "{output:?}");
    }

    pub fn down(&self) -> Output {
        run(Command::new(AMPHIPOD)
            .arg("down")
            .arg("--data-dir")
            .arg(self.data_dir()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut up) = self.up.take() {
            let _ = up.child.kill(); // it may have ended by itself
            let _ = up.child.wait();
        }
        if self.data_dir().join("cluster.json").exists() {
            let output = self.down();
            if !output.status.success() && !std::thread::panicking() {
                panic!("down failed: {output:?}");
            }
            let left = mounts_below(&self.data_dir());
            if !left.is_empty() && !std::thread::panicking() {
                panic!("down left mounts: {left:?}");
            }
        }
    }
}

fn mounts_below(dir: &Path) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let below = points.filter(|point| Path::new(point).starts_with(dir));
    below.map(str::to_owned).collect()
}

/// Runs a command to its end, with what it printed.
pub fn run(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|why| panic!("{command:?}: {why}"))
}

/// Both outputs of a command, as one text.
pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A port nobody listens on, below those that the kernel gives to connections: what is bound later (and again, when a
/// program is restarted) would find one of those taken now and then. Each process begins elsewhere.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const MANY: u16 = 9_000;
    // Far from that of a suite started right before or after.
    let begin = (std::process::id().wrapping_mul(127) % u32::from(MANY)) as u16;
    (0..MANY)
        .map(|_| FIRST + (begin + NEXT.fetch_add(1, Ordering::Relaxed) % MANY) % MANY)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// `GET url` as a plain HTTP/1.1 client without keep-alive: status line, headers and body in one text.
pub fn http_get(address: &str, path: &str) -> std::io::Result<String> {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
