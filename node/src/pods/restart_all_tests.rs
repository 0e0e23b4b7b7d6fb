//! What is told of a Pod that starts anew.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use super::*;
use crate::pods::observed::Waiting;
use crate::pods::plan::CRASH_LOOP;
use crate::pods::record::State;
use crate::pods::record::tests::{at, exited, record, running};
use crate::pods::status::status;

const REMOVED: Option<Superseded> = Some(Superseded::Removed);

/// An init container and two others; `a` may ask for it.
fn pod() -> Pod {
    let rules = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let a = json!({"name": "a", "restartPolicy": "Never", "restartPolicyRules": rules});
    serde_json::from_value(
        json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": "Never",
        "initContainers": [{"name": "x"}], "containers": [a, {"name": "b"}]}}),
    )
    .unwrap()
}

fn with(superseded: Option<Superseded>, states: [(&str, u32, State); 3]) -> Observed {
    let one = |(name, attempt, state): (&str, u32, State)| {
        let last = Some(record(name, attempt, state));
        let seen = Seen {
            last,
            superseded,
            ..Seen::default()
        };
        (name.to_owned(), Box::new(seen))
    };
    Observed {
        sandbox: crate::pods::observed::Sandbox::Ready,
        containers: states.into_iter().map(one).collect(),
        boot_id: "boot".into(),
        ..Observed::default()
    }
}

/// Phase, the condition's status and reason, that of Initialized, and of each container state, last state, restarts.
fn told(seen: &Observed) -> Value {
    let pod = pod();
    let old: PodStatus = serde_json::from_value(json!({"phase": "Running",
        "conditions": [{"type": "Initialized", "status": "True"}]}))
    .unwrap();
    let report = json!(status(PodView::new(&pod).unwrap(), seen, &[], Some(&old), at(9)));
    let condition = |kind: &str| {
        let all = report["conditions"].as_array().unwrap();
        all.iter().find(|c| c["type"] == kind).unwrap().clone()
    };
    let state = |s: &Value| match s.as_object().and_then(|s| s.iter().next()) {
        None => json!(""),
        Some((kind, more)) => match more["exitCode"].as_i64() {
            None => json!(more["reason"].as_str().unwrap_or(kind)),
            Some(code) => json!(format!("{} {code}", more["reason"].as_str().unwrap())),
        },
    };
    let one = |s: &Value| json!([state(&s["state"]), state(&s["lastState"]), s["restartCount"]]);
    let inits = report["initContainerStatuses"].as_array().unwrap();
    let all = inits
        .iter()
        .chain(report["containerStatuses"].as_array().unwrap());
    let asked = condition(CONDITION);
    json!([
        report["phase"],
        asked["status"],
        asked["reason"],
        condition("Initialized")["status"],
        all.map(one).collect::<Vec<_>>()
    ])
}

#[test]
fn each_step_is_told() {
    let begun = [("x", 0, exited(0)), ("a", 0, exited(42)), ("b", 0, running())];
    let ended = [("x", 0, exited(0)), ("a", 0, exited(42)), ("b", 0, exited(137))];
    let removed = "RestartingAllContainers 137";
    let waits = json!(["RestartingAllContainers", removed, 1]);
    let asked = "RestartAllContainersStarted";
    assert_eq!(
        told(&with(None, begun.clone())),
        json!([
            "Running",
            "True",
            asked,
            "True",
            [["Completed 0", "", 0], ["Error 42", "", 0], ["running", "", 0]]
        ])
    );
    assert_eq!(
        told(&with(REMOVED, begun)),
        json!([
            "Running",
            "True",
            asked,
            "True",
            [waits, ["Error 42", "", 0], ["running", "", 0]]
        ])
    );
    let mut s = with(REMOVED, ended);
    assert_eq!(
        told(&s),
        json!(["Running", "False", null, "True", [waits, waits, waits]])
    );
    let mut again = |name: &str, state: State| {
        let seen = s.containers.get_mut(name).unwrap();
        seen.previous = seen.last.replace(record(name, 1, state));
        seen.previous_superseded = seen.superseded.take();
        told(&s)
    };
    let waits = json!(["PodInitializing", removed, 1]);
    assert_eq!(
        again("x", running()),
        json!([
            "Pending",
            "False",
            null,
            "True",
            [["running", removed, 1], waits, waits]
        ])
    );
    let s = s.clone();
    let mut s = s;
    s.containers.get_mut("x").unwrap().last.as_mut().unwrap().state = exited(0);
    assert_eq!(
        told(&s),
        json!([
            "Running",
            "False",
            null,
            "True",
            [["Completed 0", removed, 1], waits, waits]
        ])
    );
}

#[test]
fn what_waited_for_its_next_attempt_keeps_its_end() {
    let waiting = Waiting {
        reason: CRASH_LOOP,
        message: String::new(),
        image: String::new(),
        retry_at: at(20),
        since: at(5),
    };
    let begun = [("x", 0, exited(0)), ("a", 0, exited(42)), ("b", 3, exited(7))];
    let mut seen = with(None, begun);
    seen.containers.get_mut("b").unwrap().waiting = Some(waiting);
    let marks = seen.containers.values().map(|s| Superseded::of(s));
    assert_eq!(
        marks.collect::<Vec<_>>(),
        [Superseded::Removed, Superseded::Over, Superseded::Removed],
        "a, b, x"
    );
    seen.containers
        .values_mut()
        .for_each(|s| s.superseded = Some(Superseded::of(s)));
    let of_b = |seen: &Observed| told(seen)[4][2].clone();
    assert_eq!(of_b(&seen), json!([CRASH_LOOP, "Error 7", 3]));
    // Whatever asks for it next.
    assert_eq!(Superseded::of(&seen.containers["b"]), Superseded::Over);
    let b = seen.containers.get_mut("b").unwrap();
    b.waiting = None;
    assert_eq!(
        of_b(&seen),
        json!(["PodInitializing", "Error 7", 3]),
        "to an agent that returns"
    );
    let b = seen.containers.get_mut("b").unwrap();
    b.previous = b.last.replace(record("b", 4, running()));
    b.previous_superseded = b.superseded.take();
    assert_eq!(of_b(&seen), json!(["running", "Error 7", 4]));
}

#[test]
fn what_is_over_says_so() {
    let mut seen = with(
        None,
        [("x", 0, exited(0)), ("a", 0, exited(0)), ("b", 0, exited(0))],
    );
    let of = |seen: &Observed| {
        let all = told(seen);
        (all[0].clone(), all[1].clone(), all[2].clone())
    };
    assert_eq!(
        of(&seen),
        (json!("Succeeded"), json!("False"), json!("PodCompleted"))
    );
    seen.containers.get_mut("b").unwrap().last.as_mut().unwrap().state = exited(3);
    assert_eq!(of(&seen), (json!("Failed"), json!("False"), json!("PodFailed")));
}

#[test]
fn only_pods_in_which_it_can_happen_have_the_condition() {
    let mut pod = pod();
    assert!(is_possible(PodView::new(&pod).unwrap()));
    pod.spec.as_mut().unwrap().containers[0].restart_policy_rules = None;
    assert!(!is_possible(PodView::new(&pod).unwrap()));
}
