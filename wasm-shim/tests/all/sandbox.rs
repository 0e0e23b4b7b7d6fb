//! The threads of a real shim: those that run guests are fenced in, all of them.

use crate::netns::Netns;
use crate::shim::{Shim, in_network, is_root, workload};
use serde_json::json;
use std::collections::HashMap;

/// What proc(5) says of each thread of a name.
fn threads(pid: u32, name: &str) -> Vec<HashMap<String, String>> {
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
    // A file is read by one of the threads that its worker starts.
    std::fs::write(data.path().join("a"), "words").unwrap();
    assert!(netns.get(8080, "/files/data/a").contains("words"));
    let found = threads(shim.pid(), "pod");
    assert!(found.len() > 1, "{found:?}");
    for thread in found {
        assert_eq!(
            (thread["Seccomp"].as_str(), thread["NoNewPrivs"].as_str()),
            ("2", "1")
        );
        let left = u64::from_str_radix(&thread["CapPrm"], 16).unwrap();
        assert_eq!(left & !MOST, 0, "{thread:?}");
        assert_eq!(thread["CapPrm"], thread["CapEff"]);
    }
}
