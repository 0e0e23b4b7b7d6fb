//! Debian's containerd for the tests of both shims, which take this file in by its path: a daemon of the test's own, which
//! finds the shims of one directory on its path, and nothing of the host's.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long the daemon may take to answer, and what it runs to change.
const PATIENCE: Duration = Duration::from_secs(60);

/// Plugins that need what a test has not.
const CONFIG: &str = r#"
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
"#;

/// Whether a program is there; says so if not.
pub fn installed(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// All that a program said.
pub fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// The daemon, and `ctr` to talk to it.
pub struct Containerd {
    pub home: TempDir,
    namespace: String,
    /// Where it finds programs.
    path: OsString,
    daemon: Child,
}

impl Containerd {
    /// Starts one in `home` that finds its shims in `shims`; its containers are in a containerd namespace that begins with
    /// `prefix`.
    pub fn start(home: TempDir, shims: &Path, prefix: &str) -> Self {
        let dir = home.path().display().to_string();
        let config = format!(
            "{CONFIG}root = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            format!("{dir}/root"),
            format!("{dir}/state"),
            format!("{dir}/c.sock"),
            format!("{dir}/t.sock"),
        );
        fs::write(home.path().join("config.toml"), config).unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path =
            std::env::join_paths([shims.to_owned()].into_iter().chain(std::env::split_paths(&path))).unwrap();
        let daemon = daemon(home.path(), &path);
        let this = Self {
            namespace: format!("{prefix}-{}", daemon.id()),
            home,
            path,
            daemon,
        };
        this.until_it_answers();
        this
    }

    fn until_it_answers(&self) {
        self.until(|| self.call(&["version"]).status.success(), "containerd answers");
    }

    /// Kills it, and starts another in the same place.
    pub fn restart(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        self.daemon = daemon(self.home.path(), &self.path);
        self.until_it_answers();
    }

    /// Waits until something is so.
    pub fn until(&self, mut is: impl FnMut() -> bool, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !is() {
            assert!(Instant::now() < deadline, "never: {what}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Runs `ctr` with these words.
    pub fn call(&self, words: &[&str]) -> Output {
        Command::new("ctr")
            .arg("--address")
            .arg(self.home.path().join("c.sock"))
            .args(["--namespace", self.namespace()])
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Begins to listen to what the daemon is told of tasks: whatever happens from now on is heard.
    pub fn listen(&self) -> Events {
        let file = self.home.path().join("events");
        let listener = Command::new("ctr")
            .arg("--address")
            .arg(self.home.path().join("c.sock"))
            .arg("events")
            .stdin(Stdio::null())
            .stdout(fs::File::create(&file).unwrap())
            .spawn()
            .unwrap();
        let events = Events { listener, file };
        let mut tries = 0;
        let heard = || {
            tries += 1;
            // Each is new: one that is there already makes no event.
            let name = format!("{}-{}-{tries}", self.namespace(), events.listener.id());
            self.ok(&["namespaces", "create", &name]);
            !events.text().is_empty()
        };
        self.until(heard, "events are heard");
        events
    }

    /// Waits for the last of these, which have then come in this order: the topics of a container's events, without `/tasks/`.
    pub fn told(&self, events: &Events, container: &str, expected: &[&str]) {
        let is_whole = || events.of(container).len() >= expected.len();
        self.until(is_whole, &format!("{expected:?} of {container}"));
        assert_eq!(events.of(container), expected, "{container}");
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The same, which must succeed; answers what was said.
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.call(words);
        assert!(output.status.success(), "{words:?}: {}", text(&output));
        text(&output)
    }
}

fn daemon(home: &Path, path: &OsStr) -> Child {
    Command::new("containerd")
        .arg("--config")
        .arg(home.join("config.toml"))
        .env("PATH", path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// `ctr events`: a line each, with time, topic and JSON.
pub struct Events {
    listener: Child,
    file: PathBuf,
}

impl Events {
    fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    fn of(&self, container: &str) -> Vec<String> {
        let name = format!("\"container_id\":\"{container}\"");
        let text = self.text();
        let lines = text.lines().filter(|line| line.contains(&name));
        let topics = lines.filter_map(|line| line.split_once(" /tasks/")?.1.split(' ').next());
        let mut topics: Vec<String> = topics.map(str::to_owned).collect();
        // The kernel may say it more than once until the memory of who was killed is free.
        topics.dedup_by(|next, before| next == "oom" && before == "oom");
        topics
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        drop(self.listener.kill());
        drop(self.listener.wait());
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Most of it is gone already, unless the test failed: whatever is not there cannot be removed.
        for id in ["one", "two", "three", "four"] {
            drop(self.call(&["task", "rm", "--force", id]));
            drop(self.call(&["container", "rm", id]));
        }
        drop(self.daemon.kill());
        drop(self.daemon.wait());
        drop(fs::remove_dir_all(
            Path::new("/run/amphipod").join(self.namespace()),
        ));
        if let Ok(host) = amphipod_shim_api::cgroup::CgroupHost::discover() {
            let ended = host.cgroup_everywhere(self.namespace()).and_then(|cgroup| {
                cgroup.kill()?;
                cgroup.remove_waiting()
            });
            drop(ended);
        }
    }
}
