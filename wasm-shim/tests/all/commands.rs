//! Commands: preview 1 modules and wasi:cli components.

use crate::shim::{Shim, ended, is_root, wat, workload};
use amphipod_shim_api::{TaskClient, TaskError, TaskStatus};
use serde_json::json;

#[tokio::test]
async fn exit_code_arguments_and_environment() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let exit = shim
        .run("c", &workload("fail.wasm"), |config| {
            config["process"]["args"] = json!(["fail", "7", "two words"]);
            config["process"]["env"] = json!(["GREETING=good morning=all"]);
        })
        .await;
    assert_eq!(exit.status, 7);
    assert_eq!(
        shim.log("c"),
        [
            "stdout F arguments: 7 two words",
            "stdout F GREETING=good morning=all",
            "stderr F failing on purpose with 7"
        ]
    );
}

#[tokio::test]
async fn a_guest_prints_what_it_was_given_and_files_it_may_read() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("note"), "from the volume").unwrap();
    for (id, file) in [("module", "print.wasm"), ("component", "print-component.wasm")] {
        let exit = shim
            .run(id, &workload(file), |config| {
                config["process"]["args"] = json!(["print", "a"]);
                config["process"]["env"] = json!(["FILES=/data/note", "X=y"]);
                config["mounts"] =
                    json!([{"destination": "/data", "type": "bind", "source": data.path(), "options": ["rbind", "ro"]}]);
            })
            .await;
        let log = shim.log(id);
        assert_eq!(exit.status, 0, "{log:?}");
        for line in [
            "stdout F arg 0: print",
            "stdout F arg 1: a",
            "stdout F X=y",
            "stdout F from the volume",
        ] {
            assert!(log.iter().any(|seen| seen == line), "{line} is not in {log:?}");
        }
        assert!(
            !log.iter().any(|line| line.contains("PATH=")),
            "the host's environment shows: {log:?}"
        );
    }
}

/// A `wasi:cli/command` component whose `run` is the given core code; it may call `$exit`.
fn command(code: &str) -> Vec<u8> {
    wat(&format!(
        r#"(component
            (import "wasi:cli/exit@0.2.0" (instance $exit (export "exit" (func (param "status" (result))))))
            (core func $exit (canon lower (func $exit "exit")))
            (core module $code
                (import "cli" "exit" (func $exit (param i32)))
                (func (export "run") (result i32) {code}))
            (core instance $instance (instantiate $code
                (with "cli" (instance (export "exit" (func $exit))))))
            (func $run (result (result)) (canon lift (core func $instance "run")))
            (instance $exports (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $exports)))"#
    ))
}

#[tokio::test]
async fn results_of_components_are_exit_codes() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    for (id, code, status) in [
        ("ok", "i32.const 0", 0),
        ("err", "i32.const 1", 1),
        ("exit-ok", "(call $exit (i32.const 0)) unreachable", 0),
        ("exit-err", "(call $exit (i32.const 1)) unreachable", 1),
        ("trap", "unreachable", 134),
    ] {
        assert_eq!(
            shim.run(id, &command(code), |_| ()).await.status,
            status,
            "{id}: {:?}",
            shim.log(id)
        );
    }
}

#[tokio::test]
async fn a_read_only_mount_is_not_written_and_a_writable_one_is() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let data = tempfile::tempdir().unwrap();
    let mount = |options: &[&str]| json!([{"destination": "/data", "type": "bind", "source": data.path(), "options": options}]);
    let exit = shim
        .run("ro", &workload("writer.wasm"), |config| {
            config["mounts"] = mount(&["rbind", "ro"])
        })
        .await;
    assert_eq!(exit.status, 1);
    assert!(std::fs::read_dir(data.path()).unwrap().next().is_none());

    let client = shim
        .start("rw", &workload("writer.wasm"), |config| {
            config["mounts"] = mount(&["rbind"])
        })
        .await;
    let message = data.path().join("message");
    let text = tokio::task::spawn_blocking(move || wait_for_file(&message))
        .await
        .unwrap();
    assert!(text.contains("from wasm"), "{text}");
    client.kill("rw", 15, false).await.unwrap();
    assert_eq!(ended(&client, "rw").await.status, 143);
}

fn wait_for_file(path: &std::path::Path) -> String {
    let deadline = std::time::Instant::now() + crate::shim::LIMIT;
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) if !text.is_empty() => return text,
            _ => assert!(std::time::Instant::now() < deadline, "{path:?} never came"),
        }
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn memory_over_the_limit_is_oom_killed() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let exit = shim
        .run("hog", &workload("hog.wasm"), |config| {
            config["linux"]["resources"]["memory"] = json!({"limit": 32 << 20});
        })
        .await;
    assert_eq!(exit.status, 137);
    assert!(amphipod_shim_api::oom::happened(&shim.home.path().join("hog")));
    let log = shim.log("hog");
    assert!(log.iter().any(|line| line.contains("out of memory")), "{log:?}");

    let exit = shim
        .run("modest", &workload("hog.wasm"), |config| {
            config["process"]["env"] = json!(["HOG_MIB=8"]);
            config["linux"]["resources"]["memory"] = json!({"limit": 32 << 20});
        })
        .await;
    assert_eq!(exit.status, 0);
    assert!(!amphipod_shim_api::oom::happened(
        &shim.home.path().join("modest")
    ));
}

#[tokio::test]
async fn an_endless_loop_starves_nobody_and_is_killed() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let same_pod = |config: &mut serde_json::Value| {
        config["annotations"]["io.kubernetes.cri.sandbox-id"] = json!("one-pod");
    };
    let burner = shim.start("burn", &workload("burn.wasm"), same_pod).await;
    let exit = shim.run("neighbour", &workload("fail.wasm"), same_pod).await;
    assert_eq!(exit.status, 1);
    assert_eq!(burner.state("burn").await.unwrap().status, TaskStatus::Running);
    let stats = burner.stats("burn").await.unwrap();
    assert!(stats.cpu_usage_nanos > 0 && stats.memory_usage > 0, "{stats:?}");
    burner.kill("burn", 9, true).await.unwrap();
    assert_eq!(ended(&burner, "burn").await.status, 137);
}

#[tokio::test]
async fn a_quota_is_kept() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let client = shim
        .start("burn", &workload("burn.wasm"), |config| {
            config["linux"]["resources"]["cpu"] = json!({"quota": 10_000, "period": 100_000});
        })
        .await;
    let before = client.stats("burn").await.unwrap().cpu_usage_nanos;
    let begin = std::time::Instant::now();
    tokio::time::timeout(std::time::Duration::from_secs(2), client.wait("burn"))
        .await
        .unwrap_err();
    let used = client.stats("burn").await.unwrap().cpu_usage_nanos - before;
    let share = used as f64 / begin.elapsed().as_nanos() as f64;
    // Its tenth, and one period's more; less of it only where others have the processors.
    assert!(
        used > 0 && share < 0.2,
        "a container with a tenth of a cpu used {share}"
    );
    client.kill("burn", 9, true).await.unwrap();
    assert_eq!(ended(&client, "burn").await.status, 137);
}

#[tokio::test]
async fn a_trap_ends_its_container_with_a_backtrace_of_names() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let neighbour = shim.start("neighbour", &workload("burn.wasm"), |_| ()).await;
    let module = wat(r#"(module (func $inner unreachable) (func (export "_start") call $inner))"#);
    assert_eq!(shim.run("trap", &module, |_| ()).await.status, 134);
    let log = shim.log("trap").join("\n");
    assert!(
        log.contains("stderr F") && log.contains("inner") && log.contains("unreachable"),
        "{log}"
    );
    let words = amphipod_shim_api::last_words::of(&shim.home.path().join("trap")).unwrap();
    assert!(
        words.contains("inner") && words.contains("unreachable"),
        "{words}"
    );
    assert_eq!(
        neighbour.state("neighbour").await.unwrap().status,
        TaskStatus::Running
    );
}

#[tokio::test]
async fn a_client_that_comes_back_finds_everything() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let bundle = shim.bundle("c", &workload("fail.wasm"), |config| {
        config["process"]["args"] = json!(["fail", "3"])
    });
    let address = {
        let client = shim.try_create("c", &bundle).await.unwrap();
        client.start("c").await.unwrap();
        client.address().clone()
    };
    assert_eq!(shim.command.start("c", &bundle).await.unwrap(), address);
    let client = TaskClient::connect(address).await.unwrap();
    let exit = ended(&client, "c").await;
    let state = client.state("c").await.unwrap();
    assert_eq!((state.status, state.exit), (TaskStatus::Stopped, Some(exit)));
    assert_eq!(exit.status, 3);

    client.shutdown("c").await.unwrap();
    assert!(
        client.state("c").await.is_ok(),
        "a shim with containers does not end"
    );
    assert_eq!(client.delete("c").await.unwrap(), exit);
    assert!(matches!(client.state("c").await, Err(TaskError::NotFound(_))));
    client.shutdown("c").await.unwrap();
}

#[tokio::test]
async fn calls_in_the_wrong_order_are_refused() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let client = shim.create("c", &workload("burn.wasm"), |_| ()).await;
    let bundle = shim.home.path().join("c");
    assert!(matches!(
        shim.try_create("c", &bundle).await,
        Err(TaskError::AlreadyExists(_))
    ));
    client.start("c").await.unwrap();
    assert!(matches!(
        client.start("c").await,
        Err(TaskError::FailedPrecondition(_))
    ));
    assert!(matches!(
        client.delete("c").await,
        Err(TaskError::FailedPrecondition(_))
    ));
    assert!(matches!(
        client.kill("c", 99, false).await,
        Err(TaskError::InvalidArgument(_))
    ));
    assert!(matches!(
        client.state(("c", "exec")).await,
        Err(TaskError::NotFound(_))
    ));
    client.kill("c", 15, false).await.unwrap();
    assert_eq!(ended(&client, "c").await.status, 143);
    assert!(matches!(
        client.kill("c", 9, false).await,
        Err(TaskError::NotFound(_))
    ));

    let client = shim.create("never", &workload("burn.wasm"), |_| ()).await;
    client.kill("never", 9, false).await.unwrap();
    assert_eq!(ended(&client, "never").await.status, 137);
}

#[tokio::test]
async fn a_program_of_the_image_runs_from_its_own_files() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let image = tempfile::tempdir().unwrap();
    std::fs::create_dir(image.path().join("app")).unwrap();
    std::fs::write(image.path().join("app/print.wasm"), workload("print.wasm")).unwrap();
    std::fs::write(image.path().join("etc-note"), "in the image").unwrap();
    let bundle = shim.bundle("c", b"", |config| {
        config["annotations"] = json!({"io.kubernetes.cri.sandbox-namespace": "default"});
        config["process"]["args"] = json!(["/app/print.wasm"]);
        config["process"]["env"] = json!(["FILES=/etc-note"]);
    });
    let client = shim.client("c", &bundle).await;
    let task = amphipod_shim_api::CreateTask {
        id: "c".into(),
        bundle,
        rootfs: vec![amphipod_shim_api::RootfsMount {
            kind: "bind".into(),
            source: image.path().display().to_string(),
            options: vec!["rbind".into(), "ro".into()],
        }],
        stdout: format!("cri://{}", shim.log_path("c").display()),
        ..amphipod_shim_api::CreateTask::default()
    };
    client.create(&task).await.unwrap();
    client.start("c").await.unwrap();
    let exit = ended(&client, "c").await;
    let log = shim.log("c");
    assert_eq!(exit.status, 0, "{log:?}");
    assert!(log.contains(&"stdout F in the image".to_owned()), "{log:?}");
    client.delete("c").await.unwrap();
    client.shutdown("c").await.unwrap();
}

/// Tells `wasi:logging` what `wasi:config` says of GREETING.
const CONFIGURED: &str = r#"(component
    (import "wasi:config/store@0.2.0-rc.1" (instance $config
        (type $error0 (variant (case "upstream" string) (case "io" string)))
        (export "error" (type $error (eq $error0)))
        (export "get" (func (param "key" string) (result (result (option string) (error $error)))))))
    (import "wasi:logging/logging" (instance $logging
        (type $level0 (enum "trace" "debug" "info" "warn" "error" "critical"))
        (export "level" (type $level (eq $level0)))
        (export "log" (func (param "level" $level) (param "context" string) (param "message" string)))))
    (core module $memory-module
        (memory (export "memory") 1)
        (data (i32.const 0) "GREETING")
        (data (i32.const 16) "test")
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
    (core instance $memory-instance (instantiate $memory-module))
    (alias core export $memory-instance "memory" (core memory $memory))
    (alias core export $memory-instance "realloc" (core func $realloc))
    (core func $get (canon lower (func $config "get") (memory $memory) (realloc $realloc)))
    (core func $log (canon lower (func $logging "log") (memory $memory)))
    (core module $code
        (import "host" "memory" (memory 1))
        (import "host" "get" (func $get (param i32 i32 i32)))
        (import "host" "log" (func $log (param i32 i32 i32 i32 i32)))
        (func (export "run") (result i32)
            (call $get (i32.const 0) (i32.const 8) (i32.const 64))
            (call $log (i32.const 2) (i32.const 16) (i32.const 4) (i32.load (i32.const 72)) (i32.load (i32.const 76)))
            (i32.const 0)))
    (core instance $instance (instantiate $code (with "host" (instance
        (export "memory" (memory $memory))
        (export "get" (func $get))
        (export "log" (func $log))))))
    (func $run (result (result)) (canon lift (core func $instance "run")))
    (instance $exports (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $exports)))"#;

#[tokio::test]
async fn configuration_is_the_environment_and_logging_is_the_log() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let exit = shim
        .run("c", &wat(CONFIGURED), |config| {
            config["process"]["env"] = json!(["GREETING=good morning"]);
        })
        .await;
    assert_eq!(exit.status, 0, "{:?}", shim.log("c"));
    assert_eq!(shim.log("c"), ["stderr F INFO test: good morning"]);
}

#[tokio::test]
async fn any_exit_status_is_the_containers() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    for status in ["126", "127", "255"] {
        let exit = shim
            .run(status, &workload("fail.wasm"), |config| {
                config["process"]["args"] = json!(["fail", status]);
            })
            .await;
        assert_eq!(exit.status.to_string(), status);
    }
}

#[tokio::test]
async fn a_reactor_runs_the_export_that_is_named() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let reactor = wat(r#"(module (global $ready (mut i32) (i32.const 0))
            (func (export "_initialize") (global.set $ready (i32.const 40)))
            (func (export "go") (result i32) (i32.add (global.get $ready) (i32.const 2))))"#);
    let invoke = |name: &'static str| {
        move |config: &mut serde_json::Value| config["annotations"]["dev.amphipod.wasm/invoke"] = json!(name)
    };
    assert_eq!(shim.run("go", &reactor, invoke("go")).await.status, 42);
    let message = shim.refusal("none", &reactor, |_| ()).await;
    assert!(
        message.contains("nothing to run") && message.contains("_initialize, go"),
        "{message}"
    );
    let message = shim.refusal("other", &reactor, invoke("stop")).await;
    assert!(message.contains(r#"no function "stop""#), "{message}");
}

#[tokio::test]
async fn isolated_pods_have_a_process_each() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let mut pids = Vec::new();
    for (id, isolated) in [("a", false), ("b", false), ("c", true), ("d", true)] {
        shim.start(id, &workload("fail.wasm"), |config| {
            if isolated {
                config["annotations"]["dev.amphipod.wasm/isolation"] = json!("pod");
            }
        })
        .await;
        pids.push(shim.pid());
    }
    assert_eq!(pids[0], pids[1]);
    pids.dedup();
    assert_eq!(pids.len(), 3, "{pids:?}");
}
