//! Network namespaces with a loopback, pinned as the node agent pins them.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};

/// The index of the loopback, the first link of every namespace.
const LOOPBACK: u32 = 1;

/// One namespace; unmounted and gone when dropped.
pub struct Netns {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Netns {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("net");
        File::create(&path).unwrap();
        let target = path.clone();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            raise_loopback();
            let none: Option<&str> = None;
            mount(
                Some("/proc/thread-self/ns/net"),
                &target,
                none,
                MsFlags::MS_BIND,
                none,
            )
            .unwrap();
        })
        .join()
        .unwrap();
        Self {
            _directory: directory,
            path,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs on a thread inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(File::open(&self.path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// Gives the loopback these addresses besides its own.
    pub fn own(&self, addresses: &[Ipv4Addr]) {
        let add = async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            let driver = tokio::spawn(connection);
            for address in addresses {
                let added = handle.address().add(LOOPBACK, (*address).into(), 32);
                added.execute().await.unwrap();
            }
            driver.abort();
        };
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(add);
        });
    }

    /// A connection to a server inside.
    pub fn connect(&self, port: u16) -> TcpStream {
        self.run(|| TcpStream::connect(("127.0.0.1", port)).unwrap())
    }

    /// One HTTP/1.1 request on a connection of its own; answers all bytes until the server closes.
    pub fn http(&self, port: u16, request: &str) -> String {
        let mut stream = self.connect(port);
        stream.set_read_timeout(Some(crate::shim::LIMIT)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is an end as well.
        drop(stream.read_to_end(&mut answer));
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub fn get(&self, port: u16, path: &str) -> String {
        self.http(
            port,
            &format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"),
        )
    }

    pub fn refuses(&self, port: u16) -> bool {
        self.run(|| TcpStream::connect(("127.0.0.1", port)).is_err())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}

/// Sets IFF_UP by a sysfs that shows this thread's network namespace: no program is needed for it.
fn raise_loopback() {
    const IFF_UP: &[u8] = b"0x1";
    let none: Option<&str> = None;
    let sysfs = tempfile::tempdir().unwrap();
    mount(none, sysfs.path(), Some("sysfs"), MsFlags::empty(), none).unwrap();
    let raised = std::fs::write(sysfs.path().join("class/net/lo/flags"), IFF_UP);
    umount2(sysfs.path(), MntFlags::MNT_DETACH).unwrap();
    raised.unwrap();
}
