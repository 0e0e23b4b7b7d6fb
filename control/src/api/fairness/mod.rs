//! Fair shares of the server: how many requests are worked on at once, and whose turn is next.
//!
//! Upstream's API Priority and Fairness with seats of its own measure: a request takes more of them the larger its body
//! is, since that is what its memory is in proportion to, but none for what has not come yet (`entrance`). Its priority
//! level and flow are those of the FlowSchema that takes it (`flows`). A level has some seats for itself and may take what
//! others have not for themselves; when seats are short the flow that has the fewest is next, and no flow has all that
//! others could have. A watch has a seat only until it has begun.
mod counts;
mod entrance;
mod state;
#[cfg(test)]
mod tests;

use super::decode::BODY_LIMIT;
use super::flows::{Flow, Table};
use super::status::{ApiError, Result};
use crate::auth::Identity;
use crate::auth::identity::MASTERS;
use counts::Executing;
pub(super) use counts::{Counts, Reason};
pub use entrance::Entrance;
use state::{Asked, Place, State, Waiting};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Seats of all users together (upstream's `--max-requests-inflight` and `--max-mutating-requests-inflight`). All taken
/// by the largest bodies they are about 12 requests of 50 MB each while they are decoded.
pub(super) const SEATS: usize = 600;
/// Bytes of a body that cost one seat more.
const SEAT_BYTES: usize = 64 << 10;
/// Requests of one flow that may wait where no level says how many.
const WAITING: usize = 1_000;
/// How long a request waits for its seats (upstream: a quarter of the 60 s that a request may take).
const WAIT: Duration = Duration::from_secs(15);

/// A handle on the seats.
#[derive(Clone, Default)]
pub struct Fairness(Arc<Mutex<State>>);

/// Seats of a request, until dropped.
pub struct Seats {
    of: Fairness,
    place: Place,
    /// None when they have been given back already.
    count: usize,
    /// Until they were had.
    waited: Duration,
}

/// How many seats a request takes whose body is so long.
fn cost(size: usize) -> usize {
    1 + size.min(BODY_LIMIT) / SEAT_BYTES
}

impl Fairness {
    /// Waits for seats, which levels divide by `table`; 429 when too many requests of the flow wait, or for too long. Who
    /// is exempt takes none. Until there are schemas every user is a flow of one level.
    async fn enter(
        &self,
        table: &Arc<Table>,
        who: &Identity,
        flow: Option<&Flow>,
        seats: usize,
    ) -> Result<Entered> {
        let counts = flow.map(|flow| flow.counts.clone()).unwrap_or_default();
        let held = self.hold((table, who, flow), seats, &counts).await?;
        Ok(Entered {
            counted: counts.dispatch(held.as_ref().map_or(seats, |held| held.count)),
            waited: waited(held.as_ref()),
            held,
        })
    }

    async fn hold(
        &self,
        (table, who, flow): (&Arc<Table>, &Identity, Option<&Flow>),
        seats: usize,
        counts: &Counts,
    ) -> Result<Option<Seats>> {
        if flow.map_or(who.is_in(MASTERS), |flow| flow.level.exempt) {
            return Ok(None);
        }
        let place = Place {
            lane: flow.map(|flow| flow.level.name.clone()).unwrap_or_default(),
            flow: flow.map_or(&who.user, |flow| &flow.name).clone(),
        };
        let limit = flow.map_or(WAITING, |flow| flow.level.waiting);
        self.take(table, place, (seats, limit), counts).await.map(Some)
    }

    async fn take(
        &self,
        table: &Arc<Table>,
        place: Place,
        (seats, limit): (usize, usize),
        counts: &Counts,
    ) -> Result<Seats> {
        match self.ask(table, place, seats, limit) {
            Ok(Turn::Now(seats)) => {
                counts.seat_at_once();
                Ok(seats)
            }
            Ok(Turn::Later(turn)) => {
                let queued = counts.queue(seats);
                let mut seats = self.await_turn(turn, WAIT).await?;
                seats.waited = queued.seated();
                Ok(seats)
            }
            Err(refused) => {
                counts.reject(match limit {
                    0 => Reason::ConcurrencyLimit,
                    _ => Reason::QueueFull,
                });
                Err(refused)
            }
        }
    }

    async fn await_turn(&self, turn: oneshot::Receiver<Seats>, wait: Duration) -> Result<Seats> {
        let mut in_queue = InQueue(Some(self));
        match tokio::time::timeout(wait, turn).await {
            Ok(Ok(seats)) => {
                in_queue.0 = None;
                Ok(seats)
            }
            Ok(Err(_)) | Err(_) => Err(refusal()),
        }
    }

    /// Takes seats, or a place in the queue of the flow unless `limit` are in it.
    fn ask(&self, table: &Arc<Table>, place: Place, seats: usize, limit: usize) -> Result<Turn> {
        let (asked, arranged) = {
            let mut state = self.lock();
            let arranged = state.arrange(table);
            (state.ask(&place, seats, limit), arranged)
        };
        if arranged || matches!(asked, Asked::Waits(_)) {
            self.hand_on(Vec::new());
        }
        match asked {
            Asked::Seated(seats) => Ok(Turn::Now(self.seats(place, seats))),
            Asked::Waits(mut turn) => Ok(turn.try_recv().map_or_else(|_| Turn::Later(turn), Turn::Now)),
            Asked::Refused => Err(refusal()),
        }
    }

    fn seats(&self, place: Place, count: usize) -> Seats {
        Seats {
            of: self.clone(),
            place,
            count,
            waited: Duration::ZERO,
        }
    }

    /// Takes back what is in `back`, and hands on what is free. Who has stopped waiting gives it back at once: in this
    /// loop, for there may be very many of them.
    fn hand_on(&self, mut back: Vec<(Place, usize)>) {
        loop {
            for (seats, tell) in self.turns(&mut back) {
                if let Err(mut unwanted) = tell.send(seats) {
                    back.push((unwanted.place.clone(), std::mem::take(&mut unwanted.count)));
                }
            }
            if back.is_empty() {
                return;
            }
        }
    }

    /// Those whose turn it is when what is in `back` is free.
    fn turns(&self, back: &mut Vec<(Place, usize)>) -> Vec<(Seats, oneshot::Sender<Seats>)> {
        let mut state = self.lock();
        for (place, seats) in back.drain(..) {
            state.give_back(&place, seats);
        }
        std::iter::from_fn(|| state.next())
            .map(|(place, Waiting { seats, tell, .. })| (self.seats(place, seats), tell))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Turn {
    Now(Seats),
    Later(oneshot::Receiver<Seats>),
}

/// Who has not had his turn yet. When he goes, for whatever reason, it may be that of those who waited for him.
struct InQueue<'a>(Option<&'a Fairness>);

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        if let Some(fairness) = self.0 {
            fairness.hand_on(Vec::new());
        }
    }
}

/// A request that may be worked on, until this is dropped.
pub struct Entered {
    held: Option<Seats>,
    counted: Executing,
    /// In all.
    waited: Duration,
}

impl Entered {
    /// How long it waited for its seats.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    fn waited_for(&mut self, seats: Option<&Seats>) {
        self.waited += waited(seats);
    }
}

fn waited(seats: Option<&Seats>) -> Duration {
    seats.map_or(Duration::ZERO, |seats| seats.waited)
}

impl Drop for Seats {
    fn drop(&mut self) {
        if self.count > 0 {
            self.of.hand_on(vec![(self.place.clone(), self.count)]);
        }
    }
}

fn refusal() -> ApiError {
    ApiError::too_many_requests("Too many requests, please try again later.")
}
