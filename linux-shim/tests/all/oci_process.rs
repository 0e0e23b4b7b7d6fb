//! What `process` means where it is written as the specification and the other runtimes have it: who it is, how it is
//! scheduled.

use std::fs;

use serde_json::{Value, json};

use crate::oci_harness::{Bundle, Oci, oci};

impl Oci {
    /// Standard output of a process added by `exec --process`, or standard error of one that is refused.
    fn exec_process(&self, process: &Value) -> Result<String, String> {
        let file = self.home.path().join("process.json");
        fs::write(&file, process.to_string()).unwrap();
        let done = self.call(&["exec", "--process", file.to_str().unwrap(), "c"]);
        match done.status.success() {
            true => Ok(String::from_utf8(done.stdout).unwrap()),
            false => Err(String::from_utf8(done.stderr).unwrap()),
        }
    }
}

fn running(oci: &Oci, script: &str) -> Bundle {
    let bundle = oci.bundle(script);
    oci.create(&bundle);
    oci.ok(&["start", "c"]);
    bundle
}

/// The last is -1, with which setresuid(2) leaves everything as it is: root.
#[test]
fn ids_beyond_the_last_are_refused() {
    let Some(oci) = oci("ids") else { return };
    let said = "0-2147483647";
    let users = [
        json!({"uid": u32::MAX, "gid": 0}),
        json!({"uid": 1000, "gid": u32::MAX}),
        json!({"uid": 1_u32 << 31, "gid": 0}),
        json!({"uid": 0, "gid": 0, "additionalGids": [7, u32::MAX]}),
    ];
    let mut bundle = oci.bundle("id");
    for user in &users {
        bundle.spec["process"]["user"] = user.clone();
        let (made, log) = oci.created(&bundle);
        assert!(!made && log.contains(said), "{user}: {log}");
    }
    let bundle = running(&oci, "sleep 1000");
    for user in &users {
        let mut process = bundle.spec["process"].clone();
        process["user"] = user.clone();
        let refused = oci.exec_process(&process).unwrap_err();
        assert!(refused.contains(said), "{user}: {refused}");
    }
    for words in [
        ["-u", "4294967295"],
        ["-u", "1000:4294967295"],
        ["-g", "4294967295"],
    ] {
        let refused = oci.fails(&[&["exec"], &words[..], &["c", "id"]].concat());
        assert!(refused.contains(said), "{words:?}: {refused}");
    }
    let last = oci.ok(&["exec", "-u", "2147483647:2147483647", "c", "id", "-u"]);
    assert_eq!(last, "2147483647\n");
}

#[test]
fn a_process_that_names_no_user_is_root() {
    let Some(oci) = oci("nouser") else { return };
    let script = "echo $(id -u):$(id -g)";
    let mut bundle = oci.bundle(script);
    bundle.spec["process"].as_object_mut().unwrap().remove("user");
    assert_eq!(oci.run(&bundle), (0, "0:0\n".into()));
    bundle.spec["process"]["user"] = Value::Null;
    assert_eq!(oci.run(&bundle), (0, "0:0\n".into()));
    running(&oci, "sleep 1000");
    let process = json!({"cwd": "/", "env": ["PATH=/bin"], "args": ["sh", "-c", script]});
    assert_eq!(oci.exec_process(&process), Ok("0:0\n".into()));
}

/// By the specification's words, and by those that were taken for them.
#[test]
fn a_schedulers_flags_have_the_specifications_names() {
    let Some(oci) = oci("flags") else { return };
    let mut bundle = oci.bundle("echo ran");
    let mut process = bundle.spec["process"].clone();
    let flags = ["SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"];
    for flag in flags {
        bundle.spec["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "flags": [flag]});
        assert_eq!(oci.run(&bundle), (0, "ran\n".into()), "{flag}");
    }
    bundle.spec["process"]["args"][2] = json!("sleep 1000");
    oci.create(&bundle);
    oci.ok(&["start", "c"]);
    assert_eq!(oci.ok(&["exec", "c", "echo", "too"]), "too\n");
    for flag in flags {
        process["scheduler"] = json!({"policy": "SCHED_OTHER", "flags": [flag]});
        assert_eq!(oci.exec_process(&process), Ok("ran\n".into()), "{flag}");
    }
}

/// "This setting is not applicable to the container's init process."
#[test]
fn exec_cpu_affinity_is_not_of_the_first_process() {
    let Some(oci) = oci("affinity") else { return };
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find(|line| line.starts_with("Cpus_allowed_list"));
    let look = ["grep", "Cpus_allowed_list", "/proc/self/status"];
    let mut bundle = oci.bundle("grep Cpus_allowed_list /proc/self/status; sleep 1000");
    bundle.spec["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
    oci.create(&bundle);
    oci.ok(&["start", "c"]);
    assert_eq!(Some(oci.said(&bundle).trim_end()), own);
    let added = oci.ok(&[&["exec", "c"], &look[..]].concat());
    assert_eq!(added, "Cpus_allowed_list:\t0\n");
}
