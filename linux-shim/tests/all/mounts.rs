//! Mounts of config.json, devices, masked and read-only paths, sysctls.

use std::fs;

use serde_json::json;

use crate::harness::pod;

#[tokio::test]
async fn volumes_are_what_they_are_said_to_be() {
    let Some(pod) = pod().await else { return };
    let volume = pod.home.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("seen"), "from outside\n").unwrap();
    let file = pod.home.path().join("hosts");
    fs::write(&file, "127.0.0.1 localhost\n").unwrap();
    let mut bundle = pod.script(
        "cat /v/seen; echo in > /v/out; touch /ro/x 2>&1; cat /etc/hosts; touch /deep/er/t && echo tmp; df -k /deep/er | tail -1 | awk '{print $2}'",
    );
    bundle.mount(json!({"destination": "/v", "type": "bind", "source": volume, "options": ["rbind", "rw"]}));
    bundle.mount(json!({"destination": "/ro", "type": "bind", "source": volume, "options": ["rbind", "ro"]}));
    bundle.mount(
        json!({"destination": "/etc/hosts", "type": "bind", "source": file, "options": ["bind", "ro"]}),
    );
    bundle.mount(
        json!({"destination": "/deep/er", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]}),
    );
    let (_, out) = pod.run(&bundle).await;
    let expected = "from outside\ntouch: /ro/x: Read-only file system\n127.0.0.1 localhost\ntmp\n64\n";
    assert_eq!(out, expected);
    assert_eq!(fs::read_to_string(volume.join("out")).unwrap(), "in\n");
}

#[tokio::test]
async fn a_read_only_root_is_read_only() {
    let Some(pod) = pod().await else { return };
    let mut bundle = pod.script("touch /x 2>&1; touch /dev/shm/y && echo volumes are not");
    bundle.spec["root"]["readonly"] = json!(true);
    let (_, out) = pod.run(&bundle).await;
    assert_eq!(out, "touch: /x: Read-only file system\nvolumes are not\n");
}

#[tokio::test]
async fn devices_are_the_few() {
    let Some(pod) = pod().await else { return };
    let script = "ls /dev | tr '\\n' ' '; echo; head -c 3 /dev/zero | wc -c; echo x > /dev/null && echo null; \
        readlink /dev/fd; mknod /tmp/sda b 8 0 && (cat /tmp/sda 2>&1 | head -c 60)";
    let (_, out) = pod.sh(script).await;
    let expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero \n3\nnull\n/proc/self/fd\n";
    assert!(
        out.starts_with(expected) && out.contains("not permitted"),
        "{out}"
    );
}

/// A FIFO has no number, whatever config.json says of one (runtime-tools' `linux_devices`).
#[tokio::test]
async fn devices_asked_for_are_made() {
    let Some(pod) = pod().await else { return };
    let mut bundle = pod.script("cd /dev; stat -c '%n %F %a %u:%g' full2 pipe; stat -c %t:%T full2");
    bundle.spec["linux"]["devices"] = json!([
        {"path": "/dev/full2", "type": "c", "major": 1, "minor": 7, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"path": "/dev/pipe", "type": "p", "major": 8, "minor": 666, "fileMode": 0o660},
    ]);
    let (status, out) = pod.run(&bundle).await;
    let made = "full2 character special file 640 3:4\npipe fifo 660 0:0\n1:7\n";
    assert_eq!((status, out.as_str()), (0, made));
}

#[tokio::test]
async fn masked_and_read_only_paths_are() {
    let Some(pod) = pod().await else { return };
    // Which of them a kernel has differs; these it always has.
    let script = "head -c 1 /proc/keys | wc -c; head -c 1 /proc/timer_list | wc -c; ls /sys/firmware | wc -l; \
        mount | grep -c ' on /proc/keys '; mount | grep -c ' on /sys/firmware '; \
        (echo 1 > /proc/sys/vm/drop_caches) 2>&1; mkdir /proc/bus/x 2>&1; ls /proc/not 2>&1 | wc -l";
    let (_, out) = pod.sh(script).await;
    let counts: Vec<&str> = out.lines().filter(|l| l.len() < 3).collect();
    assert_eq!(counts, ["0", "0", "0", "1", "1", "1"], "{out}");
    assert!(out.contains("drop_caches: Read-only file system"), "{out}");
}

#[tokio::test]
async fn the_containers_cgroups_are_shown_read_only() {
    let Some(pod) = pod().await else { return };
    let script = "cat /sys/fs/cgroup/pids/cgroup.procs 2>/dev/null || cat /sys/fs/cgroup/cgroup.procs; \
        (mkdir /sys/fs/cgroup/pids/x || mkdir /sys/fs/cgroup/x) 2>&1";
    let (_, out) = pod.sh(script).await;
    assert!(out.starts_with("1\n") && out.contains("Read-only"), "{out}");
}

#[tokio::test]
async fn sysctls_are_those_of_the_container() {
    let Some(pod) = pod().await else { return };
    let before = fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    let mut bundle = pod.script("cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_unprivileged_port_start");
    bundle.spec["linux"]["sysctl"] =
        json!({"kernel.msgmax": "4242", "net.ipv4.ip_unprivileged_port_start": "0"});
    assert_eq!(pod.run(&bundle).await.1, "4242\n0\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), before);
    let mut bundle = pod.script("true");
    bundle.spec["linux"]["sysctl"] = json!({"net.no_such_thing": "1"});
    let error = pod.create(&bundle).await.unwrap_err().to_string();
    assert!(error.contains("sysctl net.no_such_thing"), "{error}");
}

#[tokio::test]
async fn namespaces_of_another_container_are_joined() {
    let Some(pod) = pod().await else { return };
    let first = pod.bundle(&["sleep", "1000"]);
    let pid = pod.create(&first).await.unwrap();
    pod.client.start(&first.id).await.unwrap();
    let mut second = pod.script("ps -o comm,args; hostname; readlink /proc/self/ns/net");
    let join = |kind: &str, file: &str| json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")});
    second.spec["linux"]["namespaces"] = json!([
        {"type": "mount"}, {"type": "cgroup"}, join("pid", "pid"), join("network", "net"), join("uts", "uts"), join("ipc", "ipc")
    ]);
    let (code, out) = pod.run(&second).await;
    let net = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains("sleep 1000") && out.contains("box") && out.contains(net.to_str().unwrap()),
        "{out}"
    );
}

#[tokio::test]
async fn the_working_directory_is_made() {
    let Some(pod) = pod().await else { return };
    let mut bundle = pod.script("pwd");
    bundle.spec["process"]["cwd"] = json!("/not/yet/there");
    assert_eq!(pod.run(&bundle).await, (0, "/not/yet/there\n".into()));
}
