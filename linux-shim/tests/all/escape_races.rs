//! A way out of a container that needs somebody who shares a directory with it, and who exchanges a name there for a link
//! while the container is made. It is tried many times; canary files on the host are compared after each. (The races for
//! masked paths and for `/dev/console` need no luck: `init::races` of the crate has the exchange where it matters.)

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::escapes::Canary;
use crate::harness::{Pod, pod};

/// Somebody who shares the volume puts a link in the place of the directory that is to be mounted on, again and again.
#[tokio::test]
async fn a_mount_target_swapped_while_it_is_made_stays_inside() {
    let Some(pod) = pod().await else { return };
    let canary = Canary::of(&pod);
    let shared = shared_with_link(&pod, &canary);
    fs::create_dir(shared.join("target")).unwrap();
    let swapper = Swapper::of(&shared, "target", "link");
    let bundle = || {
        let mut bundle = pod.script("cat /v/target/file /v/link/file 2>/dev/null; true");
        bundle.mount(json!({"destination": "/v", "type": "bind", "source": shared, "options": ["rbind"]}));
        bundle.mount(json!({"destination": "/v/target/made", "type": "tmpfs", "source": "tmpfs"}));
        bundle
    };
    for _ in 0..20 {
        let bundle = bundle();
        if pod.create(&bundle).await.is_ok() {
            pod.client.start(&bundle.id).await.unwrap();
            pod.wait(&bundle.id).await;
            pod.client.delete(&bundle.id).await.unwrap();
            assert_eq!(bundle.output(), "");
        }
        canary.check();
    }
    // Only the exchange may have been what was in the way of those that could not be made.
    drop(swapper);
    assert_eq!(pod.run(&bundle()).await, (0, String::new()));
    canary.check();
}

/// Keeps exchanging two names of a directory until it is dropped.
struct Swapper {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Swapper {
    fn of(dir: &Path, one: &'static str, other: &'static str) -> Self {
        let dir = fs::File::open(dir).unwrap();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let told = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !told.load(std::sync::atomic::Ordering::Relaxed) {
                let swap = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                // That an exchange was in vain is no failure: the next one follows.
                let _ = nix::fcntl::renameat2(&dir, one, &dir, other, swap);
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// A directory of the host shared with the container, in which `link` leads to the canary.
fn shared_with_link(pod: &Pod, canary: &Canary) -> PathBuf {
    let shared = pod.home.path().join("shared");
    fs::create_dir_all(&shared).unwrap();
    let out = Path::new("../../../../../../../..").join(canary.0.strip_prefix("/").unwrap());
    symlink(out, shared.join("link")).unwrap();
    shared
}
