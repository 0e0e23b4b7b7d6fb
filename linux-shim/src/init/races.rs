//! Names exchanged for links at the one moment that matters: after a path was looked up, before something is mounted on
//! what was found. Nothing here depends on time: the steps are called one by one, with the exchange between them.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};
use nix::mount::{MsFlags, mount};
use nix::pty::openpty;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{fstat, makedev};

use super::devices::{console_target, mount_console_on};
use super::protect::{Cover, existing, make_read_only};
use super::root::Root;

/// A container's root below a directory of the test's, in a mount namespace that only its thread is in.
struct Shared {
    home: PathBuf,
    root: Root,
}

impl Shared {
    fn path(&self, inside: &str) -> PathBuf {
        self.home.join(inside.trim_start_matches('/'))
    }

    /// Exchanges two names, as somebody who shares the directory can at any time.
    fn exchange(&self, one: &str, other: &str) {
        let swap = RenameFlags::RENAME_EXCHANGE;
        renameat2(AT_FDCWD, &self.path(one), AT_FDCWD, &self.path(other), swap).unwrap();
    }

    fn find(&self, path: &str, flags: OFlag) -> OwnedFd {
        self.root.find(Path::new(path), flags).unwrap()
    }
}

/// Says why not where the host lets us make no mount namespace.
fn apart(test: impl FnOnce(Shared) + Send + 'static) {
    // Not the thread's, which would see its mounts there.
    let home = tempfile::tempdir().unwrap();
    let path = home.path().to_owned();
    let thread = std::thread::spawn(|| {
        match unshare(CloneFlags::CLONE_NEWNS) {
            Err(Errno::EPERM) => return eprintln!("skipped: needs root"),
            done => done.unwrap(),
        }
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let root = Root::open(&path).unwrap();
        test(Shared { home: path, root });
    });
    thread.join().unwrap();
    home.close().unwrap();
}

/// A directory to be protected, and a link beside it that leads to another.
fn with_secret(this: &Shared) {
    for dir in ["v/secret", "decoy"] {
        fs::create_dir_all(this.path(dir)).unwrap();
        fs::write(this.path(dir).join("file"), "text").unwrap();
    }
    symlink("/decoy", this.path("v/link")).unwrap();
}

#[test]
fn a_mask_goes_on_what_was_looked_up_and_is_missed_elsewhere() {
    apart(|this| {
        with_secret(&this);
        let target = existing(&this.root, "/v/secret").unwrap().unwrap();
        this.exchange("v/secret", "v/link");
        let error = Cover::default()
            .put(&this.root, "/v/secret", &target)
            .unwrap_err();
        assert!(error.to_string().contains("something else"), "{error}");
        assert!(!this.path("v/link/file").exists(), "the directory is not covered");
        assert_eq!(fs::read_to_string(this.path("decoy/file")).unwrap(), "text");
    });
}

#[test]
fn a_read_only_path_is_what_was_looked_up_and_is_missed_elsewhere() {
    apart(|this| {
        with_secret(&this);
        let target = existing(&this.root, "/v/secret").unwrap().unwrap();
        this.exchange("v/secret", "v/link");
        let error = make_read_only(&this.root, "/v/secret", &target).unwrap_err();
        assert!(error.to_string().contains("something else"), "{error}");
        let refused = fs::write(this.path("v/link/file"), "").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        fs::write(this.path("decoy/file"), "new").unwrap();
    });
}

#[test]
fn a_path_of_procfs_must_not_be_of_something_else_that_is_called_so() {
    apart(|this| {
        fs::create_dir_all(this.path("proc")).unwrap();
        fs::write(this.path("proc/keys"), "").unwrap();
        let error = existing(&this.root, "/proc/keys").unwrap_err();
        assert!(error.to_string().contains("procfs"), "{error}");
        assert!(existing(&this.root, "/proc/none").unwrap().is_none());
    });
}

/// The very same directory by another mount is something else too: what is to be read-only could be written there.
#[test]
fn a_read_only_path_is_known_by_its_mount() {
    apart(|this| {
        with_secret(&this);
        fs::create_dir(this.path("v/again")).unwrap();
        let (from, to) = (this.path("v/secret"), this.path("v/again"));
        mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        fs::remove_file(this.path("v/link")).unwrap();
        symlink("again", this.path("v/link")).unwrap();
        let target = existing(&this.root, "/v/secret").unwrap().unwrap();
        this.exchange("v/secret", "v/link");
        assert!(make_read_only(&this.root, "/v/secret", &target).is_err());
    });
}

#[test]
fn files_are_covered_with_a_null_device_that_nobody_can_change() {
    apart(|this| {
        with_secret(&this);
        fs::create_dir(this.path("dev")).unwrap();
        fs::write(this.path("decoyfile"), "text").unwrap();
        symlink("/decoyfile", this.path("dev/null")).unwrap();
        let target = existing(&this.root, "/v/secret/file").unwrap().unwrap();
        Cover::default()
            .put(&this.root, "/v/secret/file", &target)
            .unwrap();
        let seen = fstat(this.find("/v/secret/file", OFlag::O_PATH)).unwrap();
        assert_eq!(seen.st_rdev, makedev(1, 3));
        let cover = this.find("/v/secret/file", OFlag::O_WRONLY);
        nix::unistd::write(cover, b"said").unwrap();
        assert_eq!(fs::read_to_string(this.path("decoyfile")).unwrap(), "text");
        let mode = fs::Permissions::from_mode(0o666);
        let error = fs::set_permissions(this.path("/v/secret/file"), mode).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    });
}

/// A file for the console, and a link beside it that leads to another.
fn with_console(this: &Shared) {
    fs::create_dir_all(this.path("dev/pts")).unwrap();
    fs::write(this.path("dev/console"), "").unwrap();
    fs::write(this.path("decoyfile"), "text").unwrap();
    symlink("/decoyfile", this.path("dev/link")).unwrap();
}

#[test]
fn the_console_goes_on_what_was_looked_up_and_is_missed_elsewhere() {
    apart(|this| {
        with_console(&this);
        let pair = openpty(None, None).unwrap();
        let terminal = pair.slave;
        let target = console_target(&this.root).unwrap();
        this.exchange("dev/console", "dev/link");
        let error = mount_console_on(&this.root, &target, &terminal).unwrap_err();
        assert!(error.to_string().contains("something else"), "{error}");
        let device = fstat(&terminal).unwrap().st_rdev;
        assert_eq!(fs::metadata(this.path("dev/link")).unwrap().rdev(), device);
        assert_eq!(fs::read_to_string(this.path("decoyfile")).unwrap(), "text");
    });
}

/// The terminal has a name in the container's devpts, which may lead elsewhere.
#[test]
fn the_console_is_the_terminal_and_not_what_has_its_name() {
    apart(|this| {
        with_console(&this);
        let pair = openpty(None, None).unwrap();
        let terminal = pair.slave;
        let name = nix::unistd::ttyname(&terminal).unwrap();
        symlink("/decoyfile", this.path(name.to_str().unwrap())).unwrap();
        let target = console_target(&this.root).unwrap();
        mount_console_on(&this.root, &target, &terminal).unwrap();
        let seen = fstat(this.find("/dev/console", OFlag::O_PATH)).unwrap();
        assert_eq!(seen.st_rdev, fstat(&terminal).unwrap().st_rdev);
    });
}
