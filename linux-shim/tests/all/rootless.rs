//! The OCI command line as an ordinary user: with subordinate ids, without, and as root of a user namespace.
//!
//! The user is a number of no account. What `/etc` says of him is shown to the runtime alone, in a mount namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use amphipod_shim_api::cgroup::CgroupHost;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::callers::podman_with_own;
use crate::harness::{SHIM, can_run, image, spec};
use crate::oci_harness::{OCI, text};

pub const UID: u32 = 64_242;
/// Shows the files to whoever runs as the user then.
pub const AS_USER: &str = r#"
for file in passwd subuid subgid; do
    [ ! -e /etc/$file ] || mount --bind "$1/$file" /etc/$file || exit 100
done
[ -z "$2" ] || echo $$ > "$2/cgroup.procs" || exit 100
shift 2
exec setpriv --reuid 64242 --regid 64242 --clear-groups "$@"
"#;

/// Containers of the user in one test, all gone at its end.
pub struct User {
    pub home: TempDir,
    pub spec: Value,
    /// The cgroup he begins in, if it matters.
    pub cgroup: Option<PathBuf>,
}

impl User {
    /// `subordinate`: whether he has such ids.
    pub fn new(subordinate: bool) -> Option<Self> {
        if !can_run() || !may_make_namespaces() {
            return None;
        }
        if subordinate && !Path::new("/usr/bin/newuidmap").exists() {
            eprintln!("skipped: needs newuidmap (Debian package uidmap)");
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        image(&path("bundle/rootfs"));
        fs::copy(OCI, path("oci")).unwrap();
        fs::copy(SHIM, path("shim")).unwrap();
        let ranges = if subordinate { "someone:300000:65536\n" } else { "" };
        fs::write(path("subuid"), ranges).unwrap();
        fs::write(path("subgid"), ranges).unwrap();
        fs::write(
            path("passwd"),
            format!("root:x:0:0::/:/bin/sh\nsomeone:x:{UID}:{UID}::/:/bin/sh\n"),
        )
        .unwrap();
        let owner = format!("{UID}:{UID}");
        let done = Command::new("chown")
            .arg("-R")
            .arg(owner)
            .arg(home.path())
            .status();
        assert!(done.unwrap().success());
        Some(Self {
            spec: config(),
            home,
            cgroup: None,
        })
    }

    fn command(&self, words: &[&str]) -> Command {
        let dir = self.home.path();
        fs::write(dir.join("bundle/config.json"), self.spec.to_string()).unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", AS_USER, "sh"])
            .arg(dir)
            .arg(self.cgroup.clone().unwrap_or_default())
            .args(words)
            .env("XDG_RUNTIME_DIR", dir)
            .current_dir(dir.join("bundle"))
            .stdin(Stdio::null());
        command
    }

    fn call(&self, words: &[&str]) -> Output {
        let oci = self.home.path().join("oci");
        self.command(&[&[oci.to_str().unwrap()], words].concat())
            .output()
            .unwrap()
    }

    /// podman with nothing of the host's.
    pub fn podman(&self, words: &[&str]) -> Output {
        let oci = self.home.path().join("oci").display().to_string();
        let own = podman_with_own(self.home.path(), &oci, "cgroupfs");
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let mut command = self.command(&[&["podman"], &own[..], words].concat());
        command.env("HOME", self.home.path()).output().unwrap()
    }

    fn script(&mut self, script: &str) {
        self.spec["process"]["args"] = json!(["sh", "-c", script]);
    }

    /// What a container says, and what is said of it.
    fn run(&mut self, script: &str) -> (String, String) {
        self.script(script);
        let output = self.call(&["run", "c"]);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{out}{err}");
        (out, err)
    }

    fn refused(&mut self) -> String {
        self.script("true");
        let output = self.call(&["run", "c"]);
        assert!(!output.status.success(), "{}", text(&output.stdout));
        text(&output.stderr)
    }

    fn ok(&self, words: &[&str]) -> String {
        let output = self.call(words);
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // Cleaning up: what is not there is no failure of the test.
        let _ = self.call(&["delete", "--force", "c"]);
        if self.home.path().join("podman").exists() {
            let _ = self.podman(&["rm", "--all", "--force", "--time", "0"]);
            // Ends the process that keeps the user's namespace.
            let _ = self.podman(&["system", "migrate"]);
        }
    }
}

/// Some hosts let only root make user namespaces.
fn may_make_namespaces() -> bool {
    let user = UID.to_string();
    let words = [
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
        "unshare",
        "-Urm",
        "true",
    ];
    let may = Command::new("setpriv").args(words).stderr(Stdio::null()).status();
    let may = may.is_ok_and(|status| status.success());
    if !may {
        eprintln!("skipped: this host lets ordinary users make no user namespaces, or has no setpriv");
    }
    may
}

/// A container's configuration with nothing only root can have.
pub fn config() -> Value {
    let mut spec = spec(&["true"], "unused", "c");
    spec["linux"].as_object_mut().unwrap().remove("resources");
    spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    add_namespace(&mut spec, "user");
    spec
}

fn add_namespace(spec: &mut Value, kind: &str) {
    spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": kind}));
}

pub fn remove_namespace(spec: &mut Value, kind: &str) {
    spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|n| n["type"] != kind);
}

#[test]
fn a_user_without_subordinate_ids_has_a_container() {
    let Some(mut user) = User::new(false) else { return };
    user.spec["process"]["oomScoreAdj"] = json!(500);
    let script = "id -u; id -g; cat /proc/self/uid_map /proc/self/setgroups /proc/self/oom_score_adj; hostname
        echo x > /dev/null && head -c 1 /dev/zero | wc -c; ls /sys/class/net; touch /data/mine && stat -c %u /data/mine
        mknod /tmp/n c 1 3 2>/dev/null || echo no node; cat /proc/kcore | wc -c; echo $$";
    let (out, said) = user.run(script);
    let map = format!("         0      {UID}          1");
    let expected = [
        "0", "0", &map, "deny", "500", "box", "1", "lo", "0", "no node", "0", "1",
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected, "{said}");
    for words in ["subordinate ids", "uidmap"] {
        if said.contains(words) {
            return;
        }
    }
    panic!("nothing is said of the missing ids: {said}");
}

#[test]
fn a_program_may_be_another_user_of_the_container() {
    let Some(mut user) = User::new(false) else { return };
    user.spec["process"]["user"] = json!({"uid": 33, "gid": 34});
    let (out, _) =
        user.run("id -u; id -g; touch /data/mine && stat -c %u:%g /data/mine; grep CapEff /proc/self/status");
    assert_eq!(out, "33\n34\n33:34\nCapEff:\t0000000000000000\n");
}

#[test]
fn a_user_with_subordinate_ids_has_them_all() {
    let Some(mut user) = User::new(true) else { return };
    user.spec["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [7, 65_536]});
    let script = "cat /proc/self/uid_map; id -G; touch /data/f; chown 65536:5 /data/f; stat -c %u:%g /data/f; rm /data/f";
    let (out, said) = user.run(script);
    let map = format!("         0      {UID}          1\n         1     300000      65536\n");
    assert_eq!(out, format!("{map}0 7 65536\n65536:5\n"), "{said}");
    user.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    assert_eq!(user.run("id -u; id -g").0, "1000\n1000\n");
}

#[test]
fn containers_of_a_user_live_and_end() {
    for subordinate in [false, true] {
        let Some(mut user) = User::new(subordinate) else {
            continue;
        };
        user.script("sleep 1000");
        let log = user.home.path().join("log");
        let log = log.to_str().unwrap();
        let created = user.command(&[
            user.home.path().join("oci").to_str().unwrap(),
            "--log",
            log,
            "create",
            "c",
        ]);
        let mut created = created;
        let status = created
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{}", fs::read_to_string(log).unwrap());
        let status = |user: &User| -> Value {
            let state: Value = serde_json::from_str(&user.ok(&["state", "c"])).unwrap();
            state["status"].clone()
        };
        assert_eq!(status(&user), "created");
        let waits: Vec<u32> = serde_json::from_str(&user.ok(&["ps", "--format", "json", "c"])).unwrap();
        assert_eq!(waits.len(), 1);
        user.ok(&["start", "c"]);
        assert_eq!(status(&user), "running");
        let inside = [
            "exec",
            "c",
            "sh",
            "-c",
            "id -u; hostname; ls /proc | grep -c '^[0-9]'",
        ];
        assert!(user.ok(&inside).starts_with("0\nbox\n"));
        if fs::read_to_string(log).unwrap().contains("has no cgroup") {
            let said = text(&user.call(&["pause", "c"]).stderr);
            assert!(said.contains("has no cgroup of its own"), "{said}");
        }
        let pids: Vec<u32> = serde_json::from_str(&user.ok(&["ps", "--format", "json", "c"])).unwrap();
        assert_eq!(pids.len(), 1);
        user.ok(&["kill", "--all", "c", "KILL"]);
        let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
        while status(&user) != "stopped" {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        // There is nobody to be named or signalled by a number that may be somebody else's.
        assert_eq!(user.ok(&["ps", "--format", "json", "c"]).trim(), "[]");
        user.ok(&["kill", "--all", "c", "KILL"]);
        user.ok(&["kill", "--all", "c"]);
        user.ok(&["delete", "c"]);
        assert!(user.call(&["state", "c"]).stderr.len() > 1);
    }
}

#[test]
fn what_a_user_cannot_have_is_refused_or_said() {
    let Some(mut user) = User::new(false) else { return };
    user.spec["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [7]});
    assert!(user.refused().contains("additionalGids"));
    user.spec = config();
    user.spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    user.spec["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    let said = user.refused();
    assert!(said.contains("newuidmap"), "{said}");
    user.spec = config();
    user.spec["linux"]["resources"] = json!({"memory": {"limit": 100_000_000}});
    let said = user.refused();
    assert!(said.contains("delegated"), "{said}");
    user.spec = config();
    remove_namespace(&mut user.spec, "user");
    remove_namespace(&mut user.spec, "network");
    let (out, said) = user.run("test -d /sys/class/net && ! touch /sys/x 2>/dev/null && echo shown");
    assert_eq!(out, "shown\n");
    for words in ["gets a user namespace", "/sys shows the host's /sys", "gid=5"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    user.spec = config();
    user.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX}]);
    user.spec["process"]["oomScoreAdj"] = json!(-900);
    let said = user.run("true").1;
    assert!(said.contains("oom_score_adj stays"), "{said}");
}

#[test]
fn the_hosts_files_stay_the_hosts() {
    let Some(mut user) = User::new(true) else { return };
    let canary = tempfile::NamedTempFile::new().unwrap();
    fs::write(canary.path(), "canary").unwrap();
    let bind =
        json!({"destination": "/canary", "type": "bind", "source": canary.path(), "options": ["bind"]});
    user.spec["mounts"].as_array_mut().unwrap().push(bind);
    let script = "cat /canary; echo no > /canary; chown 0 /canary; umount /canary; echo 1 > /proc/sys/kernel/panic; true";
    let (out, _) = user.run(script);
    assert_eq!(out, "");
    assert_eq!(fs::read_to_string(canary.path()).unwrap(), "canary");
}

#[test]
fn root_of_a_user_namespace_runs_containers() {
    let Some(mut user) = User::new(false) else { return };
    remove_namespace(&mut user.spec, "user");
    let mounts = user.spec["mounts"].as_array_mut().unwrap();
    mounts[2]["options"]
        .as_array_mut()
        .unwrap()
        .retain(|o| o != "gid=5");
    user.script("id -u; echo x > /dev/null; hostname");
    let oci = user.home.path().join("oci");
    let root = user.home.path().join("root");
    let words = [
        "unshare",
        "-Urm",
        oci.to_str().unwrap(),
        "--root",
        root.to_str().unwrap(),
        "run",
        "c",
    ];
    let output = user.command(&words).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(text(&output.stdout), "0\nbox\n", "{said}");
    assert!(
        said.contains("has no cgroup of its own") || CgroupHost::discover().is_ok_and(|h| h.is_v2()),
        "{said}"
    );
}

/// Root of a whole system, as in a container that has its own `/run`, has one place for everybody who is root there.
#[test]
fn the_sockets_of_root_of_a_user_namespace_are_where_it_is_root() {
    let Some(user) = User::new(false) else { return };
    let home = user.home.path().display().to_string();
    let shim = format!("{home}/shim");
    let address = |run: &str| {
        // The server goes with its PID namespace.
        let script = format!("{run} && \"$@\"");
        let own = ["unshare", "-Urmpf", "sh", "-c", &script, "sh", &shim];
        let call = ["-namespace", "n", "-id", "c", "-address", "", "start"];
        let output = user.command(&[&own[..], &call].concat()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let of_host = address("true");
    assert!(
        of_host.starts_with(&format!("unix://{home}/amphipod/n/s/")),
        "{of_host}"
    );
    let of_its_own = address("mount -t tmpfs none /run");
    assert!(
        of_its_own.starts_with("unix:///run/amphipod/n/s/"),
        "{of_its_own}"
    );
}

/// Devices are mounted on files there, which stay.
#[test]
fn a_root_file_system_that_holds_its_dev_serves_twice() {
    let Some(mut user) = User::new(false) else { return };
    let mounts = user.spec["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    for _ in 0..2 {
        let (out, said) = user.run("echo lost > /dev/null; stat -c %t:%T /dev/null");
        assert_eq!(out, "1:3\n", "{said}");
    }
    fs::write(user.home.path().join("bundle/rootfs/dev/zero"), "not empty").unwrap();
    assert!(user.refused().contains("something else in its place"));
}

#[test]
fn a_container_that_waits_for_its_start_hides_from_its_user() {
    let Some(mut user) = User::new(false) else { return };
    user.script("true");
    let oci = user.home.path().join("oci");
    let made = user
        .command(&[oci.to_str().unwrap(), "create", "c"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    let refused = user.call(&["exec", "c", "true"]);
    assert!(
        text(&refused.stderr).contains("it is created"),
        "{}",
        text(&refused.stderr)
    );
}

#[test]
fn a_delegated_cgroup_limits_a_users_container() {
    let Some(mut user) = User::new(false) else { return };
    let Some(given) = Delegated::to_user() else { return };
    user.cgroup = Some(given.dir.join("own"));
    user.spec["linux"]["cgroupsPath"] = json!(format!("/{}/c", given.name));
    user.spec["linux"]["resources"] = json!({"memory": {"limit": 100_000_000}, "pids": {"limit": 9}});
    user.script("exec sleep 1000 > /dev/null 2>&1");
    let created = user.call(&["run", "-d", "c"]);
    assert!(created.status.success(), "{}", text(&created.stderr));
    let read = |file: &str| fs::read_to_string(given.dir.join("c").join(file)).unwrap();
    assert_eq!(read("pids.max"), "9\n");
    assert!(read("memory.max").starts_with("999"), "{}", read("memory.max"));
    user.ok(&["pause", "c"]);
    assert!(user.ok(&["state", "c"]).contains("paused"));
    user.ok(&["resume", "c"]);
    user.ok(&["delete", "--force", "c"]);
    assert!(!given.dir.join("c").exists());
}

/// A cgroup that belongs to the user, as systemd delegates one.
pub struct Delegated {
    pub name: String,
    pub dir: PathBuf,
}

impl Delegated {
    pub fn to_user() -> Option<Self> {
        let host = CgroupHost::discover().ok()?;
        if !host.is_v2() {
            eprintln!("skipped: cgroups can be delegated on v2 only");
            return None;
        }
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("amphipod-user-{}-{number}", std::process::id());
        let below = host.cgroup(&format!("{name}/own/x")).unwrap();
        let dir = below
            .unified_dir()
            .unwrap()
            .ancestors()
            .nth(2)
            .unwrap()
            .to_owned();
        let this = Self { name, dir };
        // Making what is below hands the controllers down.
        host.cgroup(&format!("{}/x", this.name))
            .unwrap()
            .create()
            .unwrap();
        fs::create_dir(this.dir.join("own")).unwrap();
        let files = [
            "",
            "cgroup.procs",
            "cgroup.subtree_control",
            "own",
            "own/cgroup.procs",
        ];
        for file in files {
            std::os::unix::fs::chown(this.dir.join(file), Some(UID), Some(UID)).unwrap();
        }
        Some(this)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        if let Ok(host) = CgroupHost::discover() {
            // Cleaning up, as above.
            let _ = host.cgroup(&self.name).and_then(|c| c.remove_waiting());
        }
    }
}
