//! The threads of a real shim: all of them are fenced in, those that run guests most.

use crate::netns::Netns;
use crate::shim::{Shim, in_network, is_root, workload};
use serde_json::json;
use std::collections::HashMap;

/// What proc(5) says of each thread of a name.
pub fn threads(pid: u32, name: &str) -> Vec<HashMap<String, String>> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok());
    let parsed = status.map(|text| {
        let lines = text.lines().filter_map(|line| line.split_once(":\t"));
        lines
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect::<HashMap<_, _>>()
    });
    parsed.filter(|thread| thread["Name"] == name).collect()
}

/// Filters of system calls: of the service's are some around each thread that it starts.
fn filters(thread: &HashMap<String, String>) -> u32 {
    thread["Seccomp_filters"].parse().unwrap()
}

#[tokio::test]
async fn threads_of_guests_are_fenced_in() {
    /// CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_NET_BIND_SERVICE.
    const MOST: u64 = 1 << 1 | 1 << 3 | 1 << 10;
    if !is_root() {
        return;
    }
    let (shim, netns) = (Shim::new(), Netns::new());
    let data = tempfile::tempdir().unwrap();
    shim.start("c", &workload("server.wasm"), |config| {
        in_network(config, &netns);
        config["annotations"]["dev.amphipod.wasm/http-port"] = json!("8080");
        config["mounts"] =
            json!([{"destination": "/data", "type": "bind", "source": data.path(), "options": ["rbind"]}]);
    })
    .await;
    // There are threads as long as somebody is connected.
    let client = netns.connect(8080);
    // A file is read by one of the threads that its workers start.
    std::fs::write(data.path().join("a"), "words").unwrap();
    assert!(netns.get(8080, "/files/data/a").contains("words"));
    let found = threads(shim.pid(), "pod");
    assert!(found.len() > 1, "{found:?}");
    let own = threads(shim.pid(), "service").iter().map(filters).max().unwrap();
    for thread in found {
        assert!(
            filters(&thread) > own,
            "it has the service's filter only: {thread:?}"
        );
        assert_eq!(
            (thread["Seccomp"].as_str(), thread["NoNewPrivs"].as_str()),
            ("2", "1")
        );
        let left = u64::from_str_radix(&thread["CapPrm"], 16).unwrap();
        assert_eq!(left & !MOST, 0, "{thread:?}");
        assert_eq!(thread["CapPrm"], thread["CapEff"]);
    }
    drop(client);
}

#[tokio::test]
async fn threads_that_serve_are_fenced_in() {
    /// CAP_SYS_MODULE, CAP_SYS_PTRACE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_BOOT, CAP_MKNOD.
    const NONE: u64 = 1 << 16 | 1 << 19 | 1 << 12 | 1 << 13 | 1 << 22 | 1 << 27;
    /// CAP_SETGID, CAP_SETUID: guests' threads come from the nursery, and become users.
    const USERS: u64 = 1 << 6 | 1 << 7;
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    shim.create("c", &workload("server.wasm"), |_| ()).await;
    for (name, none) in [
        ("service", NONE | USERS),
        ("logs", NONE | USERS),
        ("epoch", NONE | USERS),
        ("nursery", NONE),
    ] {
        let found = threads(shim.pid(), name);
        assert!(!found.is_empty(), "no thread is called {name}");
        for thread in found {
            assert_eq!(
                (thread["Seccomp"].as_str(), thread["NoNewPrivs"].as_str()),
                ("2", "1")
            );
            let left = u64::from_str_radix(&thread["CapPrm"], 16).unwrap();
            assert_eq!(left & none, 0, "{thread:?}");
        }
    }
}
