//! Tables of decisions on how a Pod ends.

use super::*;

#[test]
fn deletion_kills_then_tears_down() {
    let p = deleted(pod(json!({"containers": [{"name": "a"}, {"name": "b"}]})), 7);
    let mut s = seen(&p, &[("a", 0, running()), ("b", 0, exited(0, 0))]);
    check(&p, &s, 0, &["kill a 7s"]);
    s.containers.get_mut("a").unwrap().busy = Busy::Killing {
        until: at(7),
        waits: false,
    };
    check(&p, &s, 1, &[]);
    let sooner = deleted(p.clone(), 1);
    check(&sooner, &s, 1, &["kill a 1s"]);
    let mut s = seen(&p, &[("a", 0, exited(143, 0)), ("b", 0, exited(0, 0))]);
    check(&p, &s, 1, &["tear down"]);
    s.sandbox = Sandbox::TearingDown;
    check(&p, &s, 1, &[]);
    s.sandbox = Sandbox::Stays { retry_at: at(10) };
    let waits = decide(&p, &s, 9);
    assert_eq!((words(&waits).len(), waits.wake), (0, Some(at(10))));
    check(&p, &s, 10, &["tear down"]);
    s.sandbox = Sandbox::Gone;
    assert!(decide(&p, &s, 1).ended);
}

#[test]
fn all_are_stopped_at_once_and_sidecars_end_in_turn() {
    let p = deleted(
        pod(
            json!({"initContainers": [{"name": "s", "restartPolicy": "Always"},
            {"name": "t", "restartPolicy": "Always"}]}),
        ),
        7,
    );
    let up = [("s", 0, running()), ("t", 0, running()), ("a", 0, running())];
    let mut s = seen(&p, &up);
    check(
        &p,
        &s,
        0,
        &["kill a 7s", "kill t 7s in its turn", "kill s 7s in its turn"],
    );
    for (name, waits) in [("a", false), ("t", true), ("s", true)] {
        s.containers.get_mut(name).unwrap().busy = Busy::Killing { until: at(7), waits };
    }
    check(&p, &s, 1, &[]);
    let end = |s: &mut Observed, name: &str| {
        let one = s.containers.get_mut(name).unwrap();
        one.busy = Busy::Idle;
        one.last = Some(of(name, &p, 0, exited(0, 1)));
    };
    end(&mut s, "a");
    check(&p, &s, 1, &["turn of t"]);
    s.containers.get_mut("t").unwrap().busy = Busy::Killing {
        until: at(7),
        waits: false,
    };
    check(&p, &s, 1, &[]);
    end(&mut s, "t");
    check(&p, &s, 2, &["turn of s"]);
    end(&mut s, "s");
    check(&p, &s, 3, &["tear down"]);
    let init = deleted(
        pod(json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}]})),
        7,
    );
    let s = seen(&init, &[("s", 0, running()), ("i", 0, running())]);
    check(&init, &s, 0, &["kill i 7s", "kill s 7s"]);
}

#[test]
fn what_was_gone_before_is_given_less_time() {
    let p = deleted(pod(json!({})), 7);
    let mut s = seen(&p, &[("a", 0, running())]);
    for (orphan_grace, expected) in [
        (None, "kill a 7s"),
        (Some(1), "kill a 1s"),
        (Some(0), "kill a 0s"),
    ] {
        (s.orphaned, s.orphan_grace) = (true, orphan_grace);
        check(&p, &s, 0, &[expected]);
    }
}

#[test]
fn deletion_gives_up_a_start() {
    let p = deleted(pod(json!({})), 30);
    let mut s = seen(&p, &[]);
    s.containers.insert(
        "a".into(),
        Box::new(Seen {
            busy: Busy::Starting,
            ..Seen::default()
        }),
    );
    check(&p, &s, 0, &["cancel a"]);
    s.containers.get_mut("a").unwrap().busy = Busy::Cancelling;
    check(&p, &s, 0, &[]);
    s.containers.get_mut("a").unwrap().busy = Busy::Idle;
    check(&p, &s, 0, &["tear down"]);
}

#[test]
fn a_deadline_ends_the_pod() {
    let p = pod(json!({"activeDeadlineSeconds": 5}));
    let mut s = seen(&p, &[("a", 0, running())]);
    assert_eq!(decide(&p, &s, 4).wake, Some(at(5)));
    check(&p, &s, 5, &["end DeadlineExceeded"]);
    s.verdict = Some(Verdict {
        reason: "DeadlineExceeded".into(),
        message: String::new(),
        grace: None,
        disruption: None,
        ..Verdict::default()
    });
    check(&p, &s, 5, &["kill a 30s"]);
    s.verdict = s.verdict.map(|verdict| Verdict {
        grace: Some(1),
        ..verdict
    });
    check(&p, &s, 5, &["kill a 1s"]);
}

#[test]
fn a_pod_that_was_given_time_is_hurried_by_a_second_verdict() {
    let p = pod(json!({}));
    let verdict = |grace| Verdict {
        reason: "Evicted".into(),
        message: String::new(),
        grace,
        disruption: None,
        ..Verdict::default()
    };
    let mut held = verdict(Some(20));
    held.hurry(&verdict(None));
    assert_eq!(held.grace, Some(20), "it is not slowed down");
    held.hurry(&verdict(Some(1)));
    let mut s = seen(&p, &[("a", 0, running())]);
    s.verdict = Some(held);
    s.containers.get_mut("a").unwrap().busy = Busy::Killing {
        until: at(20),
        waits: false,
    };
    check(&p, &s, 5, &["kill a 1s"]);
}

#[test]
fn a_final_phase_is_never_left() {
    let mut p = pod(json!({}));
    p.status = serde_json::from_value(json!({"phase": "Failed"})).unwrap();
    check(&p, &Observed::default(), 0, &["tear down"]);
}
