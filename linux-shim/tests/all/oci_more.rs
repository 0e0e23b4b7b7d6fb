//! What the OCI suites ask of a runtime beyond the ordinary: order, hooks that fail, namespaces that are not new.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use crate::oci_harness::{Bundle, Oci, oci, text};

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

/// Mount points of this namespace that belong to a test.
fn mounts_of(oci: &Oci) -> usize {
    let home = oci.home.path().display().to_string();
    mounts().lines().filter(|line| line.contains(&home)).count()
}

#[test]
fn mounts_are_listed_in_the_order_of_the_configuration() {
    let Some(oci) = oci("order") else { return };
    let mut bundle = oci.bundle("cut -d' ' -f5 /proc/self/mountinfo");
    let volume = oci.home.path().join("volume");
    fs::create_dir(&volume).unwrap();
    bundle.spec["mounts"].as_array_mut().unwrap().extend([
        json!({"destination": "/first", "type": "bind", "source": volume, "options": ["rbind"]}),
        json!({"destination": "/second", "type": "tmpfs", "source": "tmpfs"}),
        json!({"destination": "/third", "type": "bind", "source": volume, "options": ["bind", "ro"]}),
    ]);
    let wanted: Vec<String> = bundle.spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["destination"].as_str().unwrap().to_owned())
        .collect();
    let (code, out) = oci.run(&bundle);
    assert_eq!(code, 0, "{out}");
    let seen: Vec<String> = out
        .lines()
        .filter(|l| wanted.iter().any(|w| w == l))
        .map(str::to_owned)
        .collect();
    assert_eq!(seen, wanted);
}

#[test]
fn a_container_in_the_hosts_mount_namespace_leaves_no_mount() {
    let Some(oci) = oci("shared") else { return };
    let mut bundle = oci.bundle("readlink /proc/1/ns/mnt /proc/self/ns/mnt; ls /; sleep 1000");
    bundle.spec["linux"]["namespaces"] = json!([{"type": "network"}]);
    bundle.spec.as_object_mut().unwrap().remove("hostname");
    oci.create(&bundle);
    assert!(mounts_of(&oci) > 0);
    oci.ok(&["start", "c"]);
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    let pid = oci.state()["pid"].as_i64().unwrap();
    assert_eq!(fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap(), own);
    // A process that comes later is in the same root, not in the host's.
    let words = [
        "exec",
        "c",
        "sh",
        "-c",
        "ls -d /bin/busybox /bundle /usr 2>&1; pwd",
    ];
    let seen = oci.call(&words);
    let out = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(out.contains("/bin/busybox\n") && out.ends_with("/\n"), "{out}");
    assert!(!out.lines().any(|l| l == "/usr"), "the host's root: {out}");
    oci.ok(&["delete", "--force", "c"]);
    assert_eq!(mounts_of(&oci), 0, "{}", mounts());
    // One that cannot be made leaves none either.
    bundle.spec["process"]["args"] = json!(["/nosuch"]);
    let (made, log) = oci.created(&bundle);
    assert!(!made && log.contains("nosuch"), "{log}");
    assert_eq!(mounts_of(&oci), 0);
    // A user namespace could not mount there.
    bundle.spec["linux"]["namespaces"] = json!([{"type": "user"}]);
    bundle.spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
    bundle.spec["linux"]["gidMappings"] = bundle.spec["linux"]["uidMappings"].clone();
    let (made, log) = oci.created(&bundle);
    assert!(!made && log.contains("new mount namespace"), "{log}");
}

#[test]
fn a_hook_that_fails_after_the_start_ends_the_container_and_one_after_the_end_nothing() {
    let Some(oci) = oci("poststart") else { return };
    let mut bundle = oci.bundle("sleep 1000");
    let told = oci.home.path().join("told");
    let hook = |script: String| json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
    let tell = |word: &str| format!("echo {word} >> {}", told.display());
    bundle.spec["hooks"] = json!({
        "poststart": [hook(tell("one")), hook("exit 3".into()), hook(tell("never"))],
        "poststop": [hook("exit 3".into()), hook(tell("last"))],
    });
    oci.create(&bundle);
    let said = oci.fails(&["start", "c"]);
    assert!(said.contains("/bin/sh"), "{said}");
    assert_eq!(oci.state()["status"], "stopped");
    oci.ok(&["delete", "c"]);
    assert_eq!(fs::read_to_string(told).unwrap(), "one\nlast\n");
}

/// As the container's program begins with, or, of a program of the host, as we do: an image chooses the former.
#[test]
fn a_hook_without_an_environment_has_that_of_who_runs_it() {
    let Some(mut oci) = oci("hookenv") else { return };
    oci.before = ["env", "CALLER=one"].map(str::to_owned).into();
    let inside = "test \"$ONE\" = two && test -z \"$CALLER\"";
    let outside = "test \"$CALLER\" = one && test -z \"$ONE\"";
    let given = "test \"$MINE\" = 1 && test -z \"$ONE$CALLER\"";
    for (moment, script) in [
        ("startContainer", inside),
        ("createContainer", outside),
        ("prestart", outside),
        ("createRuntime", outside),
        ("poststart", outside),
        ("poststop", outside),
    ] {
        for (env, script) in [(json!(null), script), (json!(["MINE=1"]), given)] {
            let mut bundle = oci.bundle("echo ran");
            bundle.spec["process"]["env"] = json!(["PATH=/bin", "ONE=two"]);
            let mut hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
            if !env.is_null() {
                hook["env"] = env;
            }
            bundle.spec["hooks"] = json!({moment: [hook]});
            assert_eq!(oci.run(&bundle), (0, "ran\n".into()), "{moment}");
        }
    }
}

#[test]
fn hooks_after_the_end_are_run_for_a_container_that_was_begun_and_did_not_come_to_be() {
    let Some(oci) = oci("begun") else { return };
    let told = oci.home.path().join("told");
    let script = format!("grep -o '\"status\":\"[a-z]*\"' >> {}", told.display());
    let last = json!([{"path": "/bin/false"}, {"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    for moment in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "nothing",
    ] {
        let mut bundle = oci.bundle("echo never");
        bundle.spec["hooks"] = json!({moment: [{"path": "/bin/false"}], "poststop": last});
        if moment == "nothing" {
            bundle.spec["process"]["args"] = json!(["/nosuch"]);
        }
        let (code, out) = oci.run(&bundle);
        assert!(code != 0 && !out.contains("never"), "{moment}: {out}");
        let seen = fs::read_to_string(&told).unwrap_or_default();
        assert_eq!(seen, "\"status\":\"stopped\"\n", "{moment}");
        fs::remove_file(&told).unwrap();
        assert!(oci.fails(&["state", "c"]).contains("does not exist"), "{moment}");
    }
    // Nothing is begun of what cannot be planned.
    let mut bundle = oci.bundle("echo never");
    bundle.spec["hooks"] = json!({"poststop": last});
    bundle.spec["process"]["cwd"] = json!("relative");
    assert!(oci.run(&bundle).0 != 0 && !told.exists());
}

#[test]
fn a_memory_policy_is_set_where_the_kernel_knows_any() {
    let Some(oci) = oci("numa") else { return };
    let mut bundle = oci.bundle("cat /proc/self/numa_maps | head -1 | cut -d' ' -f2");
    bundle.spec["linux"]["memoryPolicy"] =
        json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    if !fs::exists("/proc/self/numa_maps").unwrap() {
        let (made, log) = oci.created(&bundle);
        assert!(!made && log.contains("memory policy"), "{log}");
        return eprintln!("skipped: this kernel knows no memory policies");
    }
    assert_eq!(oci.run(&bundle), (0, "bind=static:0\n".into()));
    bundle.spec["linux"]["memoryPolicy"]["nodes"] = json!("0-9876543210");
    let (made, log) = oci.created(&bundle);
    assert!(!made && log.contains("no list of memory nodes"), "{log}");
}

/// Nobody answers the listener: getcwd of the runtime itself must not wait for it.
#[test]
fn a_listener_is_asked_only_about_the_program() {
    use std::os::unix::net::UnixListener;
    let Some(oci) = oci("notify") else { return };
    let socket = oci.home.path().join("agent");
    let listener = UnixListener::bind(&socket).unwrap();
    for privileges in [true, false] {
        let mut bundle = oci.bundle("sleep 1000");
        bundle.spec["process"]["noNewPrivileges"] = json!(privileges);
        bundle.spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": socket,
            "listenerMetadata": "hello",
            "syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_NOTIFY"}],
        });
        oci.create(&bundle);
        let (mut agent, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut agent, &mut bytes).unwrap();
        let told: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(told["metadata"], "hello", "{told}");
        assert_eq!(told["pid"], oci.state()["pid"]);
        oci.ok(&["start", "c"]);
        oci.until("running");
        oci.ok(&["delete", "--force", "c"]);
    }
}

#[test]
fn what_is_mounted_on_a_masked_path_is_masked_too() {
    let Some(oci) = oci("covered") else { return };
    let mut bundle =
        oci.bundle("cat /proc/keys /proc/meminfo; echo x > /proc/meminfo || mount | grep -c /proc/meminfo");
    let mounted = oci.home.path().join("mounted");
    fs::write(&mounted, "shown\n").unwrap();
    for destination in ["/proc/keys", "/proc/meminfo"] {
        bundle.spec["mounts"].as_array_mut().unwrap().push(
            json!({"destination": destination, "type": "bind", "source": mounted, "options": ["bind"]}),
        );
    }
    bundle.spec["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc/keys"]);
    bundle.spec["linux"]["readonlyPaths"] = json!(["/proc/meminfo"]);
    let (code, out) = oci.run(&bundle);
    assert!(code == 0 && out.starts_with("shown\n"), "{out}");
    assert!(out.contains("Read-only file system"), "{out}");
    assert_eq!(fs::read_to_string(&mounted).unwrap(), "shown\n");
}

#[test]
fn others_in_its_cgroup_outlive_a_container() {
    let Some(oci) = oci("others") else { return };
    let bundle = oci.bundle("sleep 1000");
    let host = amphipod_shim_api::cgroup::CgroupHost::discover().unwrap();
    let cgroup = host.cgroup(&format!("/{}/pod/c", oci.name)).unwrap();
    oci.create(&bundle);
    let path = bundle.dir.display().to_string();
    let out = fs::File::create(oci.home.path().join("out")).unwrap();
    let mut other = oci.command(&["create", "d", "--bundle", &path]);
    assert!(
        other
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .status()
            .unwrap()
            .success()
    );
    for id in ["c", "d"] {
        oci.ok(&["start", id]);
    }
    let status = |id| oci.ok(&["state", id]).contains("\"running\"");
    oci.ok(&["kill", "--all", "c", "KILL"]);
    oci.until("stopped");
    oci.ok(&["delete", "c"]);
    assert!(status("d"), "the first to come took the second along");
    oci.create(&bundle);
    oci.ok(&["delete", "--force", "c"]);
    assert!(status("d"), "the second to come took the first along");
    oci.ok(&["delete", "--force", "d"]);
    assert!(!cgroup.exists(), "nobody is left for whom it is");

    cgroup.create().unwrap();
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    cgroup.join(stranger.id()).unwrap();
    let mut bundle = oci.bundle("");
    bundle.spec["process"]["args"] = json!(["true"]);
    let ran = oci.run(&bundle);
    let lives = stranger.try_wait().unwrap().is_none();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert_eq!((ran.0, lives), (0, true), "{}", ran.1);
}

/// A program for i386 that exits with 42.
fn program_of_32_bits() -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let code = [&[0xb8, 1, 0, 0, 0], &[0xbb, 42, 0, 0, 0], &[0xcd, 0x80][..]].concat();
    let (base, headers) = (0x0804_8000, 0x54);
    let size = headers + u32::try_from(code.len()).unwrap();
    [
        words(&[0x464c_457f, 0x0001_0101, 0, 0, 0x0003_0002, 1]),
        words(&[base + headers, 0x34, 0, 0, 0x0020_0034, 1, 0]),
        words(&[1, 0, base, base, size, size, 5, 0x1000]),
        code,
    ]
    .concat()
}

#[test]
fn programs_of_32_bits_run_where_the_profile_lists_their_architecture() {
    let Some(oci) = oci("arch") else { return };
    if !cfg!(target_arch = "x86_64") {
        return eprintln!("skipped: needs x86-64");
    }
    let mut bundle = oci.bundle("");
    let program = bundle.dir.join("rootfs/bin/narrow");
    fs::write(&program, program_of_32_bits()).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    if Command::new(&program).status().ok().and_then(|s| s.code()) != Some(42) {
        return eprintln!("skipped: the kernel runs no programs of 32 bits");
    }
    bundle.spec["process"]["args"] = json!(["/bin/narrow"]);
    let killed = 128 + 31;
    for (architectures, code) in [
        (json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]), 42),
        (json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]), killed),
        (json!(null), killed),
    ] {
        bundle.spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": architectures,
            "syscalls": [{"names": ["execve", "exit"], "action": "SCMP_ACT_ALLOW"}],
        });
        assert_eq!(oci.run(&bundle).0, code, "{architectures}");
    }
    bundle.spec["linux"]["seccomp"] = json!(null);
    bundle.spec["annotations"]["dev.amphipod.linux/seccomp"] = json!("RuntimeDefault");
    assert_eq!(oci.run(&bundle).0, 42, "by RuntimeDefault");
}

/// One end of a pair of devices made on the host is moved, renamed, and keeps its address.
#[test]
fn network_devices_are_moved_with_their_addresses() {
    let Some(oci) = oci("netdev") else { return };
    let ip = |words: &[&str]| {
        let done = std::process::Command::new("ip").args(words).output();
        done.is_ok_and(|done| done.status.success())
    };
    let (one, other) = (
        format!("avt{}", std::process::id()),
        format!("avp{}", std::process::id()),
    );
    if !ip(&["link", "add", &one, "type", "veth", "peer", "name", &other]) {
        return eprintln!("skipped: needs ip (Debian package iproute2) and pairs of network devices");
    }
    assert!(ip(&["addr", "add", "192.0.2.7/24", "dev", &one]) && ip(&["link", "set", &one, "up"]));
    let mut bundle = oci.bundle("ip addr show dev inside; ip addr show dev lo");
    bundle.spec["linux"]["netDevices"] = json!({one.clone(): {"name": "inside"}});
    let (code, out) = oci.run(&bundle);
    let gone = !ip(&["link", "show", &one]);
    ip(&["link", "del", &other]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("192.0.2.7/24") && out.contains("UP"), "{out}");
    assert!(gone, "{one} is still on the host");
    let (made, log) = oci.created(&bundle);
    assert!(!made && log.contains(&one), "{log}");
    bundle.spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "uts"}]);
    let (made, log) = oci.created(&bundle);
    assert!(!made && log.contains("network namespace"), "{log}");
}

/// Keys of whoever starts a container are none of its business.
#[test]
fn a_container_and_its_execs_have_a_session_keyring_of_their_own() {
    let Some(oci) = oci("keyring") else { return };
    if !std::path::Path::new("/proc/keys").exists() {
        return eprintln!("skipped: this host has no keys");
    }
    let id = oci.name.clone();
    let look = format!("grep ' _ses.{id}:' /proc/keys | cut -d ' ' -f 1");
    let mut bundle = oci.bundle(&look);
    bundle.spec["linux"]["maskedPaths"] = json!([]);
    let path = bundle.dir.display().to_string();
    let run = |words: &[&str], spec: &serde_json::Value| {
        fs::write(bundle.dir.join("config.json"), spec.to_string()).unwrap();
        oci.ok(&[words, &["--bundle", &path, &id]].concat())
    };
    assert_eq!(run(&["run", "--no-new-keyring"], &bundle.spec), "");
    assert_eq!(run(&["run"], &bundle.spec).lines().count(), 1);

    let script = format!("({look}) > /tmp/own; touch /tmp/done; sleep 1000");
    let mut waiting = bundle.spec.clone();
    waiting["process"]["args"][2] = json!(script);
    fs::write(bundle.dir.join("config.json"), waiting.to_string()).unwrap();
    let started = oci.command(&["run", "--detach", "--bundle", &path, &id]).status();
    assert!(started.unwrap().success());
    let compare = format!("until test -e /tmp/done; do :; done; cat /tmp/own; {look}");
    let seen = oci.ok(&["exec", &id, "sh", "-c", &compare]);
    oci.ok(&["delete", "--force", &id]);
    let seen: Vec<&str> = seen.lines().collect();
    assert!(seen.len() == 2 && seen[0] == seen[1], "{seen:?}");
}

/// What `--no-pivot` leaves below the container's root must not be found there: with a host's procfs in the same mount namespace
/// anybody could mount another one, nothing of which is masked.
#[test]
fn a_root_that_is_moved_hides_the_hosts() {
    let Some(mut oci) = oci("moved") else { return };
    // What root of a user namespace cannot reach is no obstacle.
    let closed = oci.home.path().join("closed");
    fs::create_dir_all(closed.join("mounted")).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let mounted = closed.join("mounted").display().to_string();
    let words = [
        "unshare",
        "-m",
        "sh",
        "-c",
        "mount -t tmpfs none $0 && exec \"$@\"",
        &mounted,
    ];
    oci.before = words.map(str::to_owned).into();
    let mut bundle =
        oci.bundle("ls /; wc -l </proc/self/mountinfo; unshare -Urmpf mount -t proc proc /tmp; echo $?");
    bundle.spec["linux"]["maskedPaths"] = json!(["/proc/kcore"]);
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let path = bundle.dir.display().to_string();
    let moved = || {
        let output = oci.call(&["run", "--no-pivot", "--bundle", &path, "c"]);
        text(&output.stdout) + &text(&output.stderr)
    };
    let (_, usual) = oci.run(&bundle);
    assert!(
        usual.starts_with("bin\n") && usual.contains("mount: permission denied"),
        "{usual}"
    );
    assert_eq!(moved(), usual);
    in_user_namespace(&oci, &mut bundle);
    let (_, usual) = oci.run(&bundle);
    assert!(
        usual.starts_with("bin\n") && usual.contains("mount: permission denied"),
        "{usual}"
    );
    assert_eq!(moved(), usual);
}

fn in_user_namespace(oci: &Oci, bundle: &mut Bundle) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user"}));
    bundle.spec["linux"]["uidMappings"] = map.clone();
    bundle.spec["linux"]["gidMappings"] = map;
    for dir in [oci.home.path(), &bundle.dir] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn an_exec_finds_a_root_that_was_moved() {
    let Some(oci) = oci("found") else { return };
    let bundle = oci.bundle("sleep 1000");
    fs::write(bundle.dir.join("config.json"), bundle.spec.to_string()).unwrap();
    let path = bundle.dir.display().to_string();
    let made = oci
        .command(&["create", "--no-pivot", "--bundle", &path, "c"])
        .status();
    assert!(made.unwrap().success());
    oci.ok(&["start", "c"]);
    assert_eq!(
        oci.ok(&["exec", "c", "ls", "/"]),
        oci.ok(&["exec", "c", "ls", "/proc/1/root/"])
    );
    let mounts = oci.ok(&["exec", "c", "cat", "/proc/self/mounts"]);
    let place = bundle.dir.display().to_string();
    assert!(!mounts.contains(&place), "{mounts}");
    oci.ok(&["kill", "c", "KILL"]);
    oci.until("stopped");
    oci.ok(&["delete", "c"]);
}
