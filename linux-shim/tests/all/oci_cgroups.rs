//! Cgroups of the OCI command line's containers, on hosts of every layout: what they see of them, and what is told.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use amphipod_shim_api::cgroup::CgroupHost;
use serde_json::{Value, json};

use crate::harness::limitable;
use crate::oci_harness::{Oci, oci};

/// What a host has on v1 that a systemd in a container needs.
const NAMED: &str = "/sys/fs/cgroup/systemd";

/// One whose calls see the host's v1 hierarchies alone, as on an older host.
fn on_v1(name: &str) -> Option<Oci> {
    let mut oci = oci(name)?;
    if !Path::new("/sys/fs/cgroup/freezer/tasks").exists() {
        eprintln!("skipped: needs cgroup v1 with the freezer");
        return None;
    }
    let script = "umount -l /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
    oci.before = ["unshare", "--mount", "sh", "-c", script, "sh"]
        .map(str::to_owned)
        .into();
    Some(oci)
}

#[test]
fn a_systemd_in_a_container_has_a_place_of_its_own() {
    let Some(oci) = oci("named") else { return };
    if !Path::new(NAMED).join("cgroup.procs").exists() {
        return eprintln!("skipped: needs systemd's hierarchy of cgroup v1");
    }
    let mut bundle = oci.bundle(
        "grep -c :name=systemd:/$ /proc/self/cgroup; cd /sys/fs/cgroup/systemd; mkdir own && echo $$ > own/cgroup.procs \
         && grep -c :name=systemd:/own /proc/self/cgroup; readlink /sys/fs/cgroup/cpuacct || echo alone",
    );
    let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
    mounts.last_mut().unwrap()["options"] = json!(["nosuid", "rw"]);
    let (code, out) = oci.run(&bundle);
    let mut lines = out.lines();
    assert_eq!(
        (code, lines.next(), lines.next()),
        (0, Some("1"), Some("1")),
        "{out}"
    );
    let joined = Path::new("/sys/fs/cgroup/cpu,cpuacct").exists();
    assert_eq!(
        lines.next(),
        Some(if joined { "cpu,cpuacct" } else { "alone" }),
        "{out}"
    );
    let left = Path::new(NAMED).join(&oci.name).join("pod/c");
    assert!(!left.exists(), "{left:?}");
}

/// As podman has it for a systemd: a mount of one of the hierarchies on that of them all, which is read-only.
#[test]
fn a_hierarchy_may_be_mounted_on_its_own_place() {
    let Some(oci) = oci("bound") else { return };
    if !Path::new(NAMED).join("cgroup.procs").exists() {
        return eprintln!("skipped: needs systemd's hierarchy of cgroup v1");
    }
    let mut bundle = oci.bundle("mkdir /sys/fs/cgroup/systemd/$NAME/pod/c/below && echo made");
    bundle.spec["process"]["env"] = json!(["PATH=/bin", format!("NAME={}", oci.name)]);
    let mount =
        json!({"destination": NAMED, "type": "bind", "source": NAMED, "options": ["bind", "rprivate"]});
    bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
    assert_eq!(oci.run(&bundle), (0, "made\n".into()));
}

#[test]
fn the_hierarchy_of_v2_is_mounted_wherever_it_is_asked_for() {
    for oci in [oci("two"), on_v1("twoless")] {
        let Some(oci) = oci else { continue };
        let mut bundle = oci.bundle(
            "cat /two/cgroup.controllers >/dev/null && mount | grep -c 'cgroup2 on /two type cgroup2'",
        );
        let mount = json!({"destination": "/two", "type": "cgroup2", "source": "cgroup2"});
        bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
        assert_eq!(oci.run(&bundle), (0, "1\n".into()), "{:?}", oci.before);
    }
}

#[test]
fn a_paused_container_is_killed_at_once() {
    for oci in [oci("frozen"), on_v1("frozenone")] {
        let Some(oci) = oci else { continue };
        oci.create(&oci.bundle("sleep 1000"));
        oci.ok(&["start", "c"]);
        oci.ok(&["pause", "c"]);
        oci.ok(&["kill", "c", "TERM"]);
        assert_eq!(oci.state()["status"], "paused");
        oci.ok(&["kill", "c", "KILL"]);
        oci.until("stopped");
        oci.ok(&["delete", "c"]);

        // The sleeper is in the cgroup before the container is.
        let host = CgroupHost::discover().unwrap();
        let cgroup = host.cgroup(&format!("/{}/pod/c", oci.name)).unwrap();
        cgroup.create().unwrap();
        let mut sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
        cgroup.join(sleeper.id()).unwrap();
        fs::write(oci.home.path().join("root/no id"), "").unwrap();
        oci.create(&oci.bundle("sleep 1000"));
        oci.ok(&["start", "c"]);
        oci.ok(&["pause", "c"]);
        oci.ok(&["kill", "--all", "c", "KILL"]);
        oci.until("stopped");
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        oci.ok(&["delete", "c"]);
    }
}

/// As a systemd or a Docker in it does: then the cgroup itself takes nobody.
#[test]
fn a_process_is_added_to_a_container_that_has_divided_its_cgroup() {
    let Some(oci) = oci("divided") else { return };
    let mut bundle = oci.bundle(
        "cd /two; mkdir leaf; echo 1 > leaf/cgroup.procs; for c in $(cat cgroup.controllers); do
         echo +$c > cgroup.subtree_control && echo divided && exec sleep 1000; done; echo whole",
    );
    let mount = json!({"destination": "/two", "type": "cgroup2", "source": "cgroup2"});
    bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
    oci.create(&bundle);
    oci.ok(&["start", "c"]);
    if oci.said(&bundle).ends_with("whole\n") {
        return eprintln!("skipped: no controller of this host is in cgroup v2");
    }
    let mut process = bundle.spec["process"].clone();
    process["args"] = json!(["grep", "-c", "^0::/leaf$", "/proc/self/cgroup"]);
    let file = oci.home.path().join("process.json");
    for processors in [json!(null), json!({"initial": "0", "final": "0"})] {
        process["execCPUAffinity"] = processors;
        std::fs::write(&file, process.to_string()).unwrap();
        assert_eq!(oci.ok(&["exec", "--process", file.to_str().unwrap(), "c"]), "1\n");
    }
}

#[test]
fn what_no_controller_of_the_host_can_limit_is_refused() {
    let Some(oci) = oci("absent") else { return };
    let mut bundle = oci.bundle("true");
    for (controller, resources) in [
        ("net_cls", json!({"network": {"classID": 1_048_577}})),
        (
            "net_prio",
            json!({"network": {"priorities": [{"name": "lo", "priority": 5}]}}),
        ),
        ("rdma", json!({"rdma": {"mlx4_0": {"hcaHandles": 2}}})),
    ] {
        if limitable(controller) {
            eprintln!("skipped: this host has {controller}");
            continue;
        }
        bundle.spec["linux"]["resources"] = resources;
        let (made, log) = oci.created(&bundle);
        assert!(!made && log.contains(controller), "{log}");
    }
    bundle.spec["linux"]["resources"] = json!({"network": {"classID": 0, "priorities": []}, "rdma": {}});
    assert_eq!(oci.run(&bundle), (0, String::new()));
}

/// The zero value of what callers write: kernels share the limit with what is below for years now.
#[test]
fn a_hierarchy_of_memory_that_is_not_asked_for_is_no_error() {
    for oci in [oci("zero"), on_v1("zeroone")] {
        let Some(oci) = oci else { continue };
        let mut bundle = oci.bundle("echo ran");
        bundle.spec["linux"]["resources"]["memory"] = json!({"useHierarchy": false});
        let (code, out) = oci.run(&bundle);
        let said = "ran\nwarning: linux.resources.memory.useHierarchy: false changes nothing on this host\n";
        assert_eq!((code, out.as_str()), (0, said));
    }
}

/// Below our own parent, whose share is nothing until somebody needs one.
#[test]
fn real_time_of_a_processor_is_had_where_config_json_names_no_cgroup() {
    let Some(oci) = oci("realtime") else { return };
    let cpu = Path::new("/sys/fs/cgroup/cpu");
    if !cpu.join("cpu.rt_runtime_us").exists() {
        return eprintln!("skipped: needs cgroup v1 of a kernel with real-time groups");
    }
    let id = oci.name.clone();
    let mut bundle = oci.bundle("sleep 1000");
    bundle.spec["linux"]
        .as_object_mut()
        .unwrap()
        .remove("cgroupsPath");
    for (period, runtime) in [(1_000_000, 1000), (500_000, 2500), (1_000_000, 2000)] {
        bundle.spec["linux"]["resources"]["cpu"] =
            json!({"realtimePeriod": period, "realtimeRuntime": runtime});
        fs::write(bundle.dir.join("config.json"), bundle.spec.to_string()).unwrap();
        let path = bundle.dir.display().to_string();
        let run = ["run", "--detach", "--bundle", &path, &id];
        let started = oci.command(&run).stderr(Stdio::inherit()).status().unwrap();
        assert!(started.success(), "{runtime} of {period}");
        let has =
            || fs::read_to_string(cpu.join("amphipod-oci").join(&id).join("cpu.rt_runtime_us")).unwrap();
        let first = has();
        let updated = oci.call(&["update", "--cpu-rt-runtime", "9000", &id]);
        let then = has();
        oci.ok(&["delete", "--force", &id]);
        assert_eq!(
            (first, then),
            (format!("{runtime}\n"), "9000\n".into()),
            "{updated:?}"
        );
    }
}

#[test]
fn an_update_that_fails_half_way_changes_nothing() {
    for oci in [oci("half"), on_v1("halfone")] {
        let Some(oci) = oci else { continue };
        if !limitable("memory") || !Path::new("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").exists() {
            return eprintln!("skipped: needs the processor and memory of cgroup v1");
        }
        let mut bundle = oci.bundle("sleep 1000");
        bundle.spec["linux"]["resources"]["cpu"] = json!({"quota": 50_000, "period": 100_000});
        bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        oci.create(&bundle);
        let cgroups = [
            ("cpu", "cpu.cfs_quota_us"),
            ("memory", "memory.limit_in_bytes"),
            ("pids", "pids.max"),
        ];
        let limits = || {
            cgroups.map(|(controller, file)| {
                let dir = Path::new("/sys/fs/cgroup")
                    .join(controller)
                    .join(&oci.name)
                    .join("pod/c");
                fs::read_to_string(dir.join(file)).unwrap()
            })
        };
        let before = limits();
        let file = oci.home.path().join("resources.json");
        for resources in [
            json!({"cpu": {"quota": 10_000}, "memory": {"limit": 1000}}),
            json!({"cpu": {"quota": 10_000}, "memory": {"limit": 32 << 20}, "pids": {"limit": 5}, "rdma": {"none": {"hcaHandles": 2}}}),
        ] {
            fs::write(&file, resources.to_string()).unwrap();
            oci.fails(&["update", "-r", file.to_str().unwrap(), "c"]);
            assert_eq!(limits(), before, "{resources}");
        }
        oci.ok(&["update", "--cpu-quota", "20000", "c"]);
        assert_eq!(limits()[0], "20000\n");
        oci.ok(&["delete", "--force", "c"]);
    }
}

#[test]
fn sizes_have_units_and_no_limit_is_none() {
    let Some(oci) = oci("sizes") else { return };
    if !limitable("memory") {
        return eprintln!("skipped: this host has no memory controller");
    }
    let mut bundle = oci.bundle("sleep 1000");
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    oci.create(&bundle);
    let limit = || {
        let stats: Value = serde_json::from_str(&oci.ok(&["events", "--stats", "c"])).unwrap();
        stats["data"]["memory"]["usage"]["limit"].as_u64().unwrap()
    };
    oci.ok(&["update", "--memory", "64M", "--memory-swap", "0.125GiB", "c"]);
    assert_eq!(limit(), 64 << 20);
    oci.ok(&["update", "--memory", "-1", "c"]);
    assert_eq!(limit(), u64::MAX);
    assert!(oci.fails(&["update", "--memory", "64X", "c"]).contains("64X"));
}

/// In runc's words, which callers read.
#[test]
fn memory_that_runs_out_is_told_while_it_happens() {
    for oci in [oci("oom"), on_v1("oomone")] {
        let Some(oci) = oci else { continue };
        if !limitable("memory") {
            return eprintln!("skipped: this host has no memory controller");
        }
        let mut bundle = oci.bundle("sh -c 'x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done'; while test -e /data; do sleep 0.1; done");
        bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
        oci.create(&bundle);
        let mut told = oci
            .command(&["events", "--interval", "1h", "c"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(told.stdout.take().unwrap()).lines();
        let mut next = || {
            lines
                .next()
                .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
        };
        let stats = next().unwrap();
        assert_eq!((&stats["type"], &stats["id"]), (&json!("stats"), &json!("c")));
        let data = &stats["data"];
        assert_eq!(data["memory"]["usage"]["limit"], 16 << 20);
        for section in ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb"] {
            assert!(data[section].is_object(), "{section}: {data}");
        }
        assert!(
            data["memory"]["raw"]["pgfault"].is_u64() && data["cpu"]["usage"]["kernel"].is_u64(),
            "{data}"
        );
        assert_eq!(data["pids"]["current"], 1);
        oci.ok(&["start", "c"]);
        assert_eq!(next(), Some(json!({"type": "oom", "id": "c"})));
        std::fs::remove_dir(bundle.dir.join("rootfs/data")).unwrap();
        oci.until("stopped");
        assert!(told.wait().unwrap().success());
        oci.ok(&["delete", "c"]);
    }
}
