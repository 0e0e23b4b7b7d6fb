//! From Create to Delete: codes, signals, states, and what is left behind.

use amphipod_shim_api::{TaskError, TaskStatus, oom};
use serde_json::json;

use crate::harness::pod;

#[tokio::test]
async fn a_container_runs_and_is_gone() {
    let Some(pod) = pod().await else { return };
    let bundle = pod.script("echo out; echo err >&2; exit 7");
    let pid = pod.create(&bundle).await.unwrap();
    assert_eq!(
        pod.client.state(&bundle.id).await.unwrap().status,
        TaskStatus::Created
    );
    assert_eq!(pod.client.start(&bundle.id).await.unwrap(), pid);
    let exit = pod.wait(&bundle.id).await;
    assert_eq!(exit.status, 7);
    let state = pod.client.state(&bundle.id).await.unwrap();
    assert_eq!((state.status, state.exit), (TaskStatus::Stopped, Some(exit)));
    let log = std::fs::read_to_string(&bundle.log).unwrap();
    assert!(
        log.contains(" stdout F out\n") && log.contains(" stderr F err\n"),
        "{log}"
    );
    assert_eq!(pod.client.delete(&bundle.id).await.unwrap(), exit);
    assert!(matches!(
        pod.client.state(&bundle.id).await,
        Err(TaskError::NotFound(_))
    ));
    assert!(!oom::happened(&bundle.dir));
    pod.client.shutdown("").await.unwrap();
}

#[tokio::test]
async fn it_is_alone_in_its_namespaces() {
    let Some(pod) = pod().await else { return };
    let (status, out) = pod.sh("echo $$; hostname; ls /; ls /proc/self/fd | wc -l; cat /proc/self/cgroup; ip link | wc -l; ps | wc -l; pwd; echo $HOME").await;
    println!("{out}");
    assert_eq!(status, 0, "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(&lines[..2], ["1", "box"]);
}

#[tokio::test]
async fn a_missing_command_is_a_create_error() {
    let Some(pod) = pod().await else { return };
    let bundle = pod.bundle(&["nosuch"]);
    let error = pod.create(&bundle).await.unwrap_err().to_string();
    assert!(
        error.contains(r#"exec: "nosuch": executable file not found in $PATH"#),
        "{error}"
    );
    assert!(matches!(
        pod.client.state(&bundle.id).await,
        Err(TaskError::NotFound(_))
    ));
}

#[tokio::test]
async fn memory_beyond_the_limit_is_an_oom_kill() {
    let Some(pod) = pod().await else { return };
    let mut bundle = pod.script("x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done");
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    let (status, out) = pod.run(&bundle).await;
    assert_eq!(status, 137, "{out}");
    assert!(oom::happened(&bundle.dir));
}
