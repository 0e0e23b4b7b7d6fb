//! Listening to a container and writing to it, as `kubectl attach` does.

use crate::shim::{Shim, ended, is_root, workload};
use amphipod_shim_api::{CreateTask, attach};
use serde_json::json;
use std::io::Write as _;
use tokio::net::UnixStream;

#[tokio::test]
async fn who_is_attached_hears_what_is_said_and_the_end() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let (socket, input) = (shim.home.path().join("sock"), shim.home.path().join("in"));
    nix::unistd::mkfifo(&input, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let bundle = shim.bundle("c", &workload("toolbox.wasm"), |config| {
        config["process"]["args"] = json!(["toolbox", "cat"]);
        config["annotations"]["dev.amphipod.linux/attach"] = json!(socket);
    });
    let client = shim.client("c", &bundle).await;
    let task = CreateTask {
        id: "c".into(),
        bundle,
        stdin: input.display().to_string(),
        stdout: format!("cri://{}", shim.log_path("c").display()),
        ..CreateTask::default()
    };
    client.create(&task).await.unwrap();
    client.start("c").await.unwrap();
    assert!(!socket.exists(), "nobody asked for it");
    client.open_socket("c").await.unwrap();
    let mut attached = UnixStream::connect(&socket).await.unwrap();
    let mut writer = std::fs::File::options().write(true).open(&input).unwrap();
    // From its being taken in on, it hears all.
    let taken_in = attach::next(&mut attached).await.unwrap().unwrap();
    assert_eq!(taken_in.1, b"");
    writer.write_all(b"word\n").unwrap();
    let mut heard = Vec::new();
    while heard.len() < b"word\n".len() {
        heard.extend(attach::next(&mut attached).await.unwrap().unwrap().1);
    }
    assert_eq!(heard, b"word\n");
    client.close_stdin("c").await.unwrap();
    drop(writer);
    assert_eq!(attach::next(&mut attached).await.unwrap(), None, "the end");
    assert_eq!(ended(&client, "c").await.status, 0);
    assert!(!socket.exists());
    client.open_socket("c").await.unwrap_err();
    client.delete("c").await.unwrap();
    client.shutdown("c").await.unwrap();
}
