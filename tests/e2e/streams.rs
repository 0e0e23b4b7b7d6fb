//! exec, cp, attach and port-forward: by every `kubectl` on the machine, and by the `kube` crate.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::AttachParams;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cluster::{Cluster, http_get, is_root, run, text};
use crate::kubectl::kubectls;

pub const BUSYBOX: &str = "/bin/busybox";
const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: box}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: shared, emptyDir: {}}]
  containers:
  - name: server
    image: amphipod.local/busybox:v1
    command: [httpd, -f, -p, '127.0.0.1:8080', -h, /shared]
    volumeMounts: [{name: shared, mountPath: /shared}]
    lifecycle: {postStart: {exec: {command: [sh, -c, 'echo hello > /shared/index.html']}}}
    readinessProbe: {exec: {command: [grep, hello, /shared/index.html]}, periodSeconds: 1}
  - name: reader
    image: amphipod.local/busybox:v1
    stdin: true
    command: [sh, -c, 'while read line; do echo heard $line; done']
";

/// A cluster with the image `busybox:v1`; `None`, having said why, where that cannot be.
pub fn with_busybox(test: &str) -> Option<Cluster> {
    if !is_root(test) {
        return None;
    }
    let mut cluster = Cluster::new();
    let image = busybox_image(test, cluster.dir())?;
    cluster.start(&[]);
    cluster.push(&image, "busybox:v1");
    Some(cluster)
}

/// An image with every applet of busybox, in `dir`; `None`, having said why, where there is no busybox.
pub fn busybox_image(test: &str, dir: &Path) -> Option<std::path::PathBuf> {
    if !Path::new(BUSYBOX).exists() {
        eprintln!("skipped {test}: needs {BUSYBOX} (Debian package busybox-static)");
        return None;
    }
    let image = dir.join("image");
    std::fs::create_dir_all(image.join("bin")).unwrap();
    std::fs::create_dir_all(image.join("tmp")).unwrap();
    std::fs::copy(BUSYBOX, image.join("bin/busybox")).unwrap();
    let applets = run(Command::new(BUSYBOX).arg("--list"));
    for applet in text(&applets).lines().filter(|a| *a != "busybox") {
        std::os::unix::fs::symlink("busybox", image.join("bin").join(applet)).unwrap();
    }
    Some(image)
}

/// A cluster with the Pod running; `None`, having said why, where that cannot be.
pub async fn prepared(test: &str) -> Option<Cluster> {
    let cluster = with_busybox(test)?;
    let pod: Pod = serde_yaml::from_str(MANIFEST).unwrap();
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    pods.create(&Default::default(), &pod).await.unwrap();
    let ready = kube::runtime::wait::await_condition(pods, "box", is_ready);
    tokio::time::timeout(crate::cluster::PATIENCE, ready)
        .await
        .expect("the Pod did not become ready")
        .unwrap();
    Some(cluster)
}

pub fn is_ready(pod: Option<&Pod>) -> bool {
    let conditions = pod.and_then(|p| p.status.as_ref()?.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kubectl_streams() {
    let test = "streams by kubectl";
    let programs = kubectls();
    if programs.is_empty() {
        eprintln!("skipped {test}: there is no kubectl on the path");
        return;
    }
    let Some(cluster) = prepared(test).await else {
        return;
    };
    for program in &programs {
        let kubectl = |words: &[&str]| {
            let mut command = Command::new(program);
            command.arg("--kubeconfig").arg(cluster.kubeconfig()).args(words);
            command.env("HOME", cluster.dir()).env_remove("KUBECONFIG");
            command
        };
        let script = "echo out; echo err >&2; exit 7";
        let said = heard(|| {
            run(&mut kubectl(&[
                "exec", "box", "-c", "server", "--", "sh", "-c", script,
            ]))
        });
        assert_eq!(said.status.code(), Some(7), "{program:?}: {said:?}");
        assert_eq!(said.stdout, b"out\n", "{program:?}: {said:?}");
        assert!(
            String::from_utf8_lossy(&said.stderr).contains("err\n"),
            "{program:?}: {said:?}"
        );
        assert_eq!(
            heard(|| piped(kubectl(&["exec", "-i", "box", "-c", "server", "--", "cat"]))).stdout,
            b"words\n",
            "{program:?}"
        );
        let (file, back) = (cluster.dir().join("file"), cluster.dir().join("back"));
        let content: Vec<u8> = (0..3_000_000u32).map(|n| (n ^ (n >> 8)) as u8).collect();
        std::fs::write(&file, &content).unwrap();
        for (from, to) in [
            (file.to_str().unwrap(), "box:/tmp/file"),
            ("box:/tmp/file", back.to_str().unwrap()),
        ] {
            let copied = run(&mut kubectl(&["cp", "-c", "server", from, to]));
            assert!(copied.status.success(), "{program:?}: {copied:?}");
        }
        assert!(std::fs::read(&back).unwrap() == content, "{program:?}");
        forward(kubectl(&["port-forward", "box", ":8080"]));
    }
}

/// What kubectl heard. Those before 1.34 drop, and say so, what comes before they have made their streams
/// (kubernetes/kubernetes#131203): they are asked again.
fn heard(ask: impl Fn() -> Output) -> Output {
    let mut said = ask();
    for _ in 0..10 {
        if !String::from_utf8_lossy(&said.stderr).contains("Unknown stream") {
            break;
        }
        said = ask();
    }
    said
}

/// What a command says to a line of words.
fn piped(mut command: Command) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"words\n").unwrap();
    child.wait_with_output().unwrap()
}

/// Asks the server in the Pod through a port of this host.
fn forward(mut command: Command) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let line = lines.next().unwrap().unwrap();
    let address = line
        .split_whitespace()
        .find(|word| word.starts_with("127.0.0.1:"))
        .unwrap();
    for _ in 0..2 {
        let answer = http_get(address, "/index.html").unwrap();
        assert!(answer.ends_with("hello\n"), "{answer}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kube_crate_streams() {
    let Some(cluster) = prepared("streams by kube").await else {
        return;
    };
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    let params = AttachParams::default()
        .container("server")
        .stdin(true)
        .stderr(false);
    let mut process = pods
        .exec("box", ["sh", "-c", "cat; exit 5"], &params)
        .await
        .unwrap();
    let status = process.take_status().unwrap();
    let mut stdin = process.stdin().unwrap();
    stdin.write_all(b"words").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut said = String::new();
    process.stdout().unwrap().read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "words");
    let causes = status.await.unwrap().details.unwrap().causes.unwrap();
    assert_eq!(causes[0].message.as_deref(), Some("5"));

    let params = AttachParams::default()
        .container("reader")
        .stdin(true)
        .stderr(false);
    let mut attached = pods.attach("box", &params).await.unwrap();
    attached.stdin().unwrap().write_all(b"you\n").await.unwrap();
    let mut heard = [0; 10];
    attached.stdout().unwrap().read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"heard you\n");

    let mut forwarder = pods.portforward("box", &[8080]).await.unwrap();
    let mut stream = forwarder.take_stream(8080).unwrap();
    stream
        .write_all(b"GET /index.html HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("hello\n"), "{answer}");
}
