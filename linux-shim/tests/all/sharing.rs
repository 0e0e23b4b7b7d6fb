//! Containers of a sandbox that share their processes.

use std::fs;

use serde_json::json;

use crate::harness::{Bundle, PATIENCE, Pod, pod};

/// A container whose processes are those of its sandbox.
fn sharing(pod: &Pod, script: &str) -> Bundle {
    let mut bundle = pod.script(script);
    bundle.spec["annotations"]["dev.amphipod.linux/processes"] = json!("sandbox");
    bundle
}

#[tokio::test]
async fn processes_are_shared_by_those_who_say_so() {
    let Some(pod) = pod().await else { return };
    let first = sharing(&pod, "exec sleep 1234567");
    pod.create(&first).await.unwrap();
    pod.client.start(&first.id).await.unwrap();
    let (_, seen) = pod.run(&sharing(&pod, "ps -o pid,comm,args")).await;
    assert!(seen.contains("sleep 1234567") && seen.contains("pause"), "{seen}");
    let (_, line) = pod.run(&sharing(&pod, "tr '\\0' ' ' </proc/1/cmdline")).await;
    assert_eq!(line.trim(), "/pause", "what the shim was called with is nobody's");
    let (_, alone) = pod.sh("ps -o args").await;
    assert!(!alone.contains("1234567"), "{alone}");
    // One that is not taken in would stay as a zombie.
    let orphan = "(usleep 50000 &); while ps -o comm | grep -q '^usleep'; do :; done; echo gone";
    assert_eq!(pod.run(&sharing(&pod, orphan)).await.1, "gone\n");
    let left = pod.run(&sharing(&pod, "sleep 7654321 & exit 3")).await;
    assert_eq!(left.0, 3);
    let (_, seen) = pod.run(&sharing(&pod, "ps -o args")).await;
    assert!(
        !seen.contains("7654321") && seen.contains("1234567"),
        "what a container leaves goes with it, others stay: {seen}"
    );
}

/// Not only when it is removed, and not by the end of a PID namespace: it has none.
#[tokio::test]
async fn what_a_container_leaves_in_the_hosts_namespace_ends_with_it() {
    let Some(pod) = pod().await else { return };
    let mut bundle = pod.script("sleep 7654322 & exit 3");
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    pod.create(&bundle).await.unwrap();
    pod.client.start(&bundle.id).await.unwrap();
    assert_eq!(pod.wait(&bundle.id).await.status, 3);
    let left = async {
        while !pod.client.pids(&bundle.id).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, left).await.expect("it lives on");
}

/// The init of shared processes can be looked at by whoever may trace everybody: there is nothing to be found.
#[tokio::test]
async fn the_init_of_shared_processes_leads_nowhere() {
    let Some(pod) = pod().await else { return };
    let canary = pod.home.path().join("canary");
    fs::write(&canary, "host").unwrap();
    let look = format!(
        "ls -A /proc/1/root; cat /proc/1/root{}; ls /proc/1/fd | wc -l; grep -c . /proc/1/mountinfo; \
         grep -E '^(Uid|Cap(Eff|Prm)|NoNewPrivs)' /proc/1/status | tr -s '\\t' ' '; \
         (readlink /proc/1/ns/net; readlink /proc/self/ns/net) | sort -u | wc -l; kill -9 1; echo alive; \
         echo x > /proc/1/root/made; nsenter -t 1 -m -- /bin/sh -c 'echo in'",
        canary.display()
    );
    let mut bundle = sharing(&pod, &format!("({look}) 2>/dev/null"));
    let all: Vec<String> = caps::all().iter().map(ToString::to_string).collect();
    for set in ["bounding", "effective", "permitted"] {
        bundle.spec["process"]["capabilities"][set] = json!(all);
    }
    let other = pod.bundle(&["sleep", "1000"]);
    let pid = pod.create(&other).await.unwrap();
    let join = |kind: &str, file: &str| json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")});
    bundle.spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "cgroup"}, {"type": "pid"},
        join("network", "net"), join("uts", "uts"), join("ipc", "ipc")]);
    let (_, seen) = pod.run(&bundle).await;
    let nobody =
        "Uid: 65535 65535 65535 65535\nCapPrm: 0000000000000000\nCapEff: 0000000000000000\nNoNewPrivs: 1\n";
    assert_eq!(seen, format!("0\n1\n{nobody}1\nalive\n"));
    assert_eq!(fs::read_to_string(&canary).unwrap(), "host");
}
