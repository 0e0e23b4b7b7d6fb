//! podman of an ordinary user, driving the OCI command line: as root of a user namespace of its own.

use std::process::Output;

use crate::callers::installed;
use crate::oci_harness::text;
use crate::rootless::User;

fn ok(user: &User, words: &[&str]) -> String {
    let output: Output = user.podman(words);
    assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// What a container of the image says, made with these words more.
fn said(user: &User, words: &[&str], script: &str) -> String {
    let rootfs = user.home.path().join("bundle/rootfs");
    let image = ["--network", "none", "--rootfs", rootfs.to_str().unwrap()];
    let program = ["/bin/sh", "-c", script];
    ok(user, &[&["run", "--rm"], words, &image[..], &program].concat())
}

#[test]
fn podman_of_a_user_runs_containers() {
    let Some(user) = User::new(true) else { return };
    if !installed("podman") {
        return;
    }
    let podman = |words: &[&str]| ok(&user, words);
    let rootfs = user.home.path().join("bundle/rootfs");
    let image = ["--network", "none", "--rootfs", rootfs.to_str().unwrap()];
    // As many ids as podman has for the user (one, where it wants an account that is not there), in one user namespace or,
    // with newer podmans, in one of another.
    let mapped = podman(&["unshare", "cat", "/proc/self/uid_map"]);
    let sizes = mapped.lines().filter_map(|line| line.split_whitespace().nth(2));
    let ids: u64 = sizes.map(|size| size.parse::<u64>().unwrap()).sum();
    let script = [
        "/bin/sh",
        "-c",
        "id -u; awk '{n += $3} END {print n}' /proc/self/uid_map",
    ];
    let said = podman(&[&["run"], &image[..], &script].concat());
    assert_eq!(said, format!("0\n{ids}\n"));
    let named = ["run", "--detach", "--name", "c"];
    podman(&[&named, &image[..], &["/bin/sleep", "1000"]].concat());
    assert_eq!(
        podman(&["exec", "c", "/bin/sh", "-c", "echo in; id -u"]),
        "in\n0\n"
    );
    podman(&["kill", "c"]);
    assert_eq!(podman(&["wait", "c"]), "137\n");
    podman(&["rm", "c"]);
}

/// Nobody may mount a procfs there, not even to set a kernel parameter.
#[test]
fn podman_of_a_user_shares_the_hosts_processes() {
    let Some(user) = User::new(true) else { return };
    if !installed("podman") {
        return;
    }
    let words = [
        "--pid",
        "host",
        "--sysctl",
        "net.ipv4.ip_unprivileged_port_start=7",
    ];
    let script = "readlink /proc/self/ns/pid; cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    let own = std::fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(said(&user, &words, script), format!("{}\n7\n", own.display()));
}

/// It is in whose cgroups podman is, and sees them.
#[test]
fn a_systemd_of_a_user_without_a_cgroup_sees_where_it_is() {
    let Some(user) = User::new(true) else { return };
    if !installed("podman") {
        return;
    }
    let script = "at=/sys/fs/cgroup; test ! -d $at/systemd || at=$at/systemd; cat $at/cgroup.procs > /dev/null && echo seen";
    assert_eq!(said(&user, &["--systemd", "always"], script), "seen\n");
}
