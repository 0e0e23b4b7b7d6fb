//! The programs of WebAssembly/wasi-testsuite, each as a container: `tests/conformance/WASI.md` has the results.
//!
//! The suite is not part of this repository: the variable WASI_TESTSUITE names a checkout of its branch
//! `prod/testsuite-base`, which has the programs compiled; without it the test says so and passes.

use crate::shim::{Shim, ended, is_root};
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Directories of the suite with programs on WASI preview 1.
const PREVIEW1: &[&str] = &["assemblyscript", "c", "rust"];

/// Programs that do not pass, and why.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// One program and what is said of it.
struct Case {
    name: String,
    wasm: PathBuf,
    spec: Value,
}

impl Case {
    fn all(directory: &Path) -> Vec<Self> {
        let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut all: Vec<Self> = paths
            .filter(|path| path.extension().is_some_and(|ending| ending == "wasm"))
            .map(Self::read)
            .collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Without a specification, the default one: it ends with 0 (doc/specification.md of the suite).
    fn read(wasm: PathBuf) -> Self {
        let spec = std::fs::read(wasm.with_extension("json"));
        Self {
            name: wasm.file_stem().unwrap().to_string_lossy().into_owned(),
            spec: spec.map_or_else(|_| json!({}), |bytes| serde_json::from_slice(&bytes).unwrap()),
            wasm,
        }
    }

    /// What is wrong with how it ran.
    async fn run(&self, shim: &Shim, id: &str) -> Result<(), String> {
        let root = self.spec["root"].as_str().map(|root| self.copy_of(root));
        let bundle = shim.bundle(id, &std::fs::read(&self.wasm).unwrap(), |config| {
            self.configure(config, root.as_ref().map(tempfile::TempDir::path));
        });
        let client = shim
            .try_create(id, &bundle)
            .await
            .map_err(|error| error.to_string())?;
        client.start(id).await.map_err(|error| error.to_string())?;
        let status = ended(&client, id).await.status;
        client.delete(id).await.unwrap();
        let log = shim.log(id);
        let expected = self.spec["exit_code"].as_u64().unwrap_or(0);
        if u64::from(status) != expected {
            return Err(format!("ended with {status}, not {expected}: {log:?}"));
        }
        match self.spec["stdout"].as_str() {
            Some(text) if text != said(&log) => Err(format!("said {:?}, not {text:?}", said(&log))),
            _ => Ok(()),
        }
    }

    fn configure(&self, config: &mut Value, root: Option<&Path>) {
        let mut args = vec![json!(format!("{}.wasm", self.name))];
        args.extend(self.spec["args"].as_array().cloned().unwrap_or_default());
        config["process"]["args"] = Value::from(args);
        let env = self.spec["env"].as_object().into_iter().flatten();
        config["process"]["env"] = env
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap()))
            .collect();
        if let Some(root) = root {
            config["mounts"] =
                json!([{"destination": "/", "type": "bind", "source": root, "options": ["rbind"]}]);
        }
    }

    /// Every program has files of its own: some leave theirs behind.
    fn copy_of(&self, root: &str) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        let from = self.wasm.with_file_name(root).join(".");
        let copied = Command::new("cp").arg("-a").arg(from).arg(copy.path()).status();
        assert!(copied.unwrap().success());
        copy
    }
}

/// What a log has of stdout, without the tags of the log's own format.
fn said(log: &[String]) -> String {
    let lines = log.iter().filter_map(|line| {
        let (tag, text) = line.strip_prefix("stdout ")?.split_once(' ')?;
        Some(if tag == "F" {
            format!("{text}\n")
        } else {
            text.to_owned()
        })
    });
    lines.collect()
}

#[tokio::test]
async fn the_programs_of_wasi_testsuite() {
    let Some(suite) = std::env::var_os("WASI_TESTSUITE").filter(|_| is_root()) else {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: WASI_TESTSUITE names no checkout of WebAssembly/wasi-testsuite"
        );
        return;
    };
    let shim = Shim::new();
    let (mut passed, mut wrong) = (0, Vec::new());
    for language in PREVIEW1 {
        let directory = Path::new(&suite)
            .join("tests")
            .join(language)
            .join("testsuite/wasm32-wasip1");
        for case in Case::all(&directory) {
            let id = format!("{language}-{}", case.name);
            let result = case.run(&shim, &id).await;
            let excepted = EXCEPTIONS.iter().any(|(name, _)| *name == id);
            match result {
                Ok(()) if excepted => wrong.push(format!("{id}: passes now")),
                Ok(()) => passed += 1,
                Err(_) if excepted => {}
                Err(why) => wrong.push(format!("{id}: {why}")),
            }
        }
    }
    let _ = writeln!(
        std::io::stderr(),
        "{passed} programs on preview 1 pass; exceptions: {}",
        EXCEPTIONS.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn components_of_wasi_0_3_are_refused_by_name() {
    let Some(suite) = std::env::var_os("WASI_TESTSUITE").filter(|_| is_root()) else {
        return;
    };
    let shim = Shim::new();
    for case in Case::all(&Path::new(&suite).join("tests/rust/testsuite/wasm32-wasip3")) {
        let message = shim
            .refusal(&case.name, &std::fs::read(&case.wasm).unwrap(), |_| ())
            .await;
        assert!(message.contains("offers WASI 0.2"), "{}: {message}", case.name);
    }
}
