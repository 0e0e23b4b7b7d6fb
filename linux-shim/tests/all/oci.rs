//! The OCI command line, as its callers use it: one invocation per step.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::limitable;
use crate::oci_harness::{OCI, oci, text};

/// The kernel takes a moment for the end of a process, and callers of runc, as slow as it is, have never had to wait for it.
#[test]
fn what_was_killed_is_deleted_at_once() {
    let Some(oci) = oci("ending") else { return };
    let bundle = oci.bundle("sleep 1000");
    for _ in 0..40 {
        oci.create(&bundle);
        oci.ok(&["start", "c"]);
        oci.ok(&["kill", "c", "KILL"]);
        oci.ok(&["delete", "c"]);
    }
}

#[test]
fn a_life_step_by_step() {
    let Some(oci) = oci("life") else { return };
    let bundle = oci.bundle("echo ran; cat /dev/stdin; sleep 1000");
    let pid_file = oci.home.path().join("pid");
    oci.create(&bundle);
    let state = oci.state();
    assert_eq!((&state["status"], &state["id"]), (&json!("created"), &json!("c")));
    assert_eq!(bundle.output(), "", "nothing runs before start");
    assert!(!pid_file.exists());
    oci.ok(&["start", "c"]);
    assert_eq!(oci.state()["status"], "running");
    assert!(oci.fails(&["start", "c"]).contains("running"));
    assert!(oci.fails(&["delete", "c"]).contains("running"));
    assert!(oci.ok(&["list", "-q"]).contains('c'));
    let pids: Vec<i64> = serde_json::from_str(&oci.ok(&["ps", "--format", "json", "c"])).unwrap();
    assert!(pids.contains(&oci.state()["pid"].as_i64().unwrap()));
    oci.ok(&["kill", "c", "KILL"]);
    oci.until("stopped");
    assert!(oci.fails(&["kill", "c"]).contains("stopped"));
    assert_eq!(bundle.output(), "ran\n");
    oci.ok(&["delete", "c"]);
    assert!(oci.fails(&["state", "c"]).contains("does not exist"));
    oci.ok(&["delete", "--force", "c"]);
    assert!(
        fs::read_dir(oci.home.path().join("root"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn run_answers_the_exit_code_and_leaves_nothing() {
    let Some(oci) = oci("run") else { return };
    assert_eq!(
        oci.run(&oci.bundle("echo hello; exit 42")),
        (42, "hello\n".into())
    );
    assert!(oci.fails(&["state", "c"]).contains("does not exist"));
    let mut bundle = oci.bundle("");
    bundle.spec["process"]["args"] = json!(["nosuch"]);
    let (code, error) = oci.run(&bundle);
    assert_eq!(code, 1);
    assert!(error.contains("executable file not found"), "{error}");
}

#[test]
fn errors_are_in_the_log_its_caller_reads() {
    let Some(oci) = oci("log") else { return };
    let mut bundle = oci.bundle("true");
    bundle.spec["process"]["args"] = json!(["/no/such"]);
    let (made, log) = oci.created(&bundle);
    assert!(!made);
    let line: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().unwrap().contains("no such file"), "{log}");
    assert!(oci.fails(&["state", "c"]).contains("does not exist"));
}

#[test]
fn exec_joins_a_running_container() {
    let Some(oci) = oci("exec") else { return };
    let mut bundle = oci.bundle("cd /tmp; touch here; sleep 1000");
    bundle.spec["process"]["user"]["gid"] = json!(5);
    oci.create(&bundle);
    oci.ok(&["start", "c"]);
    let out = oci.ok(&[
        "exec",
        "-e",
        "WORD=said",
        "--cwd",
        "/bin",
        "c",
        "sh",
        "-c",
        "pwd; echo $WORD; hostname",
    ]);
    assert_eq!(out, "/bin\nsaid\nbox\n");
    assert_eq!(
        oci.call(&["exec", "c", "sh", "-c", "exit 7"]).status.code(),
        Some(7)
    );
    let killed = oci.call(&["exec", "c", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.status.code(), Some(137));
    let ids = "id -u; id -g";
    assert_eq!(
        oci.ok(&["exec", "-u", "1000:7", "c", "sh", "-c", ids]),
        "1000\n7\n"
    );
    assert_eq!(oci.ok(&["exec", "-u", "1000", "c", "sh", "-c", ids]), "1000\n5\n");
    let missing = oci.call(&["exec", "c", "nosuch"]);
    assert_eq!(missing.status.code(), Some(255));
    assert!(text(&missing.stderr).contains("executable file not found"));
    let process = oci.home.path().join("process.json");
    fs::write(
        &process,
        json!({"cwd": "/", "args": ["sh", "-c", "sleep 1000"], "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}})
            .to_string(),
    )
    .unwrap();
    let pid_file = oci.home.path().join("pid");
    let words = [
        "exec",
        "--detach",
        "--process",
        process.to_str().unwrap(),
        "--pid-file",
        pid_file.to_str().unwrap(),
        "c",
    ];
    assert!(
        oci.command(&words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    );
    let pid = fs::read_to_string(&pid_file).unwrap();
    // The kernel closes what the caller waits for a moment before it shows the new words.
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    let words = || fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    while !words().contains("1000") {
        assert!(std::time::Instant::now() < deadline, "{}", words());
        std::thread::yield_now();
    }
}

#[test]
fn pause_resume_update_and_events() {
    let Some(oci) = oci("pause") else { return };
    oci.create(&oci.bundle("sleep 1000"));
    oci.ok(&["start", "c"]);
    oci.ok(&["pause", "c"]);
    assert_eq!(oci.state()["status"], "paused");
    assert!(oci.fails(&["exec", "c", "true"]).contains("paused"));
    oci.ok(&["resume", "c"]);
    assert_eq!(oci.state()["status"], "running");
    let events: Value = serde_json::from_str(&oci.ok(&["events", "--stats", "c"])).unwrap();
    assert_eq!(events["type"], "stats");
    if limitable("memory") {
        oci.ok(&["update", "--memory", "33554432", "c"]);
        let events: Value = serde_json::from_str(&oci.ok(&["events", "--stats", "c"])).unwrap();
        assert_eq!(events["data"]["memory"]["usage"]["limit"], 33_554_432);
    }
    let features: Value = serde_json::from_str(&oci.ok(&["features"])).unwrap();
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
}

#[test]
fn a_terminal_is_relayed_or_sent_to_the_console_socket() {
    let Some(oci) = oci("console") else { return };
    let mut bundle = oci.bundle("test -t 0 && stty size && echo on a terminal");
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.spec["process"]["consoleSize"] = json!({"height": 11, "width": 22});
    let (made, log) = oci.created(&bundle);
    assert!(!made && log.contains("console-socket"), "{log}");
    assert_eq!(oci.run(&bundle), (0, "11 22\r\non a terminal\r\n".into()));
    let socket = oci.home.path().join("console");
    let listener = UnixListener::bind(&socket).unwrap();
    let path = bundle.dir.display().to_string();
    oci.ok(&[
        "create",
        "--bundle",
        &path,
        "--console-socket",
        socket.to_str().unwrap(),
        "c",
    ]);
    let (stream, _) = listener.accept().unwrap();
    assert!(received(&stream).ends_with("ptmx"));
    oci.ok(&["start", "c"]);
    oci.until("stopped");
}

/// What a descriptor sent over a socket refers to.
pub fn received(stream: &std::os::unix::net::UnixStream) -> PathBuf {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    use std::os::fd::{AsRawFd, RawFd};
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut buffer = [0; 64];
    let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )
    .unwrap();
    for part in message.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(fds) = part {
            return fs::read_link(format!("/proc/self/fd/{}", fds[0])).unwrap();
        }
    }
    panic!("no descriptor came");
}

#[test]
fn descriptors_asked_for_are_kept_and_no_others() {
    let Some(oci) = oci("fds") else { return };
    let bundle = oci.bundle("cat <&3; ls /proc/self/fd | tr '\\n' ' '");
    fs::write(bundle.dir.join("config.json"), bundle.spec.to_string()).unwrap();
    let given = oci.home.path().join("given");
    fs::write(&given, "given\n").unwrap();
    let line = format!(
        "exec {OCI} --root {}/root run --preserve-fds 1 --bundle {} c 3<{} 4</etc/shadow",
        oci.home.path().display(),
        bundle.dir.display(),
        given.display()
    );
    let output = Command::new("sh").args(["-c", &line]).output().unwrap();
    assert_eq!(
        text(&output.stdout),
        "given\n0 1 2 3 4 ",
        "4 is ls's own: {}",
        text(&output.stderr)
    );
}

#[test]
fn hooks_run_at_their_moments() {
    let Some(oci) = oci("hooks") else { return };
    let mut bundle = oci.bundle("cat /data/start");
    let log = oci.home.path().join("hooks");
    let hook = |name: &str| {
        let script = format!(
            "read state; echo {name} $(echo $state | grep -o '\"status\":\"[a-z]*\"') $WORD >> {}",
            log.display()
        );
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["WORD=w", "PATH=/bin:/usr/bin"], "timeout": 30}])
    };
    let inside = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo from inside > /data/start"]}]);
    bundle.spec["hooks"] = json!({"prestart": hook("prestart"), "createRuntime": hook("createRuntime"),
        "createContainer": hook("createContainer"), "startContainer": inside,
        "poststart": hook("poststart"), "poststop": hook("poststop")});
    let said = || fs::read_to_string(&log).unwrap();
    oci.create(&bundle);
    let creating: Vec<String> = ["prestart", "createRuntime", "createContainer"]
        .map(|name| format!("{name} \"status\":\"creating\" w\n"))
        .into();
    assert_eq!(said(), creating.concat());
    oci.ok(&["start", "c"]);
    assert!(
        said().ends_with("poststart \"status\":\"running\" w\n"),
        "{}",
        said()
    );
    oci.until("stopped");
    assert_eq!(bundle.output(), "from inside\n");
    oci.ok(&["delete", "c"]);
    assert!(
        said().ends_with("poststop \"status\":\"stopped\" w\n"),
        "{}",
        said()
    );
    bundle.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    let (made, log) = oci.created(&bundle);
    assert!(!made && log.contains("/bin/false"), "{log}");
}

#[test]
fn a_user_namespace_maps_ids_on_the_way_in_and_out() {
    let Some(oci) = oci("user") else { return };
    let mut bundle = oci.bundle("id -u; cat /proc/self/uid_map | tr -s ' '; echo x > /data/made; ls -ln /data | tail -1 | tr -s ' ' | cut -d' ' -f3,4");
    let volume = oci.home.path().join("volume");
    fs::create_dir(&volume).unwrap();
    for dir in [oci.home.path().to_owned(), bundle.dir.clone()] {
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "user"}));
    bundle.spec["linux"]["uidMappings"] = map.clone();
    bundle.spec["linux"]["gidMappings"] = map;
    bundle.spec["mounts"].as_array_mut().unwrap().push(
        json!({"destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "idmap"]}),
    );
    let (code, out) = oci.run(&bundle);
    assert_eq!((code, out.as_str()), (0, "0\n 0 100000 65536\n0 0\n"));
    let made = fs::metadata(volume.join("made")).unwrap();
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&made),
        0,
        "the mount is idmapped"
    );
    bundle.spec["process"]["args"] = json!(["sleep", "1000"]);
    oci.create(&bundle);
    oci.ok(&["start", "c"]);
    let pid = oci.state()["pid"].as_i64().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t100000\t100000"), "{status}");
    assert_eq!(oci.ok(&["exec", "c", "id", "-u"]), "0\n");
    let groups = oci.ok(&[
        "exec",
        "-u",
        "1000:1000",
        "c",
        "sh",
        "-c",
        "id -u; cat /proc/self/setgroups",
    ]);
    assert_eq!(groups, "1000\nallow\n");
}

/// Its number in the container's new PID namespace is a stranger's on the host.
#[test]
fn a_mount_with_maps_of_its_own_needs_no_user_namespace() {
    let Some(oci) = oci("ownmap") else { return };
    let mut bundle = oci.bundle("stat -c '%u %g' /data/made");
    let volume = oci.home.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("made"), "").unwrap();
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    bundle.spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/data", "type": "bind", "source": volume, "options": ["bind", "idmap"],
        "uidMappings": map, "gidMappings": map,
    }));
    assert_eq!(oci.run(&bundle), (0, "1000 1000\n".to_owned()));
}

#[test]
fn an_overlay_of_many_layers_is_mounted() {
    let Some(oci) = oci("layers") else { return };
    let mut bundle = oci
        .bundle("ls /data; grep -c ' /data overlay ro,nosuid,noatime' /proc/mounts; mount | grep -c /data");
    let layers: Vec<String> = (10..50)
        .map(|number| oci.home.path().join(format!("l{number}")).display().to_string())
        .collect();
    for layer in &layers {
        fs::create_dir(layer).unwrap();
    }
    fs::write(format!("{}/made", layers[39]), "").unwrap();
    bundle.spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/data", "type": "overlay", "source": "overlay",
        "options": ["ro", "nosuid", "noatime", format!("lowerdir={}", layers.join(":"))],
    }));
    assert_eq!(oci.run(&bundle), (0, "made\n1\n1\n".to_owned()));
}

#[test]
fn a_time_namespace_has_its_own_clock() {
    let Some(oci) = oci("time") else { return };
    let mut bundle = oci.bundle("cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets | tr -s ' '");
    bundle.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "time"}));
    bundle.spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}});
    let (code, out) = oci.run(&bundle);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.lines().next().unwrap().parse::<u64>().unwrap() >= 1_000_000,
        "{out}"
    );
}

/// A container that may trace anybody opens the program of the runtime as it comes in, to write to it later.
#[test]
fn the_program_that_comes_in_cannot_be_written() {
    let Some(oci) = oci("guard") else { return };
    let before = fs::read(OCI).unwrap();
    let mut bundle = oci.bundle(
        "echo ready; while true; do for p in /proc/[0-9]*; do [ $p = /proc/1 ] || [ $p = /proc/$$ ] || \\
         (exec 3>>$p/exe && echo overwritten >&3 && echo caught) 2>/dev/null; done; done",
    );
    let caps = json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"]);
    bundle.spec["process"]["capabilities"] = json!({"bounding": caps, "effective": caps, "permitted": caps});
    oci.create(&bundle);
    oci.ok(&["start", "c"]);
    for _ in 0..20 {
        oci.ok(&["exec", "c", "true"]);
    }
    assert!(!bundle.output().contains("caught"), "{}", bundle.output());
    assert!(fs::read(OCI).unwrap() == before, "the runtime's program changed");
}

#[test]
fn every_process_has_the_personality() {
    let Some(oci) = oci("persona") else { return };
    if !cfg!(target_arch = "x86_64") {
        return eprintln!("skipped: needs x86-64");
    }
    let mut bundle = oci.bundle("uname -m; sleep 1000");
    bundle.spec["linux"]["personality"] = json!({"domain": "LINUX32"});
    oci.create(&bundle);
    oci.ok(&["start", "c"]);
    assert_eq!(oci.ok(&["exec", "c", "uname", "-m"]), "i686\n");
    assert_eq!(
        oci.ok(&[
            "exec",
            "-e",
            "PATH=/bin",
            "-e",
            "PATH=/nowhere:/bin",
            "c",
            "sh",
            "-c",
            "echo $PATH"
        ]),
        "/nowhere:/bin\n"
    );
}

#[test]
fn what_would_change_the_host_is_refused() {
    let Some(oci) = oci("host") else { return };
    let mut bundle = oci.bundle("true");
    bundle.spec["linux"]["sysctl"] = json!({"kernel.core_pattern": "|/bin/evil"});
    let (made, log) = oci.created(&bundle);
    assert!(!made && log.contains("would change the host"), "{log}");
    bundle.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    bundle.spec["linux"]["namespaces"] =
        json!([{"type": "mount"}, {"type": "uts"}, {"type": "network", "path": "/proc/self/ns/net"}]);
    let (made, log) = oci.created(&bundle);
    assert!(!made && log.contains("would change the host"), "{log}");
}
