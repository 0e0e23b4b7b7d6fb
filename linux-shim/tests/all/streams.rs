//! Standard input, terminals, and output nobody reads.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use amphipod_shim_api::stdio::LogStream;
use amphipod_shim_api::{CreateTask, annotations, attach};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use crate::harness::{Bundle, PATIENCE, Pod, pod};

fn fifo(pod: &Pod, name: &str) -> PathBuf {
    let path = pod.home.path().join(name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    path
}

async fn create(pod: &Pod, bundle: &Bundle, stdin: &Path, stdout: String, terminal: bool) {
    fs::write(bundle.dir.join("config.json"), bundle.spec.to_string()).unwrap();
    let task = CreateTask {
        id: bundle.id.clone(),
        bundle: bundle.dir.clone(),
        rootfs: bundle.rootfs.clone(),
        terminal,
        stdin: stdin.display().to_string(),
        stdout,
        stderr: String::new(),
    };
    pod.client.create(&task).await.unwrap();
    pod.client.start(&bundle.id).await.unwrap();
}

#[tokio::test]
async fn input_comes_by_fifo_and_ends_when_closed() {
    let Some(pod) = pod().await else { return };
    let bundle = pod.script("cat; echo end");
    let stdin = fifo(&pod, "stdin");
    create(
        &pod,
        &bundle,
        &stdin,
        format!("cri://{}", bundle.log.display()),
        false,
    )
    .await;
    let mut writer = fs::OpenOptions::new().write(true).open(&stdin).unwrap();
    writer.write_all(b"line\n").unwrap();
    drop(writer);
    pod.until_logged(&bundle, "line").await;
    pod.client.close_stdin(&bundle.id).await.unwrap();
    assert_eq!(pod.wait(&bundle.id).await.status, 0);
    assert_eq!(bundle.output(), "line\nend\n");
}

#[tokio::test]
async fn a_terminal_is_one() {
    let Some(pod) = pod().await else { return };
    let bundle = pod.script("tty; stty size; test -c /dev/console && echo console; read x; echo got $x");
    let (stdin, stdout) = (fifo(&pod, "stdin"), fifo(&pod, "stdout"));
    let mut output = pipe::OpenOptions::new()
        .read_write(true)
        .open_receiver(&stdout)
        .unwrap();
    create(&pod, &bundle, &stdin, stdout.display().to_string(), true).await;
    pod.client.resize_pty(&bundle.id, 90, 30).await.unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(&stdin)
        .unwrap()
        .write_all(b"typed\n")
        .unwrap();
    let mut seen = String::new();
    let read = async {
        let mut buffer = [0; 256];
        while !seen.contains("got typed") {
            let length = output.read(&mut buffer).await.unwrap();
            seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("the terminal said nothing");
    assert!(
        seen.contains("/dev/pts/0\r\n") && seen.contains("console"),
        "{seen}"
    );
    assert_eq!(pod.wait(&bundle.id).await.status, 0);
}

#[tokio::test]
async fn files_take_bytes_as_they_are() {
    let Some(pod) = pod().await else { return };
    let bundle = pod.script("printf raw");
    let file = pod.home.path().join("raw");
    fs::write(bundle.dir.join("config.json"), bundle.spec.to_string()).unwrap();
    let task = CreateTask {
        id: bundle.id.clone(),
        bundle: bundle.dir.clone(),
        rootfs: bundle.rootfs.clone(),
        stdout: format!("file://{}", file.display()),
        ..Default::default()
    };
    pod.client.create(&task).await.unwrap();
    pod.client.start(&bundle.id).await.unwrap();
    pod.wait(&bundle.id).await;
    assert_eq!(fs::read_to_string(&file).unwrap(), "raw");
}

#[tokio::test]
async fn a_flood_of_output_is_all_there() {
    let Some(pod) = pod().await else { return };
    let (status, out) = pod.sh("seq 1 20000").await;
    assert_eq!((status, out.lines().count()), (0, 20000));
    assert!(out.ends_with("\n20000\n"));
}

#[tokio::test]
async fn clients_hear_what_is_said_from_now_on() {
    let Some(pod) = pod().await else { return };
    let (socket, stdin) = (pod.home.path().join("attach"), fifo(&pod, "in"));
    let mut bundle = pod.script("echo before; read x; echo after; printf '$ '; read y");
    bundle.spec["annotations"][annotations::ATTACH] = serde_json::json!(socket);
    let log = format!("cri://{}", bundle.log.display());
    create(&pod, &bundle, &stdin, log, false).await;
    pod.until_logged(&bundle, "before").await;
    let mut client = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let taken_in = attach::next(&mut client).await.unwrap().unwrap();
    assert_eq!(taken_in, (LogStream::Stdout, Vec::new()));
    let mut input = pipe::OpenOptions::new().open_sender(&stdin).unwrap();
    input.write_all(b"\n").await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < "after\n$ ".len() {
        let (stream, bytes) = attach::next(&mut client).await.unwrap().unwrap();
        assert_eq!(stream, LogStream::Stdout);
        heard.extend(bytes);
    }
    assert_eq!(heard, b"after\n$ ", "a prompt comes without a newline");
    input.write_all(b"\n").await.unwrap();
    assert_eq!(
        attach::next(&mut client).await.unwrap(),
        None,
        "the container's end"
    );
    pod.wait(&bundle.id).await;
    assert!(!socket.exists());
}
