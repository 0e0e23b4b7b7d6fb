//! Pods on disk that were gone from the API before this agent came. It may be killed soon, too, and then should have finished some: they
//! are taken apart a few at a time, and what an agent before has asked to end is not given its time anew. Owns whose turn it is
//! and how long containers still have; how a Pod ends is its worker's to know.

use std::fs;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

/// Turns there are at once: two processors bring so many to an end in a fraction of a second.
const AT_ONCE: usize = 8;
/// How long a Pod holds up those behind it: its containers may take their time to end, and what it takes to remove it may be missing.
const TURN: Duration = Duration::from_millis(250);
/// Seconds its containers have to end, whatever it asks for: upstream's, for Pods that its kubelet finds running and does not know.
const GRACE_SECONDS: i64 = 1;
/// In the directory of a Pod since its containers were first asked to end.
const MARK: &str = "orphaned";

/// Seconds the containers of the Pod whose directory this is still have to end. Notes when they had it all.
pub fn grace_left(dir: &Path) -> io::Result<i64> {
    let mark = dir.join(MARK);
    let since = match fs::metadata(&mark) {
        Ok(found) => found.modified()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::write(&mark, "")?;
            return Ok(GRACE_SECONDS);
        }
        Err(error) => return Err(error),
    };
    // By a clock that was put back since, nobody knows: they have it all again.
    let passed = since.elapsed().unwrap_or_default().as_secs();
    let left = GRACE_SECONDS.saturating_sub_unsigned(passed);
    Ok(left.max(0))
}

/// Oldest first: what was to go first has waited longest.
pub fn by_age(orphans: &mut [(String, Pod)]) {
    orphans.sort_by_key(|(_, pod)| pod.metadata.creation_timestamp.as_ref().map(|made| made.0));
}

/// Gives turns, in the order in which they are asked for.
pub struct Turns {
    next: usize,
    over: Arc<watch::Sender<usize>>,
}

/// One turn; over when this is dropped.
pub struct Turn {
    number: usize,
    over: Arc<watch::Sender<usize>>,
}

impl Turns {
    pub fn new() -> Self {
        Turns {
            next: 0,
            over: Arc::new(watch::Sender::new(0)),
        }
    }

    pub fn next(&mut self) -> Turn {
        let number = self.next;
        self.next += 1;
        Turn {
            number,
            over: self.over.clone(),
        }
    }
}

impl Turn {
    pub async fn comes(&self) {
        let mut over = self.over.subscribe();
        let is_next = |over: &usize| self.number < over + AT_ONCE;
        // No error: this turn itself keeps the channel open.
        let _ = over.wait_for(is_next).await.map(drop);
    }

    /// Does the work. What takes longer than a turn goes on beside those that follow.
    pub async fn spend<T>(self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if let Ok(done) = tokio::time::timeout(TURN, work.as_mut()).await {
            return done;
        }
        drop(self);
        work.await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.over.send_modify(|over| *over += 1);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::time::SystemTime;

    use serde_json::json;
    use tokio::sync::oneshot;

    use super::*;

    fn has_come(turn: &Turn) -> bool {
        pin!(turn.comes()).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    fn come(turns: &[Option<Turn>]) -> Vec<usize> {
        let turns = turns.iter().flatten();
        turns
            .filter(|turn| has_come(turn))
            .map(|turn| turn.number)
            .collect()
    }

    fn ask(count: usize) -> Vec<Option<Turn>> {
        let mut turns = Turns::new();
        (0..count).map(|_| Some(turns.next())).collect()
    }

    #[test]
    fn a_few_at_a_time_in_the_order_they_came() {
        let mut turns = ask(2 * AT_ONCE);
        assert_eq!(come(&turns), (0..AT_ONCE).collect::<Vec<_>>());
        // Whoever is done makes room for the next, and for no more.
        turns[3] = None;
        assert_eq!(come(&turns).last(), Some(&AT_ONCE));
        turns[0] = None;
        assert_eq!(come(&turns).last(), Some(&(AT_ONCE + 1)));
        assert_eq!(come(&turns).len(), AT_ONCE);
    }

    #[tokio::test]
    async fn work_that_fails_holds_up_nobody() {
        let mut turns = ask(AT_ONCE + 1);
        let first = turns[0].take().unwrap();
        let failed = tokio::spawn(first.spend(async { panic!("as it does now and then") }));
        assert!(failed.await.unwrap_err().is_panic());
        assert_eq!(come(&turns).last(), Some(&AT_ONCE));
    }

    #[tokio::test]
    async fn work_that_outlasts_its_turn_goes_on_beside_the_next() {
        let mut turns = ask(AT_ONCE + 1);
        let (done, wait) = oneshot::channel();
        let first = tokio::spawn(turns[0].take().unwrap().spend(wait));
        turns[AT_ONCE].as_ref().unwrap().comes().await;
        done.send("done").unwrap();
        assert_eq!(first.await.unwrap(), Ok("done"));
    }

    #[test]
    fn time_to_end_is_given_once() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(grace_left(dir.path()).unwrap(), GRACE_SECONDS);
        assert_eq!(grace_left(dir.path()).unwrap(), GRACE_SECONDS);
        let mark = fs::File::open(dir.path().join(MARK)).unwrap();
        let now = SystemTime::now();
        for (since, expected) in [
            (now - Duration::from_secs(1), 0),
            (now - Duration::from_secs(100), 0),
            (now + Duration::from_secs(100), GRACE_SECONDS),
        ] {
            mark.set_modified(since).unwrap();
            assert_eq!(grace_left(dir.path()).unwrap(), expected, "{since:?}");
        }
        assert!(grace_left(&dir.path().join("no/pod")).is_err());
    }

    #[test]
    fn the_oldest_come_first() {
        let made = |name: &str, at: Option<&str>| {
            let pod = json!({"metadata": {"name": name, "creationTimestamp": at}});
            (name.to_owned(), serde_json::from_value(pod).unwrap())
        };
        let mut orphans = [
            made("new", Some("2026-01-02T00:00:00Z")),
            made("old", Some("2026-01-01T00:00:00Z")),
            made("unknown", None),
        ];
        by_age(&mut orphans);
        assert_eq!(orphans.map(|(name, _)| name), ["unknown", "old", "new"]);
    }
}
