//! Scale to zero: what a server that nobody asks holds.

use crate::http::on_port;
use crate::netns::Netns;
use crate::sandbox::threads;
use crate::shim::{Shim, ended, is_root, until, workload};
use amphipod_shim_api::client::ExecTask;
use serde_json::json;

/// Workers of containers, and threads they started.
fn of_guests(pid: u32) -> usize {
    threads(pid, "pod").len()
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[tokio::test]
async fn an_idle_server_holds_its_listener_and_nothing_else() {
    if !is_root() {
        return;
    }
    let (shim, netns) = (Shim::new(), Netns::new());
    let client = shim
        .start("c", &workload("server.wasm"), on_port(8080, &netns))
        .await;
    let (pid, files) = (shim.pid(), open_files(shim.pid()));
    assert_eq!(of_guests(pid), 0, "threads before anybody came");
    for _ in 0..2 {
        let somebody = netns.connect(8080);
        until("threads for a client", || of_guests(pid) > 0).await;
        assert!(netns.get(8080, "/healthz").ends_with("ok\n"));
        assert!(open_files(pid) > files);
        drop(somebody);
        until("threads are given up", || of_guests(pid) == 0).await;
        until("descriptors are given up", || open_files(pid) <= files).await;
        let stats = client.stats("c").await.unwrap();
        assert_eq!(stats.memory_usage, 0, "an instance is left");
    }
    client.kill("c", 15, false).await.unwrap();
    assert_eq!(ended(&client, "c").await.status, 143);
    assert!(netns.refuses(8080));
}

#[tokio::test]
async fn a_kept_instance_is_thrown_away_before_its_server_is_idle() {
    if !is_root() {
        return;
    }
    let (shim, netns) = (Shim::new(), Netns::new());
    let client = shim
        .start("c", &workload("server.wasm"), |config| {
            on_port(8080, &netns)(config);
            config["annotations"]["dev.amphipod.wasm/instance-reuse"] = json!("1000");
        })
        .await;
    assert!(netns.get(8080, "/healthz").ends_with("ok\n"));
    assert!(client.stats("c").await.unwrap().memory_usage > 0);
    until("threads are given up", || of_guests(shim.pid()) == 0).await;
    assert_eq!(client.stats("c").await.unwrap().memory_usage, 0);
    assert!(netns.get(8080, "/healthz").ends_with("ok\n"));
}

#[tokio::test]
async fn a_command_in_an_idle_server_has_threads_for_as_long_as_it_runs() {
    if !is_root() {
        return;
    }
    let (shim, netns) = (Shim::new(), Netns::new());
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("burn.wasm"), workload("burn.wasm")).unwrap();
    let client = shim
        .start("c", &workload("server.wasm"), |config| {
            on_port(8080, &netns)(config);
            config["mounts"] =
                json!([{"destination": "/data", "type": "bind", "source": data.path(), "options": ["rbind"]}]);
        })
        .await;
    let task = ExecTask {
        id: "c".into(),
        exec_id: "e".into(),
        process: json!({"args": ["/data/burn.wasm"], "cwd": "/", "user": {"uid": 0, "gid": 0}}),
        ..ExecTask::default()
    };
    client.exec(&task).await.unwrap();
    client.start(("c", "e")).await.unwrap();
    assert!(of_guests(shim.pid()) > 0);
    client.kill(("c", "e"), 9, false).await.unwrap();
    until("threads are given up", || of_guests(shim.pid()) == 0).await;
}
