//! Shims that are there and do not answer when an agent starts: told early, waited for by nobody else, taken back when they go on,
//! ended when that lasts.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::DeleteParams;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::halves::{Halves, until};
use super::kills::shims;
use super::{WASM, delete_all, identity, pod, run, sleeper};

/// After which a shim that does not answer has been ended, with some time to spare.
const ENDED_WITHIN: Duration = Duration::from_secs(170);

/// Runs the Pod; the shims it was given.
async fn shims_of(halves: &Halves, pods: &Api<Pod>, name: &str) -> Vec<Pid> {
    let before = shims(&halves.id(), false);
    run(pods, &sleeper(name)).await;
    let mut now = shims(&halves.id(), false);
    now.retain(|pid| !before.contains(pid));
    assert!(!now.is_empty(), "no shim of {name}");
    now
}

fn send(pids: &[Pid], signal: Signal) {
    pids.iter().for_each(|pid| kill(*pid, signal).unwrap());
}

async fn is_told(events: &Api<Event>, name: &str) -> Option<()> {
    let all = events.list(&Default::default()).await.ok()?;
    let mut of_pod = all
        .items
        .iter()
        .filter(|event| event.involved_object.name.as_deref() == Some(name));
    let told = of_pod.any(|event| {
        let message = event.message.as_deref().unwrap_or_default();
        event.reason.as_deref() == Some("FailedSync") && message.starts_with("error determining status: ")
    });
    told.then_some(())
}

async fn gone(pods: &Api<Pod>, name: &str) {
    while pods.get_opt(name).await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_is_stopped_while_an_agent_starts_is_told_and_got_over() {
    let Some(mut halves) = Halves::start("stopped shims").await else {
        return;
    };
    let pods = halves.pods().await;
    let events: Api<Event> = Api::default_namespaced(halves.client().await);
    let thaws = shims_of(&halves, &pods, "thaws").await;
    let stays = shims_of(&halves, &pods, "stays-stopped").await;
    run(&pods, &pod("other", WASM, &[])).await;
    let all = async || {
        let (thaws, stays) = (
            identity(&pods, "thaws").await,
            identity(&pods, "stays-stopped").await,
        );
        (thaws, stays, identity(&pods, "other").await)
    };
    let before = all().await;
    halves.kill_node();
    send(&thaws, Signal::SIGSTOP);
    send(&stays, Signal::SIGSTOP);
    halves.start_node();
    run(&pods, &sleeper("new")).await;
    for name in ["thaws", "stays-stopped"] {
        until("it is told", async || is_told(&events, name).await).await;
    }
    assert_eq!(all().await, before, "nothing is known to have changed");
    send(&thaws, Signal::SIGCONT);
    pods.delete("thaws", &DeleteParams::default()).await.unwrap();
    pods.delete("stays-stopped", &DeleteParams::default())
        .await
        .unwrap();
    let in_time = |name| tokio::time::timeout(ENDED_WITHIN, gone(&pods, name));
    in_time("thaws").await.expect("it goes on and ends");
    in_time("stays-stopped").await.expect("its shim is ended");
    for pid in thaws.iter().chain(&stays) {
        until("no shim is left", async || {
            kill(*pid, None).is_err().then_some(())
        })
        .await;
    }
    delete_all(&pods).await;
    halves.nothing_is_left().await;
}
