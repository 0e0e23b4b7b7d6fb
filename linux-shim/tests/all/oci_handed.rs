//! What the OCI command line hands on, what it will not do, and what it finds again when it was killed.

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Output, Stdio};

use amphipod_shim_api::cgroup::CgroupHost;
use serde_json::json;

use crate::oci::received;
use crate::oci_harness::{OCI, Oci, oci, text};

/// A shell calls it, which has descriptors and an environment of its own.
fn by_shell(oci: &Oci, before: &str, words: &str) -> Output {
    let root = oci.home.path().join("root");
    let line = format!("{before} exec {OCI} --root {} {words}", root.display());
    Command::new("sh").args(["-c", &line]).output().unwrap()
}

#[test]
fn sockets_of_the_caller_are_the_programs() {
    let Some(oci) = oci("listen") else { return };
    let bundle = oci.bundle("echo $LISTEN_FDS $LISTEN_PID; cat <&3; ls /proc/self/fd | tr '\\n' ' '");
    fs::write(bundle.dir.join("config.json"), bundle.spec.to_string()).unwrap();
    let given = oci.home.path().join("given");
    fs::write(&given, "given\n").unwrap();
    let run = format!("run --bundle {} c", bundle.dir.display());
    let handed = |pid: &str| {
        let before = format!("exec 3<{}; LISTEN_FDS=1 LISTEN_PID={pid}", given.display());
        text(&by_shell(&oci, &before, &run).stdout)
    };
    assert_eq!(handed("$$"), "1 1\ngiven\n0 1 2 3 4 ", "4 is ls's own");
    assert!(!handed("1").contains("given"), "meant for somebody else");
}

#[test]
fn who_listens_is_given_the_processs_descriptor() {
    let Some(oci) = oci("pidfd") else { return };
    let bundle = oci.bundle("sleep 1000");
    fs::write(bundle.dir.join("config.json"), bundle.spec.to_string()).unwrap();
    let socket = oci.home.path().join("pidfd");
    let listener = UnixListener::bind(&socket).unwrap();
    let is_pidfd = || {
        let (stream, _) = listener.accept().unwrap();
        received(&stream).display().to_string().contains("pidfd")
    };
    let (path, socket) = (bundle.dir.display().to_string(), socket.display().to_string());
    let mut create = oci.command(&["create", "--bundle", &path, "--pidfd-socket", &socket, "c"]);
    // Its streams are the container's.
    let create = create
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    assert!(create.status().unwrap().success());
    assert!(is_pidfd());
    oci.ok(&["start", "c"]);
    oci.ok(&["exec", "--pidfd-socket", &socket, "c", "true"]);
    assert!(is_pidfd());
}

#[test]
fn what_is_not_done_is_refused() {
    let Some(oci) = oci("refused") else { return };
    let mut bundle = oci.bundle("grep -m 1 -c :.*/pod/c$ /proc/self/cgroup");
    bundle.spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "pid"}, {"type": "uts"}]);
    let limited = bundle.spec.to_string();
    bundle.spec["linux"]["resources"] = json!({});
    let path = bundle.dir.display().to_string();
    fs::write(bundle.dir.join("config.json"), bundle.spec.to_string()).unwrap();
    let said = oci.fails(&["--cgroup-manager=nobody", "run", "--bundle", &path, "c"]);
    assert!(said.contains("no manager of cgroups"), "{said}");
    let without = ["--cgroup-manager=disabled", "run", "--bundle", &path, "c"];
    assert_eq!(text(&oci.call(&without).stdout), "0\n");
    assert_eq!(text(&oci.call(&without[1..]).stdout), "1\n");
    if crate::harness::limitable("pids") {
        fs::write(bundle.dir.join("config.json"), limited).unwrap();
        let said = oci.fails(&without);
        assert!(said.contains("cannot be limited"), "{said}");
    }
}

#[test]
fn a_create_that_was_killed_leaves_nothing() {
    let Some(oci) = oci("killed") else { return };
    let mut bundle = oci.bundle("true");
    bundle.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $PPID; sleep 1000"], "timeout": 60}]});
    let (made, _) = oci.created(&bundle);
    assert!(!made);
    let host = CgroupHost::discover().unwrap();
    let cgroup = host.cgroup_everywhere(&format!("/{}/pod/c", oci.name)).unwrap();
    assert!(cgroup.exists(), "it was killed too early");
    oci.ok(&["delete", "--force", "c"]);
    assert!(!cgroup.exists());
    assert_eq!(oci.ok(&["list", "-q"]), "");
}

/// What a manager of services hears, by a program that sends it as systemd's own library does.
#[test]
fn the_manager_of_services_is_told_that_the_program_is_ready() {
    let Some(oci) = oci("ready") else { return };
    let mut bundle = oci.bundle("");
    let python = "/usr/bin/python3";
    if !fs::exists(python).unwrap() {
        return eprintln!("skipped: needs {python}");
    }
    let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
    for directory in ["/usr", "/lib", "/lib64"]
        .iter()
        .filter(|d| fs::exists(d).unwrap())
    {
        mounts.push(json!({"destination": directory, "type": "bind", "source": directory, "options": ["rbind", "ro"]}));
    }
    let script = "import os, socket, time\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        s.connect(os.environ['NOTIFY_SOCKET'])\n\
        s.send(b'STATUS=soon')\n\
        s.send(b'STATUS=now\\nREADY=1')\n\
        time.sleep(1000)";
    bundle.spec["process"]["args"] = json!([python, "-c", script]);
    fs::write(bundle.dir.join("config.json"), bundle.spec.to_string()).unwrap();
    let path = oci.home.path().join("manager");
    let manager = UnixDatagram::bind(&path).unwrap();
    let bundle = bundle.dir.display().to_string();
    for words in [
        &["run", "--detach", "--bundle", &bundle, "c"][..],
        &["run", "--bundle", &bundle, "c"],
    ] {
        let mut run = oci.command(words);
        let null = Stdio::null;
        let run = run
            .env("NOTIFY_SOCKET", &path)
            .stdin(null())
            .stdout(null())
            .stderr(null());
        let mut run = run.spawn().unwrap();
        let mut message = [0; 64];
        let length = manager.recv(&mut message).unwrap();
        let said = format!("READY=1\nMAINPID={}\n", oci.state()["pid"]);
        assert_eq!(text(&message[..length]), said);
        // The descriptor that comes with it is closed at once.
        let length = manager.recv(&mut message).unwrap();
        assert_eq!(text(&message[..length]), "BARRIER=1");
        if words.contains(&"--detach") {
            assert!(run.wait().unwrap().success());
        }
        oci.ok(&["delete", "--force", "c"]);
        run.wait().unwrap();
    }
}
