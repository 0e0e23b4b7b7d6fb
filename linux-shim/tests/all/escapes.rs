//! Known ways out of a container, tried. Canary files on the host are compared before and after.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use std::process::{Command, Stdio};

use amphipod_shim_api::client::ExecTask;
use nix::sys::stat::makedev;
use serde_json::json;

use crate::harness::{Bundle, Pod, SHIM, host_mounts, pod};
use crate::oci_harness::{OCI, oci, text};

/// A host directory nobody may touch.
pub struct Canary(pub PathBuf);

impl Canary {
    pub fn of(pod: &Pod) -> Self {
        let dir = pod.home.path().join("canary");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("file"), "host").unwrap();
        fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
        Self(dir)
    }

    pub fn check(&self) {
        assert_eq!(fs::read_to_string(self.0.join("file")).unwrap(), "host");
        let seen = fs::metadata(self.0.join("file")).unwrap();
        assert_eq!(
            (seen.mode() & 0o7777, seen.uid()),
            (0o600, 0),
            "the canary's mode and owner"
        );
        assert_eq!(
            fs::read_dir(&self.0).unwrap().count(),
            1,
            "something was made in the canary's directory"
        );
    }
}

/// A layer whose `/data` (and more) leads out.
fn link(bundle: &Bundle, name: &str, target: &Path) {
    let at = bundle.dir.join("upper").join(name);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    symlink(target, at).unwrap();
}

#[tokio::test]
async fn mount_targets_behind_links_stay_inside() {
    let Some(pod) = pod().await else { return };
    let canary = Canary::of(&pod);
    let volume = pod.home.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("inner"), "volume").unwrap();
    let up = Path::new("../../../../../..").join(canary.0.strip_prefix("/").unwrap());
    for (name, target) in [("absolute", canary.0.clone()), ("relative", up)] {
        let mut bundle = pod.script(&format!("cat /{name}/sub/inner /{name}/file"));
        link(&bundle, name, &target);
        let mut bind = |to: &str, from: &Path| {
            let to = format!("/{name}/{to}");
            bundle.mount(json!({"destination": to, "type": "bind", "source": from, "options": ["rbind"]}));
        };
        bind("sub", &volume);
        // This one is there on the host: nothing needs to be made to be mounted on.
        bind("file", &volume.join("inner"));
        let (code, out) = pod.run(&bundle).await;
        assert_eq!(
            (code, out.as_str()),
            (0, "volumevolume\n"),
            "{name}: mounted where the container does not see it"
        );
        canary.check();
    }
}

#[tokio::test]
async fn proc_and_sys_behind_links_are_refused() {
    let Some(pod) = pod().await else { return };
    for name in ["proc", "sys"] {
        let bundle = pod.script("true");
        fs::create_dir_all(bundle.dir.join("upper/elsewhere")).unwrap();
        link(&bundle, name, Path::new("/elsewhere"));
        let error = pod.create(&bundle).await.unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
    }
}

#[tokio::test]
async fn dev_behind_a_link_is_contained() {
    let Some(pod) = pod().await else { return };
    let canary = Canary::of(&pod);
    let bundle = pod.script("true");
    link(&bundle, "dev", &canary.0);
    if pod.create(&bundle).await.is_ok() {
        pod.client.delete(&bundle.id).await.unwrap();
    }
    canary.check();
}

#[tokio::test]
async fn etc_hosts_as_a_link_is_contained() {
    let Some(pod) = pod().await else { return };
    let canary = Canary::of(&pod);
    let mut bundle = pod.script("true");
    link(&bundle, "etc/hosts", &canary.0.join("file"));
    bundle.mount(
        json!({"destination": "/etc/hosts", "type": "bind", "source": "/etc/hostname", "options": ["bind"]}),
    );
    if pod.create(&bundle).await.is_ok() {
        pod.client.delete(&bundle.id).await.unwrap();
    }
    canary.check();
}

#[tokio::test]
async fn no_descriptor_of_the_shim_is_reachable() {
    let Some(pod) = pod().await else { return };
    for number in 0..32 {
        let mut bundle = pod.script("pwd; cat etc/shadow");
        bundle.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        let error = pod.create(&bundle).await.unwrap_err().to_string();
        assert!(
            error.contains("working directory") || error.contains("chdir"),
            "{error}"
        );
    }
    let (_, out) = pod.sh("ls /proc/self/fd | tr '\\n' ' '").await;
    assert_eq!(out.trim_end(), "0 1 2 3", "3 is ls's own");
}

/// What a process on its way into a container holds: its streams and its line to the shim, and nothing the shim has.
#[tokio::test]
async fn a_waiting_process_holds_nothing_of_the_shims() {
    let Some(pod) = pod().await else { return };
    // One that lives gives the shim more to hold.
    let other = pod.script("sleep 1000");
    pod.create(&other).await.unwrap();
    let bundle = pod.script("true");
    let pid = pod.create(&bundle).await.unwrap();
    let held = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let held = held.map(|entry| {
        let path = entry.unwrap().path();
        // The null device has no name of the host's.
        let target = fs::read_link(&path).unwrap().display().to_string();
        match target == "/" && fs::metadata(&path).unwrap().rdev() == makedev(1, 3) {
            true => "null".to_owned(),
            false => target,
        }
    });
    let mut held: Vec<String> = held.collect();
    held.sort();
    let of = |kind: &str| held.iter().filter(|target| target.starts_with(kind)).count();
    // Its three streams, as they were given and in their places.
    assert_eq!((of("null"), of("pipe:"), of("socket:")), (2, 4, 1), "{held:?}");
    assert_eq!(held.len(), 7, "{held:?}");
}

/// CVE-2024-21626's other half: a descriptor that is meant for the program is no way to begin outside.
#[test]
fn no_process_begins_outside_of_the_root() {
    let Some(oci) = oci("cwd") else { return };
    let bundle = oci.bundle("sleep 1000");
    symlink("/proc/self/fd/3", bundle.dir.join("rootfs/work")).unwrap();
    oci.create(&bundle);
    oci.ok(&["start", "c"]);
    let root = oci.home.path().join("root");
    for cwd in ["/proc/self/fd/3", "/work", "/proc/self/fd/3/../etc"] {
        let line = format!(
            "exec 3</; exec {OCI} --root {} exec --preserve-fds 1 --cwd {cwd} c /bin/ls -a",
            root.display()
        );
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        let said = text(&output.stderr);
        assert!(!output.status.success(), "{cwd}: {}", text(&output.stdout));
        assert!(said.contains("outside of the container"), "{cwd}: {said}");
    }
}

/// CVE-2016-9962: who has all that it will have, and waits to become its program, is not for others in the container to look
/// into, nor to take over.
#[test]
fn a_process_on_its_way_in_is_hidden_from_the_container() {
    let Some(oci) = oci("hidden") else { return };
    oci.create(&oci.bundle("sleep 1000"));
    let look =
        "for link in exe cwd root fd/0 fd/1 fd/2 fd/3; do readlink /proc/1/$link; done; cat /proc/1/environ";
    let output = oci.call(&["exec", "c", "sh", "-c", look]);
    assert_eq!(text(&output.stdout), "", "{}", text(&output.stderr));
    // The program itself is as visible as any other.
    oci.ok(&["start", "c"]);
    oci.until("running");
    let look = "until [ \"$(readlink /proc/1/exe)\" = /bin/busybox ]; do :; done; echo seen";
    assert_eq!(oci.ok(&["exec", "c", "sh", "-c", look]), "seen\n");
}

#[tokio::test]
async fn a_working_directory_swapped_for_a_magic_link_is_refused() {
    let Some(pod) = pod().await else { return };
    for target in ["/proc/self/fd/8", "/proc/self/fd/7/../../..", "/proc/1/root"] {
        let mut bundle = pod.script("pwd");
        link(&bundle, "work", Path::new(target));
        bundle.spec["process"]["cwd"] = json!("/work");
        assert!(pod.create(&bundle).await.is_err(), "{target}");
    }
}

#[tokio::test]
async fn the_shims_program_is_neither_run_nor_written() {
    let Some(pod) = pod().await else { return };
    let before = fs::read(SHIM).unwrap();
    for command in ["/proc/self/exe", "/bin/link", "/bin/script"] {
        let bundle = pod.bundle(&[command]);
        link(&bundle, "bin/link", Path::new("/proc/self/exe"));
        bundle.add("bin/script", "#!/proc/self/exe\n", 0o755);
        let error = pod.create(&bundle).await.unwrap_err().to_string();
        assert!(error.contains("exec:"), "{error}");
    }
    // From outside the container's view, the server's program is a mount nothing can be written through.
    let shim = pod.shims()[0];
    let program = fs::File::open(format!("/proc/{shim}/exe")).unwrap();
    let flags = nix::sys::statvfs::fstatvfs(&program).unwrap().flags();
    assert!(flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
    assert!(fs::read(SHIM).unwrap() == before, "the shim's program changed");
}

#[tokio::test]
async fn mounts_do_not_reach_the_host() {
    let Some(pod) = pod().await else { return };
    let before = host_mounts(&pod);
    let shared = pod.home.path().join("shared");
    fs::create_dir_all(shared.join("below")).unwrap();
    let mut bundle = pod.script("mount -t tmpfs x /v/below && echo mounted; mount | grep -c /v/below");
    let admin = json!(["CAP_SYS_ADMIN"]);
    bundle.spec["process"]["capabilities"] =
        json!({"bounding": admin, "effective": admin, "permitted": admin});
    bundle.mount(json!({"destination": "/v", "type": "bind", "source": shared, "options": ["rbind"]}));
    pod.create(&bundle).await.unwrap();
    pod.client.start(&bundle.id).await.unwrap();
    pod.wait(&bundle.id).await;
    assert_eq!(bundle.output(), "mounted\n1\n");
    assert_eq!(host_mounts(&pod), before);
}

#[tokio::test]
async fn masked_and_read_only_paths_behind_links_stay_inside() {
    let Some(pod) = pod().await else { return };
    let canary = Canary::of(&pod);
    let mut bundle = pod.script("cat /secret/file /plain 2>&1");
    link(&bundle, "secret", &canary.0);
    link(&bundle, "plain", &canary.0.join("file"));
    bundle.spec["linux"]["maskedPaths"] = json!(["/secret", "/plain"]);
    bundle.spec["linux"]["readonlyPaths"] = json!(["/secret"]);
    let before = host_mounts(&pod);
    if pod.create(&bundle).await.is_ok() {
        pod.client.start(&bundle.id).await.unwrap();
        pod.wait(&bundle.id).await;
        assert!(!bundle.output().contains("host"), "{}", bundle.output());
    }
    canary.check();
    assert_eq!(host_mounts(&pod), before);
}

#[tokio::test]
async fn the_console_of_an_image_is_no_way_out() {
    let Some(pod) = pod().await else { return };
    let canary = Canary::of(&pod);
    for target in [canary.0.join("file"), "/proc/self/exe".into()] {
        let mut bundle = pod.script("echo on a terminal > /dev/console");
        // Without a file system of its own on /dev, what the image has there is what the console is mounted on.
        let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["destination"] != "/dev");
        bundle.spec["process"]["terminal"] = json!(true);
        link(&bundle, "dev/console", &target);
        if pod.create(&bundle).await.is_ok() {
            pod.client.start(&bundle.id).await.unwrap();
            pod.wait(&bundle.id).await;
        }
        canary.check();
    }
}

/// CVE-2025-52881: what is written for the container goes through a procfs of ours, whatever the container has there.
#[tokio::test]
async fn what_is_written_to_proc_is_not_led_elsewhere() {
    let Some(pod) = pod().await else { return };
    let canary = Canary::of(&pod);
    for target in [canary.0.join("file"), "/proc/sysrq-trigger".into()] {
        let mut bundle = pod.script("cat /proc/sys/net/ipv4/ip_forward");
        link(&bundle, "proc/sys/net/ipv4/ip_forward", &target);
        link(&bundle, "proc/self/attr/exec", &target);
        let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["destination"] != "/proc");
        bundle.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        bundle.spec["process"]["oomScoreAdj"] = json!(500);
        if pod.create(&bundle).await.is_ok() {
            pod.client.delete(&bundle.id).await.unwrap();
        }
        canary.check();
    }
}

/// CVE-2022-36109 and its kin: the shim's own groups are not the container's, and none come back.
#[tokio::test]
async fn groups_are_those_given_and_no_others() {
    let Some(pod) = pod().await else { return };
    for (user, groups) in [
        (json!({"uid": 1000, "gid": 1000}), "1000\n\n"),
        (
            json!({"uid": 1000, "gid": 1000, "additionalGids": [7, 9]}),
            "1000 7 9\n79\n",
        ),
    ] {
        let mut bundle =
            pod.script("id -G; sed -n 's/^Groups:[[:space:]]*//p' /proc/self/status | tr -d ' '");
        bundle.spec["process"]["user"] = user;
        let (_, out) = pod.run(&bundle).await;
        assert_eq!(out, groups);
    }
}

/// An image whose link leads nowhere: what is mounted below it is made inside the root.
#[tokio::test]
async fn mount_targets_below_dangling_links_are_made_inside() {
    let Some(pod) = pod().await else { return };
    let volume = pod.home.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("file"), "volume").unwrap();
    let nowhere = pod.home.path().join("nowhere");
    let mut bundle = pod.script("cat /a/y/file");
    link(&bundle, "a", &nowhere);
    bundle.mount(json!({"destination": "/a/y", "type": "bind", "source": volume, "options": ["rbind"]}));
    let (code, out) = pod.run(&bundle).await;
    assert_eq!((code, out.as_str()), (0, "volume\n"));
    assert!(!nowhere.exists());
}

/// Tries to change what could be the host's `/dev/null`: streams and what covers files. Says what it did.
const CHANGE_NULL: &str = "for file in /proc/self/fd/0 /proc/kcore /proc/keys /proc/timer_list; do \
    chmod 666 $file && echo mode of $file; touch -d @1 $file && echo time of $file; done 2>/tmp/errors; echo tried";

/// It belongs to the host's root, who root in a container is as well: that needs no capability.
#[tokio::test]
async fn the_hosts_null_device_is_nobodys_to_change() {
    let Some(pod) = pod().await else { return };
    let seen = || {
        fs::metadata("/dev/null")
            .map(|m| (m.mode(), m.uid(), m.mtime()))
            .unwrap()
    };
    let before = seen();
    let mut bundle = pod.script(&format!("{CHANGE_NULL}; sleep 1000"));
    bundle.spec["process"]["capabilities"] = json!({});
    pod.create(&bundle).await.unwrap();
    pod.client.start(&bundle.id).await.unwrap();
    pod.until_logged(&bundle, "tried").await;
    let out = format!("cri://{}", bundle.log.display());
    let task = ExecTask {
        id: bundle.id.clone(),
        exec_id: "e".into(),
        stdout: out.clone(),
        stderr: out,
        process: json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["sh", "-c", CHANGE_NULL], "env": ["PATH=/bin"]}),
        ..Default::default()
    };
    pod.client.exec(&task).await.unwrap();
    pod.client.start((bundle.id.as_str(), "e")).await.unwrap();
    pod.client.wait((bundle.id.as_str(), "e")).await.unwrap();
    assert_eq!(bundle.output(), "tried\ntried\n");
    assert_eq!(seen(), before);
}

/// Those of the command line are its caller's.
#[test]
fn nor_by_the_command_line() {
    let Some(oci) = oci("null") else { return };
    let mut bundle = oci.bundle(&format!("{CHANGE_NULL}; sleep 1000"));
    bundle.spec["process"]["capabilities"] = json!({});
    oci.create(&bundle);
    oci.ok(&["start", "c"]);
    oci.until_said(&bundle, "tried\n");
    let exec = oci
        .command(&["exec", "c", "sh", "-c", CHANGE_NULL])
        .stdin(Stdio::null())
        .output();
    assert_eq!(text(&exec.unwrap().stdout), "tried\n");
}

/// Who reads nothing has the host's `/dev/null`, which is not to become his.
#[tokio::test]
async fn devices_of_the_host_keep_their_owner() {
    let Some(pod) = pod().await else { return };
    let owner = || fs::metadata("/dev/null").map(|m| (m.uid(), m.gid())).unwrap();
    let before = owner();
    let mut bundle = pod.script("echo ran > /dev/stdout");
    let stranger = before.0 + 4242;
    bundle.spec["process"]["user"] = json!({"uid": stranger, "gid": stranger});
    assert_eq!(pod.run(&bundle).await.1, "ran\n");
    assert_eq!(owner(), before);
}
