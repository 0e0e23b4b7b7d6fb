//! A host without threads to spare: containers have fewer, or wait, and go on.

use crate::http::on_port;
use crate::netns::Netns;
use crate::shim::{Shim, is_root, workload};
use std::fs;
use std::path::{Path, PathBuf};

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

    fn limit(&self, most: &str) {
        fs::write(self.0.join("pids.max"), most).unwrap();
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        let deadline = std::time::Instant::now() + crate::shim::LIMIT;
        // Its processes were ended before and are gone in a moment.
        while fs::remove_dir(&self.0).is_err() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

#[tokio::test]
async fn a_thread_that_cannot_be_had_keeps_nobody_from_others() {
    if !is_root() {
        return;
    }
    // Dropped last: after the shim.
    let bounded = Bounded::new(&format!("amphipod-wasmtest-threads-{}", std::process::id()));
    let Some(bounded) = &bounded else {
        return crate::shim::skipped("needs cgroups that bound threads");
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
