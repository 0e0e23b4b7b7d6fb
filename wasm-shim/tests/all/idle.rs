//! Scale to zero: what a server that nobody asks holds.

use crate::http::{handler, on_port};
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

/// What a node's thousands of them cost their process.
#[tokio::test]
async fn an_idle_server_more_is_two_descriptors_more() {
    const MORE: usize = 8;
    if !is_root() {
        return;
    }
    let (shim, netns) = (Shim::new(), Netns::new());
    let data = tempfile::tempdir().unwrap();
    let bundle = |id: &str, port| {
        shim.bundle(id, &workload("server.wasm"), |config| {
            on_port(port, &netns)(config);
            config["annotations"]["dev.amphipod.linux/attach"] =
                json!(shim.home.path().join(id).join("sock"));
            config["mounts"] = json!([{"destination": "/data", "type": "bind", "source": data.path(),
                "options": ["rbind", "rprivate", "ro"]}]);
        })
    };
    let client = shim.try_create("c", &bundle("c", 8080)).await.unwrap();
    client.start("c").await.unwrap();
    let pid = shim.pid();
    let idle = || of_guests(pid) == 0;
    assert!(netns.get(8080, "/healthz").ends_with("ok\n"));
    until("threads are given up", idle).await;
    let before = open_files(pid);
    let ports = 8081..8081 + MORE as u16;
    for port in ports.clone() {
        let id = format!("c{port}");
        shim.create_by(&client, &id, &bundle(&id, port)).await.unwrap();
        client.start(id.as_str()).await.unwrap();
    }
    let is_little = || idle() && open_files(pid) <= before + 2 * MORE;
    until("the listener and the mount are all", is_little).await;
    for port in ports {
        assert!(netns.get(port, "/healthz").ends_with("ok\n"));
    }
    until("the listener and the mount are all again", is_little).await;
}

/// The log is opened by a guest's word and closed when nobody asks any more.
#[tokio::test]
async fn a_server_that_was_idle_writes_its_log_on() {
    if !is_root() {
        return;
    }
    let (shim, netns) = (Shim::new(), Netns::new());
    shim.start("c", &handler("unreachable"), on_port(8080, &netns))
        .await;
    let pid = shim.pid();
    let log = shim.log_path("c");
    let has_log = || {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let mut leading = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        leading.any(|file| file == log)
    };
    let mut said = 0;
    for _ in 0..2 {
        until("the log is closed", || of_guests(pid) == 0 && !has_log()).await;
        assert!(netns.get(8080, "/").contains(" 500 "));
        assert!(has_log());
        assert!(shim.log("c").len() > said, "the trap is not told");
        said = shim.log("c").len();
    }
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
