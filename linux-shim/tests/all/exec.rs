//! Other processes in a running container.

use std::time::Duration;

use amphipod_shim_api::client::ExecTask;
use amphipod_shim_api::{TaskError, TaskStatus};
use serde_json::{Value, json};

use crate::harness::{Bundle, PATIENCE, Pod, pod};

/// Later than a client has any reason to be, and sooner than it is given up.
const LATE: Duration = Duration::from_millis(100);

fn process(args: &[&str]) -> Value {
    let caps = json!(["CAP_KILL"]);
    json!({"user": {"uid": 0, "gid": 0}, "cwd": "/tmp", "args": args, "env": ["PATH=/bin", "X=y"],
        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps}})
}

async fn running(pod: &Pod) -> Bundle {
    let bundle = pod.bundle(&["sleep", "1000"]);
    pod.create(&bundle).await.unwrap();
    pod.client.start(&bundle.id).await.unwrap();
    bundle
}

async fn exec(pod: &Pod, bundle: &Bundle, id: &str, process: Value) -> Result<u32, TaskError> {
    let out = format!("cri://{}", bundle.log.display());
    let task = ExecTask {
        id: bundle.id.clone(),
        exec_id: id.into(),
        stdout: out.clone(),
        stderr: out,
        process,
        ..Default::default()
    };
    pod.client.exec(&task).await?;
    pod.client.start((bundle.id.as_str(), id)).await?;
    let exit = tokio::time::timeout(PATIENCE, pod.client.wait((bundle.id.as_str(), id)))
        .await
        .unwrap()?;
    pod.client.delete((bundle.id.as_str(), id)).await?;
    Ok(exit.status)
}

#[tokio::test]
async fn it_may_come_before_the_program() {
    let Some(pod) = pod().await else { return };
    let bundle = pod.bundle(&["cat", "/tmp/left"]);
    pod.create(&bundle).await.unwrap();
    let left = process(&["sh", "-c", "echo left > /tmp/left"]);
    assert_eq!(exec(&pod, &bundle, "e1", left).await.unwrap(), 0);
    let state = pod.client.state(&bundle.id).await.unwrap();
    assert_eq!(state.status, TaskStatus::Created);
    pod.client.start(&bundle.id).await.unwrap();
    pod.wait(&bundle.id).await;
    assert_eq!(bundle.output(), "left\n");
}

#[tokio::test]
async fn it_is_in_the_container_with_its_own_words() {
    let Some(pod) = pod().await else { return };
    let bundle = running(&pod).await;
    let script =
        "ps -o args | grep -c '^sleep 1000'; hostname; pwd; echo $X; grep CapBnd /proc/self/status; exit 9";
    assert_eq!(
        exec(&pod, &bundle, "e1", process(&["sh", "-c", script]))
            .await
            .unwrap(),
        9
    );
    assert_eq!(bundle.output(), "1\nbox\n/tmp\ny\nCapBnd:\t0000000000000020\n");
    assert_eq!(
        pod.client.state(&bundle.id).await.unwrap().status,
        TaskStatus::Running
    );
    let procs = pod.client.pids(&bundle.id).await.unwrap();
    assert_eq!(procs.len(), 1);
}

#[tokio::test]
async fn errors_leave_the_container_alone() {
    let Some(pod) = pod().await else { return };
    let bundle = running(&pod).await;
    let error = exec(&pod, &bundle, "e1", process(&["nosuch"]))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(r#"exec: "nosuch": executable file not found in $PATH"#),
        "{error}"
    );
    assert_eq!(
        pod.client.state(&bundle.id).await.unwrap().status,
        TaskStatus::Running
    );
    pod.client.kill(&bundle.id, 9, false).await.unwrap();
    pod.wait(&bundle.id).await;
    let late = exec(&pod, &bundle, "e2", process(&["true"])).await;
    assert!(matches!(late, Err(TaskError::FailedPrecondition(_))), "{late:?}");
}

#[tokio::test]
async fn it_ends_with_its_container() {
    let Some(pod) = pod().await else { return };
    let bundle = running(&pod).await;
    let ended = exec(&pod, &bundle, "e1", process(&["sh", "-c", "echo up; sleep 1000"]));
    let kill = async {
        pod.until_logged(&bundle, "up").await;
        pod.client.kill(&bundle.id, 9, true).await.unwrap();
    };
    assert_eq!(tokio::join!(ended, kill).0.unwrap(), 137);
}

#[tokio::test]
async fn it_may_be_waited_for_before_it_starts() {
    let Some(pod) = pod().await else { return };
    let bundle = running(&pod).await;
    let task = ExecTask {
        id: bundle.id.clone(),
        exec_id: "e".into(),
        process: process(&["sh", "-c", "exit 4"]),
        ..Default::default()
    };
    pod.client.exec(&task).await.unwrap();
    let process = (bundle.id.as_str(), "e");
    let start = async {
        tokio::task::yield_now().await;
        pod.client.start(process).await.unwrap();
    };
    let both = async { tokio::join!(pod.client.wait(process), start).0 };
    assert_eq!(
        tokio::time::timeout(PATIENCE, both)
            .await
            .unwrap()
            .unwrap()
            .status,
        4
    );
}

/// A client that opens its ends late keeps nobody else from anything.
#[tokio::test]
async fn clients_are_waited_for_side_by_side() {
    let Some(pod) = pod().await else { return };
    let bundle = running(&pod).await;
    let late = |id: &'static str| {
        let (pod, bundle) = (&pod, &bundle);
        async move {
            let path = pod.home.path().join(id);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            let task = ExecTask {
                id: bundle.id.clone(),
                exec_id: id.into(),
                stdout: path.display().to_string(),
                process: process(&["echo", id]),
                ..Default::default()
            };
            pod.client.exec(&task).await.unwrap();
            let reading = async {
                tokio::time::sleep(LATE).await;
                tokio::fs::read_to_string(&path).await.unwrap()
            };
            let started = pod.client.start((bundle.id.as_str(), id));
            let (started, read) = tokio::join!(started, reading);
            started.unwrap();
            assert_eq!(read.trim_end(), id);
        }
    };
    tokio::join!(late("e1"), late("e2"), late("e3"));
    assert_eq!(exec(&pod, &bundle, "e4", process(&["true"])).await.unwrap(), 0);
}

/// However many ask at once, it runs once.
#[tokio::test]
async fn it_is_started_once() {
    let Some(pod) = pod().await else { return };
    let bundle = running(&pod).await;
    let path = pod.home.path().join("out");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let task = ExecTask {
        id: bundle.id.clone(),
        exec_id: "e".into(),
        stdout: path.display().to_string(),
        process: process(&["echo", "ran"]),
        ..Default::default()
    };
    pod.client.exec(&task).await.unwrap();
    let start = || pod.client.start((bundle.id.as_str(), "e"));
    let reading = async {
        tokio::time::sleep(LATE).await;
        tokio::fs::read_to_string(&path).await.unwrap()
    };
    let (one, other, read) = tokio::join!(start(), start(), reading);
    assert_eq!(read, "ran\n");
    let refused = [one, other]
        .into_iter()
        .filter_map(Result::err)
        .collect::<Vec<_>>();
    assert!(
        matches!(refused[..], [TaskError::FailedPrecondition(_)]),
        "{refused:?}"
    );
}
