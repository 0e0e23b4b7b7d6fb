//! What tests of the OCI command line have in common: containers made by one invocation per step, gone at the end.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{PATIENCE, can_run, image, spec};

pub const OCI: &str = env!("CARGO_BIN_EXE_amphipod-oci");

/// Containers of one test, all gone at its end.
pub struct Oci {
    pub home: TempDir,
    pub name: String,
    /// What every call begins with, for one under other circumstances.
    pub before: Vec<String>,
}

pub struct Bundle {
    pub dir: PathBuf,
    pub spec: Value,
}

pub fn oci(name: &str) -> Option<Oci> {
    can_run().then(|| Oci {
        home: tempfile::tempdir().unwrap(),
        name: format!("amphipod-oci-{name}-{}", std::process::id()),
        before: Vec::new(),
    })
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Oci {
    pub fn bundle(&self, script: &str) -> Bundle {
        let dir = self.home.path().join("bundle");
        fs::create_dir_all(&dir).unwrap();
        image(&dir.join("rootfs"));
        Bundle {
            spec: spec(&["sh", "-c", script], &self.name, "c"),
            dir,
        }
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut line = self.before.iter().map(String::as_str).chain([OCI]);
        let mut command = Command::new(line.next().unwrap());
        command
            .args(line)
            .arg("--root")
            .arg(self.home.path().join("root"))
            .args(words);
        command
    }

    pub fn call(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Answers standard output of a call that must do.
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.call(words);
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Answers standard error of a call that must not.
    pub fn fails(&self, words: &[&str]) -> String {
        let output = self.call(words);
        assert!(!output.status.success(), "{words:?}: {}", text(&output.stdout));
        text(&output.stderr)
    }

    pub fn create(&self, bundle: &Bundle) {
        let output = self.created(bundle);
        assert!(output.0, "{}", output.1);
    }

    /// A container's streams are those of `create`: they go to a file, since a pipe would not end before it.
    pub fn created(&self, bundle: &Bundle) -> (bool, String) {
        let path = bundle.dir.display().to_string();
        fs::write(bundle.dir.join("config.json"), bundle.spec.to_string()).unwrap();
        let out = fs::File::create(bundle.dir.join("out")).unwrap();
        let log = self.home.path().join("log.json");
        let log = log.to_str().unwrap();
        let _ = fs::remove_file(log);
        let done = self
            .command(&[
                "--log",
                log,
                "--log-format",
                "json",
                "create",
                "c",
                "--bundle",
                &path,
            ])
            .stdin(Stdio::null())
            .stderr(out.try_clone().unwrap())
            .stdout(out)
            .status()
            .unwrap();
        (done.success(), fs::read_to_string(log).unwrap_or_default())
    }

    /// Runs to the end in the foreground: exit code and output.
    pub fn run(&self, bundle: &Bundle) -> (i32, String) {
        fs::write(bundle.dir.join("config.json"), bundle.spec.to_string()).unwrap();
        let path = bundle.dir.display().to_string();
        let output = self.call(&["run", "--bundle", &path, "c"]);
        (
            output.status.code().unwrap(),
            text(&output.stdout) + &text(&output.stderr),
        )
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", "c"])).unwrap()
    }

    /// Waits until a container that was created has said a line, or more.
    pub fn said(&self, bundle: &Bundle) -> String {
        let deadline = Instant::now() + PATIENCE;
        while !bundle.output().ends_with('\n') {
            assert!(Instant::now() < deadline, "it says nothing");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        bundle.output()
    }

    /// Waits until a container that was created has said that.
    pub fn until_said(&self, bundle: &Bundle, said: &str) {
        let deadline = Instant::now() + PATIENCE;
        while bundle.output() != said {
            assert!(Instant::now() < deadline, "never {said:?}: {:?}", bundle.output());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    pub fn until(&self, status: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.state()["status"] != status {
            assert!(Instant::now() < deadline, "never {status}: {}", self.state());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

impl Drop for Oci {
    fn drop(&mut self) {
        let _ = self.call(&["delete", "--force", "c"]);
        if let Ok(host) = amphipod_shim_api::cgroup::CgroupHost::discover() {
            let _ = host
                .cgroup_everywhere(&self.name)
                .and_then(|c| c.remove_waiting());
        }
    }
}

impl Bundle {
    pub fn output(&self) -> String {
        fs::read_to_string(self.dir.join("out")).unwrap()
    }
}
