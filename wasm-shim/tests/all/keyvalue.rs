//! `wasi:keyvalue` on a volume.

use crate::shim::{Shim, is_root, wat};
use serde_json::{Value, json};
use std::path::Path;

/// Opens the bucket `b` and adds 41 to its key `n`; ends with 1 when either fails.
const COUNTER: &str = r#"(component
    (import "wasi:keyvalue/store@0.2.0-draft" (instance $store
        (export "bucket" (type $bucket (sub resource)))
        (type $error0 (variant (case "no-such-store") (case "access-denied") (case "other" string)))
        (export "error" (type $error (eq $error0)))
        (export "open" (func (param "identifier" string) (result (result (own $bucket) (error $error)))))))
    (alias export $store "bucket" (type $bucket))
    (alias export $store "error" (type $error))
    (import "wasi:keyvalue/atomics@0.2.0-draft" (instance $atomics
        (alias outer 1 $bucket (type $b0))
        (export "bucket" (type $b (eq $b0)))
        (alias outer 1 $error (type $e0))
        (export "error" (type $e (eq $e0)))
        (export "increment" (func (param "bucket" (borrow $b)) (param "key" string) (param "delta" u64)
            (result (result u64 (error $e)))))))
    (core module $memory-module
        (memory (export "memory") 1)
        (data (i32.const 0) "bn")
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
    (core instance $memory-instance (instantiate $memory-module))
    (alias core export $memory-instance "memory" (core memory $memory))
    (alias core export $memory-instance "realloc" (core func $realloc))
    (core func $open (canon lower (func $store "open") (memory $memory) (realloc $realloc)))
    (core func $increment (canon lower (func $atomics "increment") (memory $memory) (realloc $realloc)))
    (core module $code
        (import "host" "memory" (memory 1))
        (import "host" "open" (func $open (param i32 i32 i32)))
        (import "host" "increment" (func $increment (param i32 i32 i32 i64 i32)))
        (func (export "run") (result i32)
            (call $open (i32.const 0) (i32.const 1) (i32.const 64))
            (if (i32.load8_u (i32.const 64)) (then (return (i32.const 1))))
            (call $increment (i32.load (i32.const 68)) (i32.const 1) (i32.const 1) (i64.const 41) (i32.const 128))
            (i32.load8_u (i32.const 128))))
    (core instance $instance (instantiate $code (with "host" (instance
        (export "memory" (memory $memory))
        (export "open" (func $open))
        (export "increment" (func $increment))))))
    (func $run (result (result)) (canon lift (core func $instance "run")))
    (instance $exports (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $exports)))"#;

/// Swaps the key `n` of the bucket `b` by what was seen of it; then by the same, which is too late, and by the handle that
/// answers. Ends with 1 when any of this is otherwise.
const SWAP: &str = r#"(component
    (import "wasi:keyvalue/store@0.2.0-draft2" (instance $store
        (export "bucket" (type $bucket (sub resource)))
        (type $error0 (variant (case "no-such-store") (case "access-denied") (case "other" string)))
        (export "error" (type $error (eq $error0)))
        (export "open" (func (param "identifier" string) (result (result (own $bucket) (error $error)))))))
    (alias export $store "bucket" (type $bucket))
    (alias export $store "error" (type $error))
    (import "wasi:keyvalue/atomics@0.2.0-draft2" (instance $atomics
        (alias outer 1 $bucket (type $b0))
        (export "bucket" (type $b (eq $b0)))
        (alias outer 1 $error (type $e0))
        (export "error" (type $e (eq $e0)))
        (export "cas" (type $cas (sub resource)))
        (type $f0 (variant (case "store-error" $e) (case "cas-failed" (own $cas))))
        (export "cas-error" (type $f (eq $f0)))
        (export "[static]cas.new" (func (param "bucket" (borrow $b)) (param "key" string)
            (result (result (own $cas) (error $e)))))
        (export "swap" (func (param "cas" (own $cas)) (param "value" (list u8)) (result (result (error $f)))))))
    (core module $memory-module
        (memory (export "memory") 1)
        (data (i32.const 0) "bn")
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
    (core instance $memory-instance (instantiate $memory-module))
    (alias core export $memory-instance "memory" (core memory $memory))
    (alias core export $memory-instance "realloc" (core func $realloc))
    (core func $open (canon lower (func $store "open") (memory $memory) (realloc $realloc)))
    (core func $look (canon lower (func $atomics "[static]cas.new") (memory $memory) (realloc $realloc)))
    (core func $swap (canon lower (func $atomics "swap") (memory $memory) (realloc $realloc)))
    (core module $code
        (import "host" "memory" (memory 1))
        (import "host" "open" (func $open (param i32 i32 i32)))
        (import "host" "look" (func $look (param i32 i32 i32 i32)))
        (import "host" "swap" (func $swap (param i32 i32 i32 i32)))
        (func $seen (result i32)
            (call $look (i32.load (i32.const 68)) (i32.const 1) (i32.const 1) (i32.const 80))
            (if (i32.load8_u (i32.const 80)) (then unreachable))
            (i32.load (i32.const 84)))
        (func (export "run") (result i32) (local $first i32) (local $second i32)
            (call $open (i32.const 0) (i32.const 1) (i32.const 64))
            (if (i32.load8_u (i32.const 64)) (then (return (i32.const 1))))
            (local.set $first (call $seen))
            (local.set $second (call $seen))
            (call $swap (local.get $first) (i32.const 0) (i32.const 1) (i32.const 128))
            (if (i32.load8_u (i32.const 128)) (then (return (i32.const 1))))
            (call $swap (local.get $second) (i32.const 0) (i32.const 2) (i32.const 128))
            (if (i32.eqz (i32.load8_u (i32.const 128))) (then (return (i32.const 1))))
            (if (i32.ne (i32.load8_u (i32.const 132)) (i32.const 1)) (then (return (i32.const 1))))
            (call $swap (i32.load (i32.const 136)) (i32.const 1) (i32.const 1) (i32.const 128))
            (i32.load8_u (i32.const 128))))
    (core instance $instance (instantiate $code (with "host" (instance
        (export "memory" (memory $memory))
        (export "open" (func $open))
        (export "look" (func $look))
        (export "swap" (func $swap))))))
    (func $run (result (result)) (canon lift (core func $instance "run")))
    (instance $exports (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $exports)))"#;

fn on_volume<'a>(data: &'a Path, options: &'a [&str]) -> impl Fn(&mut Value) + 'a {
    move |config| {
        config["annotations"]["dev.amphipod.wasm/keyvalue"] = json!("/data");
        config["mounts"] =
            json!([{"destination": "/data", "type": "bind", "source": data, "options": options}]);
    }
}

#[tokio::test]
async fn buckets_are_directories_of_the_volume_that_was_named() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let counter = wat(COUNTER);
    let data = tempfile::tempdir().unwrap();
    for (id, options, status, number) in [
        ("first", &["rbind"][..], 0, "41"),
        ("second", &["rbind"], 0, "82"),
        ("sealed", &["rbind", "ro"], 1, "82"),
    ] {
        let exit = shim.run(id, &counter, on_volume(data.path(), options)).await;
        assert_eq!(exit.status, status, "{id}: {:?}", shim.log(id));
        assert_eq!(std::fs::read_to_string(data.path().join("b/n")).unwrap(), number);
    }
    assert_eq!(
        shim.run("ungranted", &counter, |_| ()).await.status,
        1,
        "a bucket opens though none was granted"
    );
    let message = shim
        .refusal("elsewhere", &counter, |config| {
            config["annotations"]["dev.amphipod.wasm/keyvalue"] = json!("/etc");
        })
        .await;
    assert!(message.contains(r#"mounted at "/etc""#), "{message}");
}

#[tokio::test]
async fn the_second_draft_has_the_same_buckets() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let data = tempfile::tempdir().unwrap();
    let second = COUNTER
        .replace("0.2.0-draft", "0.2.0-draft2")
        .replace("u64", "s64");
    for (id, program, value) in [
        ("one", COUNTER, "41"),
        ("two", &second, "82"),
        ("swap", SWAP, "n"),
    ] {
        let exit = shim
            .run(id, &wat(program), on_volume(data.path(), &["rbind"]))
            .await;
        assert_eq!(exit.status, 0, "{id}: {:?}", shim.log(id));
        assert_eq!(
            std::fs::read_to_string(data.path().join("b/n")).unwrap(),
            value,
            "{id}"
        );
    }
}

#[tokio::test]
async fn keys_are_files_of_the_containers_user() {
    if !is_root() {
        return;
    }
    let (shim, counter) = (Shim::new(), wat(COUNTER));
    let data = tempfile::tempdir().unwrap();
    let by_user = |config: &mut Value| {
        on_volume(data.path(), &["rbind"])(config);
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    };
    assert_eq!(shim.run("refused", &counter, by_user).await.status, 1);
    std::os::unix::fs::chown(data.path(), Some(1000), None).unwrap();
    assert_eq!(shim.run("own", &counter, by_user).await.status, 0);
    let key = std::fs::metadata(data.path().join("b/n")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&key), 1000);
}
