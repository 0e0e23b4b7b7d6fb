//! Terminals of guests: `kubectl exec -it`, and containers with `tty: true`.

use crate::shim::{LIMIT, Shim, ended, is_root, workload};
use amphipod_shim_api::client::ExecTask;
use amphipod_shim_api::{CreateTask, TaskClient, attach};
use nix::sys::stat::Mode;
use serde_json::json;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
use tokio::time::timeout;

/// Lines of a file that is longer than what a terminal holds.
const LINES: usize = 20_000;

/// A container that waits, with a volume at `/data`.
struct Home {
    shim: Shim,
    client: TaskClient,
    _data: tempfile::TempDir,
}

/// A command on a terminal.
struct Session<'a> {
    home: &'a Home,
    name: &'static str,
    typed: Sender,
    said: Receiver,
}

impl Home {
    async fn new() -> Self {
        let (shim, data) = (Shim::new(), tempfile::tempdir().unwrap());
        std::fs::write(data.path().join("long"), "0123456789\n".repeat(LINES)).unwrap();
        let client = shim
            .start("c", &workload("burn.wasm"), |config| {
                config["mounts"] =
                    json!([{"destination": "/data", "type": "bind", "source": data.path(), "options": ["rbind"]}]);
                config["linux"]["resources"]["cpu"] = json!({"quota": 50_000, "period": 100_000});
            })
            .await;
        Self {
            shim,
            client,
            _data: data,
        }
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.shim.home.path().join(name);
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        path
    }

    async fn session(&self, name: &'static str, args: &[&str]) -> Session<'_> {
        let (stdin, stdout) = (
            self.fifo(&format!("{name}.in")),
            self.fifo(&format!("{name}.out")),
        );
        let said = OpenOptions::new().open_receiver(&stdout).unwrap();
        let task = ExecTask {
            id: "c".into(),
            exec_id: name.into(),
            terminal: true,
            stdin: stdin.display().to_string(),
            stdout: stdout.display().to_string(),
            process: json!({"args": args, "cwd": "/data", "user": {"uid": 0, "gid": 0}, "terminal": true}),
            ..ExecTask::default()
        };
        self.client.exec(&task).await.unwrap();
        let typed = OpenOptions::new().open_sender(&stdin).unwrap();
        self.client.start(("c", name)).await.unwrap();
        Session {
            home: self,
            name,
            typed,
            said,
        }
    }
}

impl Session<'_> {
    async fn expect(&mut self, expected: &str) {
        let mut said = vec![0; expected.len()];
        let read = timeout(LIMIT, self.said.read_exact(&mut said)).await;
        read.expect("the terminal says nothing").unwrap();
        assert_eq!(String::from_utf8(said).unwrap(), expected);
    }

    /// The exit status, and what was said until then.
    async fn end(mut self) -> (u32, String) {
        let mut rest = String::new();
        let read = timeout(LIMIT, self.said.read_to_string(&mut rest)).await;
        read.expect("the terminal does not end").unwrap();
        let process = ("c", self.name);
        let exit = self.home.client.wait(process).await.unwrap();
        assert_eq!(self.home.client.delete(process).await.unwrap(), exit);
        (exit.status, rest)
    }
}

#[tokio::test]
async fn an_exec_has_a_terminal_that_reads_lines_and_echoes() {
    if !is_root() {
        return;
    }
    let home = Home::new().await;
    let mut cat = home.session("cat", &["cat"]).await;
    cat.typed.write_all(b"one\ntwo\n").await.unwrap();
    // Who echoes is the terminal; the rest is cat, a line for each.
    cat.expect("one\r\ntwo\r\none\r\ntwo\r\n").await;
    home.client.resize_pty(("c", "cat"), 100, 40).await.unwrap();
    cat.typed.write_all(b"thre\x7fee\n\x04").await.unwrap();
    let (status, rest) = cat.end().await;
    assert_eq!(status, 0);
    assert!(rest.ends_with("\r\nthree\r\n"), "{rest:?}");
}

#[tokio::test]
async fn a_guest_knows_whether_it_has_a_terminal() {
    if !is_root() {
        return;
    }
    let home = Home::new().await;
    let on_all = ["[", "-t", "0", "-a", "-t", "1", "-a", "-t", "2", "]"];
    assert_eq!(home.session("all", &on_all).await.end().await, (0, String::new()));
    let said = ("/dev/tty\r\n".to_owned(), 0);
    let (status, out) = home.session("tty", &["tty"]).await.end().await;
    assert_eq!((out, status), said);
    let task = ExecTask {
        id: "c".into(),
        exec_id: "none".into(),
        process: json!({"args": ["test", "-t", "1"], "cwd": "/", "user": {"uid": 0, "gid": 0}}),
        ..ExecTask::default()
    };
    home.client.exec(&task).await.unwrap();
    home.client.start(("c", "none")).await.unwrap();
    assert_eq!(home.client.wait(("c", "none")).await.unwrap().status, 1);
}

#[tokio::test]
async fn an_interrupt_that_is_typed_ends_the_guest() {
    if !is_root() {
        return;
    }
    let home = Home::new().await;
    for (name, key, status, echo) in [("interrupt", b"\x03", 130, "^C"), ("quit", b"\x1c", 131, "^\\")] {
        let mut sleep = home.session(name, &["sleep", "infinity"]).await;
        sleep.typed.write_all(key).await.unwrap();
        // The terminal may be gone before the kernel has written its echo.
        let (ended, said) = sleep.end().await;
        assert!(ended == status && echo.starts_with(&said), "{ended} {said:?}");
    }
}

#[tokio::test]
async fn what_was_typed_before_the_input_was_closed_is_read() {
    if !is_root() {
        return;
    }
    let home = Home::new().await;
    let mut head = home.session("head", &["head", "-n", "2"]).await;
    head.typed.write_all(b"one\ntwo\n").await.unwrap();
    home.client.close_stdin(("c", "head")).await.unwrap();
    let (status, said) = head.end().await;
    assert!(status == 0 && said.contains("two\r\n"), "{said:?}");
}

#[tokio::test]
async fn what_a_terminal_cannot_hold_waits_for_its_reader() {
    if !is_root() {
        return;
    }
    let home = Home::new().await;
    let (status, said) = home.session("long", &["cat", "long"]).await.end().await;
    assert_eq!(status, 0);
    assert!(said == "0123456789\r\n".repeat(LINES), "{} bytes", said.len());
}

#[tokio::test]
async fn a_container_on_a_terminal_is_logged_and_attached_to() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let (socket, input) = (shim.home.path().join("sock"), shim.home.path().join("in"));
    nix::unistd::mkfifo(&input, Mode::S_IRWXU).unwrap();
    let bundle = shim.bundle("c", &workload("toolbox.wasm"), |config| {
        config["process"]["args"] = json!(["toolbox", "cat"]);
        config["annotations"]["dev.amphipod.linux/attach"] = json!(socket);
    });
    let client = shim.find("c", &bundle).await;
    let task = CreateTask {
        id: "c".into(),
        bundle,
        terminal: true,
        stdin: input.display().to_string(),
        stdout: format!("cri://{}", shim.log_path("c").display()),
        ..CreateTask::default()
    };
    client.create(&task).await.unwrap();
    client.start("c").await.unwrap();
    client.open_socket("c").await.unwrap();
    let mut attached = UnixStream::connect(&socket).await.unwrap();
    assert_eq!(attach::next(&mut attached).await.unwrap().unwrap().1, b"");
    let mut typed = OpenOptions::new().open_sender(&input).unwrap();
    typed.write_all(b"word\n").await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < b"word\r\nword\r\n".len() {
        heard.extend(attach::next(&mut attached).await.unwrap().unwrap().1);
    }
    assert_eq!(heard, b"word\r\nword\r\n");
    typed.write_all(b"\x04").await.unwrap();
    assert_eq!(ended(&client, "c").await.status, 0);
    assert_eq!(shim.log("c"), ["stdout F word", "stdout F word"]);
}
