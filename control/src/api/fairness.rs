//! Fair shares of the server between users: how many requests are worked on at once, and whose turn is next.
//!
//! What upstream's API Priority and Fairness is for, by one rule instead of its configuration: a request takes seats,
//! more of them the larger its body is, since that is what its memory is in proportion to. When seats are short the
//! user who has the fewest is next. FlowSchemas are served and not consulted. As upstream's, superusers are exempt, so that a
//! cluster can be mended, and a watch has a seat only until it has begun.
use super::decode::BODY_LIMIT;
use super::status::{ApiError, Result};
use crate::auth::Identity;
use crate::auth::identity::MASTERS;
use axum::body::Body;
use http_body::Body as _;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Seats of all users together (upstream's `--max-requests-inflight` and `--max-mutating-requests-inflight`). All taken
/// by the largest bodies they are about 12 requests of 50 MB each while they are decoded.
const SEATS: usize = 600;
/// Seats of one user: the others find some at once, whatever he does.
const SHARE: usize = SEATS / 4 * 3;
/// Bytes of a body that cost one seat more.
const SEAT_BYTES: usize = 64 << 10;
/// Requests of one user that may wait.
const WAITING: usize = 1_000;
/// How long a request waits for its seats (upstream: a quarter of the 60 s that a request may take).
const WAIT: Duration = Duration::from_secs(15);

/// A handle on the seats.
#[derive(Clone)]
pub struct Fairness(Arc<Mutex<State>>);

struct State {
    free: usize,
    users: HashMap<Arc<str>, User>,
    waiting: usize,
}

#[derive(Default)]
struct User {
    held: usize,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    seats: usize,
    tell: oneshot::Sender<Seats>,
}

/// Seats of a request, until dropped.
pub struct Seats {
    of: Fairness,
    user: Arc<str>,
    count: usize,
}

impl Default for Fairness {
    fn default() -> Self {
        Fairness(Arc::new(Mutex::new(State {
            free: SEATS,
            users: HashMap::new(),
            waiting: 0,
        })))
    }
}

/// How many seats a request with this body takes.
pub fn cost(body: &Body) -> usize {
    let size = match body.size_hint().exact() {
        Some(size) => usize::try_from(size).unwrap_or(BODY_LIMIT),
        None if body.is_end_stream() => 0,
        None => BODY_LIMIT,
    };
    1 + size.min(BODY_LIMIT) / SEAT_BYTES
}

impl Fairness {
    /// Waits for seats; 429 when too many of the user's requests wait, or for too long. None for who is exempt.
    pub async fn enter(&self, who: &Identity, seats: usize) -> Result<Option<Seats>> {
        self.enter_within(WAIT, who, seats).await
    }

    async fn enter_within(&self, wait: Duration, who: &Identity, seats: usize) -> Result<Option<Seats>> {
        if who.is_in(MASTERS) {
            return Ok(None);
        }
        let turn = match self.ask(&who.user, seats)? {
            Turn::Now(seats) => return Ok(Some(seats)),
            Turn::Later(turn) => turn,
        };
        match tokio::time::timeout(wait, turn).await {
            Ok(Ok(seats)) => Ok(Some(seats)),
            Ok(Err(_)) | Err(_) => Err(refusal()),
        }
    }

    fn ask(&self, name: &Arc<str>, seats: usize) -> Result<Turn> {
        let mut state = self.lock();
        let free = state.free;
        let user = state.users.entry(name.clone()).or_default();
        if user.waiting.is_empty() && seats <= free && user.held + seats <= SHARE {
            user.held += seats;
            state.free -= seats;
            return Ok(Turn::Now(self.seats(name.clone(), seats)));
        }
        if user.waiting.len() >= WAITING {
            return Err(refusal());
        }
        let (tell, turn) = oneshot::channel();
        user.waiting.push_back(Waiting { seats, tell });
        state.waiting += 1;
        Ok(Turn::Later(turn))
    }

    fn seats(&self, user: Arc<str>, count: usize) -> Seats {
        Seats {
            of: self.clone(),
            user,
            count,
        }
    }

    /// Takes seats back and hands them on.
    fn leave(&self, user: &Arc<str>, seats: usize) {
        let mut next = Vec::new();
        {
            let mut state = self.lock();
            state.give_back(user, seats);
            while let Some((user, waiting)) = state.next() {
                next.push((self.seats(user, waiting.seats), waiting.tell));
            }
        }
        for (seats, tell) in next {
            // Whoever has stopped waiting drops them, which hands them on.
            let _ = tell.send(seats);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Turn {
    Now(Seats),
    Later(oneshot::Receiver<Seats>),
}

impl State {
    fn give_back(&mut self, name: &Arc<str>, seats: usize) {
        self.free += seats;
        if let Some(user) = self.users.get_mut(name) {
            user.held -= seats;
            if user.held == 0 && user.waiting.is_empty() {
                self.users.remove(name);
            }
        }
    }

    /// The next request to be seated: of the user with the fewest seats. It is waited for when it needs more than are
    /// free, or large requests would never have their turn.
    fn next(&mut self) -> Option<(Arc<str>, Waiting)> {
        if self.waiting == 0 {
            return None;
        }
        let fits = |user: &User| user.waiting.front().is_some_and(|w| user.held + w.seats <= SHARE);
        let waiting = self.users.iter_mut().filter(|(_, user)| fits(user));
        let (name, user) = waiting.min_by_key(|(_, user)| user.held)?;
        if user.waiting.front()?.seats > self.free {
            return None;
        }
        let waiting = user.waiting.pop_front()?;
        user.held += waiting.seats;
        self.free -= waiting.seats;
        self.waiting -= 1;
        Some((name.clone(), waiting))
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        self.of.leave(&self.user, self.count);
    }
}

fn refusal() -> ApiError {
    ApiError::too_many_requests("Too many requests, please try again later.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Identity {
        Identity::new(name, [])
    }

    async fn seated(fairness: &Fairness, name: &str, seats: usize) -> Seats {
        fairness.enter(&user(name), seats).await.ok().flatten().unwrap()
    }

    /// Asks without waiting.
    fn asks(fairness: &Fairness, name: &str, seats: usize) -> oneshot::Receiver<Seats> {
        match fairness.ask(&name.into(), seats).ok().unwrap() {
            Turn::Later(turn) => turn,
            Turn::Now(_) => panic!("there was a seat"),
        }
    }

    #[tokio::test]
    async fn nobody_takes_all() {
        let fairness = Fairness::default();
        let held = seated(&fairness, "greedy", SHARE).await;
        let mut more = asks(&fairness, "greedy", 1);
        let other = seated(&fairness, "modest", 1).await;
        assert!(more.try_recv().is_err());
        drop(held);
        assert!(more.try_recv().is_ok());
        drop((other, more));
        assert!(fairness.lock().users.is_empty());
        assert_eq!(fairness.lock().free, SEATS);
    }

    #[tokio::test]
    async fn who_has_least_is_next() {
        let fairness = Fairness::default();
        let first = seated(&fairness, "a", SHARE - 1).await;
        let second = seated(&fairness, "b", SEATS - SHARE).await;
        let third = seated(&fairness, "a", 1).await;
        let (mut b, mut c) = (asks(&fairness, "b", 1), asks(&fairness, "c", 1));
        drop(third);
        assert!(b.try_recv().is_err());
        let c = c.try_recv().unwrap();
        drop(c);
        assert!(b.try_recv().is_ok());
        drop((first, second));
    }

    #[tokio::test]
    async fn who_does_not_wait_any_more_is_passed_over() {
        let fairness = Fairness::default();
        let held = seated(&fairness, "a", SHARE).await;
        drop(asks(&fairness, "a", 1));
        let mut after = asks(&fairness, "a", SHARE);
        drop(held);
        assert!(after.try_recv().is_ok());
    }

    #[tokio::test]
    async fn too_many_and_too_long_is_429() {
        let fairness = Fairness::default();
        let _held = seated(&fairness, "a", SHARE).await;
        let who = user("a");
        let late = fairness.enter_within(Duration::from_millis(1), &who, 1).await;
        assert_eq!(late.err().unwrap().code, 429);
        let waiting: Vec<_> = (1..WAITING).map(|_| asks(&fairness, "a", 1)).collect();
        assert_eq!(fairness.ask(&"a".into(), 1).err().unwrap().code, 429);
        assert_eq!(waiting.len() + 1, WAITING);
        let masters = Identity::new("root", [MASTERS.to_owned()]);
        assert!(fairness.enter(&masters, SEATS).await.ok().unwrap().is_none());
    }

    #[test]
    fn large_bodies_take_more() {
        assert_eq!(cost(&Body::empty()), 1);
        assert_eq!(cost(&Body::from("x".repeat(1000))), 1);
        assert_eq!(cost(&Body::from("x".repeat(BODY_LIMIT))), 49);
        let endless = futures::stream::pending::<std::result::Result<bytes::Bytes, std::io::Error>>();
        assert_eq!(cost(&Body::from_stream(endless)), 49);
    }
}
