//! What the containers of a Pod may use together: memory and CPU time, beside what each may for itself.

use crate::http::on_port;
use crate::netns::Netns;
use crate::shim::{Shim, ended, is_root, wat, workload};
use amphipod_shim_api::annotations::{SANDBOX_CPU_QUOTA, SANDBOX_ID, SANDBOX_MEMORY};
use amphipod_shim_api::{TaskClient, TaskError, TaskStatus, oom};
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Has 20 MiB, and computes for ever.
const HOLDER: &str = r#"(module (memory (export "memory") 320) (func (export "_start") (loop br 0)))"#;

/// Puts a container into a Pod that may use so much as a whole.
fn within(config: &mut Value, pod: &str, bounds: &[(&str, &str)]) {
    config["annotations"][SANDBOX_ID] = json!(pod);
    for (name, value) in bounds {
        config["annotations"][*name] = json!(value);
    }
}

async fn bound(client: &TaskClient, id: &str, name: &str, value: &str) -> Result<(), TaskError> {
    let notes = [(name.to_owned(), value.to_owned())];
    client
        .update_noting(id, &LinuxResources::default(), notes.into())
        .await
}

#[tokio::test]
async fn guests_of_a_pod_have_its_memory_together() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let holder = shim
        .start("holder", &wat(HOLDER), |config| {
            within(config, "pod", &[(SANDBOX_MEMORY, "50331648")]);
            config["linux"]["resources"]["cpu"] = json!({"quota": 10_000, "period": 100_000});
        })
        .await;
    for (id, pod, mib, own, whose) in [
        ("one", "pod", "40", None, Some("Pod")),
        ("two", "pod", "40", Some(45 << 20), Some("Pod")),
        ("three", "pod", "40", Some(16 << 20), Some("container")),
        ("four", "pod", "8", None, None),
        ("other", "another", "30", None, None),
        ("alone", "another", "60", None, Some("Pod")),
    ] {
        let exit = shim
            .run(id, &workload("hog.wasm"), |config| {
                within(config, pod, &[(SANDBOX_MEMORY, "50331648")]);
                config["process"]["env"] = json!([format!("HOG_MIB={mib}")]);
                config["linux"]["resources"]["memory"] = json!({"limit": own});
            })
            .await;
        let (log, is_killed) = (shim.log(id).join("\n"), oom::happened(&shim.home.path().join(id)));
        let expected = if whose.is_some() { 137 } else { 0 };
        assert_eq!(
            (exit.status, is_killed),
            (expected, whose.is_some()),
            "{id}: {log}"
        );
        let words = whose.map(|whose| format!("would exceed the {whose}'s limit"));
        assert!(words.is_none_or(|words| log.contains(&words)), "{id}: {log}");
    }
    let state = holder.state("holder").await.unwrap();
    assert_eq!(
        state.status,
        TaskStatus::Running,
        "who asks for more ends, nobody else"
    );

    let refused = bound(&holder, "holder", SANDBOX_MEMORY, "10485760").await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("the Pod's limit of memory 10485760 is below current usage"),
        "{refused}"
    );
    assert!(bound(&holder, "holder", SANDBOX_MEMORY, "much").await.is_err());
    bound(&holder, "holder", SANDBOX_MEMORY, "0").await.unwrap();
    let after = shim
        .run("after", &workload("hog.wasm"), |config| {
            within(config, "pod", &[]);
            config["process"]["env"] = json!(["HOG_MIB=60"]);
        })
        .await;
    assert_eq!(after.status, 0, "{:?}", shim.log("after"));
    holder.kill("holder", 9, true).await.unwrap();
    ended(&holder, "holder").await;
}

/// Has 20 MiB more after each request.
fn grower() -> Vec<u8> {
    let text = include_str!("half_answer.wat");
    let grows = text.replace(";; FIRST", "(drop (memory.grow (i32.const 320)))");
    wat(&grows.replace(";; THEN", "(call $finish (local.get $body))"))
}

#[tokio::test]
async fn instances_that_nobody_uses_are_let_go_for_others_of_the_pod_and_with_their_container() {
    if !is_root() {
        return;
    }
    let (shim, netns) = (Shim::new(), Netns::new());
    let used = async |client: &TaskClient, id| client.stats(id).await.unwrap().memory_usage;
    let serve = async |id, port| {
        let client = shim
            .start(id, &grower(), |config| {
                on_port(port, &netns)(config);
                within(config, "pod", &[(SANDBOX_MEMORY, "50331648")]);
                config["annotations"]["dev.amphipod.wasm/instance-reuse"] = json!("1000");
            })
            .await;
        let answer = netns.get(port, "/");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(used(&client, id).await > 20 << 20, "one is kept");
        client
    };
    let server = serve("server", 8080).await;
    let exit = shim
        .run("command", &workload("hog.wasm"), |config| {
            within(config, "pod", &[(SANDBOX_MEMORY, "50331648")]);
            config["process"]["env"] = json!(["HOG_MIB=40"]);
        })
        .await;
    assert_eq!(exit.status, 0, "{:?}", shim.log("command"));
    assert_eq!(used(&server, "server").await, 0);
    assert!(netns.get(8080, "/").starts_with("HTTP/1.1 200"), "it serves on");
    let killed = serve("killed", 8081).await;
    killed.kill("killed", 9, true).await.unwrap();
    ended(&killed, "killed").await;
    assert_eq!(
        used(&killed, "killed").await,
        0,
        "what is kept outlives a killed container"
    );
}

#[tokio::test]
async fn guests_of_a_pod_have_its_time_together() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let ids = ["one", "two", "three"];
    let mut clients = Vec::new();
    for id in ids {
        let quota = |config: &mut Value| within(config, "pod", &[(SANDBOX_CPU_QUOTA, "10000")]);
        clients.push(shim.start(id, &workload("burn.wasm"), quota).await);
    }
    let used = async || {
        let mut used = Vec::new();
        for (client, id) in clients.iter().zip(ids) {
            used.push(client.stats(id).await.unwrap().cpu_usage_nanos);
        }
        used
    };
    let (before, begin) = (used().await, Instant::now());
    tokio::time::timeout(Duration::from_secs(3), clients[0].wait(ids[0]))
        .await
        .unwrap_err();
    let (after, lasted) = (used().await, begin.elapsed());
    let all: u64 = after.iter().sum::<u64>() - before.iter().sum::<u64>();
    let share = all as f64 / lasted.as_nanos() as f64;
    // Its tenth, and one period's more; less of it only where others have the processors.
    assert!(
        all > 0 && share < 0.15,
        "a Pod with a tenth of a cpu used {share}: {before:?}, {after:?}"
    );
    for (client, id) in clients.iter().zip(ids) {
        client.kill(id, 9, true).await.unwrap();
        assert_eq!(ended(client, id).await.status, 137);
    }
}
