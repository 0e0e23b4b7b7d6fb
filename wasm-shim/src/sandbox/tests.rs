//! A guest that got through: code of this process, behind the fences, asks for what it must not have.

use super::*;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::ptrace;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, chroot, execve, sethostname};
use std::fs::{self, File};
use std::os::fd::AsFd as _;

/// Runs `work` on a thread of its own, behind the fences.
fn behind<T: Send>(sandbox: &Sandbox, work: impl FnOnce() -> T + Send) -> T {
    let fenced = || {
        if sandbox.who == Who::Guests {
            // As by the nursery.
            Filters::of(sandbox.who).and_then(Filters::enter).unwrap();
        }
        sandbox.become_user().unwrap();
        sandbox.enter().unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(fenced).join().unwrap())
}

fn what_nobody_gets(who: &str) {
    let none: Option<&str> = None;
    let refused = [Errno::EPERM, Errno::EACCES];
    let check = |what: &str, result: nix::Result<()>| {
        let error = result.expect_err(what);
        assert!(refused.contains(&error), "{who}: {what}: {error}");
    };
    let opened = |path: &str, flags| open(path, flags, Mode::empty()).map(drop);
    check("execve", execve(c"/bin/true", &[c"true"], &[c""]).map(|_| ()));
    check("ptrace", ptrace::attach(Pid::parent()));
    check(
        "mount",
        mount(none, "/mnt", Some("tmpfs"), MsFlags::empty(), none),
    );
    check("unshare", unshare(CloneFlags::CLONE_NEWUSER));
    check("chroot", chroot("/"));
    check("sethostname", sethostname("taken"));
    check("kill", nix::sys::signal::kill(Pid::parent(), None));
    let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None);
    check("a packet socket", raw.map(drop));
    if landlock_version() > 0 {
        check("/etc/shadow", opened("/etc/shadow", OFlag::O_RDONLY));
        check("a new file", opened("/tmp/x", OFlag::O_WRONLY | OFlag::O_CREAT));
        check("its own memory", opened("/proc/self/mem", OFlag::O_RDWR));
        check(
            "the root directory",
            opened("/", OFlag::O_RDONLY | OFlag::O_DIRECTORY),
        );
    }
}

#[test]
fn a_guests_thread_that_was_taken_over_gets_nowhere() {
    let (given, readable) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(readable.path().join("a"), "a").unwrap();
    let (given_fd, readable_fd) = (
        File::open(given.path()).unwrap(),
        File::open(readable.path()).unwrap(),
    );
    let files = [
        (given_fd.as_fd(), Access::Write),
        (readable_fd.as_fd(), Access::Read),
    ];
    let sandbox = Sandbox::for_guests(root(), &files).unwrap();
    behind(&sandbox, || {
        what_nobody_gets("guest");
        let own = File::open("/proc/self/ns/net").map_err(|error| error.kind());
        assert!(own.is_err() || setns(own.unwrap(), CloneFlags::CLONE_NEWNET).is_err());
        assert_eq!(crate::sys::map_executable(), Err(Errno::EPERM));

        let file = given.path().join("dir/file");
        fs::create_dir(file.parent().unwrap()).unwrap();
        fs::write(&file, "text").unwrap();
        fs::rename(&file, given.path().join("moved")).unwrap();
        assert_eq!(fs::read_to_string(readable.path().join("a")).unwrap(), "a");
        if landlock_version() > 0 {
            assert!(fs::write(readable.path().join("b"), "b").is_err());
            assert!(fs::remove_file(readable.path().join("a")).is_err());
        }
        // Threads and sockets are what it lives from; a thread it starts is fenced in as well.
        std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        std::thread::spawn(|| what_nobody_gets("thread of a guest"))
            .join()
            .unwrap();
    });
}

#[test]
fn the_compiler_gets_its_cache_and_nothing_else() {
    let cache = tempfile::tempdir().unwrap();
    let binary = tempfile::NamedTempFile::new().unwrap();
    let directory = File::open(cache.path()).unwrap();
    let files = [
        (directory.as_fd(), Access::Write),
        (binary.as_file().as_fd(), Access::ReadFile),
    ];
    let sandbox = Sandbox::for_compiler(&files).unwrap();
    behind(&sandbox, || {
        what_nobody_gets("compiler");
        assert!(std::net::TcpListener::bind("127.0.0.1:0").is_err());
        fs::read(binary.path()).unwrap();
        fs::write(cache.path().join("code"), "code").unwrap();
        if landlock_version() > 0 {
            assert!(fs::write(binary.path(), "").is_err());
        }
    });
}

#[test]
fn the_service_goes_where_pods_are_and_nowhere_else() {
    let netns = File::open("/proc/self/ns/net").unwrap();
    behind(&Sandbox::for_service(), || {
        let none: Option<&str> = None;
        let refused = |what: &str, result: nix::Result<()>| assert_eq!(result, Err(Errno::EPERM), "{what}");
        refused("ptrace", ptrace::attach(Pid::parent()));
        refused("chroot", chroot("/"));
        refused("sethostname", sethostname("taken"));
        refused("a user namespace", unshare(CloneFlags::CLONE_NEWUSER));
        let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None);
        refused("a packet socket", raw.map(drop));
        let done = std::process::Command::new("/bin/true").status().unwrap();
        assert!(done.success(), "the compiler is a program");
        if nix::unistd::geteuid().is_root() {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(none, "/mnt", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        }
    });
}

/// The files of a volume that are a native container's of that user.
#[test]
fn a_guests_files_are_its_users() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let secret = theirs.path().join("secret");
    for (directory, mode) in [(ours.path(), 0o2775), (theirs.path(), 0o755)] {
        fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
    }
    chown(ours.path(), None, Some(2000)).unwrap();
    fs::write(&secret, "another's").unwrap();
    chown(&secret, Some(7000), Some(7000)).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let (ours_fd, theirs_fd) = (
        File::open(ours.path()).unwrap(),
        File::open(theirs.path()).unwrap(),
    );
    let files = [
        (ours_fd.as_fd(), Access::Write),
        (theirs_fd.as_fd(), Access::Write),
    ];
    let somebody = |uid, any_file| Identity {
        uid,
        gid: 3000,
        groups: vec![2000],
        rights: Rights {
            any_file,
            ..root().rights
        },
    };
    for (name, identity, reads) in [
        ("user", somebody(1000, true), false),
        ("root", somebody(0, true), true),
        ("root that may not", somebody(0, false), false),
    ] {
        let (uid, new) = (identity.uid, ours.path().join(name));
        let sandbox = Sandbox::for_guests(identity, &files).unwrap();
        behind(&sandbox, || {
            fs::write(&new, "").unwrap();
            assert_eq!(fs::read(&secret).is_ok(), reads, "{name}");
            assert_eq!(fs::write(theirs.path().join("x"), "").is_ok(), uid == 0, "{name}");
            let back = [
                crate::sys::set_thread_group(0),
                crate::sys::set_thread_groups(&[]),
            ];
            assert!(back.iter().all(Result::is_err), "{name} has its groups for good");
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(0));
            assert_eq!(fs::write(theirs.path().join("y"), "").is_ok(), uid == 0, "{name}");
            let inherited = std::thread::scope(|scope| scope.spawn(|| fs::read(&secret).is_ok()).join());
            assert_eq!(inherited.unwrap(), reads, "a thread of {name}");
        });
        let made = fs::metadata(&new).unwrap();
        assert_eq!((made.uid(), made.gid()), (uid, 2000), "{name}");
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "other threads are who they were"
    );
}
