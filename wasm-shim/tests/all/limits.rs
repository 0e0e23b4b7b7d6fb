//! Guests that take what is not theirs: handles, host buffers, files outside of their preopens, the host's network.

use crate::http::on_port;
use crate::netns::Netns;
use crate::shim::{Shim, ended, is_root, wat, workload};
use amphipod_shim_api::{CreateTask, TaskStatus};
use serde_json::json;
use std::path::Path;

/// A `wasi:cli/command` component around the given core code, which may call `$subscribe` (u64 → pollable), `$random` (u64,
/// where the list goes) and `$get` (a string of the half megabyte from 0 on, where its setting goes).
fn command(code: &str) -> Vec<u8> {
    wat(&format!(
        r#"(component
            (import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type (sub resource)))))
            (alias export $poll "pollable" (type $pollable))
            (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
                (alias outer 1 $pollable (type $p0))
                (export "pollable" (type $p (eq $p0)))
                (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
            (import "wasi:random/random@0.2.0" (instance $random
                (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
            (import "wasi:config/store@0.2.0-rc.1" (instance $config
                (type $error0 (variant (case "upstream" string) (case "io" string)))
                (export "error" (type $error (eq $error0)))
                (export "get" (func (param "key" string) (result (result (option string) (error $error)))))))
            (core module $memory-module
                (memory (export "memory") 8)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
            (core instance $memory-instance (instantiate $memory-module))
            (core func $subscribe (canon lower (func $clock "subscribe-duration")))
            (core func $random (canon lower (func $random "get-random-bytes")
                (memory (core memory $memory-instance "memory")) (realloc (core func $memory-instance "realloc"))))
            (core func $get (canon lower (func $config "get")
                (memory (core memory $memory-instance "memory")) (realloc (core func $memory-instance "realloc"))))
            (core module $code
                (import "host" "subscribe" (func $subscribe (param i64) (result i32)))
                (import "host" "random" (func $random (param i64 i32)))
                (import "host" "get" (func $get (param i32 i32 i32)))
                (func (export "run") (result i32) {code}))
            (core instance $instance (instantiate $code (with "host" (instance
                (export "subscribe" (func $subscribe))
                (export "random" (func $random))
                (export "get" (func $get))))))
            (func $run (result (result)) (canon lift (core func $instance "run")))
            (instance $exports (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $exports)))"#
    ))
}

#[tokio::test]
async fn floods_of_handles_and_random_bytes_end_their_guest() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    const SMALL: Option<u64> = Some(2 << 20);
    let flood = "(loop (drop (call $subscribe (i64.const 1000000000000))) br 0) unreachable";
    // Each is two of the handles that are refused whatever the limit; they are counted while it does nothing.
    let held = "(local $i i32)
        (loop $more (drop (call $subscribe (i64.const 1000000000000)))
            (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 4500))))
        (loop br 0) unreachable";
    let call = "(call $get (i32.const 0) (i32.const 400000) (i32.const 500000)) (i32.const 0)";
    for (id, code, limit, statuses) in [
        ("pollables", flood, SMALL, &[134, 137][..]),
        ("unlimited", flood, None, &[134]),
        ("held", held, SMALL, &[137]),
        ("call", call, SMALL, &[134]),
        ("larger", call, Some(8 << 20), &[0]),
        (
            "random",
            "(call $random (i64.const 0x80000000) (i32.const 8)) (i32.const 0)",
            SMALL,
            &[134],
        ),
        (
            "modest",
            "(drop (call $subscribe (i64.const 1))) (call $random (i64.const 32) (i32.const 8)) (i32.const 0)",
            SMALL,
            &[0],
        ),
    ] {
        let exit = shim
            .run(id, &command(code), |config| {
                if let Some(limit) = limit {
                    config["linux"]["resources"]["memory"] = json!({"limit": limit});
                }
            })
            .await;
        assert!(
            statuses.contains(&exit.status),
            "{id} ended with {}: {:?}",
            exit.status,
            shim.log(id)
        );
    }
}

/// Writes to stdout for ever.
const TALKER: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\00\80\00\00")
    (func (export "_start")
        (loop (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) br 0)))"#;

#[tokio::test]
async fn a_guest_that_talks_to_nobody_waits_and_is_killed() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let bundle = shim.bundle("c", &wat(TALKER), |_| ());
    let fifo = shim.home.path().join("stdout");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let client = shim.client("c", &bundle).await;
    let task = CreateTask {
        id: "c".into(),
        bundle,
        stdout: fifo.display().to_string(),
        ..CreateTask::default()
    };
    client.create(&task).await.unwrap();
    client.start("c").await.unwrap();
    // The neighbour's whole life passes meanwhile.
    assert_eq!(shim.run("n", &workload("fail.wasm"), |_| ()).await.status, 1);
    assert_eq!(client.state("c").await.unwrap().status, TaskStatus::Running);
    assert!(client.stats("c").await.unwrap().memory_usage < 4 << 20);
    client.kill("c", 9, true).await.unwrap();
    assert_eq!(ended(&client, "c").await.status, 137);
    client.delete("c").await.unwrap();
}

/// What `workloads/src/bin/escape.rs` tries, laid out on the host: nothing of it may work, and nothing may change.
fn tempting_files(home: &Path) {
    for directory in ["data", "ro"] {
        std::fs::create_dir(home.join(directory)).unwrap();
        std::fs::write(home.join(directory).join("file"), "content").unwrap();
    }
    std::fs::write(home.join("canary"), "canary").unwrap();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, home.join("data").join(name)).unwrap();
    link("/etc/passwd", "absolute");
    link("../canary", "beside");
    link("../../../../../..", "up");
}

#[tokio::test]
async fn no_path_leads_out_of_a_preopen_and_read_only_stays_so() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    for (id, program) in [("module", "escape.wasm"), ("component", "escape-component.wasm")] {
        let home = tempfile::tempdir().unwrap();
        tempting_files(home.path());
        let exit = shim
            .run(id, &workload(program), |config| {
                config["mounts"] = json!([
                    {"destination": "/data", "type": "bind", "source": home.path().join("data"), "options": ["rbind"]},
                    {"destination": "/ro", "type": "bind", "source": home.path().join("ro"), "options": ["rbind", "ro"]},
                ]);
            })
            .await;
        let log = shim.log(id);
        assert_eq!(exit.status, 0, "{log:?}");
        assert!(
            log.iter().filter(|line| line.contains("refused")).count() > 15,
            "{log:?}"
        );
        let read = |name: &str| std::fs::read_to_string(home.path().join(name)).unwrap();
        assert_eq!(
            (read("canary").as_str(), read("ro/file").as_str()),
            ("canary", "content")
        );
        assert_eq!(std::fs::read_dir(home.path().join("ro")).unwrap().count(), 1);
    }
}

#[tokio::test]
async fn the_hosts_ports_are_not_there_in_a_pods_network() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    shim.start("c", &workload("server.wasm"), on_port(8080, &netns))
        .await;
    let answer = netns.get(8080, &format!("/fetch?url=http://127.0.0.1:{port}/"));
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "a guest reached the host's loopback");
}

#[tokio::test]
async fn a_flood_of_name_lookups_takes_few_threads_and_others_are_answered() {
    if !is_root() {
        return;
    }
    const LOOKUPS: usize = 200;
    const THREADS: usize = 64;
    let shim = Shim::new();
    let netns = Netns::new();
    shim.start("c", &workload("server.wasm"), on_port(8080, &netns))
        .await;
    let answers = std::thread::scope(|scope| {
        let flood =
            [(); LOOKUPS].map(|()| scope.spawn(|| netns.get(8080, "/fetch?url=http://nowhere.invalid/")));
        for _ in 0..10 {
            assert!(netns.get(8080, "/healthz").ends_with("ok\n"));
        }
        let tasks = std::fs::read_dir(format!("/proc/{}/task", shim.pid())).unwrap();
        assert!(tasks.count() < THREADS, "lookups have a thread each");
        flood.map(|one| one.join().unwrap())
    });
    for answer in answers {
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    }
}

#[tokio::test]
async fn a_binary_too_large_or_with_too_many_functions_is_refused() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let mut large = b"\0asm\x01\0\0\0".to_vec();
    large.resize(200 << 20, 0);
    let message = shim.refusal("large", &large, |_| ()).await;
    assert!(message.contains("larger than"), "{message}");
    let message = shim.refusal("many", &many_functions(1_000_000), |_| ()).await;
    assert!(message.contains("1000000 functions"), "{message}");
}

/// A valid module of that many empty functions.
fn many_functions(count: u32) -> Vec<u8> {
    let section = |id: u8, items: &[u8]| {
        let mut body = leb128(count);
        (0..count).for_each(|_| body.extend_from_slice(items));
        let mut section = vec![id];
        section.extend(leb128(u32::try_from(body.len()).unwrap()));
        section.extend(body);
        section
    };
    let mut module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0".to_vec();
    module.extend(section(3, &[0]));
    module.extend(section(10, &[2, 0, 0x0b]));
    module
}

fn leb128(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Opens one file again and again until that is refused, and ends with the errno.
const OPENER: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "a")
    (func (export "_start") (local $errno i32)
        (loop (br_if 0 (i32.eqz (local.tee $errno
            (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0)
                (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 8))))))
        (call $exit (local.get $errno))))"#;

#[tokio::test]
async fn a_flood_of_open_files_ends_its_guest_and_leaves_files_to_others() {
    if !is_root() {
        return;
    }
    let (shim, data) = (Shim::new(), tempfile::tempdir().unwrap());
    std::fs::write(data.path().join("a"), "").unwrap();
    let exit = shim
        .run("c", &wat(OPENER), |config| {
            config["mounts"] =
                json!([{"destination": "/data", "type": "bind", "source": data.path(), "options": ["rbind"]}]);
        })
        .await;
    assert_eq!(exit.status, 134, "{:?}", shim.log("c"));
    assert_eq!(shim.run("n", &workload("fail.wasm"), |_| ()).await.status, 1);
}

#[tokio::test]
async fn whoever_compiles_has_an_end() {
    if !is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let binary = home.path().join("module.wasm");
    nix::unistd::mkfifo(&binary, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut compiler = std::process::Command::new(env!("CARGO_BIN_EXE_containerd-shim-amphipod-wasm-v1"))
        .arg("compile")
        .args(["--digest", &format!("sha256:{}", "0".repeat(64))])
        .arg("--cache")
        .arg(home.path().join("cache"))
        .arg(&binary)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // It has come to the binary when somebody opens it to read, and waits for what is written.
    let writer = std::fs::OpenOptions::new().write(true).open(&binary).unwrap();
    let proc = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", compiler.id())).unwrap();
    let (limits, status) = (proc("limits"), proc("status"));
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    assert!(limit("Max data size") <= 3 << 30, "{limits}");
    assert!(limit("Max cpu time") <= 110 * cores, "{limits}");
    assert_eq!(limit("Max core file size"), 0, "{limits}");
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"] {
        assert!(status.contains(line), "{status}");
    }
    drop(writer);
    assert!(!compiler.wait().unwrap().success());
}
