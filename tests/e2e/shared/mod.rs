//! The shared workloads: one table of Pods (`cases.yaml`), each run with the native and with the Wasm build of the same
//! source; what is seen of both stands side by side in `tests/conformance/SHARED.md`.
//!
//! A difference without a reason in the table is a failure, and so is a reason where nothing differs. With
//! `AMPHIPOD_WRITE_SHARED=1` the page is written anew.

mod case;
mod look;
mod page;

use std::path::{Path, PathBuf};
use std::process::Command;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use serde_json::json;

use crate::cluster::{Cluster, is_root, run};
use case::{Build, Case};

/// Pods that come and go at once: enough to hide grace periods, few enough for two cores.
const AT_ONCE: usize = 12;

/// What was seen of one case.
pub struct Seen {
    pub case: Case,
    pub native: String,
    pub wasm: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_source_does_the_same_as_a_process_and_as_a_guest() {
    if !is_root("shared workloads") {
        return;
    }
    let cluster = Cluster::up(&[]);
    push(&cluster);
    let client = cluster.client().await;
    for build in Build::ALL {
        namespace(&client, build.name()).await;
        programs(cluster.dir(), build);
    }
    let only = std::env::var("AMPHIPOD_SHARED_CASES").unwrap_or_default();
    let mut cases = case::table();
    cases.retain(|case| case.name.contains(&only));
    let mut seen = Vec::new();
    let mut running = futures::stream::iter(cases)
        .map(|case| both(&client, cluster.dir(), case))
        .buffered(AT_ONCE);
    while let Some(one) = running.next().await {
        seen.push(one);
    }
    judge(&seen, only.is_empty());
}

async fn both(client: &Client, dir: &Path, case: Case) -> Seen {
    let (native, wasm) = futures::join!(
        look::run(client, dir, &case, Build::Native),
        look::run(client, dir, &case, Build::Wasm)
    );
    Seen { case, native, wasm }
}

/// What is wrong with what was seen.
fn judge(seen: &[Seen], is_whole: bool) {
    let mut wrong: Vec<String> = seen.iter().filter_map(fault).collect();
    if is_whole {
        wrong.extend(page::check(seen));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn fault(one: &Seen) -> Option<String> {
    let what = match (one.native == one.wasm, &one.case.differs) {
        (true, None) | (false, Some(_)) if !format!("{}{}", one.native, one.wasm).contains(look::NEVER) => {
            return None;
        }
        (true, Some(_)) => "is said to differ, and does not",
        (false, None) => "differs",
        _ => "did not come to its end",
    };
    Some(format!(
        "{}: {} {what}\n  native: {}\n  wasm:   {}",
        one.case.area, one.case.name, one.native, one.wasm
    ))
}

async fn namespace(client: &Client, name: &str) {
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&Default::default(), &namespace).await.unwrap();
}

/// Builds the programs as static executables and pushes both builds of each.
fn push(cluster: &Cluster) {
    for image in ["witness", "core", "server", "hello-c"] {
        for build in Build::ALL {
            cluster.push(&built(image, build), &format!("{image}:{}", build.name()));
        }
    }
}

/// `core` is the witness for preview 1; a process knows no such difference.
fn built(image: &str, build: Build) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (program, module) = match image {
        "witness" => ("witness", "witness-component"),
        "core" => ("witness", "witness"),
        other => (other, other),
    };
    if matches!(build, Build::Wasm) {
        return root.join(format!("workloads/wasm/{module}.wasm"));
    }
    let target = root.join("target/static");
    if image == "hello-c" {
        return compiled(
            &root.join("workloads/languages/c/hello.c"),
            &target.join("hello-c"),
        );
    }
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = run(Command::new(cargo)
        .env_remove("RUSTFLAGS")
        .current_dir(root)
        .args([
            "install",
            "--quiet",
            "--locked",
            "--path",
            "workloads",
            "--bin",
            program,
        ])
        .arg("--target-dir")
        .arg(&target)
        .arg("--root")
        .arg(&target));
    assert!(output.status.success(), "{output:?}");
    target.join("bin").join(program)
}

/// A static program made of a source in C, by the compiler that building this project needs anyway.
fn compiled(source: &Path, program: &Path) -> PathBuf {
    std::fs::create_dir_all(program.parent().unwrap()).unwrap();
    let output = run(Command::new("cc")
        .args(["-O2", "-static", "-o"])
        .args([program, source]));
    assert!(output.status.success(), "{output:?}");
    program.to_owned()
}

/// A folder of the host with the programs in it, for `exec` and hooks: `DIR/BUILD/bin`.
fn programs(dir: &Path, build: Build) {
    let bin = dir.join(build.name()).join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    for program in ["witness", "core"] {
        std::fs::copy(built(program, build), bin.join(program)).unwrap();
    }
}
