//! What words of config.json mean where runc and crun agree on it, seen by their effect.

use serde_json::json;

use crate::harness::limitable;
use crate::oci_harness::{oci, text};

/// `/dev/kmsg`: open for writing to whoever has a node and a rule.
#[test]
fn a_node_that_is_asked_for_may_be_opened_as_its_rule_says() {
    let Some(oci) = oci("rule") else { return };
    let mut bundle = oci.bundle("true 2>/dev/null >/dev/k && echo write; true");
    bundle.spec["linux"]["devices"] = json!([{"path": "/dev/k", "type": "c", "major": 1, "minor": 11}]);
    for (access, expected) in [(None, ""), (Some("r"), ""), (Some("w"), "write\n")] {
        let rule = |a| json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": a});
        let mut rules = vec![json!({"allow": false, "access": "rwm"})];
        rules.extend(access.map(rule));
        bundle.spec["linux"]["resources"]["devices"] = json!(rules);
        assert_eq!(oci.run(&bundle), (0, expected.into()), "{access:?}");
    }
}

#[test]
fn what_is_denied_after_all_was_allowed_is_denied() {
    let Some(oci) = oci("deny") else { return };
    let mut bundle =
        oci.bundle("cd /dev; mknod tun c 10 200; mknod k c 1 11 && true 2>/dev/null >k && echo write; true");
    let all = json!({"allow": true, "access": "rwm"});
    let one = json!({"allow": false, "type": "c", "major": 10, "minor": 200, "access": "rwm"});
    let refused = "mknod: tun: Operation not permitted\n";
    bundle.spec["linux"]["resources"]["devices"] = json!([all, one]);
    assert_eq!(oci.run(&bundle), (0, format!("write\n{refused}")));
    bundle.spec["linux"]["resources"]["devices"] = json!([all, {"allow": false, "access": "rwm"}]);
    assert_eq!(oci.run(&bundle), (0, String::new()));
}

#[test]
fn relative_paths_of_a_mount_are_of_the_bundle_and_the_root() {
    let Some(oci) = oci("relative") else { return };
    let mut bundle = oci.bundle("cat /data/here; mount | grep -c ' on /mnt/deep '");
    std::fs::create_dir(bundle.dir.join("volume")).unwrap();
    std::fs::write(bundle.dir.join("volume/here"), "of the bundle\n").unwrap();
    let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
    mounts.push(json!({"destination": "/data", "type": "bind", "source": "./volume", "options": ["rbind"]}));
    mounts.push(json!({"destination": "mnt/deep", "type": "tmpfs", "source": "tmpfs"}));
    let (code, out) = oci.run(&bundle);
    assert!(
        code == 0 && out.starts_with("of the bundle\n1\nwarning: the mount at \"mnt/deep\""),
        "{out}"
    );
}

#[test]
fn capabilities_that_cannot_be_are_said_and_not_given() {
    let Some(oci) = oci("caps") else { return };
    let mut bundle = oci.bundle("sleep 1000");
    let given = json!(["CAP_CHOWN", "CAP_FOO"]);
    bundle.spec["process"]["capabilities"] =
        json!({"bounding": given, "effective": given, "permitted": given, "ambient": ["CAP_CHOWN"]});
    let (made, log) = oci.created(&bundle);
    assert!(
        made && log.contains("CAP_FOO") && log.contains("ambient"),
        "{log}"
    );
    oci.ok(&["start", "c"]);
    let words = [
        "exec",
        "--cap",
        "CAP_BAR",
        "c",
        "grep",
        "^Cap",
        "/proc/self/status",
    ];
    let done = oci.call(&words);
    let (seen, said) = (text(&done.stdout), text(&done.stderr));
    assert!(
        said.starts_with("warning: ignoring") && said.contains("[CAP_BAR]"),
        "{said}"
    );
    assert!(seen.contains("CapPrm:\t0000000000000001\n"), "{seen}");
    assert!(seen.contains("CapAmb:\t0000000000000000\n"), "{seen}");
}

/// The kernel refuses them: nothing becomes inheritable beyond the bounding set, or effective beyond the permitted one.
#[test]
fn sets_of_capabilities_that_do_not_fit_together_are_refused() {
    let Some(oci) = oci("sets") else { return };
    let mut bundle = oci.bundle("true");
    let (few, more) = (json!(["CAP_CHOWN"]), json!(["CAP_CHOWN", "CAP_KILL"]));
    for set in ["effective", "inheritable"] {
        let mut sets = json!({"bounding": few, "permitted": few, "effective": few, "inheritable": few});
        sets[set] = more.clone();
        bundle.spec["process"]["capabilities"] = sets;
        let (made, log) = oci.created(&bundle);
        assert!(
            !made && log.contains(&format!("{set}, but not")) && log.contains(": CAP_KILL)"),
            "{log}"
        );
        assert!(log.contains("not permitted"), "{log}");
    }
}

#[test]
fn a_tmpfs_with_a_copy_is_as_its_options_say() {
    let Some(oci) = oci("copyup") else { return };
    let mut bundle = oci.bundle("stat -c '%a %u %g' /data; cat /data/file");
    let data = bundle.dir.join("rootfs/data");
    std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(&data, Some(7), Some(7)).unwrap();
    std::fs::write(data.join("file"), "copied\n").unwrap();
    let at = bundle.spec["mounts"].as_array().unwrap().len();
    for (options, expected) in [
        (json!(["tmpcopyup"]), "755 7 7\ncopied\n"),
        (json!(["tmpcopyup", "mode=1700", "uid=5"]), "1700 5 7\ncopied\n"),
        (json!(["gid=6", "tmpcopyup"]), "755 7 6\ncopied\n"),
    ] {
        bundle.spec["mounts"][at - 1] =
            json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": options});
        assert_eq!(oci.run(&bundle), (0, expected.into()), "{options}");
    }
}

#[test]
fn a_recursive_attribute_is_of_the_top_too() {
    let Some(oci) = oci("recursive") else { return };
    let mut bundle = oci.bundle("touch /data/x");
    let mount = json!({"destination": "/data", "type": "bind", "source": "rootfs/data", "options": ["rbind", "rro", "rw"]});
    bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
    let (_, out) = oci.run(&bundle);
    assert!(out.contains("Read-only file system"), "{out}");
}

#[test]
fn a_container_paused_before_its_start_is_not_started() {
    let Some(oci) = oci("early") else { return };
    oci.create(&oci.bundle("sleep 1000"));
    oci.ok(&["pause", "c"]);
    assert_eq!(oci.state()["status"], "paused");
    assert!(oci.fails(&["start", "c"]).contains("paused"));
    assert!(
        oci.fails(&["exec", "--ignore-paused", "c", "true"])
            .contains("paused")
    );
    oci.ok(&["resume", "c"]);
    assert_eq!(oci.state()["status"], "created");
    oci.ok(&["start", "c"]);
    assert_eq!(oci.state()["status"], "running");
}

#[test]
fn a_name_for_the_hosts_namespace_is_refused() {
    let Some(oci) = oci("name") else { return };
    let mut bundle = oci.bundle("true");
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|n| n["type"] != "uts");
    let (made, log) = oci.created(&bundle);
    assert!(!made && log.contains("UTS namespace"), "{log}");
    bundle.spec.as_object_mut().unwrap().remove("hostname");
    assert_eq!(oci.run(&bundle), (0, String::new()));
}

/// v1 keeps both sums: a raise beyond that of memory and swap is refused, and neither changes. v2 has no such sum.
#[test]
fn more_memory_than_memory_and_swap_gives_no_swap_by_the_way() {
    let Some(oci) = oci("sum") else { return };
    let v1 = std::path::Path::new("/sys/fs/cgroup/memory");
    let sum = |name: &str| std::fs::read_to_string(v1.join(name).join("pod/c/memory.memsw.limit_in_bytes"));
    if !limitable("memory") || !v1.join("memory.memsw.limit_in_bytes").exists() {
        return eprintln!("skipped: needs cgroup v1 with swap accounting");
    }
    let mut bundle = oci.bundle("sleep 1000");
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20, "swap": 128 << 20});
    oci.create(&bundle);
    oci.fails(&["update", "--memory", "268435456", "c"]);
    assert_eq!(sum(&oci.name).unwrap(), "134217728\n");
    oci.ok(&[
        "update",
        "--memory",
        "268435456",
        "--memory-swap",
        "268435456",
        "c",
    ]);
    assert_eq!(sum(&oci.name).unwrap(), "268435456\n");
}

#[test]
fn hooks_begin_where_the_bundle_is() {
    let Some(oci) = oci("hookdir") else { return };
    let mut bundle = oci.bundle("cat where");
    let told = oci.home.path().join("told");
    let script = format!("pwd >> {}", told.display());
    let outside = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    let inside = json!([{"path": "/bin/sh", "args": ["sh", "-c", "pwd > where"]}]);
    bundle.spec["process"]["cwd"] = json!("/data");
    bundle.spec["hooks"] = json!({"createRuntime": outside, "createContainer": outside, "startContainer": inside,
        "poststart": outside, "poststop": outside});
    assert_eq!(oci.run(&bundle), (0, "/data\n".into()));
    let dir = std::fs::canonicalize(&bundle.dir).unwrap();
    assert_eq!(
        std::fs::read_to_string(told).unwrap(),
        format!("{}\n", dir.display()).repeat(4)
    );
}

#[test]
fn an_id_map_may_be_words_of_a_mount_option() {
    let Some(oci) = oci("idwords") else { return };
    let mut bundle = oci.bundle("stat -c '%u %g' /v/file");
    let volume = bundle.dir.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "").unwrap();
    let option = "idmap=uids=0-1000-10;gids=0-2000-1#5-7-1";
    let mount = json!({"destination": "/v", "type": "bind", "source": volume, "options": ["bind", option]});
    bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
    let (code, out) = oci.run(&bundle);
    if out.contains("cannot be idmapped") {
        return eprintln!("skipped: the file system of temporary files cannot be idmapped");
    }
    assert_eq!((code, out), (0, "1000 2000\n".into()));
}

#[test]
fn a_remount_changes_what_is_there() {
    let Some(oci) = oci("remount") else { return };
    let mut bundle = oci.bundle("df -k /v | tail -1 | awk '{print $2}'; touch /v/x; touch /data/x");
    bundle.spec["mounts"].as_array_mut().unwrap().extend([
        json!({"destination": "/v", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]}),
        json!({"destination": "/v", "type": "tmpfs", "options": ["remount", "size=128k"]}),
        json!({"destination": "/data", "type": "bind", "source": "rootfs/data", "options": ["bind"]}),
        json!({"destination": "/data", "options": ["remount", "ro", "bind"]}),
    ]);
    let refused = "touch: /data/x: Read-only file system\n";
    assert_eq!(oci.run(&bundle), (1, format!("128\n{refused}")));
    let at = bundle.spec["mounts"].as_array().unwrap().len();
    bundle.spec["mounts"][at - 3]["options"] = json!(["remount", "nosuchoption"]);
    let (made, log) = oci.created(&bundle);
    assert!(!made && log.contains("nosuchoption"), "{log}");
}

#[test]
fn nothing_is_mounted_on_the_root() {
    let Some(oci) = oci("onroot") else { return };
    let mut bundle = oci.bundle("echo ran");
    let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
    mounts.push(json!({}));
    let at = mounts.len() - 1;
    for (destination, kind) in [
        ("/", "bind"),
        ("//.", "tmpfs"),
        ("/data/..", "bind"),
        ("..", "bind"),
    ] {
        bundle.spec["mounts"][at] = json!({"destination": destination, "type": kind, "source": bundle.dir.clone(), "options": ["rbind"]});
        let (made, log) = oci.created(&bundle);
        assert!(
            !made && log.contains("on the container's root"),
            "{destination}: {log}"
        );
    }
    bundle.spec["mounts"][at] = json!({"destination": "/", "options": ["remount", "bind", "nosuid"]});
    assert_eq!(oci.run(&bundle), (0, "ran\n".into()));
}

/// podman's `--group-add keep-groups`.
#[test]
fn the_callers_groups_are_kept_where_that_is_asked_for() {
    let Some(mut oci) = oci("groups") else { return };
    oci.before = ["setpriv", "--groups", "4242"].map(str::to_owned).into();
    let mut bundle = oci.bundle("id -G; sleep 1000");
    bundle.spec["process"]["user"] = json!({"uid": 7, "gid": 7, "additionalGids": [8]});
    for (value, expected) in [(json!("0"), "7 8\n"), (json!("1"), "7 4242\n")] {
        bundle.spec["annotations"]["run.oci.keep_original_groups"] = value;
        oci.create(&bundle);
        assert_eq!(oci.ok(&["exec", "c", "id", "-G"]), expected);
        oci.ok(&["start", "c"]);
        oci.until_said(&bundle, expected);
        oci.ok(&["delete", "--force", "c"]);
    }
}

#[test]
fn a_process_may_be_added_before_the_start() {
    let Some(oci) = oci("before") else { return };
    let bundle = oci.bundle("cat /data/left");
    oci.create(&bundle);
    let seen = oci.ok(&[
        "exec",
        "c",
        "sh",
        "-c",
        "echo left > /data/left; hostname; echo $$; ls -d /bundle /bin 2>/dev/null; true",
    ]);
    assert!(seen.starts_with("box\n") && seen.ends_with("/bin\n"), "{seen}");
    assert_eq!(oci.state()["status"], "created");
    oci.ok(&["start", "c"]);
    oci.until("stopped");
    assert_eq!(bundle.output(), "left\n");
    assert!(oci.fails(&["exec", "c", "true"]).contains("stopped"));
}

/// Where there is no log for it, as runc has it.
#[test]
fn what_is_not_as_asked_for_is_said_on_standard_error() {
    let Some(oci) = oci("said") else { return };
    let mut bundle = oci.bundle("echo ran");
    bundle.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 1 << 30, "hard": 1 << 30}]);
    let (code, out) = oci.run(&bundle);
    assert!(
        code == 0 && out.starts_with("ran\nwarning: RLIMIT_NOFILE stays"),
        "{out}"
    );
    let (made, log) = oci.created(&bundle);
    assert!(made && log.contains("RLIMIT_NOFILE stays"), "{log}");
    assert_eq!(bundle.output(), "");
}

#[test]
fn a_mount_label_asks_for_nothing_without_selinux() {
    let Some(oci) = oci("label") else { return };
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        return eprintln!("skipped: this host has SELinux");
    }
    let mut bundle = oci.bundle("mount | grep -c context=; echo ran");
    bundle.spec["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0:c1,c2");
    assert_eq!(oci.run(&bundle), (0, "0\nran\n".into()));
}

#[test]
fn features_are_complete() {
    let Some(oci) = oci("features") else { return };
    let features: serde_json::Value = serde_json::from_str(&oci.ok(&["features"])).unwrap();
    let options = features["mountOptions"].as_array().unwrap();
    for option in [
        "nomand",
        "nolazytime",
        "iversion",
        "silent",
        "rro",
        "ridmap",
        "tmpcopyup",
    ] {
        assert!(options.contains(&json!(option)), "{option}");
    }
    let linux = &features["linux"];
    let capabilities = linux["capabilities"].as_array().unwrap();
    assert_eq!(capabilities[..2], [json!("CAP_CHOWN"), json!("CAP_DAC_OVERRIDE")]);
    assert!(
        linux["seccomp"]["archs"]
            .as_array()
            .unwrap()
            .contains(&json!("SCMP_ARCH_X86_64"))
    );
    assert!(linux["memoryPolicy"]["modes"].is_array() && linux["netDevices"]["enabled"] == true);
}

/// Standard error of `create` is the container's; with none there it is told what may be behind the failure.
#[test]
fn what_was_warned_of_is_said_with_a_failure() {
    let Some(oci) = oci("held") else { return };
    let mut bundle = oci.bundle("true");
    let (strange, known) = (json!(["CAP_FOO"]), json!(["CAP_CHOWN"]));
    bundle.spec["process"]["capabilities"] =
        json!({"bounding": strange, "permitted": known, "inheritable": known});
    std::fs::write(bundle.dir.join("config.json"), bundle.spec.to_string()).unwrap();
    let said = oci.fails(&["create", "--bundle", bundle.dir.to_str().unwrap(), "c"]);
    assert!(
        said.starts_with("warning: ignoring unknown or unavailable capabilities: [CAP_FOO]\nerror: "),
        "{said}"
    );
    assert!(said.contains("not in the bounding set"), "{said}");
}
