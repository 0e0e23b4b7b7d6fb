//! Known ways out of a container, tried. Canary files on the host are compared before and after.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::harness::{Bundle, Pod, SHIM, pod};

/// A host directory nobody may touch.
struct Canary(std::path::PathBuf);

impl Canary {
    fn of(pod: &Pod) -> Self {
        let dir = pod.home.path().join("canary");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("file"), "host").unwrap();
        Self(dir)
    }

    fn check(&self) {
        assert_eq!(fs::read_to_string(self.0.join("file")).unwrap(), "host");
        assert_eq!(
            fs::read_dir(&self.0).unwrap().count(),
            1,
            "something was made in the canary's directory"
        );
    }
}

/// A layer whose `/data` (and more) leads out.
fn link(bundle: &Bundle, name: &str, target: &std::path::Path) {
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
    for (name, target) in [
        ("absolute", canary.0.clone()),
        (
            "relative",
            std::path::Path::new("../../../../../..").join(canary.0.strip_prefix("/").unwrap()),
        ),
    ] {
        let mut bundle = pod.script("echo ran");
        link(&bundle, name, &target);
        bundle.mount(json!({"destination": format!("/{name}/sub"), "type": "bind", "source": volume, "options": ["rbind"]}));
        bundle.mount(json!({"destination": format!("/{name}/file"), "type": "bind", "source": "/etc/hostname", "options": ["bind"]}));
        // Refused or contained, both are well.
        if pod.create(&bundle).await.is_ok() {
            pod.client.start(&bundle.id).await.unwrap();
            pod.wait(&bundle.id).await;
        }
        canary.check();
    }
}

#[tokio::test]
async fn proc_and_sys_behind_links_are_refused() {
    let Some(pod) = pod().await else { return };
    for name in ["proc", "sys"] {
        let bundle = pod.script("true");
        fs::create_dir_all(bundle.dir.join("upper/elsewhere")).unwrap();
        link(&bundle, name, std::path::Path::new("/elsewhere"));
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

#[tokio::test]
async fn a_working_directory_swapped_for_a_magic_link_is_refused() {
    let Some(pod) = pod().await else { return };
    for target in ["/proc/self/fd/8", "/proc/self/fd/7/../../..", "/proc/1/root"] {
        let mut bundle = pod.script("pwd");
        link(&bundle, "work", std::path::Path::new(target));
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
        link(&bundle, "bin/link", std::path::Path::new("/proc/self/exe"));
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
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
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
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
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
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    if pod.create(&bundle).await.is_ok() {
        pod.client.start(&bundle.id).await.unwrap();
        pod.wait(&bundle.id).await;
        assert!(!bundle.output().contains("host"), "{}", bundle.output());
    }
    canary.check();
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
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

/// Somebody who shares the volume puts a link in the place of the directory that is to be mounted on, again and again.
#[tokio::test]
async fn a_mount_target_swapped_while_it_is_made_stays_inside() {
    let Some(pod) = pod().await else { return };
    let canary = Canary::of(&pod);
    let shared = pod.home.path().join("shared");
    fs::create_dir_all(shared.join("target")).unwrap();
    let out = std::path::Path::new("../../../../../../../..").join(canary.0.strip_prefix("/").unwrap());
    symlink(out, shared.join("link")).unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapper = {
        let (stop, shared) = (std::sync::Arc::clone(&stop), shared.clone());
        std::thread::spawn(move || {
            let dir = fs::File::open(&shared).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let swap = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                nix::fcntl::renameat2(&dir, "target", &dir, "link", swap).unwrap();
            }
        })
    };
    for _ in 0..20 {
        let mut bundle = pod.script("cat /v/target/file /v/link/file 2>/dev/null; true");
        bundle.mount(json!({"destination": "/v", "type": "bind", "source": shared, "options": ["rbind"]}));
        bundle.mount(json!({"destination": "/v/target/made", "type": "tmpfs", "source": "tmpfs"}));
        if pod.create(&bundle).await.is_ok() {
            pod.client.start(&bundle.id).await.unwrap();
            pod.wait(&bundle.id).await;
            pod.client.delete(&bundle.id).await.unwrap();
            assert_eq!(bundle.output(), "");
        }
        canary.check();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    swapper.join().unwrap();
}
