//! Cgroups on trees of plain files (any host) and on the host's own hierarchies (root).

use super::*;

fn v2_tree(home: &Path) -> Cgroup {
    fs::write(home.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
    fs::write(home.join("cgroup.subtree_control"), "").unwrap();
    let line = format!("30 23 0:26 / {} rw - cgroup2 cgroup2 rw\n", home.display());
    CgroupHost::from_mountinfo(&line).cgroup("/a/b").unwrap()
}

#[test]
fn v2_enables_controllers_on_the_way_down() {
    let home = tempfile::tempdir().unwrap();
    v2_tree(home.path()).create().unwrap();
    assert!(home.path().join("a/b").is_dir());
    // On a plain file the three writes lie on top of each other.
    let last = fs::read_to_string(home.path().join("cgroup.subtree_control")).unwrap();
    assert!(last.starts_with("+pids"), "{last}");
}

#[test]
fn what_cannot_be_made_whole_is_not_there() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir_all(home.path().join("one/a")).unwrap();
    fs::create_dir_all(home.path().join("two")).unwrap();
    // Where the second hierarchy is to have a directory is a file.
    fs::write(home.path().join("two/a"), "").unwrap();
    let line =
        |name: &str, kind: &str| format!("30 23 0:26 / {}/{name} rw - {kind}\n", home.path().display());
    let text = line("one", "cgroup cgroup rw,memory") + &line("two", "cgroup2 cgroup2 rw");
    let cgroup = CgroupHost::from_mountinfo(&text).cgroup("/a/b/c").unwrap();
    assert!(matches!(cgroup.create(), Err(CgroupError::Create { .. })));
    assert!(!home.path().join("one/a/b").exists());
    assert!(home.path().join("one/a").exists(), "it was there before");
}

#[test]
fn v2_limits_and_stats_are_files() {
    let home = tempfile::tempdir().unwrap();
    let cgroup = v2_tree(home.path());
    cgroup.create().unwrap();
    let dir = home.path().join("a/b");
    for (file, text) in [
        ("memory.max", "max"),
        ("cpu.stat", "usage_usec 12\nuser_usec 3\n"),
        ("memory.current", "4096\n"),
        ("memory.stat", "anon 100\ninactive_file 50\n"),
        ("memory.events", "low 0\noom_kill 1\n"),
        ("pids.current", "2\n"),
    ] {
        fs::write(dir.join(file), text).unwrap();
    }
    cgroup
        .apply(&Limits {
            memory: Some(8192),
            ..Default::default()
        })
        .unwrap();
    assert!(
        fs::read_to_string(dir.join("memory.max"))
            .unwrap()
            .starts_with("8192")
    );
    let missing = cgroup.apply(&Limits {
        pids: Some(1),
        ..Default::default()
    });
    assert!(
        matches!(missing, Err(CgroupError::NoController("pids"))),
        "{missing:?}"
    );
    let stats = cgroup.stats().unwrap();
    assert_eq!(
        (
            stats.cpu_usage_nanos,
            stats.memory_usage,
            stats.pids,
            stats.oom_kills
        ),
        (12_000, 4096, 2, 1)
    );
}

/// systemd removes the cgroup of a scope at any time once nobody is in it.
#[test]
fn a_cgroup_that_is_gone_is_told_from_one_without_kills() {
    let home = tempfile::tempdir().unwrap();
    let cgroup = v2_tree(home.path());
    cgroup.create().unwrap();
    assert_eq!(cgroup.known_oom_kills().unwrap(), Some(0), "no controller");
    let dir = home.path().join("a/b");
    fs::write(dir.join("memory.events"), "oom_kill 3\n").unwrap();
    assert_eq!(cgroup.known_oom_kills().unwrap(), Some(3));
    fs::remove_dir_all(dir).unwrap();
    assert_eq!(cgroup.known_oom_kills().unwrap(), None);
    assert_eq!(cgroup.oom_kills().unwrap(), 0);
}

#[test]
fn v1_cpusets_inherit() {
    let home = tempfile::tempdir().unwrap();
    for (file, text) in [("cpuset.cpus", "0-1\n"), ("cpuset.mems", "0\n")] {
        fs::write(home.path().join(file), text).unwrap();
        fs::create_dir_all(home.path().join("a")).unwrap();
        fs::write(home.path().join("a").join(file), "\n").unwrap();
    }
    let line = format!(
        "30 23 0:26 / {} rw - cgroup cgroup rw,cpuset\n",
        home.path().display()
    );
    CgroupHost::from_mountinfo(&line)
        .cgroup("/a")
        .unwrap()
        .create()
        .unwrap();
    assert!(
        fs::read_to_string(home.path().join("a/cpuset.cpus"))
            .unwrap()
            .starts_with("0-1")
    );
}

#[test]
fn a_thread_enters_v1_and_a_process_v2() {
    let home = tempfile::tempdir().unwrap();
    let line = |name: &str, kind: &str| {
        let at = home.path().join(name);
        fs::create_dir_all(at.join("a")).unwrap();
        for file in [PROCESSES, THREADS] {
            fs::write(at.join("a").join(file), "").unwrap();
        }
        format!("30 23 0:26 / {} rw - {kind}\n", at.display())
    };
    let text = line("one", "cgroup cgroup rw,memory") + &line("two", "cgroup2 cgroup2 rw");
    let cgroup = CgroupHost::from_mountinfo(&text).cgroup("/a").unwrap();
    let written = || {
        ["one/a/tasks", "one/a/cgroup.procs", "two/a/cgroup.procs"]
            .map(|file| fs::read_to_string(home.path().join(file)).unwrap())
    };
    cgroup.enter_v1().unwrap();
    assert_eq!(written(), ["0", "", ""]);
    cgroup.enter().unwrap();
    assert_eq!(written(), ["0", "", "0"]);
}

/// Removes its cgroup, whatever the test did.
struct Real(Cgroup);

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.try_remove();
    }
}

fn real(name: &str) -> Option<Real> {
    let cgroup = CgroupHost::discover()
        .and_then(|host| host.cgroup(&format!("/amphipod-unit-{}-{name}", std::process::id())));
    match cgroup.and_then(|cgroup| cgroup.create().map(|()| cgroup)) {
        Ok(cgroup) => Some(Real(cgroup)),
        Err(error) => {
            eprintln!("skipped: needs root and cgroups ({error})");
            None
        }
    }
}

/// Processes that the kernel cannot stop are not said to be stopped, and go on.
#[tokio::test]
async fn what_does_not_stop_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let cgroup = v2_tree(home.path());
    cgroup.create().unwrap();
    let dir = home.path().join("a/b");
    fs::write(dir.join("cgroup.freeze"), "0").unwrap();
    fs::write(dir.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
    let frozen = cgroup.freeze(|| false).await;
    assert!(
        matches!(frozen, Err(CgroupError::NotStopped { .. })),
        "{frozen:?}"
    );
    assert!(!cgroup.is_frozen());
    fs::write(dir.join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
    cgroup.freeze(|| false).await.unwrap();
    assert!(cgroup.is_frozen());
    // v1 with a state that never is what it was told.
    fs::create_dir_all(home.path().join("one/a")).unwrap();
    std::os::unix::fs::symlink("/dev/null", home.path().join("one/a/freezer.state")).unwrap();
    let line = format!(
        "30 23 0:26 / {}/one rw - cgroup cgroup rw,freezer\n",
        home.path().display()
    );
    let cgroup = CgroupHost::from_mountinfo(&line).cgroup("/a").unwrap();
    let frozen = cgroup.freeze(|| false).await;
    assert!(
        matches!(frozen, Err(CgroupError::NotStopped { .. })),
        "{frozen:?}"
    );
    assert!(matches!(
        cgroup.freeze_waiting(),
        Err(CgroupError::NotStopped { .. })
    ));
}

#[test]
fn an_update_keeps_what_it_does_not_name() {
    let home = tempfile::tempdir().unwrap();
    let cgroup = v2_tree(home.path());
    cgroup.create().unwrap();
    let dir = home.path().join("a/b");
    for (file, text) in [
        ("cpu.max", "50000 100000\n"),
        ("memory.current", "4096\n"),
        ("memory.max", ""),
    ] {
        fs::write(dir.join(file), text).unwrap();
    }
    let period = Limits {
        cpu_period: Some(200_000),
        ..Limits::default()
    };
    cgroup.apply(&cgroup.changes(&period).unwrap()).unwrap();
    assert_eq!(fs::read_to_string(dir.join("cpu.max")).unwrap(), "50000 200000");
    let memory = |checks_use| Limits {
        memory: Some(4096),
        checks_use,
        ..Limits::default()
    };
    let refused = cgroup.changes(&memory(true));
    assert!(
        matches!(refused, Err(CgroupError::InUse { used: 4096, .. })),
        "{refused:?}"
    );
    assert_eq!(cgroup.changes(&memory(false)).unwrap(), memory(false));
    let swap = Limits {
        memory_swap: Some(8192),
        ..Limits::default()
    };
    assert!(matches!(cgroup.changes(&swap), Err(CgroupError::SwapAlone)));
    assert!(matches!(cgroup.apply(&swap), Err(CgroupError::SwapAlone)));
}

#[tokio::test]
async fn the_kernel_takes_our_limits_and_kills() {
    let Some(guard) = real("kill") else { return };
    let cgroup = guard.0.clone();
    let limits = Limits {
        memory: Some(64 << 20),
        pids: Some(50),
        cpu_shares: Some(512),
        ..Default::default()
    };
    cgroup.apply(&limits).unwrap();
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    cgroup.join(child.id()).unwrap();
    assert_eq!(cgroup.pids().unwrap(), [child.id()]);
    assert_eq!(cgroup.stats().unwrap().memory_limit, 64 << 20);
    assert!(!cgroup.try_remove().unwrap());
    cgroup.kill().unwrap();
    child.wait().unwrap();
    cgroup.remove().await.unwrap();
    assert!(!cgroup.exists());
}
