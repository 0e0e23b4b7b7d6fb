//! A guest that got through wasmtime, in the real shim: one of its threads is made to ask the kernel for files.
//!
//! By ptrace(2), as a debugger would: what the thread asks for is judged as its own.

#![cfg(target_arch = "x86_64")]

use crate::netns::Netns;
use crate::sandbox::threads;
use crate::shim::{LIMIT, Shim, in_network, is_root, skipped, workload};
use nix::errno::Errno;
use nix::libc::{AT_FDCWD, O_CREAT, O_RDONLY, O_WRONLY, SYS_openat, user_regs_struct};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::json;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Instant;

/// What the ABI leaves alone below the top of a stack.
const RED_ZONE: u64 = 4096;

/// The instruction `syscall`, and its length.
const SYSCALL: i64 = 0x050f;
const LENGTH: u64 = 2;

/// Stops a thread that has just asked the kernel for something, as one that waits has; it may be on its way to that.
fn stopped(thread: Pid) -> user_regs_struct {
    let deadline = Instant::now() + LIMIT;
    loop {
        ptrace::attach(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        let registers = ptrace::getregs(thread).unwrap();
        let last = (registers.rip - LENGTH) as ptrace::AddressType;
        if ptrace::read(thread, last).unwrap() & 0xffff == SYSCALL {
            return registers;
        }
        ptrace::detach(thread, None).unwrap();
        assert!(Instant::now() < deadline, "its thread never waits");
        std::thread::yield_now();
    }
}

/// Has a thread open a file.
fn opens(thread: Pid, path: &Path, flags: i32) -> Result<(), Errno> {
    let before = stopped(thread);
    let at = (before.rsp - RED_ZONE) & !7;
    let words = [path.as_os_str().as_bytes(), &[0; 8]].concat();
    for (number, word) in words.chunks_exact(8).enumerate() {
        let address = at + 8 * number as u64;
        let word = i64::from_ne_bytes(word.try_into().unwrap());
        ptrace::write(thread, address as ptrace::AddressType, word).unwrap();
    }
    let mut asking = before;
    // The call that it was interrupted in is not begun again.
    asking.rip -= LENGTH;
    asking.orig_rax = u64::MAX;
    (asking.rax, asking.rdi) = (SYS_openat as u64, i64::from(AT_FDCWD) as u64);
    (asking.rsi, asking.rdx, asking.r10) = (at, flags as u64, 0o600);
    ptrace::setregs(thread, asking).unwrap();
    ptrace::step(thread, None).unwrap();
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    let answer = ptrace::getregs(thread).unwrap().rax.cast_signed();
    // As if a signal had come.
    let mut after = before;
    after.rax = i64::from(-(Errno::EINTR as i32)) as u64;
    after.orig_rax = u64::MAX;
    ptrace::setregs(thread, after).unwrap();
    ptrace::detach(thread, None).unwrap();
    match answer {
        0.. => Ok(()),
        error => Err(Errno::from_raw(-error as i32)),
    }
}

#[tokio::test]
async fn a_thread_of_a_guest_that_was_taken_over_opens_what_it_was_granted_and_nothing_else() {
    if !is_root() {
        return;
    }
    if std::fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|all| !all.contains("landlock")) {
        return skipped("needs a kernel with Landlock");
    }
    let (shim, netns) = (Shim::new(), Netns::new());
    let (data, sealed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for directory in [&data, &sealed] {
        std::fs::write(directory.path().join("a"), "").unwrap();
    }
    shim.start("c", &workload("server.wasm"), |config| {
        in_network(config, &netns);
        config["annotations"]["dev.amphipod.wasm/http-port"] = json!("8080");
        config["mounts"] = json!([
            {"destination": "/data", "type": "bind", "source": data.path(), "options": ["rbind"]},
            {"destination": "/sealed", "type": "bind", "source": sealed.path(), "options": ["rbind", "ro"]},
        ]);
    })
    .await;
    // There are threads as long as somebody is connected.
    let client = netns.connect(8080);
    assert!(netns.get(8080, "/healthz").ends_with("ok\n"));
    let first = |name| Pid::from_raw(threads(shim.pid(), name).remove(0)["Pid"].parse().unwrap());
    let thread = first("pod");
    let granted = |directory: &tempfile::TempDir, name: &str| directory.path().join(name);
    let refused = Err(Errno::EACCES);
    // It is root and may override the modes of files: what refuses is no file's.
    for (path, flags, expected) in [
        (granted(&data, "a"), O_RDONLY, Ok(())),
        (granted(&data, "new"), O_WRONLY | O_CREAT, Ok(())),
        (granted(&sealed, "a"), O_RDONLY, Ok(())),
        (granted(&sealed, "a"), O_WRONLY, refused),
        (granted(&sealed, "new"), O_WRONLY | O_CREAT, refused),
        ("/etc/passwd".into(), O_RDONLY, refused),
        ("/etc".into(), O_RDONLY, refused),
        ("/proc/self/mem".into(), O_RDONLY, refused),
        (shim.log_path("c"), O_WRONLY, refused),
    ] {
        assert_eq!(opens(thread, &path, flags), expected, "{path:?} {flags}");
    }
    // Those that serve open what Pods to come will need.
    assert_eq!(
        opens(first("service"), Path::new("/etc/passwd"), O_RDONLY),
        Ok(())
    );
    drop(client);
}
