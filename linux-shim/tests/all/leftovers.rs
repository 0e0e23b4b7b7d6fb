//! Nothing is left: of containers that ended, of a shim that was killed, of the shim itself.

use std::fs;
use std::sync::Arc;

use amphipod_shim_api::TaskError;
use amphipod_shim_api::cgroup::CgroupHost;
use amphipod_shim_api::start::SHIMS;
use amphipod_shim_api::systemd;

use crate::harness::{PATIENCE, Pod, command, host_mounts, pod};

#[derive(Debug, PartialEq)]
struct Left {
    mounts: usize,
    descriptors: usize,
    children: usize,
    cgroups: usize,
}

fn left(pod: &Pod) -> Left {
    let shim = pod.shims()[0];
    let proc = format!("/proc/{shim}");
    let children = fs::read_to_string(format!("{proc}/task/{shim}/children")).unwrap();
    let cgroups = CgroupHost::discover()
        .unwrap()
        .cgroup_everywhere(&format!("{}/pod", pod.namespace))
        .unwrap();
    let dirs = cgroups
        .directories()
        .map(|(_, dir)| dir.to_path_buf())
        .collect::<Vec<_>>();
    let entries = |dir: &std::path::PathBuf| {
        let all = fs::read_dir(dir).into_iter().flatten();
        all.filter(|e| e.as_ref().is_ok_and(|e| e.path().is_dir()))
            .count()
    };
    Left {
        mounts: fs::read_to_string(format!("{proc}/mountinfo"))
            .unwrap()
            .lines()
            .filter(|line| line.contains(&pod.home.path().display().to_string()))
            .count(),
        descriptors: fs::read_dir(format!("{proc}/fd")).unwrap().count(),
        children: children.split_whitespace().count(),
        cgroups: dirs.iter().map(entries).sum(),
    }
}

#[tokio::test]
async fn nothing_of_containers_that_ended() {
    let Some(pod) = pod().await else { return };
    pod.sh("true").await;
    let before = left(&pod);
    assert_eq!((before.children, before.cgroups), (0, 0));
    let runs = (0..8).map(|_| async {
        let bundle = pod.script("sleep 1000 & echo hi");
        assert_eq!(pod.run(&bundle).await.0, 0);
        let mut failing = pod.bundle(&["nosuch"]);
        let socket = failing.dir.join("attach.sock");
        failing.spec["annotations"]["dev.amphipod.linux/attach"] = socket.to_str().into();
        assert!(pod.create(&failing).await.is_err());
        until(|| !socket.exists()).await;
    });
    for run in runs {
        run.await;
    }
    // A socket is closed after its path is gone.
    until(|| left(&pod) == before).await;
}

async fn until(seen: impl Fn() -> bool) {
    let all = async {
        while !seen() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .expect("something stays");
}

/// How many containers [`many_in_a_row`] starts and removes, unless `AMPHIPOD_CONTAINERS` says so.
const IN_A_ROW: usize = 40;

/// Everything of the host that belongs to a test: processes, cgroups, mounts, files.
fn on_the_host(pod: &Pod) -> Vec<String> {
    let home = pod.home.path().display().to_string();
    let mut found: Vec<String> = host_mounts(pod).lines().map(str::to_owned).collect();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if cgroup.contains(&format!("{}/pod", pod.namespace)) {
            found.push(entry.path().display().to_string());
        }
    }
    for dir in [&home, &format!("/run/amphipod/{}", pod.namespace)] {
        let files = fs::read_dir(dir).into_iter().flatten().flatten();
        found.extend(files.map(|f| f.path().display().to_string()));
    }
    found.sort();
    found
}

/// One after another through one shim: nothing grows with their number.
#[tokio::test]
async fn many_in_a_row() {
    let Some(pod) = pod().await else { return };
    let number = std::env::var("AMPHIPOD_CONTAINERS").map_or(IN_A_ROW, |n| n.parse().unwrap());
    let life = async || {
        let bundle = pod.bundle(&["true"]);
        let (status, _) = pod.run(&bundle).await;
        fs::remove_dir_all(&bundle.dir).unwrap();
        assert_eq!(status, 0);
    };
    // What is made once is made by the first ones.
    life().await;
    let (before, host) = (left(&pod), on_the_host(&pod));
    let begun = std::time::Instant::now();
    for _ in 0..number {
        life().await;
    }
    let took = begun.elapsed();
    assert_eq!(left(&pod), before);
    assert_eq!(on_the_host(&pod), host);
    let memory = fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.shims()[0])).unwrap();
    let memory = memory.lines().find(|l| l.starts_with("Anonymous:"));
    eprintln!(
        "{number} containers in {took:?}; the shim's {}",
        memory.unwrap_or_default()
    );
}

#[tokio::test]
async fn many_at_once() {
    let Some(pod) = pod().await else { return };
    let pod = Arc::new(pod);
    let runs: Vec<_> = (0..32)
        .map(|code| {
            let pod = Arc::clone(&pod);
            tokio::spawn(async move { pod.sh(&format!("exit {code}")).await.0 })
        })
        .collect();
    for (code, run) in (0..).zip(runs) {
        assert_eq!(run.await.unwrap(), code);
    }
    let left = left(&pod);
    assert_eq!((left.children, left.cgroups), (0, 0));
    let parent = CgroupHost::discover()
        .unwrap()
        .cgroup_everywhere(&format!("{}/pod", pod.namespace))
        .unwrap();
    assert!(!parent.exists(), "the last container removes the Pod's cgroup");
}

#[tokio::test]
async fn a_dead_shim_is_cleaned_up_after() {
    let Some(pod) = pod().await else { return };
    let bundle = pod.bundle(&["sleep", "1000"]);
    let pid = pod.create(&bundle).await.unwrap();
    pod.client.start(&bundle.id).await.unwrap();
    let shim = nix::unistd::Pid::from_raw(pod.shims()[0]);
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).unwrap();
    let lost = tokio::time::timeout(PATIENCE, pod.client.wait(&bundle.id))
        .await
        .unwrap();
    assert!(matches!(lost, Err(TaskError::Disconnected(_))), "{lost:?}");
    let exit = command(&pod.namespace)
        .delete(&bundle.id, &bundle.dir)
        .await
        .unwrap();
    assert_eq!(exit.status, 137);
    assert!(!fs::exists(format!("/proc/{pid}/root/bin")).unwrap_or(false));
    let cgroup = CgroupHost::discover()
        .unwrap()
        .cgroup_everywhere(&format!("{}/pod/{}", pod.namespace, bundle.id))
        .unwrap();
    assert!(!cgroup.exists());
    // A new shim takes the group's place.
    command(&pod.namespace)
        .start(&bundle.id, &bundle.dir)
        .await
        .unwrap();
}

/// Everybody in a container's cgroup ends with it, so that nobody else may be there.
#[tokio::test]
async fn a_cgroup_that_holds_others_is_refused() {
    let Some(pod) = pod().await else { return };
    let place = format!("{}/pod/shared", pod.namespace);
    let cgroup = CgroupHost::discover().unwrap().cgroup_everywhere(&place).unwrap();
    cgroup.create().unwrap();
    let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    cgroup.join(stranger.id()).unwrap();
    let in_it = || {
        let mut bundle = pod.script("exit 3");
        bundle.spec["linux"]["cgroupsPath"] = format!("/{place}").into();
        bundle
    };
    let refused = pod.create(&in_it()).await.unwrap_err();
    assert!(matches!(refused, TaskError::FailedPrecondition(_)), "{refused:?}");
    assert!(stranger.try_wait().unwrap().is_none(), "it was taken along");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert_eq!(pod.run(&in_it()).await.0, 3);
}

#[tokio::test]
async fn the_shim_leaves_when_it_is_asked_and_empty() {
    let Some(pod) = pod().await else { return };
    let bundle = pod.bundle(&["sleep", "1000"]);
    pod.create(&bundle).await.unwrap();
    pod.client.shutdown("").await.unwrap();
    pod.client.state(&bundle.id).await.unwrap();
    pod.client.delete(&bundle.id).await.unwrap();
    pod.client.shutdown("").await.unwrap();
    let gone = async {
        while !pod.shims().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the shim is still there");
    let directory = format!("/run/amphipod/{}/s", pod.namespace);
    let files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(files, ["lock"]);
}

#[tokio::test]
async fn the_shim_is_in_no_cgroup_of_its_starter() {
    let Some(pod) = pod().await else { return };
    if systemd::is_running() {
        let shim = pod.shims()[0];
        let cgroup = fs::read_to_string(format!("/proc/{shim}/cgroup")).unwrap();
        let scope = format!("/{}/", systemd::names::cluster_slice(&pod.namespace));
        assert!(cgroup.contains(&scope) && cgroup.contains("-shim-"), "{cgroup}");
        return;
    }
    let shims = CgroupHost::discover()
        .unwrap()
        .cgroup_everywhere(&format!("{}/{SHIMS}", pod.namespace))
        .unwrap();
    for (name, dir) in shims.directories() {
        let inside = fs::read_to_string(dir.join("cgroup.procs")).unwrap();
        let inside: Vec<i32> = inside.lines().map(|l| l.parse().unwrap()).collect();
        assert_eq!(inside, pod.shims(), "{name}");
    }
    assert_eq!(pod.sh("exit 4").await.0, 4);
}

/// The specification's lifecycle goes on with them where one before the start fails.
#[tokio::test]
async fn hooks_after_the_end_are_run_for_a_container_that_did_not_come_to_be() {
    let Some(pod) = pod().await else { return };
    for moment in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = pod.bundle(&["sleep", "1000"]);
        let told = pod.home.path().join(moment);
        let script = format!("grep -o '\"status\":\"[a-z]*\"' >> {}", told.display());
        bundle.spec["hooks"] = serde_json::json!({moment: [{"path": "/bin/false"}],
            "poststop": [{"path": "/bin/false"}, {"path": "/bin/sh", "args": ["sh", "-c", script]}]});
        let error = pod.create(&bundle).await.unwrap_err().to_string();
        assert!(error.contains("/bin/false"), "{error}");
        let seen = fs::read_to_string(&told).unwrap_or_default();
        assert_eq!(seen, "\"status\":\"stopped\"\n", "{moment}");
        // What containerd asks of a container that was not made finds nothing.
        let command = command(&pod.namespace);
        command.delete(&bundle.id, &bundle.dir).await.unwrap();
        assert_eq!(fs::read_to_string(&told).unwrap(), seen, "{moment}");
    }
}

/// As runc's shim has it: `delete` of what a dead shim left is the container's end.
#[tokio::test]
async fn hooks_after_the_end_are_run_for_a_shim_that_was_killed() {
    let Some(pod) = pod().await else { return };
    let mut bundle = pod.bundle(&["sleep", "1000"]);
    let told = pod.home.path().join("told");
    let script = format!("grep -o '\"status\":\"[a-z]*\"' >> {}", told.display());
    bundle.spec["hooks"] = serde_json::json!({"poststop": [{"path": "/bin/false"}, {"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    pod.create(&bundle).await.unwrap();
    pod.client.start(&bundle.id).await.unwrap();
    let shim = nix::unistd::Pid::from_raw(pod.shims()[0]);
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).unwrap();
    // The second one finds nothing.
    for _ in 0..2 {
        let exit = command(&pod.namespace)
            .delete(&bundle.id, &bundle.dir)
            .await
            .unwrap();
        assert_eq!(exit.status, 137);
        assert_eq!(fs::read_to_string(&told).unwrap(), "\"status\":\"stopped\"\n");
    }
}
