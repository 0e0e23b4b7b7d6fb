//! systemd as the manager of cgroups, where it runs the host: scopes, their properties, and their end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use amphipod_shim_api::cgroup::CgroupHost;
use serde_json::json;

use crate::oci_harness::{Oci, oci, text};

/// A slice of the tests' own.
pub const SLICE: &str = "amphipodtest.slice";

fn on_systemd(name: &str) -> Option<Oci> {
    if !Path::new("/run/systemd/system").is_dir() {
        eprintln!("skipped: systemd does not run this host");
        return None;
    }
    oci(name)
}

pub fn property(unit: &str, name: &str) -> String {
    let words = ["show", "--value", "--property", name, unit];
    let output = Command::new("systemctl").args(words).output().unwrap();
    text(&output.stdout).trim().to_owned()
}

/// Waits until a unit's property has a value.
pub fn until(unit: &str, name: &str, value: &str) {
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    while property(unit, name) != value {
        let now = property(unit, name);
        assert!(std::time::Instant::now() < deadline, "{unit}: {name} is {now}");
        std::thread::yield_now();
    }
}

/// The directory of a unit's cgroup on v2.
fn directory(unit: &str) -> Option<PathBuf> {
    let host = CgroupHost::discover().unwrap();
    let path = property(unit, "ControlGroup");
    (host.is_v2() && !path.is_empty()).then(|| host.cgroup(&path).unwrap().unified_dir().unwrap().to_owned())
}

#[test]
fn a_container_is_a_scope_of_systemd() {
    let Some(oci) = on_systemd("scope") else { return };
    let mut bundle = oci.bundle("exec sleep 1000 > /dev/null 2>&1");
    bundle.spec["linux"]["cgroupsPath"] = json!(format!("{SLICE}:{}:c", oci.name));
    bundle.spec["linux"]["resources"] = json!({
        "pids": {"limit": 50}, "memory": {"limit": 100 << 20}, "cpu": {"shares": 2048, "quota": 50_000, "period": 100_000},
    });
    if CgroupHost::discover().unwrap().is_v2() {
        bundle.spec["linux"]["resources"]["unified"] =
            json!({"memory.high": "94371840", "memory.min": "1048576"});
    }
    fs::write(bundle.dir.join("config.json"), bundle.spec.to_string()).unwrap();
    let path = bundle.dir.display().to_string();
    oci.ok(&["--systemd-cgroup", "run", "-d", "--bundle", &path, "c"]);
    let unit = format!("{}-c.scope", oci.name);
    let expected = [
        ("ActiveState", "active"),
        ("Slice", SLICE),
        ("Delegate", "yes"),
        ("TasksMax", "50"),
        ("MemoryMax", "104857600"),
        ("CPUQuotaPerSecUSec", "500ms"),
    ];
    for (name, value) in expected {
        assert_eq!(property(&unit, name), value, "{name}");
    }
    assert!(
        Command::new("systemctl")
            .arg("daemon-reload")
            .status()
            .unwrap()
            .success()
    );
    if let Some(dir) = directory(&unit) {
        let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
        assert_eq!(read("memory.max"), "104857600\n");
        assert_eq!(read("cpu.max"), "50000 100000\n");
        assert_eq!(read("cgroup.procs").lines().count(), 1, "the keeper is gone");
        oci.ok(&["--systemd-cgroup", "update", "--memory", "209715200", "c"]);
        assert_eq!(read("memory.max"), "209715200\n");
        // systemd writes all it knows of memory with any of it.
        assert_eq!(read("memory.high"), "94371840\n");
        assert_eq!(read("memory.min"), "1048576\n");
        oci.ok(&["--systemd-cgroup", "update", "--cpu-period", "200000", "c"]);
        assert_eq!(read("cpu.max"), "50000 200000\n");
        oci.ok(&["pause", "c"]);
        assert_eq!(read("cgroup.freeze"), "1\n");
        oci.ok(&["resume", "c"]);
    }
    oci.ok(&["exec", "c", "true"]);
    oci.ok(&["delete", "--force", "c"]);
    until(&unit, "LoadState", "not-found");
}

#[test]
fn what_systemd_refuses_is_told_and_leaves_nothing() {
    let Some(oci) = on_systemd("refused") else { return };
    let mut bundle = oci.bundle("true");
    let mut run = |path: &str| {
        bundle.spec["linux"]["cgroupsPath"] = json!(path);
        fs::write(bundle.dir.join("config.json"), bundle.spec.to_string()).unwrap();
        let dir = bundle.dir.display().to_string();
        oci.fails(&["--systemd-cgroup", "run", "--bundle", &dir, "c"])
    };
    assert!(run("/not/systemds").contains("slice:prefix:name"));
    // A unit that is there.
    let said = run("::init");
    assert!(said.contains("init.scope") && said.contains("already"), "{said}");
    assert!(oci.fails(&["state", "c"]).contains("does not exist"));
}

#[test]
fn systemd_is_not_pretended() {
    if Path::new("/run/systemd/system").is_dir() {
        return eprintln!("skipped: systemd runs this host");
    }
    let Some(oci) = oci("absent") else { return };
    let mut bundle = oci.bundle("true");
    bundle.spec["linux"]["cgroupsPath"] = json!("a.slice:p:c");
    fs::write(bundle.dir.join("config.json"), bundle.spec.to_string()).unwrap();
    let dir = bundle.dir.display().to_string();
    let said = oci.fails(&["--systemd-cgroup", "run", "--bundle", &dir, "c"]);
    assert!(said.contains("does not run this host"), "{said}");
}

/// Through the shim, as a node's own Pods and containerd with `SystemdCgroup` ask for it.
#[tokio::test]
async fn a_container_of_the_shim_is_a_scope_too() {
    if !Path::new("/run/systemd/system").is_dir() {
        return eprintln!("skipped: systemd does not run this host");
    }
    let Some(pod) = crate::harness::pod().await else {
        return;
    };
    let mut bundle = pod.script("exec sleep 1000");
    let id = format!("{}-{}", pod.namespace, bundle.id);
    let unit = format!("cri-{id}.scope");
    bundle.spec["linux"]["cgroupsPath"] = json!(format!("{SLICE}:cri:{id}"));
    bundle.spec["linux"]["resources"] = json!({"pids": {"limit": 50}, "memory": {"limit": 100 << 20}});
    bundle.spec["annotations"]["org.systemd.property.TimeoutStopSec"] = json!("7");
    pod.create(&bundle).await.unwrap();
    pod.client.start(&bundle.id).await.unwrap();
    for (name, value) in [
        ("ActiveState", "active"),
        ("Slice", SLICE),
        ("Delegate", "yes"),
        ("TasksMax", "50"),
        ("MemoryMax", "104857600"),
        ("TimeoutStopUSec", "7s"),
    ] {
        assert_eq!(property(&unit, name), value, "{name}");
    }
    let mut more = oci_spec::runtime::LinuxResources::default();
    let mut memory = oci_spec::runtime::LinuxMemory::default();
    memory.set_limit(Some(200 << 20));
    more.set_memory(Some(memory));
    pod.client.update(&bundle.id, &more).await.unwrap();
    assert_eq!(property(&unit, "MemoryMax"), "209715200");
    if let Some(dir) = directory(&unit) {
        let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
        assert_eq!(read("memory.max"), "209715200\n");
        assert_eq!(read("cgroup.procs").lines().count(), 1, "the keeper is gone");
    }
    pod.client.kill(&bundle.id, 9, true).await.unwrap();
    pod.wait(&bundle.id).await;
    pod.client.delete(&bundle.id).await.unwrap();
    until(&unit, "LoadState", "not-found");

    // One whose shim dies is cleaned up after.
    let mut bundle = pod.script("exec sleep 1000");
    let id = format!("{}-{}", pod.namespace, bundle.id);
    let unit = format!("cri-{id}.scope");
    bundle.spec["linux"]["cgroupsPath"] = json!(format!("{SLICE}:cri:{id}"));
    pod.create(&bundle).await.unwrap();
    pod.client.start(&bundle.id).await.unwrap();
    for pid in pod.shims() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    crate::harness::command(&pod.namespace)
        .delete(&bundle.id, &bundle.dir)
        .await
        .unwrap();
    until(&unit, "LoadState", "not-found");
}

/// A scope with a program in it, which ends with the test.
struct Others(std::process::Child);

impl Others {
    fn begin(unit: &str) -> Self {
        let words = ["--scope", "--slice", SLICE, "--unit", unit, "sleep", "1000"];
        Self(Command::new("systemd-run").args(words).spawn().unwrap())
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        // It has become the program. Where it could not there is nobody to be ended.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// A unit that was there before is not ended with the container that could not have its name.
#[tokio::test]
async fn a_scope_of_somebody_else_is_left_alone() {
    if !Path::new("/run/systemd/system").is_dir() {
        return eprintln!("skipped: systemd does not run this host");
    }
    let Some(pod) = crate::harness::pod().await else {
        return;
    };
    let name = pod.namespace.clone();
    let unit = format!("cri-{name}.scope");
    let _others = Others::begin(&unit);
    until(&unit, "ActiveState", "active");
    // In another slice its cgroup would be another, but the unit is the same.
    for (slice, why) in [(SLICE, "not empty"), ("system.slice", "already")] {
        let mut bundle = pod.script("true");
        bundle.spec["linux"]["cgroupsPath"] = json!(format!("{slice}:cri:{name}"));
        let error = pod.create(&bundle).await.unwrap_err().to_string();
        assert!(error.contains(why), "{slice}: {error}");
        assert_eq!(property(&unit, "ActiveState"), "active");
    }
}

#[tokio::test]
async fn memory_that_ran_out_is_noted_of_a_scope() {
    if !Path::new("/run/systemd/system").is_dir() {
        return eprintln!("skipped: systemd does not run this host");
    }
    let Some(pod) = crate::harness::pod().await else {
        return;
    };
    for _ in 0..5 {
        let mut bundle = pod.script("exec tail /dev/zero");
        let id = format!("{}-{}", pod.namespace, bundle.id);
        bundle.spec["linux"]["cgroupsPath"] = json!(format!("{SLICE}:cri:{id}"));
        bundle.spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
        assert_eq!(pod.run(&bundle).await.0, 137);
        assert!(amphipod_shim_api::oom::happened(&bundle.dir));
    }
}
