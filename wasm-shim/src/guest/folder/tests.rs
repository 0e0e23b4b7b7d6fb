//! Names of files, and how they get to them.

use super::*;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::io::Write as _;

#[test]
fn names_of_files() {
    for (of, file) in [
        ("", "%"),
        ("a-Z_0.x", "a-Z_0.x"),
        (".", "%2E"),
        ("..", "%2E."),
        ("../etc/passwd", "%2E.%2Fetc%2Fpasswd"),
        ("%", "%25"),
        ("ä\0", "%C3%A4%00"),
    ] {
        assert_eq!(file_name(of), file);
        assert_eq!(name(file).as_deref(), Some(of));
    }
    for stranger in [".12-0", "%2", "%zz", "%61", "a b", "%FF"] {
        assert_eq!(name(stranger), None, "{stranger}");
    }
}

#[test]
fn a_file_that_is_not_placed_is_gone() {
    let home = tempfile::tempdir().unwrap();
    let folder = Folder::new(File::open(home.path()).unwrap().into(), false);
    let count = || std::fs::read_dir(home.path()).unwrap().count();
    let (unfinished, mut file) = folder.begin().unwrap();
    file.write_all(b"half").unwrap();
    assert_eq!(
        (count(), folder.names(0).unwrap().names),
        (1, Vec::<String>::new())
    );
    drop(unfinished);
    assert_eq!(count(), 0);
    let (unfinished, _) = folder.begin().unwrap();
    unfinished.place(&folder, "whole").unwrap();
    assert_eq!(folder.names(0).unwrap().names, ["whole"]);
}

#[test]
fn what_a_crash_left_is_in_nobodys_way() {
    let home = tempfile::tempdir().unwrap();
    let folder = Folder::new(File::open(home.path()).unwrap().into(), false);
    let first = NEXT.load(Ordering::Relaxed);
    for number in first..first + 100 {
        let name = format!("{UNFINISHED}{}-{number}", std::process::id());
        File::create(home.path().join(name)).unwrap();
    }
    let (unfinished, _) = folder.begin().unwrap();
    unfinished.place(&folder, "whole").unwrap();
    assert_eq!(folder.names(0).unwrap().names, ["whole"]);
}

#[test]
fn what_a_killed_process_began_is_removed_in_time() {
    let home = tempfile::tempdir().unwrap();
    let folder = Folder::new(File::open(home.path()).unwrap().into(), false);
    let long_ago = SystemTime::now() - 2 * FORSAKEN;
    for name in [".12-0", ".keep", ".12-x", "12-0"] {
        let file = File::create(home.path().join(name)).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    std::fs::create_dir(home.path().join(".13-0")).unwrap();
    let (unfinished, _) = folder.begin().unwrap();
    folder.sweep(FORSAKEN).unwrap();
    let there = |name: &str| home.path().join(name).exists();
    assert!(!there(".12-0") && there(&unfinished.name));
    folder.sweep(Duration::ZERO).unwrap();
    assert!(!there(&unfinished.name));
    assert_eq!(unfinished.place(&folder, "late"), Err(Refused::NotThere));
    assert!([".keep", ".12-x", "12-0", ".13-0"].into_iter().all(there));
    let sealed = Folder::new(File::open(home.path()).unwrap().into(), true);
    assert_eq!(sealed.sweep(FORSAKEN), Err(Refused::AccessDenied));
}

#[test]
fn files_get_to_folders_that_are_mounts() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("mount")).unwrap();
    // Mounts of a thread of its own: they go with it.
    let moved = || {
        let none: Option<&str> = None;
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let target = home.path().join("mount");
        mount(none, &target, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let folder = Folder::new(File::open(home.path()).unwrap().into(), false);
        let inner = folder.enter("mount").unwrap();
        let (unfinished, mut file) = folder.begin().unwrap();
        file.write_all(b"whole").unwrap();
        unfinished.place(&inner, "a").unwrap();
        assert_eq!(std::fs::read(target.join("a")).unwrap(), b"whole");
        inner.rename("a", &folder, "b").unwrap();
        assert_eq!(std::fs::read(home.path().join("b")).unwrap(), b"whole");
        let left = |path: &std::path::Path| std::fs::read_dir(path).unwrap().count();
        assert_eq!((left(&target), left(home.path())), (0, 2));
    };
    std::thread::scope(|scope| scope.spawn(moved).join().unwrap());
}
