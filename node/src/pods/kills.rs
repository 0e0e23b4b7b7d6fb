//! What fails when a Pod is ended, told as upstream's kubelet tells it (pkg/kubelet, SyncTerminatingPod): by one event for each try to
//! end all of it, when it is known of every container what came of that try. Containers that end while their Pod goes on are not
//! told of. Owns the words; refuses to know how anything is ended.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The event's reason.
pub const REASON: &str = "FailedKillPod";
/// What a call says that a shim did not answer.
const SILENCE: &str = "rpc error: code = DeadlineExceeded desc = context deadline exceeded";

/// The containers of one Pod that are being stopped.
#[derive(Debug, Default)]
pub struct Kills(Mutex<Round>);

/// What there is to tell next.
#[derive(Debug, Default)]
struct Round {
    /// What came last of each stop, by container. One that is stopped anew may be in twice for a moment.
    heard: BTreeMap<(String, u64), Heard>,
    stops: u64,
    ends_pod: bool,
}

/// What was heard of a container's shim since it was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Answer,
    Silence,
}

/// One container that is being stopped; no longer so when this is dropped.
#[derive(Debug)]
pub struct Kill {
    all: Arc<Kills>,
    key: (String, u64),
}

impl Kills {
    /// Takes in a container; nothing is told before it was heard of.
    pub fn begin(self: &Arc<Self>, container: &str) -> Kill {
        let mut round = self.lock();
        round.stops += 1;
        let key = (container.to_owned(), round.stops);
        round.heard.insert(key.clone(), Heard::Nothing);
        Kill {
            all: self.clone(),
            key,
        }
    }

    /// The Pod as a whole ends now.
    pub fn end_pod(&self) {
        self.lock().ends_pod = true;
    }

    fn lock(&self) -> MutexGuard<'_, Round> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kill {
    /// Takes in whether the shim has answered a call; gives back what is to be told now.
    pub fn note(&self, answered: bool) -> Option<String> {
        let mut round = self.all.lock();
        let heard = match answered {
            true => Heard::Answer,
            false => Heard::Silence,
        };
        round.heard.insert(self.key.clone(), heard);
        round.message()
    }
}

impl Drop for Kill {
    fn drop(&mut self) {
        self.all.lock().heard.remove(&self.key);
    }
}

impl Round {
    /// Nothing before it was heard of all; the next round begins then.
    fn message(&mut self) -> Option<String> {
        if self.heard.values().any(|heard| *heard == Heard::Nothing) {
            return None;
        }
        let silent = self.heard.iter().filter(|(_, heard)| **heard == Heard::Silence);
        let mut failures: Vec<String> = silent
            .map(|((container, _), _)| failed("KillContainer", container, SILENCE))
            .collect();
        failures.dedup();
        self.heard.values_mut().for_each(|heard| *heard = Heard::Nothing);
        (self.ends_pod && !failures.is_empty()).then(|| told(&failures))
    }
}

/// What is told of a Pod whose sandbox cannot be taken away.
pub fn sandbox(uid: &str, error: &dyn Display) -> String {
    let error = format!("rpc error: code = Unknown desc = {error}");
    told(&[failed("KillPodSandbox", uid, &error)])
}

fn failed(action: &str, target: &str, message: &str) -> String {
    format!("failed to {action:?} for {target:?} with {action}Error: {message:?}")
}

/// Several are in brackets, as upstream's aggregates are.
fn told(failures: &[String]) -> String {
    match failures {
        [only] => format!("error killing pod: {only}"),
        several => format!("error killing pod: [{}]", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(container: &str) -> String {
        format!(
            "failed to \"KillContainer\" for \"{container}\" with KillContainerError: \"rpc error: code = DeadlineExceeded \
             desc = context deadline exceeded\""
        )
    }

    fn ending() -> Arc<Kills> {
        let kills = Arc::new(Kills::default());
        kills.end_pod();
        kills
    }

    #[test]
    fn what_fails_is_told_once_of_all_when_it_is_known_of_all() {
        let kills = ending();
        let (b, a) = (kills.begin("b"), kills.begin("a"));
        let both = format!("error killing pod: [{}, {}]", of("a"), of("b"));
        let only = format!("error killing pod: {}", of("a"));
        for (kill, answered, expected) in [
            (&a, false, None),
            (&b, false, Some(&both)),
            (&b, true, None),
            (&b, true, None),
            (&a, false, Some(&only)),
            (&a, true, None),
            (&b, true, None),
            (&b, false, None),
            (&a, false, Some(&both)),
        ] {
            assert_eq!(kill.note(answered).as_ref(), expected, "{kill:?}");
        }
        drop(b);
        assert_eq!(a.note(false), Some(only), "who has ended is not waited for");
    }

    #[test]
    fn containers_of_a_pod_that_goes_on_are_not_told_of() {
        let kills = Arc::new(Kills::default());
        let kill = kills.begin("a");
        assert_eq!(kill.note(false), None);
        kills.end_pod();
        assert!(kill.note(false).is_some());
    }

    #[test]
    fn a_container_that_is_stopped_anew_is_one() {
        let kills = ending();
        let slower = kills.begin("a");
        let faster = kills.begin("a");
        assert_eq!(slower.note(false), None);
        let told = faster.note(false);
        assert_eq!(told, Some(format!("error killing pod: {}", of("a"))));
        drop(slower);
        assert_eq!(faster.note(false), told);
    }

    #[test]
    fn a_sandbox_that_stays_is_told_of_by_the_pods_uid() {
        let expected = "error killing pod: failed to \"KillPodSandbox\" for \"u\" with KillPodSandboxError: \"rpc error: code = Unknown \
                        desc = no\"";
        assert_eq!(sandbox("u", &"no"), expected);
    }
}
