//! Tables of reports.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::pods::observed::{Busy, Due, Health, Verdict, Waiting};
use crate::pods::record::State;
use crate::pods::record::tests::{at, exited, record, running};

fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "a", "image": "i"}]);
    }
    let metadata = json!({"name": "p", "namespace": "n", "uid": "u", "generation": 3});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn with(states: &[(&str, u32, State)]) -> Observed {
    let one = |(name, attempt, state): &(&str, u32, State)| {
        let up = matches!(state, State::Running { .. });
        let health = Health {
            ready: up,
            started: up,
            failed: None,
        };
        let seen = Seen {
            last: Some(record(name, *attempt, state.clone())),
            health,
            ..Seen::default()
        };
        ((*name).to_owned(), Box::new(seen))
    };
    Observed {
        sandbox: Sandbox::Ready,
        containers: states.iter().map(one).collect(),
        ips: vec!["10.42.0.2".parse().unwrap()],
        start_time: Some(at(1)),
        boot_id: "boot".into(),
        ..Observed::default()
    }
}

fn report(pod: &Pod, seen: &Observed) -> Value {
    let host = ["192.0.2.1".parse().unwrap()];
    json!(status(PodView::new(pod).unwrap(), seen, &host, None, at(9)))
}

fn condition<'a>(report: &'a Value, kind: &str) -> (&'a str, Option<&'a str>, Option<&'a str>) {
    let all = report["conditions"].as_array().unwrap();
    let found = all.iter().find(|c| c["type"] == kind).unwrap();
    (
        found["status"].as_str().unwrap(),
        found["reason"].as_str(),
        found["message"].as_str(),
    )
}

#[test]
fn a_running_pod() {
    let p = pod(json!({}));
    let r = report(&p, &with(&[("a", 2, running())]));
    assert_eq!(r["phase"], "Running");
    assert_eq!(
        (&r["podIP"], &r["hostIP"], &r["observedGeneration"]),
        (&json!("10.42.0.2"), &json!("192.0.2.1"), &json!(3))
    );
    assert_eq!(r["qosClass"], "BestEffort");
    let c = &r["containerStatuses"][0];
    assert_eq!(
        c["state"],
        json!({"running": {"startedAt": "1970-01-01T00:00:05Z"}})
    );
    assert_eq!(
        (&c["restartCount"], &c["ready"], &c["started"]),
        (&json!(2), &json!(true), &json!(true))
    );
    assert_eq!(c["containerID"], "amphipod://a-2");
    for kind in [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ] {
        assert_eq!(condition(&r, kind).0, "True", "{kind}");
    }
}

#[test]
fn a_pod_that_is_coming_up() {
    let p = pod(json!({}));
    let r = report(&p, &Observed::default());
    assert_eq!(r["phase"], "Pending");
    assert_eq!(
        r["containerStatuses"][0]["state"],
        json!({"waiting": {"reason": "ContainerCreating"}})
    );
    assert_eq!(r["containerStatuses"][0]["image"], "i");
    let unready = Some("containers with unready status: [a]");
    assert_eq!(
        condition(&r, "Ready"),
        ("False", Some("ContainersNotReady"), unready)
    );
    assert_eq!(
        condition(&r, "ContainersReady"),
        ("False", Some("ContainersNotReady"), unready)
    );
    assert_eq!(condition(&r, "PodReadyToStartContainers").0, "False");
}

#[test]
fn init_containers_hold_the_rest() {
    let p = pod(json!({"initContainers": [{"name": "x"}, {"name": "y"}]}));
    let r = report(&p, &with(&[("x", 0, exited(0)), ("y", 0, running())]));
    assert_eq!(r["phase"], "Pending");
    assert_eq!(r["initContainerStatuses"][0]["ready"], true);
    assert_eq!(r["initContainerStatuses"][1]["ready"], false);
    assert_eq!(
        r["containerStatuses"][0]["state"]["waiting"]["reason"],
        "PodInitializing"
    );
    let open = Some("containers with incomplete status: [y]");
    assert_eq!(
        condition(&r, "Initialized"),
        ("False", Some("ContainersNotInitialized"), open)
    );
    let r = report(
        &p,
        &with(&[("x", 0, exited(0)), ("y", 0, exited(0)), ("a", 0, running())]),
    );
    assert_eq!(
        (&r["phase"], condition(&r, "Initialized").0),
        (&json!("Running"), "True")
    );
}

#[test]
fn a_pod_that_was_initialized_stays_so() {
    let p =
        pod(json!({"restartPolicy": "Never", "initContainers": [{"name": "s", "restartPolicy": "Always"}]}));
    let r = report(&p, &with(&[("s", 0, exited(137)), ("a", 0, exited(137))]));
    assert_eq!(
        (&r["phase"], condition(&r, "Initialized").0),
        (&json!("Failed"), "True")
    );
    let r = report(&p, &with(&[("s", 0, exited(1))]));
    assert_eq!(condition(&r, "Initialized").0, "False");
}

#[test]
fn ends() {
    for (policy, code, phase) in [
        ("Never", 0, "Succeeded"),
        ("Never", 3, "Failed"),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 3, "Running"),
        ("Always", 0, "Running"),
    ] {
        let p = pod(json!({"restartPolicy": policy}));
        let r = report(&p, &with(&[("a", 0, exited(code))]));
        assert_eq!(r["phase"], phase, "{policy} {code}");
        assert_eq!(r["containerStatuses"][0]["state"]["terminated"]["exitCode"], code);
        let ready = condition(&r, "Ready");
        match phase {
            "Succeeded" => assert_eq!(ready, ("False", Some("PodCompleted"), None)),
            "Failed" => assert_eq!(ready, ("False", Some("PodFailed"), None)),
            _ => assert_eq!(ready.1, Some("ContainersNotReady")),
        }
    }
}

#[test]
fn a_crash_loop_shows_why_and_what_was() {
    let p = pod(json!({}));
    let mut s = with(&[("a", 4, exited(1))]);
    let waiting = Waiting {
        reason: "CrashLoopBackOff",
        message: "m".into(),
        image: String::new(),
        retry_at: at(99),
        since: at(9),
    };
    s.containers.get_mut("a").unwrap().waiting = Some(waiting);
    let r = report(&p, &s);
    assert_eq!(r["phase"], "Running");
    let c = &r["containerStatuses"][0];
    assert_eq!(
        c["state"],
        json!({"waiting": {"reason": "CrashLoopBackOff", "message": "m"}})
    );
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(
        (&c["restartCount"], &c["containerID"]),
        (&json!(4), &json!("amphipod://a-4"))
    );
}

#[test]
fn the_last_run_is_remembered() {
    let p = pod(json!({}));
    let mut s = with(&[("a", 1, running())]);
    s.containers.get_mut("a").unwrap().previous = Some(record("a", 0, exited(2)));
    let r = report(&p, &s);
    assert_eq!(
        r["containerStatuses"][0]["lastState"]["terminated"]["exitCode"],
        2
    );
}

#[test]
fn a_deleted_pod_is_still_running_until_it_is_not() {
    let mut p = pod(json!({}));
    p.metadata.deletion_timestamp = Some(Time(at(7)));
    let mut s = with(&[("a", 0, running())]);
    s.containers.get_mut("a").unwrap().busy = Busy::Killing {
        until: at(30),
        waits: false,
    };
    assert_eq!(report(&p, &s)["phase"], "Running");
    let r = report(&p, &with(&[("a", 0, exited(137))]));
    assert_eq!(r["phase"], "Failed");
    assert_eq!(r["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
}

#[test]
fn what_cannot_be_found_counts_as_failed() {
    let mut p = pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    p.metadata.deletion_timestamp = Some(Time(at(7)));
    let r = report(&p, &with(&[("a", 0, exited(0))]));
    assert_eq!(r["phase"], "Failed");
    let lost = &r["containerStatuses"][1]["state"]["terminated"];
    assert_eq!(
        (&lost["reason"], &lost["exitCode"]),
        (&json!("ContainerStatusUnknown"), &json!(137))
    );
}

#[test]
fn a_verdict_is_the_phase() {
    let p = pod(json!({}));
    let mut s = with(&[("a", 0, exited(0))]);
    s.verdict = Some(Verdict {
        reason: "DeadlineExceeded".into(),
        message: "too long".into(),
        grace: None,
        disruption: None,
        ..Verdict::default()
    });
    let r = report(&p, &s);
    assert_eq!(
        (&r["phase"], &r["reason"]),
        (&json!("Failed"), &json!("DeadlineExceeded"))
    );
}

#[test]
fn transitions_are_dated_once() {
    let p = pod(json!({}));
    let view = PodView::new(&p).unwrap();
    let s = with(&[("a", 0, running())]);
    let first = status(view, &s, &[], None, at(10));
    let second = status(view, &s, &[], Some(&first), at(20));
    assert_eq!(first, second);
}

#[test]
fn what_ended_a_pod_is_not_forgotten() {
    let p = pod(json!({}));
    let view = PodView::new(&p).unwrap();
    let old =
        serde_json::from_value(json!({"phase": "Failed", "reason": "Evicted", "message": "m"})).unwrap();
    let made = status(view, &Observed::default(), &[], Some(&old), at(1));
    assert_eq!(
        (made.phase.as_deref(), made.reason.as_deref()),
        (Some("Failed"), Some("Evicted"))
    );
}

#[test]
fn a_pod_that_somebody_else_ended_does_not_run_again() {
    let mut p = pod(json!({}));
    p.status = serde_json::from_value(json!({"phase": "Failed", "reason": "NodeLost"})).unwrap();
    let running = with(&[("a", 0, running())]);
    let old = serde_json::from_value(json!({"phase": "Running"})).unwrap();
    let made = status(PodView::new(&p).unwrap(), &running, &[], Some(&old), at(9));
    assert_eq!(
        (made.phase.as_deref(), made.reason.as_deref()),
        (Some("Failed"), Some("NodeLost"))
    );
}

#[test]
fn main_containers_are_listed_by_name_with_their_mounts() {
    let pod = pod(json!({"containers": [
        {"name": "b", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}]},
        {"name": "a", "image": "i"}]}));
    let report = report(&pod, &with(&[("b", 0, running()), ("a", 0, running())]));
    let statuses = &report["containerStatuses"];
    assert_eq!(
        (&statuses[0]["name"], &statuses[1]["name"]),
        (&json!("a"), &json!("b"))
    );
    assert_eq!(
        statuses[1]["volumeMounts"],
        json!([{"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "Disabled"}])
    );
}

#[test]
fn a_container_held_back_by_its_own_policy_does_not_end_the_pod() {
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    for (policy, rules, code) in [
        ("OnFailure", json!([]), 7),
        ("Never", rules, 42),
        ("Always", json!([]), 0),
    ] {
        let own = json!({"name": "a", "restartPolicy": policy, "restartPolicyRules": rules});
        let p = pod(json!({"restartPolicy": "Never", "containers": [own]}));
        let mut s = with(&[("a", 1, exited(code))]);
        s.containers.get_mut("a").unwrap().waiting = Some(Waiting {
            reason: "CrashLoopBackOff",
            message: "m".into(),
            image: String::new(),
            retry_at: at(99),
            since: at(9),
        });
        assert_eq!(report(&p, &s)["phase"], "Running", "{policy} {code}");
    }
}

#[test]
fn a_verdict_is_told_when_nothing_lives() {
    let pod = pod(json!({"restartPolicy": "Never"}));
    let mut seen = with(&[("a", 0, running())]);
    seen.verdict = Some(Verdict {
        reason: "DeadlineExceeded".into(),
        message: "too long".into(),
        grace: None,
        disruption: None,
        ..Verdict::default()
    });
    let early = report(&pod, &seen);
    assert_eq!(
        (&early["phase"], &early["reason"]),
        (&json!("Running"), &Value::Null)
    );
    let mut over = with(&[("a", 0, exited(137))]);
    over.verdict = seen.verdict;
    let late = report(&pod, &over);
    assert_eq!(
        (&late["phase"], &late["reason"]),
        (&json!("Failed"), &json!("DeadlineExceeded"))
    );
}

#[test]
fn what_is_over_takes_no_room_before_it_is_taken_apart() {
    let always = || pod(json!({}));
    let once = || pod(json!({"restartPolicy": "Never"}));
    let deleted = || {
        let mut pod = always();
        pod.metadata.deletion_timestamp = Some(Time(at(7)));
        pod
    };
    for (case, pod, state, takes) in [
        ("runs", once(), running(), true),
        ("has ended", once(), exited(0), false),
        ("has failed", once(), exited(1), false),
        ("starts again", always(), exited(1), true),
        ("is being stopped", deleted(), running(), true),
        ("was stopped", deleted(), exited(0), false),
    ] {
        let seen = with(&[("a", 0, state)]);
        assert_eq!(seen.sandbox, Sandbox::Ready, "it is not taken apart");
        assert_eq!(takes_room(PodView::new(&pod).unwrap(), &seen), takes, "{case}");
    }
    let gone = Observed {
        orphaned: true,
        ..with(&[("a", 0, running())])
    };
    assert!(!takes_room(PodView::new(&always()).unwrap(), &gone));
}

#[test]
fn a_pod_runs_as_long_as_a_sidecar_does() {
    let p =
        pod(json!({"restartPolicy": "Never", "initContainers": [{"name": "s", "restartPolicy": "Always"}]}));
    let ending = with(&[("s", 0, running()), ("a", 0, exited(0))]);
    assert_eq!(report(&p, &ending)["phase"], "Running");
    let over = with(&[("s", 0, exited(143)), ("a", 0, exited(0))]);
    assert_eq!(report(&p, &over)["phase"], "Succeeded");
}

#[test]
fn a_container_stopped_to_be_started_again_does_not_end_the_pod() {
    let p = pod(json!({"restartPolicy": "OnFailure"}));
    let mut s = with(&[("a", 0, exited(0))]);
    assert_eq!(report(&p, &s)["phase"], "Succeeded");
    s.containers.get_mut("a").unwrap().due = Some(Due::Unfit);
    let r = report(&p, &s);
    assert_eq!(r["phase"], "Running");
    let c = &r["containerStatuses"][0];
    assert_eq!(
        c["state"]["waiting"]["reason"], "ContainerCreating",
        "an end would be for good"
    );
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 0);
}
