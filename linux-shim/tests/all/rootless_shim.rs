//! The Task API served by an ordinary user: with subordinate ids, without, and with a cgroup that is delegated to him.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use amphipod_shim_api::client::ExecTask;
use amphipod_shim_api::{CreateTask, Exit, RootfsMount, ShimCommand, TaskClient, TaskError, TaskStatus};
use serde_json::json;

use crate::harness::PATIENCE;
use crate::rootless::{AS_USER, Delegated, UID, User, remove_namespace};

/// A shim of the user's, and its containers; all gone at the end of a test.
struct Pod {
    user: User,
    command: ShimCommand,
    client: TaskClient,
    made: Vec<PathBuf>,
}

impl Pod {
    async fn of(user: User) -> Self {
        let home = user.home.path();
        let shim = home.join("shim");
        let cgroup = user.cgroup.clone().unwrap_or_default();
        let runs = format!("XDG_RUNTIME_DIR={}", home.display());
        let words = ["unshare", "--mount", "sh", "-c", AS_USER, "sh"].map(Into::into);
        let own = [home.into(), cgroup.into(), "env".into(), runs.into(), shim.into()];
        let name = home.file_name().unwrap().to_str().unwrap();
        let command = ShimCommand {
            words: words.into_iter().chain(own).collect(),
            namespace: format!("amphipod-user{name}"),
        };
        fs::write(home.join("bundle/config.json"), user.spec.to_string()).unwrap();
        let address = command.start("start", &home.join("bundle")).await.unwrap();
        let client = TaskClient::connect(address).await.unwrap();
        Self {
            user,
            command,
            client,
            made: Vec::new(),
        }
    }

    /// A bundle of the user's, with layers of his own below it.
    async fn create(&mut self, id: &str, script: &str) -> Result<u32, TaskError> {
        let dir = self.user.home.path().join(id);
        for part in ["", "upper", "work"] {
            fs::create_dir(dir.join(part)).unwrap();
            chown(dir.join(part), Some(UID), Some(UID)).unwrap();
        }
        self.user.spec["process"]["args"] = json!(["sh", "-c", script]);
        fs::write(dir.join("config.json"), self.user.spec.to_string()).unwrap();
        let lower = self.user.home.path().join("bundle/rootfs");
        let option = |name: &str, dir: &Path| format!("{name}={}", dir.display());
        let layers = [
            option("lowerdir", &lower),
            option("upperdir", &dir.join("upper")),
            option("workdir", &dir.join("work")),
        ];
        let log = format!("cri://{}", dir.join("0.log").display());
        self.made.push(dir.clone());
        let asked = CreateTask {
            id: id.into(),
            bundle: dir,
            rootfs: vec![RootfsMount {
                kind: "overlay".into(),
                source: "overlay".into(),
                options: layers.into(),
            }],
            stdout: log.clone(),
            stderr: log,
            ..Default::default()
        };
        self.client.create(&asked).await
    }

    async fn wait(&self, id: &str) -> Exit {
        let ended = tokio::time::timeout(PATIENCE, self.client.wait(id));
        ended.await.expect("the container never ended").unwrap()
    }

    async fn run(&mut self, id: &str, script: &str) -> (u32, String) {
        self.create(id, script)
            .await
            .unwrap_or_else(|e| panic!("{e}: {}", self.said()));
        self.client.start(id).await.unwrap();
        let exit = self.wait(id).await;
        self.client.delete(id).await.unwrap();
        let log = fs::read_to_string(self.user.home.path().join(id).join("0.log")).unwrap();
        let words = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
        (exit.status, words.map(|line| format!("{line}\n")).collect())
    }

    /// Everything the shim has said.
    fn said(&self) -> String {
        let run = self
            .user
            .home
            .path()
            .join("amphipod")
            .join(&self.command.namespace)
            .join("s");
        let files = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path());
        let logs = files.filter(|path| path.extension().is_some_and(|e| e == "log"));
        logs.map(|path| fs::read_to_string(path).unwrap()).collect()
    }

    async fn shim(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.client.shim_pid("any").await.unwrap().cast_signed())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let namespace = self.command.namespace.as_bytes();
        let pids = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
        for pid in pids {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|b| *b == 0);
            // The shim, and those in its containers that have not become their program: what ended by itself is gone.
            if words.any(|w| w == namespace) && words.any(|w| w == b"serve") {
                end(pid);
            }
        }
        for bundle in &self.made {
            kill_recorded(bundle);
        }
    }
}

/// What a shim wrote down of a container's first process, whose end is that of its PID namespace.
fn recorded(bundle: &Path) -> Option<i32> {
    let text = fs::read(bundle.join("rootless.json")).ok()?;
    let trace: serde_json::Value = serde_json::from_slice(&text).ok()?;
    i32::try_from(trace["pid"].as_i64()?).ok()
}

fn kill_recorded(bundle: &Path) {
    let Some(pid) = recorded(bundle) else { return };
    let own = format!("/proc/{pid}/status");
    // The user's own number says that it is his.
    if fs::read_to_string(own).is_ok_and(|status| status.contains(&format!("Uid:\t{UID}\t"))) {
        end(pid);
    }
}

/// What has ended meanwhile cannot be killed, and need not be.
fn end(pid: i32) {
    let killed = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    if let Err(errno) = killed
        && errno != nix::errno::Errno::ESRCH
    {
        eprintln!("process {pid} stays: {errno}");
    }
}

/// A process that has ended has no words, waited for or not.
fn lives(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| !words.is_empty())
}

async fn until_ended(pid: i32) {
    let gone = async {
        while lives(pid) {
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::time::timeout(PATIENCE, gone).await;
    ended.unwrap_or_else(|_| panic!("process {pid} stays"));
}

#[tokio::test]
async fn a_users_shim_serves_containers_without_subordinate_ids() {
    let Some(user) = User::new(false) else { return };
    let mut pod = Pod::of(user).await;
    let (status, out) = pod
        .run(
            "one",
            "id -u; cat /proc/self/uid_map; echo x > /dev/null; rm -r /data; mkdir /data && echo new > /data/f; rm /etc/passwd
             ls /proc | grep -c '^[0-9]'; exit 3",
        )
        .await;
    let map = format!("         0      {UID}          1");
    assert_eq!(
        (status, out.lines().take(2).collect::<Vec<_>>()),
        (3, vec!["0", &map]),
        "{out}"
    );
    let said = pod.said();
    for words in [
        "without root",
        "subordinate ids",
        "the container has one user and one group",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let layer = pod.user.home.path().join("one/upper");
    assert_eq!(fs::read_to_string(layer.join("data/f")).unwrap(), "new\n");
    assert!(pod.user.home.path().join("bundle/rootfs/etc/passwd").exists());
}

#[tokio::test]
async fn a_users_containers_live_and_end() {
    let Some(user) = User::new(true) else { return };
    let mut pod = Pod::of(user).await;
    pod.create("one", "grep -c . /proc/self/uid_map; sleep 1000 & wait")
        .await
        .unwrap();
    assert_eq!(pod.client.state("one").await.unwrap().status, TaskStatus::Created);
    pod.client.start("one").await.unwrap();
    let process = json!({
        "user": {"uid": 7, "gid": 8}, "cwd": "/", "args": ["sh", "-c", "test $(id -u):$(id -g) = 7:8"], "env": ["PATH=/bin"],
    });
    let (one, exec) = ("one", ("one", "e"));
    let task = ExecTask {
        id: one.into(),
        exec_id: "e".into(),
        process,
        ..Default::default()
    };
    pod.client.exec(&task).await.unwrap();
    pod.client.start(exec).await.unwrap();
    assert_eq!(pod.client.wait(exec).await.unwrap().status, 0);
    pod.client.delete(exec).await.unwrap();
    assert!(!pod.client.pids(one).await.unwrap().is_empty());
    if pod.said().contains("has no cgroup of its own") {
        for refused in [
            pod.client.pause(one).await.err(),
            pod.client.stats(one).await.err(),
        ] {
            assert!(
                matches!(refused, Some(TaskError::FailedPrecondition(_))),
                "{refused:?}"
            );
        }
    }
    pod.client.kill(one, 9, true).await.unwrap();
    assert_eq!(pod.wait(one).await.status, 137);
    assert!(
        pod.client.pids(one).await.unwrap().is_empty(),
        "its number is nobody's"
    );
    pod.client.delete(one).await.unwrap();
    // One that was never started goes too.
    pod.create("two", "true").await.unwrap();
    assert_eq!(pod.client.delete("two").await.unwrap().status, 137);
    // What was said is what is said of every such shim, and no reason to keep its log.
    assert!(pod.said().contains("without root"));
    let shim = pod.shim().await;
    pod.client.shutdown("any").await.unwrap();
    until_ended(shim.as_raw()).await;
    assert_eq!(pod.said(), "");
}

/// Without a PID namespace of its own nobody but those the shim has made is known to be a container's.
#[tokio::test]
async fn execs_end_with_a_users_container() {
    let Some(mut user) = User::new(false) else { return };
    remove_namespace(&mut user.spec, "pid");
    let mut pod = Pod::of(user).await;
    let process =
        json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["sleep", "1000"], "env": ["PATH=/bin"]});
    let exec = async |pod: &Pod, id: &str| {
        let task = ExecTask {
            id: id.into(),
            exec_id: "e".into(),
            process: process.clone(),
            ..Default::default()
        };
        pod.client.exec(&task).await.unwrap();
        pod.client.start((id, "e")).await.unwrap().cast_signed()
    };
    for (id, all) in [("one", true), ("two", false)] {
        pod.create(id, "exec sleep 1000").await.unwrap();
        pod.client.start(id).await.unwrap();
        let other = exec(&pod, id).await;
        assert!(lives(other));
        pod.client.kill(id, 9, all).await.unwrap();
        pod.wait(id).await;
        assert!(all || lives(other));
        pod.client.delete(id).await.unwrap();
        until_ended(other).await;
    }
}

#[tokio::test]
async fn what_a_dead_shim_of_a_user_left_is_ended() {
    let Some(user) = User::new(false) else { return };
    let mut pod = Pod::of(user).await;
    pod.create("one", "exec sleep 1000").await.unwrap();
    pod.client.start("one").await.unwrap();
    let bundle = pod.user.home.path().join("one");
    let first = recorded(&bundle).unwrap();
    assert!(lives(first));
    nix::sys::signal::kill(pod.shim().await, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(pod.command.delete("one", &bundle).await.unwrap().status, 137);
    until_ended(first).await;
}

#[tokio::test]
async fn what_a_users_shim_cannot_give_is_refused() {
    let Some(user) = User::new(false) else { return };
    let mut pod = Pod::of(user).await;
    let plain = pod.user.spec.clone();
    pod.user.spec["linux"]["cgroupsPath"] = json!("/amphipod-not-delegated/c");
    pod.user.spec["linux"]["resources"] = json!({"memory": {"limit": 100_000_000}});
    let error = pod.create("one", "true").await.unwrap_err().to_string();
    assert!(error.contains("delegated"), "{error}");
    // It was written down before it was tried.
    let trace = fs::read_to_string(pod.user.home.path().join("one/rootless.json")).unwrap();
    assert!(trace.contains("/amphipod-not-delegated/c"), "{trace}");
    pod.user.spec = plain.clone();
    pod.user.spec["annotations"]["dev.amphipod.linux/processes"] = json!("sandbox");
    let error = pod.create("two", "true").await.unwrap_err().to_string();
    assert!(error.contains("share their processes"), "{error}");
    pod.user.spec = plain;
    pod.user.spec["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [7]});
    let error = pod.create("three", "true").await.unwrap_err().to_string();
    assert!(error.contains("additionalGids"), "{error}");
}

#[tokio::test]
async fn a_delegated_cgroup_limits_containers_of_a_users_shim() {
    let Some(mut user) = User::new(false) else { return };
    let Some(given) = Delegated::to_user() else { return };
    user.cgroup = Some(given.dir.join("own"));
    user.spec["linux"]["cgroupsPath"] = json!(format!("/{}/c", given.name));
    user.spec["linux"]["resources"] = json!({"memory": {"limit": 100_000_000}, "pids": {"limit": 9}});
    let mut pod = Pod::of(user).await;
    pod.create("one", "exec sleep 1000").await.unwrap();
    pod.client.start("one").await.unwrap();
    let read = |file: &str| fs::read_to_string(given.dir.join("c").join(file)).unwrap();
    assert_eq!(read("pids.max"), "9\n");
    assert!(read("memory.max").starts_with("999"), "{}", read("memory.max"));
    assert!(pod.client.stats("one").await.unwrap().memory_usage > 0);
    pod.client.pause("one").await.unwrap();
    pod.client.resume("one").await.unwrap();
    // Its shim dies: what is left is found in the cgroup that was written down.
    nix::sys::signal::kill(pod.shim().await, nix::sys::signal::Signal::SIGKILL).unwrap();
    pod.command
        .delete("one", &pod.user.home.path().join("one"))
        .await
        .unwrap();
    assert!(!given.dir.join("c").exists());
}
