//! Core dumps and profiles: where a container asked for them, few, and for nobody else's eyes.

use crate::http::{handler, on_port};
use crate::netns::Netns;
use crate::shim::{Shim, ended, is_root, wat, workload};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Has a needle in its memory and traps two calls deep.
const TRAPS: &str = r#"(module $culprit
    (memory 1)
    (data (i32.const 5000) "needle")
    (global $answer (mut i32) (i32.const 42))
    (func $inner (if (i32.eqz (i32.load (i32.const 0))) (then unreachable)) (global.set $answer (i32.const 1)))
    (func $outer (export "_start") (call $inner)))"#;

/// Counts for some epochs in a function of a name, then ends.
const BUSY: &str = r#"(module
    (func $busy_bee (local i64)
        (loop
            (local.set 0 (i64.add (local.get 0) (i64.const 1)))
            (br_if 0 (i64.lt_u (local.get 0) (i64.const 200000000)))))
    (func $main (export "_start") (call $busy_bee)))"#;

/// The same for each request.
const BUSY_HANDLER: &str = "(local i64) (loop (local.set 2 (i64.add (local.get 2) (i64.const 1)))
    (br_if 0 (i64.lt_u (local.get 2) (i64.const 100000000))))";

fn asks_for<'a>(what: &'a str, directory: &'a Path) -> impl Fn(&mut Value) + 'a {
    move |config| {
        config["annotations"][format!("dev.amphipod.wasm/{what}")] = json!("/found");
        config["mounts"] =
            json!([{"destination": "/found", "type": "bind", "source": directory, "options": ["rbind"]}]);
    }
}

fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

#[tokio::test]
async fn a_trap_leaves_its_memory_where_the_container_asked_for_it() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let found = tempfile::tempdir().unwrap();
    let exit = shim
        .run("asks", &wat(TRAPS), asks_for("core-dumps", found.path()))
        .await;
    assert_eq!(exit.status, 134, "{:?}", shim.log("asks"));
    let words = amphipod_shim_api::last_words::of(&shim.home.path().join("asks")).unwrap();
    assert!(words.starts_with("core dump: /found/core-0.wasm ("), "{words}");
    assert!(
        words.contains("inner") && words.contains("unreachable"),
        "{words}"
    );
    assert!(!words.contains("wasm coredump generated"), "{words}");
    let path = found.path().join("core-0.wasm");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let dump = std::fs::read(&path).unwrap();
    assert!(dump.starts_with(b"\0asm"));
    for part in ["needle", "culprit", "corestack", "coreinstances", "program"] {
        assert!(contains(&dump, part), "no {part} in the dump");
    }
    // Another of the same program, which asks for nothing.
    assert_eq!(shim.run("plain", &wat(TRAPS), |_| ()).await.status, 134);
    let words = amphipod_shim_api::last_words::of(&shim.home.path().join("plain")).unwrap();
    assert!(!words.contains("core dump"), "{words}");
    assert_eq!(files(found.path()), ["core-0.wasm"]);
}

#[tokio::test]
async fn an_end_without_a_trap_leaves_none_and_one_too_large_says_so() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let found = tempfile::tempdir().unwrap();
    let exit = shim
        .run(
            "exits",
            &workload("fail.wasm"),
            asks_for("core-dumps", found.path()),
        )
        .await;
    assert_eq!(exit.status, 1);
    let large = wat(r#"(module (memory 3000) (func (export "_start") unreachable))"#);
    let exit = shim
        .run("large", &large, asks_for("core-dumps", found.path()))
        .await;
    assert_eq!(exit.status, 134);
    let words = amphipod_shim_api::last_words::of(&shim.home.path().join("large")).unwrap();
    assert!(
        words.starts_with("no core dump: the guest has 196608000 bytes"),
        "{words}"
    );
    assert_eq!(files(found.path()), Vec::<String>::new());
}

#[tokio::test]
async fn where_nothing_can_be_written_is_no_place_for_dumps() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let found = tempfile::tempdir().unwrap();
    let message = shim
        .refusal("sealed", &wat(TRAPS), |config| {
            asks_for("core-dumps", found.path())(config);
            config["mounts"][0]["options"] = json!(["rbind", "ro"]);
        })
        .await;
    assert!(message.contains("read-only"), "{message}");
    let message = shim
        .refusal("elsewhere", &wat(TRAPS), |config| {
            config["annotations"]["dev.amphipod.wasm/profile"] = json!("/etc");
        })
        .await;
    assert!(message.contains(r#"mounted at "/etc""#), "{message}");
}

#[tokio::test]
async fn a_server_that_always_traps_leaves_a_few_dumps() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let found = tempfile::tempdir().unwrap();
    let client = shim
        .start("c", &handler("unreachable"), |config| {
            on_port(8080, &netns)(config);
            asks_for("core-dumps", found.path())(config);
        })
        .await;
    for _ in 0..6 {
        let answer = netns.get(8080, "/");
        assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    }
    client.kill("c", 15, true).await.unwrap();
    ended(&client, "c").await;
    assert_eq!(files(found.path()), ["core-0.wasm", "core-1.wasm", "core-2.wasm"]);
    let log = shim.log("c").join("\n");
    assert!(log.contains("core dump: /found/core-2.wasm"), "{log}");
    assert!(
        log.contains("no core dump: this container has written 3 already"),
        "{log}"
    );
}

/// A profile as Firefox reads it: its samples, and the text of it.
fn profile(directory: &Path) -> (usize, String) {
    let text = std::fs::read_to_string(directory.join("profile-0.json")).unwrap();
    let profile: Value = serde_json::from_str(&text).unwrap();
    let samples = &profile["threads"][0]["samples"];
    let stacks = samples["stack"].as_array().unwrap();
    assert!(stacks.iter().all(|stack| !stack.is_null()), "a sample of nothing");
    (stacks.len(), text)
}

#[tokio::test]
async fn a_profile_shows_where_a_command_was() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let found = tempfile::tempdir().unwrap();
    let exit = shim
        .run("busy", &wat(BUSY), asks_for("profile", found.path()))
        .await;
    assert_eq!(exit.status, 0, "{:?}", shim.log("busy"));
    let (samples, text) = profile(found.path());
    assert!(samples > 3, "{samples} samples");
    assert!(text.contains("busy_bee") && text.contains("main"), "{text}");
    let log = shim.log("busy").join("\n");
    assert!(
        log.contains(&format!("profile: /found/profile-0.json ({samples} samples)")),
        "{log}"
    );
    assert_eq!(files(found.path()), ["profile-0.json"]);
}

#[tokio::test]
async fn a_server_has_one_profile_of_all_its_instances_even_when_it_is_killed() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let found = tempfile::tempdir().unwrap();
    let client = shim
        .start("c", &handler(BUSY_HANDLER), |config| {
            on_port(8080, &netns)(config);
            asks_for("profile", found.path())(config);
        })
        .await;
    for _ in 0..3 {
        let answer = netns.get(8080, "/");
        assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    }
    client.kill("c", 9, true).await.unwrap();
    assert_eq!(ended(&client, "c").await.status, 137);
    assert!(profile(found.path()).0 > 3);
    assert_eq!(files(found.path()), ["profile-0.json"]);
}
