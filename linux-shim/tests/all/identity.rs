//! Who the container's process is and what it may do.

use serde_json::json;

use crate::harness::{pod, pod_by};

fn status(out: &str, key: &str) -> String {
    let line = out
        .lines()
        .find(|l| l.starts_with(key))
        .unwrap_or_else(|| panic!("no {key} in {out}"));
    line.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn capabilities_are_exactly_those_given() {
    let Some(pod) = pod().await else { return };
    let mut bundle = pod.script("cat /proc/self/status");
    bundle.spec["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": [], "ambient": []
    });
    let (_, out) = pod.run(&bundle).await;
    // execve as root gives what the bounding set lets it.
    assert_eq!(status(&out, "CapBnd:"), "0000000000000021");
    assert_eq!(status(&out, "CapEff:"), "0000000000000021");
    assert_eq!(
        (status(&out, "CapInh:"), status(&out, "CapAmb:")),
        ("0".repeat(16), "0".repeat(16))
    );
    assert_eq!(status(&out, "NoNewPrivs:"), "1");
}

/// CVE-2022-29162 and its kin: what the shim happens to have in its sets, and its groups, are not handed on.
#[tokio::test]
async fn what_the_shim_was_started_with_is_not_the_containers() {
    let starter = [
        "setpriv",
        "--inh-caps",
        "+chown",
        "--ambient-caps",
        "+chown",
        "--groups",
        "7,9",
    ];
    let Some(pod) = pod_by(&starter).await else { return };
    let shim = std::fs::read_to_string(format!("/proc/{}/status", pod.shims()[0])).unwrap();
    let chown = "0000000000000001";
    assert_eq!(
        (
            status(&shim, "CapInh:").as_str(),
            status(&shim, "CapAmb:").as_str()
        ),
        (chown, chown)
    );
    assert!(shim.contains("Groups:\t7 9"), "{shim}");
    for uid in [0, 1000] {
        let mut bundle = pod.script("cat /proc/self/status");
        bundle.spec["process"]["user"] = json!({"uid": uid, "gid": uid});
        let (_, out) = pod.run(&bundle).await;
        let none = "0".repeat(16);
        assert_eq!(
            (status(&out, "CapInh:"), status(&out, "CapAmb:")),
            (none.clone(), none)
        );
        assert_eq!(status(&out, "Groups:"), "", "{out}");
    }
}

#[tokio::test]
async fn an_ordinary_user_has_nothing_but_ambient() {
    let Some(pod) = pod().await else { return };
    let mut bundle =
        pod.script("id -u; id -g; id -G; umask; echo $HOME; echo hi > /dev/stdout; cat /proc/self/status");
    bundle.spec["process"]["user"] =
        json!({"uid": 1000, "gid": 1000, "additionalGids": [7, 8], "umask": 0o27});
    let (code, out) = pod.run(&bundle).await;
    assert_eq!(code, 0, "{out}");
    assert!(
        out.starts_with("1000\n1000\n1000 7 8\n0027\n/home/user\nhi\n"),
        "{out}"
    );
    assert_eq!(
        (status(&out, "CapEff:"), status(&out, "CapPrm:")),
        ("0".repeat(16), "0".repeat(16))
    );
    let caps = json!(["CAP_NET_BIND_SERVICE"]);
    bundle = pod.script("cat /proc/self/status");
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    bundle.spec["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps, "inheritable": caps, "ambient": caps});
    let (_, out) = pod.run(&bundle).await;
    assert_eq!(
        (status(&out, "CapEff:"), status(&out, "CapAmb:")),
        ("0000000000000400".into(), "0000000000000400".into())
    );
}

#[tokio::test]
async fn the_default_profile_keeps_calls_out() {
    let Some(pod) = pod().await else { return };
    let mut bundle = pod.script("grep Seccomp: /proc/self/status; unshare -U true 2>&1; dmesg 2>&1 | head -1; echo still here; ls -l / > /dev/null && date > /dev/null && echo works");
    bundle.spec["annotations"]["dev.amphipod.linux/seccomp"] = json!("RuntimeDefault");
    for no_new_privileges in [true, false] {
        bundle.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        bundle.id = format!("{}x", bundle.id);
        std::fs::remove_file(&bundle.log).ok();
        let (_, out) = pod.run(&bundle).await;
        assert_eq!(status(&out, "Seccomp:"), "2");
        assert!(
            out.contains("unshare") && out.contains("not permitted") && out.contains("works"),
            "{out}"
        );
    }
    let bundle = pod.script("grep Seccomp: /proc/self/status");
    assert_eq!(status(&pod.run(&bundle).await.1, "Seccomp:"), "0");
}

#[tokio::test]
async fn a_profile_of_the_bundle_is_taken() {
    let Some(pod) = pod().await else { return };
    let mut bundle = pod.script("mkdir /tmp/x; hostname new; echo after");
    bundle.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]
    });
    let (_, out) = pod.run(&bundle).await;
    assert!(out.contains("No space left") && out.contains("after"), "{out}");
}

#[tokio::test]
async fn what_the_host_lacks_is_not_given() {
    let Some(pod) = pod().await else { return };
    let mut bundle = pod.script("grep CapEff /proc/self/status");
    let all: Vec<String> = caps::all().iter().map(ToString::to_string).collect();
    bundle.spec["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    let (code, out) = pod.run(&bundle).await;
    let ours = std::fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!((code, status(&out, "CapEff:")), (0, status(&ours, "CapEff:")));
}
