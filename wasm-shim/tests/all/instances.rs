//! What is left of one request for the next, and the settings of a container that serves.

use crate::http::{half_answer, handler, on_port};
use crate::netns::Netns;
use crate::shim::{Shim, ended, is_root, wat, workload};
use amphipod_shim_api::TaskStatus;
use serde_json::json;

/// Answers 200 when neither its memory, what it grew, nor its global holds anything of an earlier request; traps when
/// they do. Leaves a secret in all three.
fn leaves_a_secret() -> Vec<u8> {
    let first = r#"
        (if (global.get $seen) (then unreachable))
        (global.set $seen (i32.const 1))
        (drop (memory.grow (i32.const 4)))
        (local.set $i (i32.const 65536))
        (loop $scan
            (if (i64.ne (i64.load (local.get $i)) (i64.const 0)) (then unreachable))
            (i64.store (local.get $i) (i64.const 0x5345435245543432))
            (local.set $i (i32.add (local.get $i) (i32.const 8)))
            (br_if $scan (i32.lt_u (local.get $i) (i32.mul (memory.size) (i32.const 65536)))))"#;
    let text = include_str!("half_answer.wat");
    wat(&text
        .replace(";; FIRST", first)
        .replace(";; THEN", "(call $finish (local.get $body))"))
}

#[tokio::test]
async fn nothing_of_one_request_is_left_for_the_next() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let guest = leaves_a_secret();
    shim.start("one", &guest, on_port(8080, &netns)).await;
    // Another container of the same process and code gets its instances from the same slots.
    shim.start("two", &guest, on_port(8081, &netns)).await;
    for _ in 0..20 {
        for port in [8080, 8081] {
            let answer = netns.get(port, "/");
            assert!(
                answer.starts_with("HTTP/1.1 200"),
                "{answer}\n{:?}",
                shim.log("one")
            );
        }
    }
}

#[tokio::test]
async fn an_instance_is_kept_for_as_many_requests_as_its_container_asks_for() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    shim.start("c", &leaves_a_secret(), |config| {
        on_port(8080, &netns)(config);
        config["annotations"]["dev.amphipod.wasm/instance-reuse"] = json!("2");
    })
    .await;
    // A fresh one, the same one again (which finds its secret and traps), a fresh one …
    for status in ["200", "500", "200", "500"] {
        let answer = netns.get(8080, "/");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{status}: {answer}"
        );
    }
    let client = shim
        .start("server", &workload("server.wasm"), |config| {
            on_port(8081, &netns)(config);
            config["annotations"]["dev.amphipod.wasm/instance-reuse"] = json!("1000");
        })
        .await;
    for _ in 0..50 {
        assert!(netns.get(8081, "/healthz").ends_with("ok\n"));
    }
    client.kill("server", 15, false).await.unwrap();
    assert_eq!(ended(&client, "server").await.status, 143);
    assert_eq!(
        client.stats("server").await.unwrap().memory_usage,
        0,
        "a kept instance outlives its container"
    );
}

#[tokio::test]
async fn a_guest_that_does_not_answer_in_time_is_504_and_others_wait_their_turn() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let client = shim
        .start("c", &handler("(loop br 0)"), |config| {
            on_port(8080, &netns)(config);
            config["annotations"]["dev.amphipod.wasm/request-timeout"] = json!("1");
            config["annotations"]["dev.amphipod.wasm/concurrency"] = json!("1");
        })
        .await;
    let answer = netns.get(8080, "/");
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    let answers = netns.run(|| {
        std::thread::scope(|scope| {
            let both = [(); 2].map(|()| scope.spawn(|| netns.get(8080, "/")));
            both.map(|one| one.join().unwrap())
        })
    });
    let with = |status: &str| answers.iter().any(|answer| answer.starts_with(status));
    assert!(with("HTTP/1.1 504"), "{answers:?}");
    assert_eq!(client.state("c").await.unwrap().status, TaskStatus::Running);
}

#[tokio::test]
async fn a_guest_that_answers_twice_breaks_its_own_connection() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let again = "(call $set (local.get $out) (i32.const 0) (local.get $response) (i32.const 0) (i64.const 0)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))";
    shim.start("c", &half_answer(again), on_port(8080, &netns)).await;
    let answer = netns.http(8080, "GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
    assert!(shim.log("c").join("\n").contains("handle"), "{:?}", shim.log("c"));
}

#[tokio::test]
async fn a_setting_that_is_no_number_is_refused_with_its_name() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let message = shim
        .refusal("c", &workload("server.wasm"), |config| {
            config["annotations"]["dev.amphipod.wasm/concurrency"] = json!("all");
        })
        .await;
    assert!(message.contains("dev.amphipod.wasm/concurrency"), "{message}");
}
