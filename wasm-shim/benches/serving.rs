//! Measures the shim as a node sees it, beside `wasmtime serve` where the variable WASMTIME names that program.
//!
//! `serving [requests] [neighbours] [start] [code] [idle] [[NAME=]ADDRESS]…`; all of the first without a word. An address (of a Pod,
//! a Service) is one more server that is asked for `/healthz`, in the same rounds as those of `requests`; `pods.sh` starts a cluster
//! for that. Results are for people to read: `wasm-shim/RESULTS.md` has some. Needs root.

#[path = "../tests/all/netns.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod netns;
#[path = "../tests/all/shim.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod shim;

use amphipod_shim_api::TaskClient;
use netns::Netns;
use serde_json::json;
use shim::{Shim, ended, in_network, is_root, wat, workload};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long each load lasts, and over how many connections.
const LOAD: Duration = Duration::from_secs(3);
const CONNECTIONS: [usize; 2] = [1, 16];
const ROUNDS: usize = 3;

/// Containers whose start is timed.
const STARTS: usize = 200;

/// Guests that spin while another is asked.
const SPINNING: usize = 100;

/// Ports from here on are the containers'.
const FIRST_PORT: u16 = 20_000;

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
}

#[tokio::main]
async fn main() {
    if !is_root() {
        return;
    }
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let wants = |what: &str| wanted.is_empty() || wanted.iter().any(|word| word == what);
    say(&format!("load of the machine: {}", load_average()));
    let given: Vec<_> = wanted.iter().filter_map(|word| given(word)).collect();
    if wants("requests") {
        requests(given).await;
    } else {
        in_turn(&given).await;
    }
    if wants("neighbours") {
        neighbours().await;
    }
    if wants("start") {
        start().await;
    }
    if wants("code") {
        code().await;
    }
    if wants("idle") {
        for count in [10, 1_000, 10_000] {
            idle(count).await;
        }
    }
    say(&format!("load of the machine: {}", load_average()));
}

/// A server of somebody else's, by its name and address.
fn given(word: &str) -> Option<(String, SocketAddr)> {
    let (name, address) = word.split_once('=').unwrap_or((word, word));
    Some((name.to_owned(), address.parse().ok()?))
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Sorted times, and what is read off them.
struct Times(Vec<Duration>);

impl Times {
    fn new(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times)
    }

    fn at(&self, share: f64) -> Duration {
        self.0[((self.0.len() - 1) as f64 * share) as usize]
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "p50 {:.3?}, p99 {:.3?} of {}",
            self.at(0.5),
            self.at(0.99),
            self.0.len()
        )
    }
}

async fn serve(shim: &Shim, id: &str, port: u16, reuse: &str) -> TaskClient {
    shim.start(id, &workload("server.wasm"), |config| {
        config["annotations"]["dev.amphipod.wasm/http-port"] = json!(port.to_string());
        config["annotations"]["dev.amphipod.wasm/instance-reuse"] = json!(reuse);
        // The priority of an ordinary process, which `wasmtime serve` is.
        config["linux"]["resources"]["cpu"] = json!({"shares": 1024});
    })
    .await
}

/// The demo server's `/healthz` by each server in turn, several rounds, so that what else happens here meets all.
async fn requests(given: Vec<(String, SocketAddr)>) {
    let shim = Shim::new();
    let (fresh, kept, other) = (FIRST_PORT, FIRST_PORT + 1, FIRST_PORT + 2);
    serve(&shim, "fresh", fresh, "1").await;
    serve(&shim, "kept", kept, "1000000").await;
    let wasmtime = wasmtime_serve(other);
    let mut servers = vec![("wasm-shim", fresh), ("wasm-shim, instances reused", kept)];
    if wasmtime.is_some() {
        servers.push(("wasmtime serve", other));
    }
    let servers = servers
        .into_iter()
        .map(|(name, port)| (name.to_owned(), local(port)));
    in_turn(&servers.chain(given).collect::<Vec<_>>()).await;
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

type Ask = fn(SocketAddr, Instant) -> Vec<Duration>;

const WAYS: &[(&str, Ask)] = &[("kept", one_connection), ("closed", one_after_the_other)];

async fn in_turn(servers: &[(String, SocketAddr)]) {
    for connections in CONNECTIONS {
        for round in 1..=ROUNDS {
            for (name, address) in servers {
                let address = *address;
                for (what, ask) in WAYS {
                    let loading = tokio::task::spawn_blocking(move || load(address, connections, *ask));
                    let (rate, times) = loading.await.unwrap();
                    say(&format!(
                        "round {round}, {connections} at once, connections {what}, {name}: {rate:.0} requests/s, {times}"
                    ));
                }
            }
        }
    }
}

/// A program that is killed when the measurement is over.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn wasmtime_serve(port: u16) -> Option<Server> {
    let program = std::env::var_os("WASMTIME")?;
    let server = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../workloads/wasm/server.wasm");
    let child = Command::new(program)
        .args(["serve", "-S", "cli=y", "--addr", &format!("127.0.0.1:{port}")])
        .arg(server)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + shim::LIMIT;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "wasmtime serve does not listen");
        std::thread::yield_now();
    }
    Some(Server(child))
}

fn load(address: SocketAddr, connections: usize, ask: Ask) -> (f64, Times) {
    let begin = Instant::now();
    let times = std::thread::scope(|scope| {
        let all: Vec<_> = (0..connections)
            .map(|_| scope.spawn(|| ask(address, begin)))
            .collect();
        all.into_iter()
            .flat_map(|one| one.join().unwrap())
            .collect::<Vec<_>>()
    });
    (
        times.len() as f64 / begin.elapsed().as_secs_f64(),
        Times::new(times),
    )
}

fn one_connection(address: SocketAddr, begin: Instant) -> Vec<Duration> {
    let mut stream = connect(address);
    let mut times = Vec::new();
    while begin.elapsed() < LOAD {
        let sent = Instant::now();
        if !get(&mut stream, KEEP) {
            break;
        }
        times.push(sent.elapsed());
    }
    times
}

/// A connection for each request.
fn one_after_the_other(address: SocketAddr, begin: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    while begin.elapsed() < LOAD {
        let sent = Instant::now();
        assert!(get(&mut connect(address), CLOSE));
        times.push(sent.elapsed());
    }
    times
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// What is asked on a connection that stays open, and on one that does not.
const KEEP: &str = "GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n";
const CLOSE: &str = "GET /healthz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";

/// One request; the answer is `ok`, in one or more pieces. `false` when the server closed the connection before.
fn get(stream: &mut TcpStream, request: &str) -> bool {
    let mut answer = Vec::with_capacity(512);
    let mut piece = [0; 512];
    let sent = stream.write_all(request.as_bytes());
    while !answer.ends_with(b"ok\n") {
        let length = sent.as_ref().ok().and_then(|()| stream.read(&mut piece).ok());
        match length.filter(|length| *length > 0) {
            Some(length) => answer.extend_from_slice(&piece[..length]),
            None => {
                assert!(
                    answer.is_empty(),
                    "the server closed: {}",
                    String::from_utf8_lossy(&answer)
                );
                return false;
            }
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    true
}

/// One client's requests while nothing else runs in the shim, and while many guests of other Pods spin.
async fn neighbours() {
    let shim = Shim::new();
    serve(&shim, "asked", FIRST_PORT, "1").await;
    let ask = || async {
        let asking = tokio::task::spawn_blocking(|| one_connection(local(FIRST_PORT), Instant::now()));
        Times::new(asking.await.unwrap())
    };
    for round in 1..=ROUNDS {
        say(&format!("round {round}, one client, alone: {}", ask().await));
    }
    for number in 0..SPINNING {
        shim.start(&format!("spin{number}"), &workload("burn.wasm"), |_| ())
            .await;
    }
    for round in 1..=ROUNDS {
        let times = ask().await;
        say(&format!(
            "round {round}, one client, {SPINNING} guests spinning: {times}"
        ));
    }
}

/// Create and Start of a container whose code is compiled, the finding of its shim not counted and counted; and its
/// first request.
async fn start() {
    let shim = Shim::new();
    serve(&shim, "first", FIRST_PORT, "1").await;
    let (mut calls, mut whole, mut first) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..STARTS {
        let id = format!("c{number}");
        let port = FIRST_PORT + 1 + number as u16;
        let bundle = shim.bundle(&id, &workload("server.wasm"), |config| {
            config["annotations"]["dev.amphipod.wasm/http-port"] = json!(port.to_string());
        });
        let begin = Instant::now();
        let client = shim.client(&id, &bundle).await;
        let found = Instant::now();
        shim.create_by(&client, &id, &bundle).await.unwrap();
        client.start(&id as &str).await.unwrap();
        calls.push(found.elapsed());
        whole.push(begin.elapsed());
        let asked = Instant::now();
        tokio::task::spawn_blocking(move || get(&mut connect(local(port)), KEEP))
            .await
            .unwrap();
        first.push(asked.elapsed());
    }
    say(&format!("create and start, warm cache: {}", Times::new(calls)));
    say(&format!(
        "the same with the shim's start command: {}",
        Times::new(whole)
    ));
    say(&format!("first request of a container: {}", Times::new(first)));
    let trap = wat(r#"(module (func (export "_start")))"#);
    let mut runs = Vec::new();
    for number in 0..STARTS {
        let id = format!("r{number}");
        let bundle = shim.bundle(&id, &trap, |_| ());
        let client = shim.client(&id, &bundle).await;
        let begin = Instant::now();
        shim.create_by(&client, &id, &bundle).await.unwrap();
        client.start(&id as &str).await.unwrap();
        ended(&client, &id).await;
        runs.push(begin.elapsed());
    }
    say(&format!(
        "a command, created, run and ended: {}",
        Times::new(runs)
    ));
}

/// Create of a container whose code is to be compiled, is in the cache, or is in the process already.
async fn code() {
    const ROUNDS: usize = 20;
    let cases = [
        ("not compiled", "a"),
        ("compiled, not mapped", "b"),
        ("mapped", "b"),
    ];
    let mut times = cases.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        let shim = Shim::new();
        for (place, (_, namespace)) in cases.iter().enumerate() {
            let id = &format!("c{place}");
            let bundle = shim.bundle(id, &workload("server.wasm"), |config| {
                config["annotations"]["io.kubernetes.cri.sandbox-namespace"] = json!(namespace);
            });
            let client = shim.find(id, &bundle).await;
            let begin = Instant::now();
            shim.create_by(&client, id, &bundle).await.unwrap();
            times[place].push(begin.elapsed());
        }
    }
    for ((name, _), times) in cases.iter().zip(times) {
        say(&format!("create, code {name}: {}", Times::new(times)));
    }
}

/// Resident memory of the shims with that many idle containers, each a Pod of its own, and a first request to some. A
/// process has as many as a usual limit of open files lets it have; they are in a network of their own, for its ports.
async fn idle(count: u16) {
    let (shim, netns) = (Shim::new(), Netns::new());
    let mut processes = Vec::new();
    for group in 0..count.div_ceil(PER_PROCESS) {
        let id = format!("first{group}");
        let bundle = shim.bundle(&id, &workload("server.wasm"), |config| {
            idle_config(config, &netns, group, FIRST_PORT - 1 - group);
        });
        let client = shim.try_create(&id, &bundle).await.unwrap();
        client.start(&id as &str).await.unwrap();
        processes.push((client, shim.pid()));
    }
    let pids: Vec<u32> = processes.iter().map(|(_, pid)| *pid).collect();
    let (empty, free, files) = (resident(&pids), available(), open_files(&pids));
    let begin = Instant::now();
    for number in 0..count {
        let (id, group) = (format!("c{number}"), number / PER_PROCESS);
        let bundle = shim.bundle(&id, &workload("server.wasm"), |config| {
            idle_config(config, &netns, group, FIRST_PORT + number);
        });
        let client = &processes[usize::from(group)].0;
        shim.create_by(client, &id, &bundle).await.unwrap();
        client.start(&id as &str).await.unwrap();
    }
    let took = begin.elapsed();
    let (full, used) = (resident(&pids), free.saturating_sub(available()));
    let files = open_files(&pids) - files;
    let first = first_requests(&netns, count);
    say(&format!(
        "{count} idle containers in {} processes: {} MiB resident ({} KiB each), {} MiB of the machine's memory with the \
         kernel's share, {} files each; started in {took:.1?}; first request after idle: {first}",
        pids.len(),
        full >> 10,
        (full - empty) / u64::from(count),
        used >> 10,
        files / usize::from(count),
    ));
}

/// Containers in one process.
const PER_PROCESS: u16 = 1_250;

fn idle_config(config: &mut serde_json::Value, netns: &Netns, group: u16, port: u16) {
    in_network(config, netns);
    config["annotations"]["io.kubernetes.cri.sandbox-namespace"] = json!(format!("n{group}"));
    config["annotations"]["dev.amphipod.wasm/http-port"] = json!(port.to_string());
}

/// One request to each of a few of them.
fn first_requests(netns: &Netns, count: u16) -> Times {
    const ASKED: u16 = 200;
    let step = usize::from((count / ASKED).max(1));
    let ask = |port| {
        let begin = Instant::now();
        assert!(get(&mut connect(port), KEEP));
        begin.elapsed()
    };
    Times::new(netns.run(|| {
        (FIRST_PORT..FIRST_PORT + count)
            .step_by(step)
            .map(|port| ask(local(port)))
            .collect()
    }))
}

/// A number of a file of proc(5), in KiB.
fn number(path: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// `VmRSS` of the shims, KiB.
fn resident(pids: &[u32]) -> u64 {
    let of = |pid| number(&format!("/proc/{pid}/status"), "VmRSS:");
    pids.iter().map(of).sum()
}

/// What the machine has left, KiB.
fn available() -> u64 {
    number("/proc/meminfo", "MemAvailable:")
}

fn open_files(pids: &[u32]) -> usize {
    let of = |pid| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    pids.iter().map(of).sum()
}
