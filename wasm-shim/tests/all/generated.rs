//! Modules made by wasm-smith, and real programs with a few bytes changed: each ends its own container with a reason or a
//! status, and nothing else.
//!
//! Those of wasm-smith are made by `wasm-shim/generate`; a few are in `generated/`, and the variable GENERATED_MODULES
//! names a directory of as many more as there is time for.

use crate::shim::{Shim, ended, is_root, workload};
use amphipod_shim_api::{TaskClient, TaskError, TaskStatus};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

/// Containers at once.
const AT_ONCE: usize = 4;

/// How long one may run before it is killed: many never end by themselves.
const PATIENCE: Duration = Duration::from_millis(200);

/// What no guest may have read: it is beside what they were given.
const CANARY: &str = "canary-5345435245543432";

fn generated() -> Vec<PathBuf> {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/all/generated");
    let directory = std::env::var_os("GENERATED_MODULES").map_or(committed, PathBuf::from);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// A real program with a few bytes changed, by number.
fn damaged(number: u64) -> Vec<u8> {
    const CHANGES: usize = 4;
    let mut program = workload("fail.wasm");
    let random = Sha256::digest(number.to_le_bytes());
    for change in random.chunks(5).take(CHANGES) {
        let place = u32::from_le_bytes([change[0], change[1], change[2], change[3]]) as usize;
        let length = program.len();
        program[place % length] ^= change[4];
    }
    program
}

/// What the modules are run by and in.
struct Bench {
    shim: Shim,
    client: TaskClient,
    host: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let shim = Shim::new();
        let host = tempfile::tempdir().unwrap();
        std::fs::write(host.path().join("canary"), CANARY).unwrap();
        std::fs::create_dir(host.path().join("data")).unwrap();
        Self {
            client: shim.start("neighbour", &workload("burn.wasm"), |_| ()).await,
            shim,
            host,
        }
    }

    /// Runs one module to its end, by itself or by force.
    async fn run(&self, id: &str, module: &[u8]) -> Result<u32, TaskError> {
        let data = self.host.path().join("data");
        let bundle = self.shim.bundle(id, module, |config| {
            config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
            config["mounts"] =
                json!([{"destination": "/data", "type": "bind", "source": data, "options": ["rbind"]}]);
        });
        self.shim.create_by(&self.client, id, &bundle).await?;
        self.client.start(id).await?;
        if tokio::time::timeout(PATIENCE, self.client.wait(id))
            .await
            .is_err()
        {
            // It may have ended just now.
            let _ = self.client.kill(id, 9, true).await;
        }
        let status = ended(&self.client, id).await.status;
        let log = std::fs::read(self.shim.log_path(id)).unwrap_or_default();
        let seen = log.windows(CANARY.len()).any(|part| part == CANARY.as_bytes());
        assert!(!seen, "{id} has read what is not its own");
        self.client.delete(id).await?;
        drop(std::fs::remove_dir_all(bundle));
        Ok(status)
    }

    /// Runs modules until there are none left. Answers how many ran and how many were refused.
    async fn run_all(&self, modules: &Mutex<VecDeque<(String, Vec<u8>)>>) -> (usize, usize) {
        let (mut ran, mut refused) = (0, 0);
        loop {
            let next = modules.lock().unwrap().pop_front();
            let Some((id, module)) = next else {
                return (ran, refused);
            };
            match self.run(&id, &module).await {
                Ok(_) => ran += 1,
                Err(TaskError::InvalidArgument(reason)) => {
                    assert!(!reason.is_empty(), "{id} is refused without a reason");
                    refused += 1;
                }
                Err(error) => panic!("{id}: {error}"),
            }
        }
    }

    async fn is_as_before(&self) {
        let state = self.client.state("neighbour").await.unwrap();
        assert_eq!(state.status, TaskStatus::Running);
        let canary = std::fs::read_to_string(self.host.path().join("canary"));
        assert_eq!(canary.unwrap(), CANARY);
    }
}

/// Runs all, some at once. Answers how many ran.
async fn run(modules: VecDeque<(String, Vec<u8>)>) -> usize {
    let bench = Arc::new(Bench::new().await);
    let modules = Arc::new(Mutex::new(modules));
    let mut running = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (bench, modules) = (Arc::clone(&bench), Arc::clone(&modules));
        running.spawn(async move { bench.run_all(&modules).await });
    }
    let parts = running.join_all().await;
    let ran = parts.iter().map(|(ran, _)| ran).sum();
    let refused: usize = parts.iter().map(|(_, refused)| refused).sum();
    let _ = writeln!(std::io::stderr(), "{ran} modules ran, {refused} were refused");
    bench.is_as_before().await;
    ran
}

#[tokio::test]
async fn generated_modules_end_alone() {
    if !is_root() {
        return;
    }
    let modules: VecDeque<_> = generated()
        .into_iter()
        .map(|path| {
            let id = path.file_stem().unwrap().to_string_lossy().into_owned();
            (id, std::fs::read(path).unwrap())
        })
        .collect();
    let count = modules.len();
    assert_eq!(run(modules).await, count, "valid programs were refused");
}

#[tokio::test]
async fn damaged_programs_end_alone() {
    if !is_root() {
        return;
    }
    const COUNT: u64 = 32;
    let modules = (0..COUNT).map(|number| (format!("damaged-{number}"), damaged(number)));
    run(modules.collect()).await;
}
