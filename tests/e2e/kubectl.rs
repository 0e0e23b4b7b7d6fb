//! Real `kubectl`, every version that is on the machine, against a real cluster. Skips visibly where there is none.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{Cluster, is_root, run, text};

const MANIFEST: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: server
        image: amphipod.local/server-wasm:v1
        env: [{name: COLOUR, value: red}]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: once}
spec:
  restartPolicy: Never
  containers:
  - {name: command, image: 'amphipod.local/fail-wasm:v1', args: ['3', 'words'], env: [{name: GREETING, value: hi}]}
";

/// `kubectl` on the path, and versioned ones (`kubectl.1.29`, `kubectl-1.36`) beside its target.
pub fn kubectls() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = Vec::new();
    for dir in std::env::split_paths(&path) {
        let Ok(main) = dir.join("kubectl").canonicalize() else {
            continue;
        };
        for entry in main
            .parent()
            .into_iter()
            .flat_map(std::fs::read_dir)
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "kubectl" || name.starts_with("kubectl.1.") || name.starts_with("kubectl-1.") {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

pub struct Kubectl<'a> {
    program: &'a Path,
    kubeconfig: PathBuf,
    home: &'a Path,
}

impl<'a> Kubectl<'a> {
    pub fn new(program: &'a Path, cluster: &'a Cluster) -> Self {
        Self {
            program,
            kubeconfig: cluster.kubeconfig(),
            home: cluster.dir(),
        }
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(self.program);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(words.split_whitespace());
        command.env("HOME", self.home).env_remove("KUBECONFIG"); // a discovery cache of its own
        command
    }

    /// Runs it; it must succeed and print each of `expected`.
    pub fn ok(&self, words: &str, expected: &[&str]) -> String {
        let output = run(&mut self.command(words));
        let said = text(&output);
        assert!(
            output.status.success(),
            "{} {words}: {said}",
            self.program.display()
        );
        for part in expected {
            assert!(
                said.contains(part),
                "{} {words}: no {part:?} in: {said}",
                self.program.display()
            );
        }
        said
    }
}

/// A cluster with the images of two guests, and every `kubectl`; `None`, having said why, where that cannot be.
pub fn prepared(test: &str) -> Option<(Cluster, Vec<PathBuf>)> {
    let programs = kubectls();
    if programs.is_empty() {
        eprintln!("skipped {test}: there is no kubectl on the path");
        return None;
    }
    if !is_root(test) {
        return None;
    }
    let cluster = Cluster::up(&[]);
    let wasm = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/wasm");
    cluster.push(&wasm.join("server.wasm"), "server-wasm:v1");
    cluster.push(&wasm.join("fail.wasm"), "fail-wasm:v1");
    std::fs::write(cluster.dir().join("web.yaml"), MANIFEST).unwrap();
    Some((cluster, programs))
}

#[test]
fn a_day_with_kubectl() {
    let Some((cluster, programs)) = prepared("a day with kubectl") else {
        return;
    };
    let manifest = cluster.dir().join("web.yaml").display().to_string();
    let program = programs.last().unwrap();
    let kubectl = Kubectl::new(program, &cluster);

    kubectl.ok(
        &format!("apply -f {manifest}"),
        &[
            "deployment.apps/web created",
            "service/web created",
            "pod/once created",
        ],
    );
    kubectl.ok(
        "rollout status deployment/web --timeout=120s",
        &["successfully rolled out"],
    );
    kubectl.ok(
        "wait --for=condition=Ready pod -l app=web --timeout=60s",
        &["condition met"],
    );
    kubectl.ok(
        "get pods -A -o wide",
        &["NAMESPACE", "NOMINATED NODE", "1/1", "Running", "node-a"],
    );
    kubectl.ok(
        &format!("apply -f {manifest}"),
        &["deployment.apps/web unchanged", "pod/once unchanged"],
    );
    kubectl.ok(
        "get all",
        &[
            "replicaset.apps/web-",
            "service/kubernetes",
            "deployment.apps/web   2/2",
        ],
    );
    kubectl.ok(
        // Of several objects versions from 1.35 on show none unasked.
        "describe pod -l app=web --show-events",
        &[
            "Successfully assigned default/web-",
            "Started",
            "COLOUR:  red",
            "QoS Class",
        ],
    );
    kubectl.ok(
        "describe node node-a",
        &["Ready", "Allocatable", "Non-terminated Pods"],
    );
    kubectl.ok(
        "get events",
        &["Scheduled", "Pulled", "ScalingReplicaSet", "SuccessfulCreate"],
    );

    logs(&kubectl);
    rollouts(&kubectl);
    kubectl.ok("delete deployment web", &["deployment.apps \"web\" deleted"]);
    kubectl.ok("wait --for=delete pod -l app=web --timeout=60s", &[]);
    kubectl.ok(
        &format!("delete -f {manifest} --ignore-not-found"),
        &["pod \"once\" deleted"],
    );
    kubectl.ok("get pods", &["No resources found in default namespace."]);
}

/// What Pods of the demo use, by every version; it must be known already.
pub fn top(cluster: &Cluster) {
    for program in &kubectls() {
        let kubectl = Kubectl::new(program, cluster);
        kubectl.ok("top pods --containers", &["CPU(cores)", "duet", "writer", "Mi"]);
        kubectl.ok("top node", &["node-a", "Mi"]);
    }
}

fn logs(kubectl: &Kubectl<'_>) {
    kubectl.ok(
        "wait --for=jsonpath={.status.phase}=Failed pod/once --timeout=60s",
        &[],
    );
    kubectl.ok(
        "logs once -f",
        &["arguments: 3 words", "GREETING=hi", "failing on purpose with 3"],
    );
    assert_eq!(kubectl.ok("logs once --tail=1", &["failing"]).lines().count(), 1);
    let stamped = kubectl.ok("logs once --timestamps -c command", &[]);
    assert!(stamped.starts_with("20") && stamped.contains("Z "), "{stamped}");
    assert_eq!(kubectl.ok("logs once --since=1h", &[]).lines().count(), 3);
    assert_eq!(
        kubectl.ok(
            "get pod once -o jsonpath={.status.containerStatuses[0].state.terminated.exitCode}",
            &[]
        ),
        "3"
    );
}

fn rollouts(kubectl: &Kubectl<'_>) {
    kubectl.ok("scale deployment web --replicas=3", &["scaled"]);
    kubectl.ok(
        "rollout status deployment/web --timeout=120s",
        &["successfully rolled out"],
    );
    kubectl.ok("set env deployment/web COLOUR=blue", &["env updated"]);
    kubectl.ok(
        "rollout status deployment/web --timeout=120s",
        &["successfully rolled out"],
    );
    kubectl.ok("describe pod -l app=web", &["COLOUR:  blue"]);
    kubectl.ok("rollout undo deployment/web", &["rolled back"]);
    kubectl.ok(
        "rollout status deployment/web --timeout=120s",
        &["successfully rolled out"],
    );
    kubectl.ok(
        "get deployment web -o jsonpath={.spec.template.spec.containers[0].env[0].value}",
        &["red"],
    );
    kubectl.ok("rollout history deployment/web", &["REVISION"]);

    let mut edit = kubectl.command("edit deployment web");
    let edited = run(edit.env("KUBE_EDITOR", "sed -i s/value:.red/value:\\ green/"));
    assert!(
        text(&edited).contains("deployment.apps/web edited"),
        "{}",
        text(&edited)
    );
    kubectl.ok(
        "rollout status deployment/web --timeout=120s",
        &["successfully rolled out"],
    );
    kubectl.ok(
        "get deployment web -o yaml",
        &["value: green", "deployment.kubernetes.io/revision"],
    );
}

#[test]
fn every_kubectl_version_can_work() {
    let Some((cluster, programs)) = prepared("every kubectl") else {
        return;
    };
    for program in &programs {
        let home = tempfile::tempdir().unwrap();
        let kubectl = Kubectl {
            program,
            kubeconfig: cluster.kubeconfig(),
            home: home.path(),
        };
        let name = format!(
            "c{}",
            program
                .file_name()
                .unwrap()
                .to_string_lossy()
                .replace(|c: char| !c.is_ascii_digit(), "")
        );
        let manifest = home.path().join("m.yaml");
        let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{a: b}}\n");
        std::fs::write(&manifest, &text).unwrap();
        kubectl.ok("version", &["Server Version"]);
        kubectl.ok(&format!("apply -f {}", manifest.display()), &["created"]);
        std::fs::write(&manifest, text.replace("a: b", "a: c")).unwrap();
        kubectl.ok(&format!("apply -f {}", manifest.display()), &["configured"]);
        kubectl.ok(&format!("get configmap {name} -o jsonpath={{.data.a}}"), &["c"]);
        kubectl.ok("get nodes -o wide", &["node-a", "Ready"]);
        kubectl.ok("get namespaces", &["kube-system ", "Active"]);
        kubectl.ok("api-resources", &["deployments", "apps/v1", "po "]);
        kubectl.ok("explain pod.spec.containers.image", &["string"]);
        kubectl.ok(&format!("label configmap {name} x=y"), &["labeled"]);
        kubectl.ok("get configmap -l x=y", &[&name]);
        kubectl.ok(&format!("delete configmap {name}"), &["deleted"]);
        let refused = run(&mut kubectl.command("get pod nosuch"));
        assert!(!refused.status.success());
    }
}
