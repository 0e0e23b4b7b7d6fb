//! The agent killed at random moments while Pods come and go.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kube::api::DeleteParams;
use nix::unistd::Pid;

use super::halves::{Halves, until};
use super::{NATIVE, WASM, create, delete_all, identity, pod, run, sleeper};

/// How often, unless `AMPHIPOD_KILLS` says so.
const KILLS: u64 = 20;
/// The agent lives no longer than this between two kills.
const LIFE_MS: u64 = 900;
/// How long a Pod is there, in kills.
const TURNS: u64 = 3;

/// Numbers nobody foresees, from a seed that is told (splitmix64).
struct Dice(u64);

impl Dice {
    fn up_to(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// Processes of a cluster's shims that serve, those for Wasm or the others.
pub fn shims(id: &str, wasm: bool) -> Vec<Pid> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let serves = line.contains(&format!("amphipod-{id} ")) && line.ends_with("serve ");
        serves && line.contains("wasm-shim") == wasm
    })
    .map(Pid::from_raw)
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_at_random_moments_loses_nothing() {
    let Some(mut halves) = Halves::start("killed agents").await else {
        return;
    };
    let kills = std::env::var("AMPHIPOD_KILLS").map_or(KILLS, |n| n.parse().unwrap());
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    eprintln!("{kills} kills, seed {seed}");
    let mut dice = Dice(seed);
    let pods = halves.pods().await;
    run(&pods, &sleeper("stays")).await;
    run(&pods, &pod("stays-wasm", WASM, &[])).await;
    let before = (
        identity(&pods, "stays").await,
        identity(&pods, "stays-wasm").await,
    );
    let begun = Instant::now();
    for turn in 0..kills {
        let name = format!("p{turn}");
        let comes = match turn % 3 {
            0 => sleeper(&name),
            1 => pod(&name, WASM, &[]),
            _ => pod(&name, NATIVE, &["sh", "-c", "sleep 0.2; exit 1"]),
        };
        create(&pods, &comes).await;
        if let Some(old) = turn.checked_sub(TURNS) {
            let deleted = pods.delete(&format!("p{old}"), &DeleteParams::default()).await;
            deleted.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(dice.up_to(LIFE_MS))).await;
        assert!(
            halves.node_runs(),
            "the agent ended by itself: {}",
            halves.last_of_node()
        );
        halves.kill_node();
        halves.start_node();
    }
    let killed = begun.elapsed();
    for turn in kills.saturating_sub(TURNS)..kills {
        let name = format!("p{turn}");
        until(&format!("{name} has been started"), async || {
            let status = pods.get(&name).await.ok()?.status?;
            let container = status.container_statuses?.into_iter().next()?;
            let state = container.state?;
            let started =
                state.running.is_some() || container.restart_count > 0 || state.terminated.is_some();
            started.then_some(())
        })
        .await;
    }
    let after = (
        identity(&pods, "stays").await,
        identity(&pods, "stays-wasm").await,
    );
    assert_eq!(after, before, "what ran from the beginning still does");
    delete_all(&pods).await;
    halves.nothing_is_left().await;
    eprintln!(
        "{kills} kills in {killed:?}; all over after {:?}",
        begun.elapsed()
    );
}
