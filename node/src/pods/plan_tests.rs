//! Tables of decisions.

#[path = "plan_end_tests.rs"]
mod ending;
#[path = "restart_tests.rs"]
mod restarts;

use serde_json::{Value, json};

use super::*;
use crate::pods::observed::Health;
use crate::pods::record::tests::{at, record};
use crate::pods::record::{Exit, Record, State};
use k8s_openapi::api::core::v1::Pod;

fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "a", "image": "i"}]);
    }
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
        .unwrap()
}

fn deleted(mut pod: Pod, grace: i64) -> Pod {
    pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    pod
}

fn of(name: &str, pod: &Pod, attempt: u32, state: State) -> Record {
    let view = PodView::new(pod).unwrap();
    let hash = spec_hash(&view.container(name).unwrap().0);
    Record {
        spec_hash: hash,
        ..record(name, attempt, state)
    }
}

fn running() -> State {
    State::Running { started_at: at(0) }
}

fn exited(code: i32, finished: i64) -> State {
    State::Exited(Exit {
        started_at: Some(at(0)),
        finished_at: Some(at(finished)),
        exit_code: code,
        reason: "Error".into(),
        message: None,
    })
}

/// A Pod seen with a ready sandbox and these newest attempts.
fn seen(pod: &Pod, containers: &[(&str, u32, State)]) -> Observed {
    let one = |(name, attempt, state): &(&str, u32, State)| {
        let health = Health {
            ready: true,
            started: true,
            failed: None,
        };
        let last = of(name, pod, *attempt, state.clone());
        (
            (*name).to_owned(),
            Box::new(Seen {
                ended: last.exit().and_then(|exit| exit.finished_at),
                last: Some(last),
                health,
                ..Seen::default()
            }),
        )
    };
    Observed {
        sandbox: Sandbox::Ready,
        containers: containers.iter().map(one).collect(),
        start_time: Some(at(0)),
        active_since: Some(at(0)),
        boot_id: "boot".into(),
        ..Observed::default()
    }
}

fn decide(pod: &Pod, seen: &Observed, now: i64) -> Plan {
    plan(PodView::new(pod).unwrap(), seen, at(now))
}

/// The actions as short words.
fn words(plan: &Plan) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::Prepare => "prepare".to_owned(),
        Action::Start { container, attempt } => format!("start {container}/{attempt}"),
        Action::Cancel { container } => format!("cancel {container}"),
        Action::Kill {
            container,
            grace,
            waits,
            ..
        } => {
            let when = if *waits { " in its turn" } else { "" };
            format!("kill {container} {grace}s{when}")
        }
        Action::TakeTurn { container } => format!("turn of {container}"),
        Action::Resize { container } => format!("resize {container}"),
        Action::Restart { container, grace, .. } => format!("restart {container} {grace}s"),
        Action::RestartAll => "restart all".to_owned(),
        Action::Reset { container } => format!("reset {container}"),
        Action::Hold { container, waiting } => format!("hold {container} {}", waiting.reason),
        Action::End(verdict) => format!("end {}", verdict.reason),
        Action::TearDown => "tear down".to_owned(),
    };
    plan.actions.iter().map(word).collect()
}

fn check(pod: &Pod, seen: &Observed, now: i64, expected: &[&str]) {
    assert_eq!(words(&decide(pod, seen, now)), expected, "{seen:#?}");
}

#[test]
fn the_sandbox_comes_first() {
    let p = pod(json!({}));
    let mut s = Observed::default();
    check(&p, &s, 0, &["prepare"]);
    s.sandbox = Sandbox::Preparing;
    check(&p, &s, 0, &[]);
    s.sandbox = Sandbox::Failed {
        message: String::new(),
        retry_at: at(10),
    };
    assert_eq!(
        decide(&p, &s, 9),
        Plan {
            wake: Some(at(10)),
            ..Plan::default()
        }
    );
    check(&p, &s, 10, &["prepare"]);
    s.sandbox = Sandbox::Ready;
    check(&p, &s, 0, &["start a/0"]);
}

#[test]
fn restart_policies() {
    for (policy, code, expected) in [
        ("Always", 0, vec!["start a/1"]),
        ("Always", 1, vec!["start a/1"]),
        ("OnFailure", 0, vec!["tear down"]),
        ("OnFailure", 1, vec!["start a/1"]),
        ("Never", 0, vec!["tear down"]),
        ("Never", 1, vec!["tear down"]),
    ] {
        let p = pod(json!({"restartPolicy": policy}));
        check(&p, &seen(&p, &[("a", 0, exited(code, 5))]), 6, &expected);
        check(&p, &seen(&p, &[("a", 0, running())]), 6, &[]);
    }
}

#[test]
fn a_container_has_rules_of_its_own() {
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    for (own, code, expected) in [
        (
            json!({"restartPolicy": "Never", "restartPolicyRules": rules}),
            42,
            vec!["start a/1"],
        ),
        (
            json!({"restartPolicy": "Never", "restartPolicyRules": rules}),
            1,
            vec!["tear down"],
        ),
        (json!({"restartPolicy": "OnFailure"}), 1, vec!["start a/1"]),
        (json!({"restartPolicy": "Always"}), 0, vec!["start a/1"]),
    ] {
        let mut container = own;
        container["name"] = "a".into();
        let p = pod(json!({"restartPolicy": "Never", "containers": [container]}));
        check(&p, &seen(&p, &[("a", 0, exited(code, 5))]), 6, &expected);
    }
}

#[test]
fn one_container_that_ended_leaves_the_others_alone() {
    let p = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]}));
    check(
        &p,
        &seen(&p, &[("a", 0, exited(1, 5)), ("b", 0, running())]),
        6,
        &[],
    );
    check(
        &p,
        &seen(&p, &[("a", 0, exited(1, 5)), ("b", 0, exited(0, 5))]),
        6,
        &["tear down"],
    );
}

#[test]
fn a_crash_loop_backs_off() {
    let p = pod(json!({}));
    let mut s = seen(&p, &[("a", 1, exited(1, 100))]);
    s.containers.get_mut("a").unwrap().restarts.next(at(90), at(90));
    let held = decide(&p, &s, 101);
    assert_eq!(words(&held), ["hold a CrashLoopBackOff"]);
    assert_eq!(held.wake, Some(at(110)));
    let Action::Hold { waiting, .. } = &held.actions[0] else {
        panic!()
    };
    assert_eq!(
        waiting.message,
        "back-off 10s restarting failed container=a pod=p_n(u)"
    );
    s.containers.get_mut("a").unwrap().waiting = Some(waiting.clone());
    check(&p, &s, 102, &[]);
    check(&p, &s, 110, &["start a/2"]);
}

#[test]
fn a_changed_container_starts_at_once() {
    let mut p = pod(json!({}));
    let mut s = seen(&p, &[("a", 1, exited(1, 100))]);
    s.containers.get_mut("a").unwrap().restarts.next(at(90), at(90));
    p.spec.as_mut().unwrap().containers[0].image = Some("other".into());
    check(&p, &s, 101, &["start a/2"]);
}

#[test]
fn a_failed_pull_is_shown_then_backs_off() {
    let p = pod(json!({}));
    let mut s = seen(&p, &[]);
    let waiting = Waiting {
        reason: "ErrImagePull",
        message: "no such image".into(),
        image: "of-a-volume".into(),
        retry_at: at(10),
        since: at(0),
    };
    s.containers.insert(
        "a".into(),
        Box::new(Seen {
            waiting: Some(waiting),
            ..Seen::default()
        }),
    );
    assert_eq!(
        decide(&p, &s, 1),
        Plan {
            wake: Some(at(2)),
            ..Plan::default()
        }
    );
    let held = decide(&p, &s, 2);
    assert_eq!(words(&held), ["hold a ImagePullBackOff"]);
    let Action::Hold { waiting, .. } = &held.actions[0] else {
        panic!()
    };
    assert_eq!(
        waiting.message,
        "Back-off pulling image \"of-a-volume\": ErrImagePull: no such image"
    );
    check(&p, &s, 10, &["start a/0"]);
}

#[test]
fn init_containers_run_one_by_one() {
    let p = pod(json!({"initContainers": [{"name": "x"}, {"name": "y"}]}));
    check(&p, &seen(&p, &[]), 0, &["start x/0"]);
    check(&p, &seen(&p, &[("x", 0, running())]), 0, &[]);
    check(&p, &seen(&p, &[("x", 0, exited(1, 0))]), 0, &["start x/1"]);
    check(&p, &seen(&p, &[("x", 0, exited(0, 0))]), 0, &["start y/0"]);
    let done = [("x", 0, exited(0, 0)), ("y", 0, exited(0, 0))];
    check(&p, &seen(&p, &done), 0, &["start a/0"]);
    let never = pod(json!({"restartPolicy": "Never", "initContainers": [{"name": "x"}]}));
    check(
        &never,
        &seen(&never, &[("x", 0, exited(1, 0))]),
        0,
        &["tear down"],
    );
}

#[test]
fn init_containers_run_again_after_a_reboot() {
    let p = pod(json!({"initContainers": [{"name": "x"}]}));
    let mut s = seen(&p, &[("x", 0, exited(0, 0)), ("a", 0, exited(137, 0))]);
    check(&p, &s, 0, &["start a/1"]);
    s.boot_id = "another boot".into();
    check(&p, &s, 0, &["start x/1"]);
}

#[test]
fn sidecars_start_in_order_and_restart() {
    let p = pod(json!({"restartPolicy": "Never",
        "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "x"}]}));
    check(&p, &seen(&p, &[]), 0, &["start s/0"]);
    check(&p, &seen(&p, &[("s", 0, running())]), 0, &["start x/0"]);
    let up = [
        ("s", 0, exited(1, 0)),
        ("x", 0, exited(0, 0)),
        ("a", 0, running()),
    ];
    check(&p, &seen(&p, &up), 0, &["start s/1"]);
    let done = [
        ("s", 0, running()),
        ("x", 0, exited(0, 0)),
        ("a", 0, exited(0, 0)),
    ];
    check(&p, &seen(&p, &done), 0, &["kill s 30s"]);
}

#[test]
fn ephemeral_containers_start_once_and_before_all_others() {
    let p = pod(
        json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}],
        "ephemeralContainers": [{"name": "e"}]}),
    );
    let mut s = seen(&p, &[]);
    check(&p, &s, 0, &["start e/0", "start i/0"]);
    s = seen(&p, &[("i", 0, exited(1, 0)), ("e", 0, running())]);
    assert!(!words(&decide(&p, &s, 1000)).contains(&"start e/1".to_owned()));
    s = seen(
        &p,
        &[
            ("i", 0, exited(0, 0)),
            ("a", 0, running()),
            ("e", 0, exited(1, 0)),
        ],
    );
    check(&p, &s, 1000, &[]);
    s = seen(
        &p,
        &[("i", 0, exited(0, 0)), ("a", 0, running()), ("e", 0, running())],
    );
    check(&deleted(p, 5), &s, 0, &["kill a 5s", "kill e 5s"]);
}

#[test]
fn running_containers_are_brought_to_what_was_promised() {
    let wanted = |policy: &str| {
        pod(
            json!({"restartPolicy": "OnFailure", "containers": [{"name": "a", "resources": {"limits": {"cpu": "2"}},
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]}]}),
        )
    };
    let (in_place, restart) = (wanted("NotRequired"), wanted("RestartContainer"));
    let with = |state| {
        let mut s = seen(&in_place, &[("a", 0, state)]);
        let last = s.containers.get_mut("a").unwrap().last.as_mut().unwrap();
        last.resources = Some(serde_json::from_value(json!({"limits": {"cpu": "1"}})).unwrap());
        s
    };
    let mut s = with(running());
    check(&in_place, &s, 0, &["resize a"]);
    check(&restart, &s, 0, &["restart a 30s"]);
    let a = s.containers.get_mut("a").unwrap();
    a.resize_failed = Some(crate::pods::resize::Failed {
        message: "in use".into(),
        retry_at: at(10),
    });
    assert_eq!(decide(&in_place, &s, 5).wake, Some(at(10)));
    check(&in_place, &s, 10, &["resize a"]);

    // It ended well, and yet it was only stopped to be started anew.
    let mut s = with(exited(0, 0));
    assert!(is_finished(PodView::new(&restart).unwrap(), &s));
    s.containers.get_mut("a").unwrap().due = Some(Due::Resize);
    check(&restart, &s, 0, &["start a/1"]);
}

/// Ends that an earlier agent saw are not known to the moment, and hold nothing.
#[test]
fn what_ended_under_an_earlier_agent_is_not_held_for_ever() {
    let p = pod(json!({}));
    let mut s = seen(&p, &[("a", 3, exited(1, 0))]);
    let a = s.containers.get_mut("a").unwrap();
    a.ended = None;
    a.restarts.next(at(0), at(0));
    check(&p, &s, 11, &["start a/4"]);
}

#[test]
fn a_clock_that_is_set_ends_nothing_and_starts_nothing_late() {
    let p = pod(json!({"activeDeadlineSeconds": 100}));
    for jump in [-36_000, 36_000] {
        let mut s = seen(&p, &[("a", 3, exited(1, 50 + jump))]);
        s.start_time = Some(at(jump));
        let a = s.containers.get_mut("a").unwrap();
        a.ended = Some(at(50));
        a.restarts.next(at(40), at(40));
        let decided = decide(&p, &s, 51);
        assert_eq!(decided.wake, Some(at(60)), "{jump}");
        check(&p, &s, 60, &["start a/4"]);
        check(&p, &s, 99, &["start a/4"]);
        check(&p, &s, 100, &["end DeadlineExceeded"]);
    }
}
