//! Containers of an ordinary user who has a systemd of his own: scopes below what is delegated to it, with limits.
//!
//! Needs such a user (`loginctl enable-linger NAME`); where there is none every test says so and passes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use amphipod_shim_api::systemd::names::cluster_slice;
use amphipod_shim_api::{CreateTask, ShimCommand, TaskClient};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::callers::{installed, podman_with_own};
use crate::harness::{PATIENCE, SHIM, can_run, image};
use crate::oci_harness::{OCI, text};
use crate::rootless::config;

/// The user, and a directory of his with a root file system and our programs.
struct Session {
    uid: u32,
    home: TempDir,
}

impl Session {
    fn find() -> Option<Self> {
        if !can_run() {
            return None;
        }
        let entries = fs::read_dir("/run/user").into_iter().flatten();
        let users = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let mut with = users.filter(|uid| *uid != 0 && run_dir(*uid).join("systemd/private").exists());
        let Some(uid) = with.next() else {
            eprintln!("skipped: no ordinary user has a systemd of his own here (loginctl enable-linger)");
            return None;
        };
        let home = tempfile::tempdir().unwrap();
        image(&home.path().join("bundle/rootfs"));
        fs::copy(OCI, home.path().join("oci")).unwrap();
        fs::copy(SHIM, home.path().join("shim")).unwrap();
        let this = Self { uid, home };
        this.own();
        Some(this)
    }

    fn own(&self) {
        let owner = format!("{0}:{0}", self.uid);
        let done = Command::new("chown")
            .arg("-R")
            .arg(owner)
            .arg(self.home.path())
            .status();
        assert!(done.unwrap().success());
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    /// What has `words` run as the user, from outside of what is delegated to him.
    fn words(&self, words: &[&str]) -> Vec<String> {
        let uid = self.uid.to_string();
        let run = format!("XDG_RUNTIME_DIR={}", run_dir(self.uid).display());
        let bus = format!(
            "DBUS_SESSION_BUS_ADDRESS=unix:path={}/bus",
            run_dir(self.uid).display()
        );
        let home = format!("HOME={}", self.home.path().display());
        let own = [
            "setpriv",
            "--reuid",
            &uid,
            "--regid",
            &uid,
            "--init-groups",
            "env",
            &run,
            &bus,
            &home,
        ];
        own.iter().chain(words).map(ToString::to_string).collect()
    }

    fn call(&self, words: &[&str]) -> Output {
        let words = self.words(words);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .current_dir(self.home.path().join("bundle"));
        let out = fs::File::create(self.home.path().join("out")).unwrap();
        // A container's streams may be those of the call, which would not end before it.
        let err = out.try_clone().unwrap();
        let status = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .status()
            .unwrap();
        let said = fs::read(self.home.path().join("out")).unwrap();
        Output {
            status,
            stdout: said.clone(),
            stderr: said,
        }
    }

    fn ok(&self, words: &[&str]) -> String {
        let output = self.call(words);
        assert!(output.status.success(), "{words:?}: {}", text(&output.stdout));
        text(&output.stdout)
    }

    /// Writes a configuration with limits, and a cgroup asked of systemd.
    fn configure(&self, bundle: &str, id: &str) {
        let mut spec = config();
        spec["process"]["args"] = json!(["sleep", "1000"]);
        spec["linux"]["cgroupsPath"] = json!(format!("app.slice:amphipodtest:{id}"));
        spec["linux"]["resources"] = json!({"memory": {"limit": 100 << 20}, "pids": {"limit": 50}});
        let dir = self.home.path().join(bundle);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("config.json"), spec.to_string()).unwrap();
        self.own();
    }

    /// An id of this test's own.
    fn id(&self) -> String {
        let name = self.home.path().file_name().unwrap().to_str().unwrap();
        name.trim_start_matches('.').to_owned()
    }

    /// The namespace of this test's shim.
    fn namespace(&self) -> String {
        format!("amphipod-{}", self.id())
    }

    /// podman with nothing of the user's.
    fn podman(&self, words: &[&str]) -> Output {
        let own = podman_with_own(self.home.path(), &self.path("oci"), "systemd");
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        self.call(&[&["podman"], &own[..], words].concat())
    }
}

/// Whatever the test did: what is not there is no failure of it.
impl Drop for Session {
    fn drop(&mut self) {
        if self.home.path().join("podman").exists() {
            self.podman(&["rm", "--all", "--force", "--time", "0"]);
            // Ends the process that keeps the user's namespace.
            self.podman(&["system", "migrate"]);
        }
        let (id, namespace) = (self.id(), self.namespace());
        let slice = cluster_slice(&namespace);
        // The container's scope, and the one that the shim is in.
        self.call(&[
            "systemctl",
            "--user",
            "stop",
            &format!("amphipodtest-{id}.scope"),
            &slice,
        ]);
        let _ = fs::remove_dir_all(run_dir(self.uid).join("amphipod").join(namespace));
    }
}

fn run_dir(uid: u32) -> PathBuf {
    Path::new("/run/user").join(uid.to_string())
}

/// The directory of a process's cgroup on v2.
fn cgroup_of(pid: u32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    Path::new("/sys/fs/cgroup").join(path)
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap()
}

#[test]
fn a_users_container_is_a_scope_of_his_systemd() {
    let Some(session) = Session::find() else { return };
    let id = session.id();
    session.configure("bundle", &id);
    let oci = session.path("oci");
    let call = |words: &[&str]| session.ok(&[&[oci.as_str(), "--systemd-cgroup"], words].concat());
    call(&["run", "-d", &id]);
    let state: Value = serde_json::from_str(&call(&["state", &id])).unwrap();
    let dir = cgroup_of(u32::try_from(state["pid"].as_u64().unwrap()).unwrap());
    let expected = format!("user@{}.service/app.slice/amphipodtest-{id}.scope", session.uid);
    assert!(dir.ends_with(&expected), "{dir:?}");
    assert_eq!(
        (read(&dir, "memory.max"), read(&dir, "pids.max")),
        ("104857600\n".into(), "50\n".into())
    );
    assert_eq!(
        read(&dir, "cgroup.procs").lines().count(),
        1,
        "the keeper is gone"
    );
    call(&["exec", &id, "true"]);
    call(&["update", "--memory", "209715200", &id]);
    assert_eq!(read(&dir, "memory.max"), "209715200\n");
    call(&["pause", &id]);
    assert_eq!(read(&dir, "cgroup.freeze"), "1\n");
    call(&["resume", &id]);
    call(&["delete", "--force", &id]);
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_users_shim_has_its_containers_in_scopes_of_his_systemd() {
    let Some(session) = Session::find() else { return };
    let id = session.id();
    session.configure("bundle", &id);
    let shim = session.path("shim");
    let command = ShimCommand {
        words: session.words(&[&shim]).into_iter().map(Into::into).collect(),
        namespace: session.namespace(),
    };
    let bundle = session.home.path().join("bundle");
    let client = TaskClient::connect(command.start(&id, &bundle).await.unwrap())
        .await
        .unwrap();
    let log = format!("cri://{}", session.path("0.log"));
    let asked = CreateTask {
        id: id.clone(),
        bundle: bundle.clone(),
        stdout: log.clone(),
        stderr: log,
        ..Default::default()
    };
    let pid = client.create(&asked).await.unwrap();
    client.start(id.as_str()).await.unwrap();
    let dir = cgroup_of(pid);
    let user = format!("user@{}.service", session.uid);
    assert!(
        dir.ends_with(format!("{user}/app.slice/amphipodtest-{id}.scope")),
        "{dir:?}"
    );
    assert_eq!(read(&dir, "memory.max"), "104857600\n");
    assert!(client.stats(&id).await.unwrap().memory_usage > 0);
    let server = client.shim_pid(&id).await.unwrap();
    let own = cgroup_of(server);
    assert!(
        own.iter().any(|part| part == user.as_str()) && own != dir,
        "{own:?}"
    );
    // It dies: what it leaves is found and ended.
    let server = nix::unistd::Pid::from_raw(server.cast_signed());
    nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGKILL).unwrap();
    command.delete(&id, &bundle).await.unwrap();
    let gone = async {
        while dir.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the scope stayed");
}

#[test]
fn podman_of_a_user_has_his_systemd_limit_containers() {
    let Some(session) = Session::find() else { return };
    if !installed("podman") {
        return;
    }
    let rootfs = session.path("bundle/rootfs");
    let podman = |words: &[&str]| {
        let output = session.podman(words);
        assert!(output.status.success(), "{words:?}: {}", text(&output.stdout));
        text(&output.stdout)
    };
    let image = [
        "--network",
        "none",
        "--memory",
        "100m",
        "--pids-limit",
        "50",
        "--rootfs",
        &rootfs,
    ];
    let run = ["run", "--detach", "--name", "c"];
    podman(&[&run[..], &image, &["/bin/sleep", "1000"]].concat());
    let pid = podman(&["inspect", "--format", "{{.State.Pid}}", "c"]);
    let dir = cgroup_of(pid.trim().parse().unwrap());
    let user = format!("user@{}.service", session.uid);
    assert!(dir.iter().any(|part| part == user.as_str()), "{dir:?}");
    let scope = dir
        .ancestors()
        .find(|dir| dir.extension().is_some_and(|e| e == "scope"))
        .unwrap();
    assert_eq!(
        (read(scope, "memory.max"), read(scope, "pids.max")),
        ("104857600\n".into(), "50\n".into())
    );
    assert_eq!(podman(&["exec", "c", "/bin/sh", "-c", "echo in"]), "in\n");
    podman(&["pause", "c"]);
    podman(&["unpause", "c"]);
    podman(&["rm", "--force", "--time", "0", "c"]);
    assert!(!dir.exists());
}
