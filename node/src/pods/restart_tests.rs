//! Tables of what is started again because the node stopped it, and of everything that starts anew.

use super::*;
use crate::pods::restart_all::Superseded;

/// What is done with a running container that a probe, or a change of its image, speaks against.
fn unfit(p: &Pod, name: &str, changed: bool) -> (String, Option<Due>, i64) {
    let mut s = seen(p, &[(name, 0, running())]);
    let one = s.containers.get_mut(name).unwrap();
    one.health.failed = Some("liveness");
    if changed {
        one.last.as_mut().unwrap().spec_hash = "of another image".into();
    }
    match decide(p, &s, 0).actions.remove(0) {
        Action::Kill { message, grace, .. } => (message, None, grace),
        Action::Restart {
            message, grace, due, ..
        } => (message, Some(due), grace),
        other => panic!("{other:?}"),
    }
}

#[test]
fn unfit_containers_are_killed_to_be_restarted() {
    let probe = json!({"terminationGracePeriodSeconds": 3});
    let of = |pod_policy: &str, own: Value| {
        let own = own.as_object().unwrap().clone();
        let mut container = json!({"name": "a", "image": "i", "livenessProbe": probe});
        container.as_object_mut().unwrap().extend(own);
        pod(json!({"restartPolicy": pod_policy, "containers": [container]}))
    };
    let again = "Container a failed liveness probe, will be restarted";
    for (pod_policy, own, message, due) in [
        ("Always", json!({}), again, Some(Due::Unfit)),
        ("OnFailure", json!({}), again, Some(Due::Unfit)),
        ("Never", json!({}), "Container a failed liveness probe", None),
        (
            "Never",
            json!({"restartPolicy": "OnFailure"}),
            again,
            Some(Due::Unfit),
        ),
        (
            "Always",
            json!({"restartPolicy": "Never"}),
            "Container a failed liveness probe",
            None,
        ),
    ] {
        let p = of(pod_policy, own);
        assert_eq!(
            unfit(&p, "a", false),
            (message.to_owned(), due, 3),
            "{pod_policy}"
        );
    }
    let changed = "Container a definition changed, will be restarted".to_owned();
    assert_eq!(
        unfit(&of("Never", json!({})), "a", true),
        (changed, Some(Due::Unfit), 30)
    );
    let beside =
        pod(json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}], "restartPolicy": "Never"}));
    let told = "Init container s failed liveness probe".to_owned();
    assert_eq!(unfit(&beside, "s", false), (told, Some(Due::Unfit), 30));
}

#[test]
fn what_was_stopped_to_be_started_again_is() {
    let p = pod(json!({"restartPolicy": "OnFailure"}));
    let mut s = seen(&p, &[("a", 1, exited(0, 100))]);
    check(&p, &s, 101, &["tear down"]);
    let a = s.containers.get_mut("a").unwrap();
    a.due = Some(Due::Unfit);
    a.restarts.next(at(90), at(90));
    check(&p, &s, 101, &["hold a CrashLoopBackOff"]);
    check(&p, &s, 110, &["start a/2"]);
}

#[test]
fn an_init_container_that_runs_is_let_come_to_its_end() {
    let p = pod(json!({"initContainers": [{"name": "x", "image": "old"}]}));
    let s = seen(&p, &[("x", 0, running())]);
    let changed = pod(json!({"initContainers": [{"name": "x", "image": "new"}]}));
    check(&changed, &s, 0, &[]);
}

/// A Pod of an init container, a sidecar and two others; ends of `source` with 42 start all anew.
fn whole(source: &str) -> Pod {
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}},
        {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0]}}]);
    let one = |name: &str, policy: Value| {
        let mut container = json!({"name": name, "image": "i"});
        if !policy.is_null() {
            container["restartPolicy"] = policy;
        }
        if name == source {
            container["restartPolicyRules"] = rules.clone();
            container["restartPolicy"]
                .as_str()
                .is_none()
                .then(|| container["restartPolicy"] = "Never".into());
        }
        container
    };
    pod(json!({"restartPolicy": "Never",
        "initContainers": [one("x", Value::Null), one("s", "Always".into())],
        "containers": [one("a", Value::Null), one("b", Value::Null)]}))
}

fn up(changed: &str, state: State) -> Vec<(&str, u32, State)> {
    let all = [
        ("x", 0, exited(0, 1)),
        ("s", 0, running()),
        ("a", 0, running()),
        ("b", 0, running()),
    ];
    let state = |(name, attempt, before)| match name == changed {
        true => (name, attempt, state.clone()),
        false => (name, attempt, before),
    };
    all.into_iter().map(state).collect()
}

fn supersede(s: &mut Observed) {
    let all = s.containers.values_mut();
    all.for_each(|seen| seen.superseded = Some(Superseded::of(seen)));
}

fn end(s: &mut Observed, names: &[&str]) {
    for name in names {
        let seen = s.containers.get_mut(*name).unwrap();
        seen.last.as_mut().unwrap().state = exited(137, 8);
        seen.ended = Some(at(8));
        seen.busy = Busy::Idle;
    }
}

#[test]
fn the_first_rule_about_an_end_decides() {
    for (source, code, expected) in [
        ("a", 42, vec!["restart all"]),
        ("a", 1, vec!["start a/1"]),
        ("a", 0, vec![]),
        ("s", 42, vec!["restart all"]),
        ("s", 0, vec!["start s/1"]),
    ] {
        let p = whole(source);
        check(&p, &seen(&p, &up(source, exited(code, 5))), 6, &expected);
    }
    let p = whole("x");
    check(&p, &seen(&p, &[("x", 0, exited(42, 5))]), 6, &["restart all"]);
    check(&p, &seen(&p, &[("x", 0, exited(1, 5))]), 6, &["start x/1"]);
}

#[test]
fn everything_ends_and_then_starts_as_in_a_new_pod() {
    let p = whole("a");
    let mut s = seen(&p, &up("a", exited(42, 5)));
    s.noting = true;
    check(&p, &s, 6, &[]);
    s.noting = false;
    supersede(&mut s);
    check(&p, &s, 6, &["reset b"]);
    s.containers.get_mut("b").unwrap().busy = Busy::Killing {
        until: at(8),
        waits: false,
    };
    check(&p, &s, 6, &[]);
    end(&mut s, &["b"]);
    check(&p, &s, 8, &["reset s"]);
    end(&mut s, &["s"]);
    check(&p, &s, 8, &["start x/1"]);
    let mut again = |name: &str, state: State| {
        let seen = s.containers.get_mut(name).unwrap();
        seen.last = Some(of(name, &p, 1, state));
        seen.superseded = None;
        words(&decide(&p, &s, 9))
    };
    assert_eq!(again("x", exited(0, 9)), ["start s/1"]);
    assert_eq!(again("s", running()), ["start a/1", "start b/1"]);
    assert_eq!(again("a", running()), ["start b/1"]);
    assert!(again("b", running()).is_empty());
}

#[test]
fn a_container_held_back_is_started_with_the_rest() {
    let p = whole("a");
    let mut s = seen(&p, &up("a", exited(42, 5)));
    end(&mut s, &["x", "b", "s"]);
    let x = s.containers.get_mut("x").unwrap();
    x.restarts.next(at(7), at(7));
    x.waiting = Some(Waiting {
        reason: CRASH_LOOP,
        message: String::new(),
        image: String::new(),
        retry_at: at(17),
        since: at(7),
    });
    supersede(&mut s);
    check(&p, &s, 8, &["start x/1"]);
    // An image that cannot be had is not to be had sooner for it.
    s.containers
        .get_mut("x")
        .unwrap()
        .waiting
        .as_mut()
        .unwrap()
        .reason = "ImagePullBackOff";
    check(&p, &s, 8, &[]);
}

#[test]
fn what_comes_up_meanwhile_is_waited_for() {
    let p = whole("a");
    let mut s = seen(&p, &up("a", exited(42, 5)));
    s.containers.get_mut("s").unwrap().busy = Busy::Starting;
    check(&p, &s, 6, &[]);
    s.containers.get_mut("s").unwrap().busy = Busy::Cancelling;
    check(&p, &s, 6, &[]);
    s.containers.get_mut("s").unwrap().busy = Busy::Idle;
    check(&p, &s, 6, &["restart all"]);
}

#[test]
fn it_is_not_done_again_and_again_without_a_pause() {
    let p = whole("a");
    let mut s = seen(&p, &up("a", exited(42, 5)));
    s.restarted_all = Some(at(5));
    assert_eq!(
        decide(&p, &s, 5),
        Plan {
            wake: Some(at(6)),
            ..Plan::default()
        }
    );
    check(&p, &s, 6, &["restart all"]);
}

#[test]
fn a_pod_that_ends_is_not_started_anew() {
    let p = whole("a");
    let s = seen(&p, &up("a", exited(42, 5)));
    check(&deleted(p, 7), &s, 6, &["kill b 7s", "kill s 7s in its turn"]);
    let p = whole("s");
    let mut s = seen(&p, &up("s", exited(42, 5)));
    end(&mut s, &["a", "b"]);
    check(&p, &s, 9, &["tear down"]);
}

#[test]
fn what_is_stopped_for_it_does_not_finish_the_pod() {
    let p = whole("s");
    let mut s = seen(&p, &up("s", exited(42, 5)));
    supersede(&mut s);
    end(&mut s, &["a", "b"]);
    assert!(!is_finished(PodView::new(&p).unwrap(), &s));
    check(&p, &s, 9, &["start x/1"]);
}

#[test]
fn a_resize_and_a_probe_ask_for_no_more_than_they_are() {
    let p = whole("a");
    let mut s = seen(&p, &up("a", exited(137, 5)));
    check(&p, &s, 6, &["restart all"]);
    s.containers.get_mut("a").unwrap().due = Some(Due::Unfit);
    check(&p, &s, 6, &["start a/1"]);
}
