//! Cgroups: limits hold, use is counted, running out of memory is told.

use amphipod_shim_api::oom;
use serde_json::json;

use crate::harness::{Pod, limitable};

/// `None`, having said why, where the host cannot limit.
async fn pod(controllers: &[&str]) -> Option<Pod> {
    if let Some(missing) = controllers.iter().find(|c| !limitable(c)) {
        eprintln!("skipped: this host has no {missing} controller");
        return None;
    }
    crate::harness::pod().await
}

#[tokio::test]
async fn memory_beyond_the_limit_is_an_oom_kill() {
    let Some(pod) = pod(&["memory"]).await else { return };
    let mut bundle = pod.script("x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done");
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    let (status, out) = pod.run(&bundle).await;
    assert_eq!(status, 137, "{out}");
    assert!(oom::happened(&bundle.dir));
}

#[tokio::test]
async fn a_container_that_outlives_a_child_killed_for_memory_is_not_oom_killed() {
    let Some(pod) = pod(&["memory"]).await else { return };
    let mut bundle =
        pod.script("sh -c 'x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done'; echo child ended by $?; exit 3");
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    assert_eq!(pod.run(&bundle).await, (3, "Killed\nchild ended by 137\n".into()));
    assert!(!oom::happened(&bundle.dir));
}

#[tokio::test]
async fn processes_are_limited() {
    let Some(pod) = pod(&["pids"]).await else { return };
    let mut bundle = pod.script("i=0; while [ $i -lt 20 ]; do sleep 5 & i=$((i+1)); done; echo no limit");
    bundle.spec["linux"]["resources"]["pids"] = json!({"limit": 8});
    let (status, out) = pod.run(&bundle).await;
    assert!(status != 0 && out.contains("fork"), "{status} {out}");
}

#[tokio::test]
async fn use_is_counted_and_limits_change() {
    let Some(pod) = pod(&["memory", "cpu"]).await else {
        return;
    };
    let mut bundle = pod.script("while true; do :; done");
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    bundle.spec["linux"]["resources"]["cpu"] = json!({"shares": 256, "quota": 20_000, "period": 100_000});
    pod.create(&bundle).await.unwrap();
    pod.client.start(&bundle.id).await.unwrap();
    assert_eq!(pod.client.stats(&bundle.id).await.unwrap().memory_limit, 64 << 20);
    let used = async {
        while pod.client.stats(&bundle.id).await.unwrap().cpu_usage_nanos < 30_000_000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::harness::PATIENCE, used)
        .await
        .unwrap();
    assert_eq!(pod.client.pids(&bundle.id).await.unwrap().len(), 1);
    let smaller = serde_json::from_value(json!({"memory": {"limit": 32 << 20}})).unwrap();
    pod.client.update(&bundle.id, &smaller).await.unwrap();
    assert_eq!(pod.client.stats(&bundle.id).await.unwrap().memory_limit, 32 << 20);
}

/// Whoever updates sends what the container was made with, which denies all devices.
#[tokio::test]
async fn an_update_takes_no_devices() {
    let Some(pod) = pod(&["cpu"]).await else { return };
    let denied = json!({"devices": [{"allow": false, "access": "rwm"}], "cpu": {"shares": 256}});
    let mut bundle = pod.script("echo x > /dev/null && echo opened");
    bundle.spec["linux"]["resources"] = denied.clone();
    pod.create(&bundle).await.unwrap();
    let denied = serde_json::from_value(denied).unwrap();
    pod.client.update(&bundle.id, &denied).await.unwrap();
    pod.client.start(&bundle.id).await.unwrap();
    assert_eq!(pod.wait(&bundle.id).await.status, 0, "{}", bundle.output());
    assert_eq!(bundle.output(), "opened\n");
}

#[tokio::test]
async fn resource_limits_and_oom_score_are_set_where_the_host_allows() {
    let Some(pod) = pod(&[]).await else { return };
    let mut bundle = pod.script("ulimit -n; cat /proc/self/oom_score_adj");
    bundle.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}]);
    bundle.spec["process"]["oomScoreAdj"] = json!(500);
    assert_eq!(pod.run(&bundle).await, (0, "100\n500\n".into()));
    // More than the host may allow is no error: it stays as it is.
    let mut bundle = pod.script("echo ran");
    bundle.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 1 << 40, "hard": 1 << 40},
        {"type": "RLIMIT_NOFILE", "soft": 1 << 30, "hard": 1 << 30}]);
    bundle.spec["process"]["oomScoreAdj"] = json!(-997);
    assert_eq!(pod.run(&bundle).await, (0, "ran\n".into()));
}
