//! Files of volumes as a native container of the same user would have them: whose they are, which mount they are in, and what a
//! FIFO keeps waiting.

use crate::shim::{Shim, ended, is_root, until, wat, workload};
use amphipod_shim_api::client::ExecTask;
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

/// `errno` of preview 1: done, not allowed, any other error of the host.
const SUCCESS: u32 = 0;
const ACCES: u32 = 2;
const IO: u32 = 29;

/// The number of `openat2`, the same on all architectures.
const OPENAT2: &str = "437";

/// Opens a file of the first volume, made if it is to be written, and ends with the errno.
fn opens(name: &str, write: bool) -> Vec<u8> {
    let (make, rights) = if write { (1, 1 << 6) } else { (0, 1 << 1) };
    let length = name.len();
    wat(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "{name}")
            (func (export "_start")
                (call $exit (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const {length})
                    (i32.const {make}) (i64.const {rights}) (i64.const 0) (i32.const 0) (i32.const 128)))))"#
    ))
}

fn volume<'a>(at: &'a str, source: &'a Path) -> Value {
    json!({"destination": at, "type": "bind", "source": source, "options": ["rbind", "rprivate", "rw"]})
}

/// A volume that its group may write, with a file that another's user alone may read.
fn shared_volume() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    fs::set_permissions(data.path(), Permissions::from_mode(0o2775)).unwrap();
    chown(data.path(), None, Some(2000)).unwrap();
    let secret = data.path().join("secret");
    fs::write(&secret, wat(r#"(module (func (export "_start")))"#)).unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    chown(&secret, Some(7000), Some(7000)).unwrap();
    data
}

#[tokio::test]
async fn a_guests_files_are_those_of_its_containers_user() {
    if !is_root() {
        return;
    }
    let (shim, data) = (Shim::new(), shared_volume());
    let user = json!({"user": {"uid": 1000, "gid": 3000, "additionalGids": [2000]}});
    let root = json!({"user": {"uid": 0, "gid": 0}});
    let bare = json!({"user": {"uid": 0, "gid": 3000}, "capabilities": {"effective": []}});
    for (id, process, write, status, owner) in [
        ("user-reads", &user, false, ACCES, None),
        ("user-writes", &user, true, SUCCESS, Some((1000, 2000))),
        ("root-reads", &root, false, SUCCESS, None),
        ("root-writes", &root, true, SUCCESS, Some((0, 2000))),
        ("bare-reads", &bare, false, ACCES, None),
    ] {
        let name = if write { id } else { "secret" };
        let change = |config: &mut Value| {
            config["mounts"] = json!([volume("/data", data.path())]);
            let whole = config["process"].as_object_mut().unwrap();
            whole.extend(process.as_object().unwrap().clone());
        };
        let exit = shim.run(id, &opens(name, write), change).await;
        assert_eq!(exit.status, status, "{id}: {:?}", shim.log(id));
        let made = fs::metadata(data.path().join(name)).unwrap();
        if let Some(owner) = owner {
            assert_eq!((made.uid(), made.gid()), owner, "{id}");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_not_the_users_is_not_run_either() {
    if !is_root() {
        return;
    }
    let (shim, data) = (Shim::new(), shared_volume());
    let client = shim
        .start("c", &workload("burn.wasm"), |config| {
            config["mounts"] = json!([volume("/data", data.path())]);
            config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        })
        .await;
    let exec = |id: &str| ExecTask {
        id: "c".into(),
        exec_id: id.into(),
        process: json!({"args": ["/data/secret"], "cwd": "/", "user": {"uid": 1000, "gid": 1000}}),
        ..ExecTask::default()
    };
    let refused = client.exec(&exec("before")).await.unwrap_err().to_string();
    assert!(refused.contains("EACCES"), "{refused}");
    chown(data.path().join("secret"), Some(1000), None).unwrap();
    client.exec(&exec("after")).await.unwrap();
}

/// Writes 12 MiB to stdout.
const TALKER: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\00\80\00\00")
    (func (export "_start") (local $times i32)
        (loop
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (local.set $times (i32.add (local.get $times) (i32.const 1)))
            (br_if 0 (i32.lt_u (local.get $times) (i32.const 384))))))"#;

#[tokio::test]
async fn a_log_of_any_user_is_turned_over_and_stays_roots() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let change = |config: &mut Value| config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    assert_eq!(shim.run("c", &wat(TALKER), change).await.status, 0);
    let entries = fs::read_dir(shim.home.path())
        .unwrap()
        .map(|entry| entry.unwrap());
    let logs: Vec<_> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("c.log"))
        .map(|entry| entry.metadata().unwrap().uid())
        .collect();
    assert_eq!(logs, [0, 0]);
}

/// Moves or links `a` from the first volume to the second, and ends with the errno.
fn crosses(function: &str) -> Vec<u8> {
    let flags = if function == "path_link" { "i32" } else { "" };
    let flag = if function == "path_link" {
        "(i32.const 0)"
    } else {
        ""
    };
    wat(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "{function}"
                (func $cross (param i32 {flags} i32 i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "a")
            (func (export "_start")
                (call $exit (call $cross (i32.const 3) {flag} (i32.const 0) (i32.const 1)
                    (i32.const 4) (i32.const 0) (i32.const 1)))))"#
    ))
}

#[tokio::test]
async fn nothing_is_moved_from_one_mount_to_another() {
    if !is_root() {
        return;
    }
    let (shim, data) = (Shim::new(), tempfile::tempdir().unwrap());
    let (one, two) = (data.path().join("one"), data.path().join("two"));
    for directory in [&one, &two] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(one.join("a"), "").unwrap();
    let component = wat(include_str!("cross_device.wat"));
    for (id, wasm, second, status) in [
        ("rename", crosses("path_rename"), &two, IO),
        ("link", crosses("path_link"), &two, IO),
        ("twice", crosses("path_rename"), &one, IO),
        ("component", component, &two, SUCCESS),
    ] {
        let change = |config: &mut Value| {
            config["mounts"] = json!([volume("/one", &one), volume("/two", second)]);
        };
        assert_eq!(
            shim.run(id, &wasm, change).await.status,
            status,
            "{id}: {:?}",
            shim.log(id)
        );
        assert_eq!(fs::read_dir(&two).unwrap().count(), 0, "{id}");
    }
    assert!(one.join("b").exists(), "within a mount it is moved");
}

/// Each call of preview 1 that changes something below the first directory, and one that moves and links from there to the
/// second. Prints an errno for each, as the character so far after `0`.
const CHANGES: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_remove_directory" (func $rmdir (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_link" (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_filestat_set_times"
        (func $utimes (param i32 i32 i32 i32 i64 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $truncate (param i32 i64) (result i32)))
    (import "wasi_snapshot_preview1" "fd_filestat_set_times" (func $futimes (param i32 i64 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "fndsmex")
    (data (i32.const 16) "\40\00\00\00\00\00\00\00")
    (global $at (mut i32) (i32.const 64))
    (func $note (param $errno i32)
        (i32.store8 (global.get $at) (i32.add (local.get $errno) (i32.const 48)))
        (global.set $at (i32.add (global.get $at) (i32.const 1))))
    (func $opened (param $name i32) (param $flags i32) (param $rights i64) (result i32)
        (call $open (i32.const 3) (i32.const 0) (local.get $name) (i32.const 1) (local.get $flags)
            (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 8)))
    (func (export "_start")
        ;; To write; to make one; to empty one.
        (call $note (call $opened (i32.const 0) (i32.const 0) (i64.const 64)))
        (call $note (call $opened (i32.const 1) (i32.const 1) (i64.const 64)))
        (call $note (call $opened (i32.const 0) (i32.const 8) (i64.const 66)))
        (call $note (call $mkdir (i32.const 3) (i32.const 2) (i32.const 1)))
        (call $note (call $symlink (i32.const 0) (i32.const 1) (i32.const 3) (i32.const 3) (i32.const 1)))
        (call $note (call $utimes (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1)
            (i64.const 0) (i64.const 0) (i32.const 5)))
        ;; By a descriptor that may only read.
        (drop (call $opened (i32.const 0) (i32.const 0) (i64.const 2)))
        (call $note (call $truncate (i32.load (i32.const 8)) (i64.const 0)))
        (call $note (call $futimes (i32.load (i32.const 8)) (i64.const 0) (i64.const 0) (i32.const 5)))
        (call $note (call $link (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1)
            (i32.const 3) (i32.const 4) (i32.const 1)))
        (call $note (call $rename (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 3) (i32.const 5) (i32.const 1)))
        (call $note (call $unlink (i32.const 3) (i32.const 6) (i32.const 1)))
        (call $note (call $rmdir (i32.const 3) (i32.const 2) (i32.const 1)))
        ;; To and from the other directory.
        (call $note (call $rename (i32.const 4) (i32.const 0) (i32.const 1) (i32.const 3) (i32.const 2) (i32.const 1)))
        (call $note (call $link (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 1)
            (i32.const 3) (i32.const 2) (i32.const 1)))
        (call $note (call $rename (i32.const 3) (i32.const 4) (i32.const 1) (i32.const 4) (i32.const 2) (i32.const 1)))
        (i32.store (i32.const 20) (i32.sub (global.get $at) (i32.const 64)))
        (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))))"#;

#[tokio::test]
async fn what_is_read_only_answers_so_to_each_call_beside_what_may_be_written() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    // Done, INVAL for what may only read, IO from mount to mount; PERM for everything that is read-only.
    for (id, options, answers) in [
        ("rw", &["rbind"][..], "000000L00000MMM"),
        ("ro", &["rbind", "ro"], "ooooooooooooooo"),
    ] {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for directory in [&first, &second] {
            for name in ["f", "x"] {
                fs::write(directory.path().join(name), "content").unwrap();
            }
        }
        if id == "ro" {
            fs::create_dir(first.path().join("d")).unwrap();
        }
        let exit = shim
            .run(id, &wat(CHANGES), |config| {
                let mut sealed = volume("/a", first.path());
                sealed["options"] = json!(options);
                config["mounts"] = json!([sealed, volume("/b", second.path())]);
            })
            .await;
        let log = shim.log(id);
        assert_eq!(exit.status, 0, "{log:?}");
        assert_eq!(log, [format!("stdout P {answers}")], "{id}");
    }
}

/// What threads of guests wait for in the kernel, by the numbers of system calls (proc(5)).
fn waiting(shim: &Shim) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", shim.pid())).unwrap();
    let of_guests = tasks.filter_map(|task| {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).ok()?;
        (name == "pod\n").then(|| fs::read_to_string(task.join("syscall")).unwrap_or_default())
    });
    of_guests.collect()
}

#[tokio::test]
async fn a_guest_that_waits_for_a_fifo_leaves_no_thread() {
    if !is_root() {
        return;
    }
    let (shim, data) = (Shim::new(), tempfile::tempdir().unwrap());
    nix::unistd::mkfifo(&data.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let change = |config: &mut Value| config["mounts"] = json!([volume("/data", data.path())]);
    let client = shim.start("c", &opens("fifo", false), change).await;
    let opening = || waiting(&shim).iter().any(|call| call.starts_with(OPENAT2));
    until("the guest waits for who writes", opening).await;
    client.kill("c", 9, true).await.unwrap();
    assert_eq!(ended(&client, "c").await.status, 137);
    until("its threads are gone", || waiting(&shim).is_empty()).await;
}

#[tokio::test]
async fn a_command_that_waits_for_a_fifo_leaves_no_thread_while_its_container_runs() {
    if !is_root() {
        return;
    }
    let (shim, data) = (Shim::new(), tempfile::tempdir().unwrap());
    nix::unistd::mkfifo(&data.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let change = |config: &mut Value| config["mounts"] = json!([volume("/data", data.path())]);
    let client = shim.start("c", &workload("burn.wasm"), change).await;
    let command = ExecTask {
        id: "c".into(),
        exec_id: "cat".into(),
        process: json!({"args": ["cat", "/data/fifo"], "cwd": "/", "user": {"uid": 0, "gid": 0}}),
        ..ExecTask::default()
    };
    client.exec(&command).await.unwrap();
    client.start(("c", "cat")).await.unwrap();
    let opening = || waiting(&shim).iter().any(|call| call.starts_with(OPENAT2));
    until("the command waits for who writes", opening).await;
    client.kill(("c", "cat"), 9, false).await.unwrap();
    assert_eq!(client.wait(("c", "cat")).await.unwrap().status, 137);
    until("its thread is gone", || !opening()).await;
    assert!(!waiting(&shim).is_empty(), "the container's are there");
}
