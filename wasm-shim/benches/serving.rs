//! Measures the shim as a node sees it, beside `wasmtime serve` where the variable WASMTIME names that program.
//!
//! `serving [requests] [neighbours] [start] [idle]`; all of them without a word. Results are for people to read:
//! `wasm-shim/RESULTS.md` has some. Needs root.

#[path = "../tests/all/netns.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod netns;
#[path = "../tests/all/shim.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod shim;

use amphipod_shim_api::TaskClient;
use serde_json::json;
use shim::{Shim, ended, is_root, wat, workload};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long each load lasts, and over how many connections.
const LOAD: Duration = Duration::from_secs(5);
const CONNECTIONS: usize = 16;
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
    if wants("requests") {
        requests().await;
    }
    if wants("neighbours") {
        neighbours().await;
    }
    if wants("start") {
        start().await;
    }
    if wants("idle") {
        for count in [10, 1_000, 10_000] {
            idle(count).await;
        }
    }
    say(&format!("load of the machine: {}", load_average()));
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
    })
    .await
}

/// The demo server's `/healthz` by each server in turn, several rounds, so that what else happens here meets all.
async fn requests() {
    let shim = Shim::new();
    let (fresh, kept, other) = (FIRST_PORT, FIRST_PORT + 1, FIRST_PORT + 2);
    serve(&shim, "fresh", fresh, "1").await;
    serve(&shim, "kept", kept, "1000000").await;
    let wasmtime = wasmtime_serve(other);
    let mut servers = vec![("wasm-shim", fresh), ("wasm-shim, instances reused", kept)];
    if wasmtime.is_some() {
        servers.push(("wasmtime serve", other));
    }
    for round in 1..=ROUNDS {
        for (name, port) in &servers {
            let port = *port;
            let (rate, times) = tokio::task::spawn_blocking(move || load(port)).await.unwrap();
            say(&format!("round {round}, {name}: {rate:.0} requests/s, {times}"));
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

fn load(port: u16) -> (f64, Times) {
    let begin = Instant::now();
    let times = std::thread::scope(|scope| {
        let all: Vec<_> = (0..CONNECTIONS)
            .map(|_| scope.spawn(|| one_connection(port, begin)))
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

fn one_connection(port: u16, begin: Instant) -> Vec<Duration> {
    let mut stream = connect(port);
    let mut times = Vec::new();
    while begin.elapsed() < LOAD {
        let sent = Instant::now();
        get(&mut stream);
        times.push(sent.elapsed());
    }
    times
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// One request on a connection that stays open; the answer is `ok`, in one or more pieces.
fn get(stream: &mut TcpStream) {
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n")
        .unwrap();
    let mut answer = Vec::with_capacity(512);
    let mut piece = [0; 512];
    while !answer.ends_with(b"ok\n") {
        let length = stream.read(&mut piece).unwrap();
        assert!(
            length > 0,
            "the server closed: {}",
            String::from_utf8_lossy(&answer)
        );
        answer.extend_from_slice(&piece[..length]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

/// One client's requests while nothing else runs in the shim, and while many guests of other Pods spin.
async fn neighbours() {
    let shim = Shim::new();
    serve(&shim, "asked", FIRST_PORT, "1").await;
    let ask = || async {
        let asking = tokio::task::spawn_blocking(|| one_connection(FIRST_PORT, Instant::now()));
        Times::new(asking.await.unwrap())
    };
    say(&format!("one client, alone: {}", ask().await));
    for number in 0..SPINNING {
        shim.start(&format!("spin{number}"), &workload("burn.wasm"), |_| ())
            .await;
    }
    say(&format!(
        "one client, {SPINNING} guests spinning: {}",
        ask().await
    ));
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
        tokio::task::spawn_blocking(move || get(&mut connect(port)))
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

/// Resident memory of the shim with that many idle containers, each a Pod of its own, and a first request to some.
async fn idle(count: u16) {
    let shim = Shim::new();
    let client = serve(&shim, "first", FIRST_PORT, "1").await;
    let empty = resident(&shim);
    let begin = Instant::now();
    for number in 1..=count {
        let id = format!("c{number}");
        let bundle = shim.bundle(&id, &workload("server.wasm"), |config| {
            config["annotations"]["dev.amphipod.wasm/http-port"] = json!((FIRST_PORT + number).to_string());
        });
        shim.create_by(&client, &id, &bundle).await.unwrap();
        client.start(&id as &str).await.unwrap();
    }
    let took = begin.elapsed();
    let full = resident(&shim);
    let mut first = Vec::new();
    for number in (1..=count).step_by(usize::from(count / 10)) {
        let port = FIRST_PORT + number;
        let asked = Instant::now();
        tokio::task::spawn_blocking(move || get(&mut connect(port)))
            .await
            .unwrap();
        first.push(asked.elapsed());
    }
    say(&format!(
        "{count} idle containers: {} MiB resident, {} KiB each beyond the first; started in {took:.1?}; first request after idle: {}",
        full >> 10,
        (full - empty) / u64::from(count),
        Times::new(first),
    ));
}

/// `VmRSS` of the shim, KiB.
fn resident(shim: &Shim) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", shim.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
