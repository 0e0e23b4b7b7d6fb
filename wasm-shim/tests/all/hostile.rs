//! Broken and hostile binaries: each gets a clear reason or ends its own container, and nothing else.

use crate::shim::{Shim, ended, is_root, wat, workload};
use serde_json::json;

#[tokio::test]
async fn what_cannot_run_is_refused_with_a_reason() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let unknown = wat(r#"(component (import "foo:bar/baz@1.0.0" (instance (export "f" (func)))))"#);
    for (id, wasm, reason) in [
        (
            "elf",
            b"\x7fELF\x02\x01\x01\0".to_vec(),
            "not a WebAssembly binary",
        ),
        ("torn", b"\0asm\x01\0\0\0\x0a\xff".to_vec(), "invalid WebAssembly"),
        ("text", b"(module)".to_vec(), "WebAssembly text"),
        ("nothing", wat("(component)"), "nothing to run"),
        (
            "unknown",
            unknown,
            r#"component imports "foo:bar/baz@1.0.0", which this host does not offer (offered: "#,
        ),
        (
            "env",
            wat(r#"(module (import "env" "f" (func)) (func (export "_start")))"#),
            r#"imports "env" "f""#,
        ),
    ] {
        let message = shim.refusal(id, &wasm, |_| ()).await;
        assert!(message.contains(reason), "{id}: {message}");
    }
    let message = shim
        .refusal("digest", &workload("fail.wasm"), |config| {
            config["annotations"]["dev.amphipod.wasm/digest"] = json!(format!("sha256:{}", "0".repeat(64)));
        })
        .await;
    assert!(message.contains("has the digest"), "{message}");
    let message = shim
        .refusal("module", &workload("fail.wasm"), |config| {
            config["annotations"]["dev.amphipod.wasm/module"] = json!("/nonexistent");
        })
        .await;
    assert!(message.contains("/nonexistent"), "{message}");
    // The shim is as able as before.
    assert_eq!(shim.run("after", &workload("fail.wasm"), |_| ()).await.status, 1);
}

#[tokio::test]
async fn guests_that_take_too_much_end_alone() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let limited = |config: &mut serde_json::Value| {
        config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    };
    let neighbour = shim.start("neighbour", &workload("burn.wasm"), |_| ()).await;
    for (id, text, status) in [
        (
            "recursion",
            r#"(module (func $f (export "_start") call $f))"#,
            134,
        ),
        (
            "memory",
            r#"(module (memory 1) (func (export "_start") (loop (drop (memory.grow (i32.const 16))) br 0)))"#,
            137,
        ),
        (
            "table",
            r#"(module (table 1 funcref) (func (export "_start")
                (loop (br_if 0 (i32.ne (table.grow (ref.null func) (i32.const 1000)) (i32.const -1)))) unreachable))"#,
            134,
        ),
        (
            "initial-table",
            r#"(module (table 20000000 funcref) (func (export "_start")))"#,
            137,
        ),
        // Larger than a slot of the pool: nothing but the limit ends it.
        (
            "large-table",
            r#"(module (table 200000 funcref) (func (export "_start")
                (loop (br_if 0 (i32.ne (table.grow (ref.null func) (i32.const 100000)) (i32.const -1)))) unreachable))"#,
            137,
        ),
        (
            "objects",
            r#"(module (type $bytes (array (mut i64))) (type $list (struct (field (ref null $list)) (field (ref $bytes))))
                (func (export "_start") (local $all (ref null $list))
                    (loop (local.set $all (struct.new $list (local.get $all) (array.new_default $bytes (i32.const 4096))))
                        br 0)))"#,
            137,
        ),
        (
            "initial",
            r#"(module (memory 65535) (func (export "_start")))"#,
            137,
        ),
        (
            "start",
            r#"(module (func $f unreachable) (start $f) (func (export "_start")))"#,
            134,
        ),
    ] {
        assert_eq!(
            shim.run(id, &wat(text), limited).await.status,
            status,
            "{id}: {:?}",
            shim.log(id)
        );
    }
    let state = neighbour.state("neighbour").await.unwrap();
    assert_eq!(state.status, amphipod_shim_api::TaskStatus::Running);
    neighbour.kill("neighbour", 9, true).await.unwrap();
    assert_eq!(ended(&neighbour, "neighbour").await.status, 137);
}

#[tokio::test]
async fn compiled_code_that_others_may_write_or_that_is_broken_is_made_anew() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    assert_eq!(shim.run("first", &workload("fail.wasm"), |_| ()).await.status, 1);
    let compiled = compiled_files(&shim);
    let [path] = compiled.as_slice() else {
        panic!("{compiled:?}")
    };
    std::fs::write(path, b"not machine code").unwrap();
    // Another shim process, so that nothing is in memory.
    let other = |config: &mut serde_json::Value| {
        config["annotations"]["io.kubernetes.cri.sandbox-namespace"] = json!("other");
    };
    assert_eq!(shim.run("second", &workload("fail.wasm"), other).await.status, 1);
    assert!(std::fs::metadata(path).unwrap().len() > 1000);
}

fn compiled_files(shim: &Shim) -> Vec<std::path::PathBuf> {
    let engines = std::fs::read_dir(shim.home.path().join("cache")).unwrap();
    engines
        .flat_map(|engine| std::fs::read_dir(engine.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect()
}
