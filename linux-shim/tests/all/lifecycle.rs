//! From Create to Delete: codes, signals, states.

use amphipod_shim_api::{TaskClient, TaskError, TaskStatus, oom};

use crate::harness::{PATIENCE, pod, pod_by};

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
}

#[tokio::test]
async fn it_is_alone_in_its_namespaces() {
    let Some(pod) = pod().await else { return };
    let (status, out) =
        pod.sh("echo $$; hostname; ls / | tr '\\n' ' '; echo; cat /proc/self/cgroup | cut -d: -f3 | sort -u; pwd; echo $HOME").await;
    assert_eq!(
        (status, out.as_str()),
        (0, "1\nbox\nbin data dev etc proc sys tmp \n/\n/\n/root\n")
    );
}

#[tokio::test]
async fn what_is_not_there_is_a_create_error() {
    let Some(pod) = pod().await else { return };
    for (command, words) in [
        ("nosuch", r#"exec: "nosuch": executable file not found in $PATH"#),
        (
            "/no/such",
            r#"exec: "/no/such": stat /no/such: no such file or directory"#,
        ),
        (
            "/etc/passwd",
            r#"exec: "/etc/passwd": stat /etc/passwd: permission denied"#,
        ),
    ] {
        let bundle = pod.bundle(&[command]);
        let error = pod.create(&bundle).await.unwrap_err().to_string();
        assert!(
            error.contains("unable to start container process") && error.contains(words),
            "{error}"
        );
        assert!(matches!(
            pod.client.state(&bundle.id).await,
            Err(TaskError::NotFound(_))
        ));
    }
}

#[tokio::test]
async fn a_program_that_cannot_run_is_a_start_error() {
    let Some(pod) = pod().await else { return };
    let bundle = pod.bundle(&["/bin/broken"]);
    bundle.add("bin/broken", "not a program", 0o755);
    pod.create(&bundle).await.unwrap();
    let error = pod.client.start(&bundle.id).await.unwrap_err().to_string();
    assert!(error.contains("exec /bin/broken: exec format error"), "{error}");
    // It has ended by then, so that it can be deleted at once.
    assert_eq!(
        pod.client.state(&bundle.id).await.unwrap().exit.unwrap().status,
        127
    );
    pod.client.delete(&bundle.id).await.unwrap();
}

#[tokio::test]
async fn signals_end_it_with_their_number() {
    let Some(pod) = pod().await else { return };
    let bundle = pod.script("trap 'exit 3' TERM; echo ready; while true; do sleep 0.05; done");
    pod.create(&bundle).await.unwrap();
    pod.client.start(&bundle.id).await.unwrap();
    pod.until_logged(&bundle, "ready").await;
    assert!(matches!(
        pod.client.delete(&bundle.id).await,
        Err(TaskError::FailedPrecondition(_))
    ));
    pod.client.kill(&bundle.id, 15, false).await.unwrap();
    assert_eq!(pod.wait(&bundle.id).await.status, 3);
    let late = pod.client.kill(&bundle.id, 15, false).await;
    assert!(matches!(late, Err(TaskError::NotFound(_))), "{late:?}");
    let bundle = pod.bundle(&["sleep", "1000"]);
    pod.create(&bundle).await.unwrap();
    pod.client.start(&bundle.id).await.unwrap();
    pod.client.kill(&bundle.id, 9, true).await.unwrap();
    assert_eq!(pod.wait(&bundle.id).await.status, 137);
}

#[tokio::test]
async fn one_that_was_never_started_can_go() {
    let Some(pod) = pod().await else { return };
    let bundle = pod.script("echo never");
    pod.create(&bundle).await.unwrap();
    assert!(matches!(
        pod.create(&bundle).await,
        Err(TaskError::AlreadyExists(_))
    ));
    assert_eq!(pod.client.delete(&bundle.id).await.unwrap().status, 137);
    assert_eq!(bundle.output(), "");
}

#[tokio::test]
async fn many_wait_and_one_comes_back() {
    let Some(pod) = pod().await else { return };
    let bundle = pod.script("echo up; read -t 60 x < /data/go; exit 5");
    bundle.add("data/keep", "", 0o644);
    nix::unistd::mkfifo(&bundle.dir.join("upper/data/go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    pod.create(&bundle).await.unwrap();
    pod.client.start(&bundle.id).await.unwrap();
    pod.until_logged(&bundle, "up").await;
    // The agent goes away and another one comes.
    let again = TaskClient::connect(pod.client.address().clone()).await.unwrap();
    let (state, shim) = (
        again.state(&bundle.id).await.unwrap(),
        again.shim_pid(&bundle.id).await.unwrap(),
    );
    assert_eq!(
        (state.status, vec![shim]),
        (
            TaskStatus::Running,
            pod.shims().iter().map(|p| p.cast_unsigned()).collect()
        )
    );
    let waits = [&pod.client, &again, &again].map(|c| c.wait(&bundle.id));
    let write = async {
        let root = format!("/proc/{}/root/data/go", state.pid);
        let options = std::fs::OpenOptions::new().read(true).write(true).open(root);
        std::io::Write::write_all(&mut options.unwrap(), b"\n").unwrap();
    };
    let all = async { tokio::join!(futures_all(waits), write).0 };
    for exit in tokio::time::timeout(PATIENCE, all).await.unwrap() {
        assert_eq!(exit.unwrap().status, 5);
    }
}

async fn futures_all<T>(futures: [impl Future<Output = T>; 3]) -> [T; 3] {
    let [a, b, c] = futures;
    let (a, b, c) = tokio::join!(a, b, c);
    [a, b, c]
}

#[tokio::test]
async fn pausing_stops_it() {
    let Some(pod) = pod().await else { return };
    let bundle = pod.script("while true; do sleep 0.01; done");
    pod.create(&bundle).await.unwrap();
    let refused = pod.client.pause(&bundle.id).await.unwrap_err().to_string();
    assert!(refused.contains("cannot be paused"), "{refused}");
    pod.client.start(&bundle.id).await.unwrap();
    pod.client.pause(&bundle.id).await.unwrap();
    assert_eq!(
        pod.client.state(&bundle.id).await.unwrap().status,
        TaskStatus::Paused
    );
    pod.client.resume(&bundle.id).await.unwrap();
    assert_eq!(
        pod.client.state(&bundle.id).await.unwrap().status,
        TaskStatus::Running
    );
    let refused = pod.client.resume(&bundle.id).await;
    assert!(
        matches!(refused, Err(TaskError::FailedPrecondition(_))),
        "{refused:?}"
    );
}

/// v1 kills nobody who is frozen.
#[tokio::test]
async fn a_paused_container_is_killed_at_once() {
    let script = "umount -l /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
    let on_v1 = ["unshare", "--mount", "sh", "-c", script, "sh"];
    for starter in [&[][..], &on_v1] {
        let Some(pod) = pod_by(starter).await else { return };
        let bundle = pod.bundle(&["sleep", "1000"]);
        pod.create(&bundle).await.unwrap();
        pod.client.start(&bundle.id).await.unwrap();
        if let Err(error) = pod.client.pause(&bundle.id).await {
            return eprintln!("skipped: nothing can be frozen here: {error}");
        }
        pod.client.kill(&bundle.id, 9, false).await.unwrap();
        assert_eq!(pod.wait(&bundle.id).await.status, 137);
        pod.client.delete(&bundle.id).await.unwrap();
        // By its cgroup it is not found from here.
        pod.client.shutdown("").await.unwrap();
    }
}
