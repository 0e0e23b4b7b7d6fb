//! Who holds seats, who waits for them, and whose turn is next. Pure but for telling who waits; knows nothing of
//! requests.
use super::super::flows::{Share, Table};
use super::{SEATS, Seats};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::oneshot;

pub(super) struct State {
    pub(super) free: usize,
    pub(super) lanes: HashMap<Arc<str>, Lane>,
    pub(super) waiting: usize,
    /// Of the next to wait.
    ticket: u64,
    /// What the shares of the lanes were taken from.
    pub(super) arranged: Option<Arc<Table>>,
    /// Of a level that is not there any more, or not yet.
    unknown: Share,
}

/// The requests of a priority level.
pub(super) struct Lane {
    pub(super) share: Share,
    pub(super) held: usize,
    pub(super) flows: HashMap<Arc<str>, Requests>,
}

/// The requests of a flow.
#[derive(Default)]
pub(super) struct Requests {
    held: usize,
    waiting: VecDeque<Waiting>,
}

pub(super) struct Waiting {
    pub(super) seats: usize,
    ticket: u64,
    pub(super) tell: oneshot::Sender<Seats>,
}

/// Where a request stands: its level and flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) lane: Arc<str>,
    pub(super) flow: Arc<str>,
}

/// What becomes of a request that asks for seats.
pub(super) enum Asked {
    /// It has so many.
    Seated(usize),
    Waits(oneshot::Receiver<Seats>),
    /// As many wait as may.
    Refused,
}

impl Default for State {
    fn default() -> Self {
        State {
            free: SEATS,
            lanes: HashMap::new(),
            waiting: 0,
            ticket: 0,
            arranged: None,
            unknown: Share {
                most: SEATS,
                ..Share::default()
            },
        }
    }
}

impl Lane {
    pub(super) fn new(share: Share) -> Self {
        Lane {
            share,
            held: 0,
            flows: HashMap::new(),
        }
    }

    /// Whether the level may have so many seats more.
    fn fits(&self, seats: usize) -> bool {
        self.held + seats <= self.share.most
    }

    /// Whether the level lets a flow have so many seats more.
    fn lets(&self, flow: &Requests, seats: usize) -> bool {
        flow.held == 0 || flow.held + seats <= self.share.of_one_flow()
    }

    /// Whether so many seats more are others' in part.
    fn borrows(&self, seats: usize) -> bool {
        self.held + seats > self.share.own
    }

    fn has_waiting(&self) -> bool {
        self.flows.values().any(|flow| !flow.waiting.is_empty())
    }

    /// What is larger than all that the level may have is let in when it has nothing else.
    fn bounded(&self, seats: usize) -> usize {
        seats.min(self.share.most.max(1))
    }

    /// The flow with the fewest seats, of those whose next request the level lets in; of these the one that has waited
    /// longest. None while the level has no room for it: no other goes before.
    fn next(&self) -> Option<(&Arc<str>, &Requests, &Waiting)> {
        let first = self.flows.iter().filter_map(|(name, flow)| {
            let waiting = flow.waiting.front()?;
            self.lets(flow, waiting.seats).then_some((name, flow, waiting))
        });
        first
            .min_by_key(|(_, flow, waiting)| (flow.held, waiting.ticket))
            .filter(|(_, _, waiting)| self.fits(waiting.seats))
    }
}

impl Requests {
    /// Forgets those at the front who have stopped waiting; how many they were.
    fn pass_by_gone(&mut self) -> usize {
        let before = self.waiting.len();
        while self.waiting.front().is_some_and(|first| first.tell.is_closed()) {
            self.waiting.pop_front();
        }
        before - self.waiting.len()
    }

    /// As above, and the others too when `limit` or more wait.
    fn forget_gone(&mut self, limit: usize) -> usize {
        let gone = self.pass_by_gone();
        let before = self.waiting.len();
        if before >= limit {
            self.waiting.retain(|waiting| !waiting.tell.is_closed());
        }
        gone + before - self.waiting.len()
    }
}

impl State {
    /// Divides the seats as the levels are by now, unless who asks knows older ones. Whether they were divided otherwise
    /// before: then it may be the turn of some who wait.
    pub(super) fn arrange(&mut self, table: &Arc<Table>) -> bool {
        let known = self.arranged.as_ref();
        if known.is_some_and(|known| Arc::ptr_eq(known, table) || table.is_older_than(known)) {
            return false;
        }
        let shares = table.shares(SEATS);
        let kept: usize = shares.iter().map(|(_, share)| share.own).sum();
        self.unknown = Share {
            most: SEATS.saturating_sub(kept),
            ..Share::default()
        };
        self.lanes.retain(|_, lane| !lane.flows.is_empty());
        for lane in self.lanes.values_mut() {
            lane.share = self.unknown;
        }
        for (name, share) in shares {
            self.lane(&name).share = share;
        }
        // Who asked for more than the level may have now would wait for ever.
        for lane in self.lanes.values_mut() {
            let most = lane.bounded(SEATS);
            let waiting = lane.flows.values_mut().flat_map(|flow| &mut flow.waiting);
            waiting.for_each(|waiting| waiting.seats = waiting.seats.min(most));
        }
        self.arranged = Some(table.clone());
        true
    }

    fn lane(&mut self, name: &Arc<str>) -> &mut Lane {
        let unknown = self.unknown;
        self.lanes
            .entry(name.clone())
            .or_insert_with(|| Lane::new(unknown))
    }

    /// Takes seats, or a place in the queue of the flow unless `limit` are in it. While somebody waits
    /// in the level, or the seats would be others', it is queued all the same: whose turn it is says [`State::next`]. But who may not wait takes what
    /// there is.
    pub(super) fn ask(&mut self, place: &Place, seats: usize, limit: usize) -> Asked {
        let (spare, others) = (self.spare(&place.lane), self.waiting > 0 && limit > 0);
        let lane = self.lane(&place.lane);
        let seats = lane.bounded(seats);
        let behind = others && (lane.borrows(seats) || lane.has_waiting());
        let room = seats <= spare && lane.fits(seats) && !behind;
        let gone = lane
            .flows
            .get_mut(&place.flow)
            .map_or(0, |flow| flow.forget_gone(limit));
        let flow = lane.flows.get(&place.flow);
        let waiting = flow.map_or(0, |flow| flow.waiting.len());
        let first = waiting == 0 && flow.is_none_or(|flow| lane.lets(flow, seats));
        self.waiting -= gone;
        if first && room {
            self.take(place, seats);
            return Asked::Seated(seats);
        }
        if waiting >= limit {
            return Asked::Refused;
        }
        Asked::Waits(self.queue(place, seats))
    }

    fn queue(&mut self, place: &Place, seats: usize) -> oneshot::Receiver<Seats> {
        let (tell, turn) = oneshot::channel();
        let ticket = self.ticket;
        self.ticket += 1;
        self.waiting += 1;
        let flows = &mut self.lane(&place.lane).flows;
        let flow = flows.entry(place.flow.clone()).or_default();
        flow.waiting.push_back(Waiting { seats, ticket, tell });
        turn
    }

    /// Free seats that a level may take: other levels' own are not for it.
    fn spare(&self, lane: &str) -> usize {
        let others = self.lanes.iter().filter(|(name, _)| ***name != *lane);
        let kept: usize = others
            .map(|(_, lane)| lane.share.own.saturating_sub(lane.held))
            .sum();
        self.free.saturating_sub(kept)
    }

    fn take(&mut self, place: &Place, seats: usize) {
        let lane = self.lane(&place.lane);
        lane.held += seats;
        lane.flows.entry(place.flow.clone()).or_default().held += seats;
        self.free -= seats;
    }

    pub(super) fn give_back(&mut self, place: &Place, seats: usize) {
        self.free += seats;
        let Some(lane) = self.lanes.get_mut(&place.lane) else {
            return;
        };
        lane.held -= seats;
        if let Some(flow) = lane.flows.get_mut(&place.flow) {
            flow.held -= seats;
            if flow.held == 0 && flow.waiting.is_empty() {
                lane.flows.remove(&place.flow);
            }
        }
    }

    /// The next request to be seated: one in a level that has seats of its own for it, else that of the flow with the
    /// fewest seats, and of several the one that has waited longest. The latter is waited for when it needs more than may
    /// be taken, or large requests would never have their turn.
    pub(super) fn next(&mut self) -> Option<(Place, Waiting)> {
        self.pass_by_gone();
        if self.waiting == 0 {
            return None;
        }
        let ready = self.lanes.iter().filter_map(|(lane, requests)| {
            let (flow, of, first) = requests.next()?;
            let turn = (requests.borrows(first.seats), of.held, first.ticket);
            Some((turn, first.seats, lane, flow))
        });
        let (_, seats, lane, flow) = ready.min_by_key(|(turn, ..)| *turn)?;
        if seats > self.spare(lane) {
            return None;
        }
        let place = Place {
            lane: lane.clone(),
            flow: flow.clone(),
        };
        let requests = self.lanes.get_mut(&place.lane)?.flows.get_mut(&place.flow)?;
        let waiting = requests.waiting.pop_front()?;
        self.waiting -= 1;
        self.take(&place, waiting.seats);
        Some((place, waiting))
    }

    fn pass_by_gone(&mut self) {
        if self.waiting == 0 {
            return;
        }
        for lane in self.lanes.values_mut() {
            lane.flows.retain(|_, flow| {
                self.waiting -= flow.pass_by_gone();
                flow.held > 0 || !flow.waiting.is_empty()
            });
        }
    }
}
