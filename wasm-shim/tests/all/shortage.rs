//! A host without threads or descriptors to spare: containers have fewer, or wait, and go on, or get a further process.

use crate::http::on_port;
use crate::netns::Netns;
use crate::shim::{LIMIT, Shim, ended, is_root, skipped, until, workload};
use amphipod_shim_api::TaskError;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A cgroup that bounds the threads of who is in it; removed when they are gone.
struct Bounded(PathBuf);

impl Bounded {
    /// `None` where the host has no such cgroups, or none that can be made from here.
    fn new(name: &str) -> Option<Self> {
        let v2 = Path::new("/sys/fs/cgroup");
        let controllers = fs::read_to_string(v2.join("cgroup.subtree_control")).unwrap_or_default();
        let parent = if controllers.split_whitespace().any(|one| one == "pids") {
            v2.to_owned()
        } else {
            v2.join("pids")
        };
        let path = parent.join(name);
        (fs::create_dir(&path).is_ok() && path.join("pids.max").exists()).then_some(Self(path))
    }

    fn take(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn threads(&self) -> usize {
        let current = fs::read_to_string(self.0.join("pids.current")).unwrap();
        current.trim().parse().unwrap()
    }

    /// Whether somebody was refused a thread.
    fn is_short(&self) -> bool {
        let events = fs::read_to_string(self.0.join("pids.events")).unwrap();
        events
            .lines()
            .any(|line| line.starts_with("max ") && line != "max 0")
    }

    fn limit(&self, most: &str) {
        fs::write(self.0.join("pids.max"), most).unwrap();
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        let deadline = std::time::Instant::now() + LIMIT;
        // Its processes were ended before and are gone in a moment.
        while fs::remove_dir(&self.0).is_err() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

fn bounded(name: &str) -> Option<Bounded> {
    let bounded =
        is_root().then(|| Bounded::new(&format!("amphipod-wasmtest-{name}-{}", std::process::id())))?;
    if bounded.is_none() {
        skipped("needs cgroups that bound threads");
    }
    bounded
}

#[tokio::test]
async fn a_thread_that_cannot_be_had_keeps_nobody_from_others() {
    // Dropped last: after the shim.
    let Some(bounded) = bounded("threads") else {
        return;
    };
    let (shim, netns) = (Shim::new(), Netns::new());
    for (id, port) in [("one", 8081), ("two", 8082)] {
        shim.start(id, &workload("server.wasm"), on_port(port, &netns))
            .await;
    }
    bounded.take(shim.pid());
    bounded.limit(&(bounded.threads() + 1).to_string());
    assert!(netns.get(8081, "/healthz").ends_with("ok\n"));
    bounded.limit("max");
    assert!(netns.get(8082, "/healthz").ends_with("ok\n"));
}

#[tokio::test]
async fn who_is_asked_to_go_does_not_wait_for_threads() {
    let Some(bounded) = bounded("going") else {
        return;
    };
    let (shim, netns) = (Shim::new(), Netns::new());
    let client = shim
        .start("c", &workload("server.wasm"), on_port(8080, &netns))
        .await;
    bounded.take(shim.pid());
    bounded.limit("1");
    let _caller = netns.run(|| TcpStream::connect("127.0.0.1:8080").unwrap());
    until("threads are short", || bounded.is_short()).await;
    client.kill("c", 15, false).await.unwrap();
    let exit = tokio::time::timeout(LIMIT, client.wait("c")).await;
    assert_eq!(exit.expect("it ends").unwrap().status, 128 + 15);
}

/// Bounds the descriptors of a shim.
fn allow_files(pid: u32, most: usize) {
    let limit = [format!("--pid={pid}"), format!("--nofile={most}:")];
    assert!(Command::new("prlimit").args(limit).status().unwrap().success());
}

#[tokio::test]
async fn a_namespace_whose_process_has_no_descriptors_left_gets_another() {
    if !is_root() {
        return;
    }
    let (shim, netns) = (Shim::new(), Netns::new());
    let wasm = workload("server.wasm");
    let bundle = |id: &str, port| shim.bundle(id, &wasm, on_port(port, &netns));
    let first = shim.start("a", &wasm, on_port(8080, &netns)).await;
    let pid = shim.pid();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    allow_files(pid, open + 2);
    let refused = shim.create_by(&first, "b", &bundle("b", 8081)).await;
    assert!(matches!(refused, Err(TaskError::Disconnected(_))), "{refused:?}");
    // It is looked at again when a container comes or goes.
    allow_files(pid, 1024);
    let second = shim.start("b", &wasm, on_port(8081, &netns)).await;
    assert_ne!(shim.pid(), pid);
    for port in [8080, 8081] {
        assert!(netns.get(port, "/healthz").ends_with("ok\n"));
    }
    shim.create_by(&first, "c", &bundle("c", 8082)).await.unwrap();
    shim.create("d", &wasm, on_port(8083, &netns)).await;
    assert_eq!(shim.pid(), pid, "it has room again");
    second.kill("b", 9, false).await.unwrap();
    ended(&second, "b").await;
    second.delete("b").await.unwrap();
    second.shutdown("b").await.unwrap();
}
