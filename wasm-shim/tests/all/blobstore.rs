//! `wasi:blobstore` on a volume.

use crate::shim::{Shim, is_root, wat};
use serde_json::{Value, json};
use std::path::Path;

/// Writes the object `o` into the container `c`, as a stream, and reads a part of it back; ends with 1 when that fails.
const KEEPER: &str = include_str!("blobstore.wat");

fn on_volume<'a>(data: &'a Path, options: &'a [&str]) -> impl Fn(&mut Value) + 'a {
    move |config| {
        config["annotations"]["dev.amphipod.wasm/blobstore"] = json!("/data");
        config["mounts"] =
            json!([{"destination": "/data", "type": "bind", "source": data, "options": options}]);
    }
}

#[tokio::test]
async fn objects_are_files_of_the_volume_that_was_named() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let keeper = wat(KEEPER);
    let data = tempfile::tempdir().unwrap();
    for (id, options, status) in [
        ("first", &["rbind"][..], 0),
        ("again", &["rbind"], 0),
        ("sealed", &["rbind", "ro"], 1),
    ] {
        let exit = shim.run(id, &keeper, on_volume(data.path(), options)).await;
        assert_eq!(exit.status, status, "{id}: {:?}", shim.log(id));
        let object = std::fs::read_to_string(data.path().join("c/o")).unwrap();
        assert_eq!(object, "a text to keep");
        assert_eq!(
            std::fs::read_dir(data.path()).unwrap().count(),
            1,
            "something unfinished is left"
        );
    }
    assert_eq!(
        shim.run("ungranted", &keeper, |_| ()).await.status,
        1,
        "a container is there though none was granted"
    );
}

/// A link that another has put in the place of the container, or of the object, leads nowhere.
#[tokio::test]
async fn links_of_others_are_not_followed() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let keeper = wat(KEEPER);
    let home = tempfile::tempdir().unwrap();
    let (data, outside) = (home.path().join("data"), home.path().join("outside"));
    std::fs::create_dir_all(data.join("c")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("o"), "canary").unwrap();
    std::os::unix::fs::symlink(outside.join("o"), data.join("c/o")).unwrap();
    let exit = shim.run("object", &keeper, on_volume(&data, &["rbind"])).await;
    assert_eq!(exit.status, 0, "{:?}", shim.log("object"));
    std::fs::remove_dir_all(data.join("c")).unwrap();
    std::os::unix::fs::symlink(&outside, data.join("c")).unwrap();
    let exit = shim.run("container", &keeper, on_volume(&data, &["rbind"])).await;
    assert_eq!(exit.status, 1, "{:?}", shim.log("container"));
    assert_eq!(std::fs::read_to_string(outside.join("o")).unwrap(), "canary");
}
