//! Commands in a running Wasm container: the toolbox, the user's own modules, their streams and their end.

use crate::http::on_port;
use crate::netns::Netns;
use crate::shim::{LIMIT, Shim, ended, is_root, workload};
use amphipod_shim_api::client::ExecTask;
use amphipod_shim_api::{Exit, TaskClient, TaskError};
use serde_json::json;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A container that waits, with a volume at `/data` that holds `message`.
struct Home {
    shim: Shim,
    client: TaskClient,
    data: tempfile::TempDir,
}

impl Home {
    async fn new() -> Self {
        let shim = Shim::new();
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("message"), "from the volume\n").unwrap();
        let client = shim
            .start("c", &workload("burn.wasm"), |config| {
                config["process"]["env"] = json!(["GREETING=hello"]);
                config["mounts"] =
                    json!([{"destination": "/data", "type": "bind", "source": data.path(), "options": ["rbind"]}]);
                config["linux"]["resources"]["cpu"] = json!({"quota": 50_000, "period": 100_000});
            })
            .await;
        Self { shim, client, data }
    }

    fn out(&self, exec: &str, stream: &str) -> PathBuf {
        self.shim.home.path().join(format!("{exec}.{stream}"))
    }

    async fn make(&self, exec: &str, args: &[&str], stdin: Option<&Path>) -> Result<(), TaskError> {
        let file = |stream: &str| format!("file://{}", self.out(exec, stream).display());
        let task = ExecTask {
            id: "c".into(),
            exec_id: exec.into(),
            stdin: stdin.map(|path| path.display().to_string()).unwrap_or_default(),
            stdout: file("out"),
            stderr: file("err"),
            process: json!({"args": args, "env": ["GREETING=hello"], "cwd": "/data", "user": {"uid": 0, "gid": 0}}),
            ..ExecTask::default()
        };
        self.client.exec(&task).await
    }

    async fn wait(&self, exec: &str) -> Exit {
        let wait = self.client.wait(("c", exec));
        tokio::time::timeout(LIMIT, wait)
            .await
            .expect("the command did not end")
            .unwrap()
    }

    fn said(&self, exec: &str) -> (String, String) {
        let read = |stream| std::fs::read_to_string(self.out(exec, stream)).unwrap();
        (read("out"), read("err"))
    }

    /// Runs a command to its end: status, stdout, stderr.
    async fn run(&self, exec: &str, args: &[&str]) -> (u32, String, String) {
        self.make(exec, args, None).await.unwrap();
        self.client.start(("c", exec)).await.unwrap();
        let exit = self.wait(exec).await;
        assert_eq!(self.client.delete(("c", exec)).await.unwrap(), exit);
        let (stdout, stderr) = self.said(exec);
        (exit.status, stdout, stderr)
    }
}

#[tokio::test]
async fn the_toolbox_works_in_the_containers_own_world() {
    if !is_root() {
        return;
    }
    let home = Home::new().await;
    for (number, (args, status, stdout, stderr)) in [
        (&["cat", "/data/message"][..], 0, "from the volume\n", ""),
        (&["ls", "/data"], 0, "message\n", ""),
        (&["echo", "a", "b"], 0, "a b\n", ""),
        (&["env"], 0, "GREETING=hello\n", ""),
        (&["ls", "/"], 0, "data\n", ""),
        (&["ls", "-dF", "/", "message"], 0, "/\nmessage\n", ""),
        (&["find", "/", "-type", "f"], 0, "/data/message\n", ""),
        (&["pwd"], 0, "/data\n", ""),
        (&["ps", "aux"], 0, "GUEST  COMMAND\nmain   program\n", ""),
        (&["ls", "-Z"], 2, "", "ls: invalid option -- 'Z'\n"),
        (&["cp", "-p", "message", "copy"], 0, "", ""),
        (&["mv", "copy", "moved"], 0, "", ""),
        (&["grep", "-c", "volume", "moved"], 0, "1\n", ""),
        (&["rm", "-v", "moved"], 0, "rm: removed 'moved'\n", ""),
        (&["touch", "-c", "none"], 0, "", ""),
        (&["mkdir", "-p", "a/b"], 0, "", ""),
        (&["rm", "-rf", "a"], 0, "", ""),
        (&["sleep", "0.01"], 0, "", ""),
        (
            &["nslookup", "127.0.0.1"],
            0,
            "Name:    127.0.0.1\nAddress: 127.0.0.1\n",
            "",
        ),
        (
            &["wget", "-qO-", "gopher://x"],
            1,
            "",
            "wget: gopher://x: not an http",
        ),
        (&["cat", "/etc/passwd"], 1, "", "cat: /etc/passwd: "),
        (&["cat", "/data/../../etc/passwd"], 1, "", "cat: "),
        (&["false"], 1, "", ""),
        (&["sh", "-c", "ls"], 127, "", "sh: not found; there are: cat "),
    ]
    .into_iter()
    .enumerate()
    {
        let (ended, out, err) = home.run(&format!("e{number}"), args).await;
        assert_eq!((ended, out.as_str()), (status, stdout), "{args:?}: {err}");
        assert!(
            err.starts_with(stderr) && err.is_empty() == stderr.is_empty(),
            "{args:?}: {err}"
        );
    }
    let (status, out, _) = home.run("stat", &["stat", "/data/message"]).await;
    assert!(
        status == 0 && out.contains("Size: 16") && out.contains("Type: file"),
        "{out}"
    );
    assert_eq!(home.run("rm", &["rm", "/data/message"]).await.0, 0);
    assert!(!home.data.path().join("message").exists());
}

/// Appends files to an archive in the volume, under names that `transform` makes of theirs (GNU tar).
fn pack(data: &Path, transform: &str, name: &str) {
    let mut tar = std::process::Command::new("tar");
    let tar = tar
        .args(["-P", "-rf", "evil.tar", transform, name])
        .current_dir(data);
    assert!(tar.status().unwrap().success(), "{transform}");
}

#[tokio::test]
async fn archives_lead_nowhere() {
    if !is_root() {
        return;
    }
    let (home, outside) = (Home::new().await, tempfile::tempdir().unwrap());
    let data = home.data.path();
    std::fs::write(outside.path().join("secret"), "not the container's").unwrap();
    std::fs::create_dir(data.join("in")).unwrap();
    let link = |target: &Path, name: &str| std::os::unix::fs::symlink(target, data.join(name)).unwrap();
    // Left there by a native neighbour, who has another root.
    link(outside.path(), "in/absolute");
    link(
        &Path::new("../../").join(outside.path().file_name().unwrap()),
        "in/relative",
    );
    link(Path::new("/etc"), "etc");
    link(Path::new("../../.."), "up");
    for transform in ["s,^,absolute/,", "s,^,relative/,", "s,^,../,", "s,^,inside/,"] {
        pack(data, &format!("--transform={transform}"), "message");
    }
    for linked in ["etc", "up"] {
        pack(data, "--transform=s,^,,", linked);
        pack(data, &format!("--transform=s,^,{linked}/,"), "message");
    }
    let (status, _, err) = home
        .run("extract", &["tar", "-xmf", "evil.tar", "-C", "/data/in"])
        .await;
    assert_eq!(status, 2);
    for refused in ["absolute/message: ", "relative/message: ", "../message: "] {
        assert!(err.contains(&format!("tar: {refused}")), "{refused}: {err}");
    }
    let read = |name: &str| std::fs::read_to_string(data.join("in").join(name)).unwrap();
    for put in ["inside/message", "etc/message", "up/message"] {
        assert_eq!(read(put), "from the volume\n");
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    let (status, out, err) = home.run("create", &["tar", "cf", "-", "/data/in"]).await;
    assert!(
        status == 2 && err.contains("tar: /data/in/absolute: "),
        "the host does not tell where it leads: {err}"
    );
    assert!(out.contains("data/in/relative") && !out.contains("not the container's"));
    let (status, _, err) = home
        .run("into", &["tar", "xf", "evil.tar", "-C", "/data/in/absolute"])
        .await;
    assert!(
        status == 2 && err.starts_with("tar: /data/in/absolute: "),
        "{err}"
    );
}

#[tokio::test]
async fn a_module_of_the_volume_runs_by_its_path() {
    if !is_root() {
        return;
    }
    let home = Home::new().await;
    std::fs::write(home.data.path().join("fail.wasm"), workload("fail.wasm")).unwrap();
    let (status, out, _) = home.run("own", &["/data/fail.wasm", "5"]).await;
    assert_eq!(status, 5);
    assert!(
        out.contains("arguments: 5") && out.contains("GREETING=hello"),
        "{out}"
    );

    std::fs::write(home.data.path().join("server.wasm"), workload("server.wasm")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", home.data.path().join("out")).unwrap();
    for (path, reason) in [
        ("/data/none.wasm", "ENOENT"),
        ("/etc/passwd", "ENOENT"),
        ("/data/out", "ENOENT"),
        ("/data/message", "not a WebAssembly binary"),
        ("/data/server.wasm", "no command"),
    ] {
        let error = home.make("bad", &[path], None).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{path}: {error}");
    }
}

#[tokio::test]
async fn input_comes_through_a_fifo_and_ends_when_it_is_closed() {
    if !is_root() {
        return;
    }
    let home = Home::new().await;
    let fifo = home.shim.home.path().join("in");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    home.make("wc", &["wc"], Some(&fifo)).await.unwrap();
    home.client.start(("c", "wc")).await.unwrap();
    let mut writer = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    writer.write_all(b"one two\nthree\n").unwrap();
    drop(writer);
    home.client.close_stdin(("c", "wc")).await.unwrap();
    assert_eq!(home.wait("wc").await.status, 0);
    let (out, _) = home.said("wc");
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["2", "3", "14"]);
}

#[tokio::test]
async fn commands_are_killed_and_end_with_their_container() {
    if !is_root() {
        return;
    }
    let home = Home::new().await;
    std::fs::write(home.data.path().join("burn.wasm"), workload("burn.wasm")).unwrap();
    for exec in ["killed", "left"] {
        home.make(exec, &["/data/burn.wasm"], None).await.unwrap();
        home.client.start(("c", exec)).await.unwrap();
    }
    assert!(matches!(
        home.make("left", &["ls"], None).await,
        Err(TaskError::AlreadyExists(_))
    ));
    assert!(matches!(
        home.client.delete(("c", "killed")).await,
        Err(TaskError::FailedPrecondition(_))
    ));
    home.client.kill(("c", "killed"), 15, false).await.unwrap();
    assert_eq!(home.wait("killed").await.status, 143);
    home.client.kill("c", 9, true).await.unwrap();
    assert_eq!(ended(&home.client, "c").await.status, 137);
    assert_eq!(home.wait("left").await.status, 137);
    assert!(matches!(
        home.make("late", &["ls"], None).await,
        Err(TaskError::FailedPrecondition(_))
    ));
}

#[tokio::test]
async fn a_container_that_serves_takes_commands_too() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let client = shim
        .start("c", &workload("server.wasm"), on_port(8080, &netns))
        .await;
    let home = Home {
        shim,
        client,
        data: tempfile::tempdir().unwrap(),
    };
    let (status, out, err) = home.run("echo", &["echo", "still", "here"]).await;
    assert_eq!((status, out.as_str()), (0, "still here\n"), "{err}");
    let get = [
        "wget",
        "-qO-",
        "--header",
        "X-Word: a b",
        "http://127.0.0.1:8080?x=1",
    ];
    let (status, out, err) = home.run("get", &get).await;
    let asked = out.contains("request: GET /?x=1\n")
        && out.contains("x-word: a b\n")
        && out.contains("user-agent: Wget\n");
    assert!(status == 0 && asked, "{out} {err}");
    let post = [
        "wget",
        "-q",
        "-O",
        "-",
        "--post-data=body",
        "http://127.0.0.1:8080/echo",
    ];
    let (status, out, err) = home.run("post", &post).await;
    assert_eq!((status, out.as_str()), (0, "body"), "{err}");
    let (status, _, err) = home
        .run("missing", &["wget", "-q", "http://127.0.0.1:8080/status/404"])
        .await;
    assert_eq!(
        (status, err.as_str()),
        (
            1,
            "wget: http://127.0.0.1:8080/status/404: server returned error: HTTP/1.1 404\n"
        )
    );
    let discard = ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/"];
    assert_eq!(
        home.run("discard", &discard).await,
        (0, String::new(), String::new())
    );
    let (status, _, err) = home
        .run("nobody", &["wget", "-T", "5", "http://127.0.0.1:9/"])
        .await;
    assert!(
        status == 1 && err.starts_with("wget: http://127.0.0.1:9/: "),
        "{err}"
    );
}
