//! Priority levels, and how they divide the seats between them.
use std::sync::Arc;

use serde_json::Value;

use crate::kinds::view::View;

/// Upstream's defaults for what does not say.
const SHARES: i64 = 30;
const QUEUES: i64 = 64;
const HAND: i64 = 8;
const LENGTH: i64 = 50;

/// A PriorityLevelConfiguration.
#[derive(Debug, Default)]
pub struct Level {
    pub(super) uid: Arc<str>,
    pub name: Arc<str>,
    /// Its requests take no seats.
    pub exempt: bool,
    shares: usize,
    /// Percent of its seats that others may take.
    lendable: usize,
    /// Percent of its seats that it may take of others'; none for as many as there are.
    borrowing: Option<usize>,
    /// Requests of one flow that may wait; none where they are refused at once.
    pub waiting: usize,
}

/// How many seats of all a level has for itself, and how many it may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub nominal: usize,
    pub own: usize,
    pub most: usize,
    /// All its requests are one flow.
    pub single: bool,
}

impl Share {
    /// How many seats one flow may have: three quarters, where there may be others.
    pub fn of_one_flow(&self) -> usize {
        match self.single {
            true => self.most,
            false => self.most * 3 / 4,
        }
    }
}

impl Level {
    pub(super) fn of(object: &Value) -> Level {
        let exempt = object.text("spec.type") == "Exempt";
        let part = object.at(if exempt { "spec.exempt" } else { "spec.limited" });
        let count = |value: Option<i64>, or: i64| usize::try_from(value.unwrap_or(or)).unwrap_or(0);
        let queuing = part.at("limitResponse.queuing");
        let refuses = part.text("limitResponse.type") == "Reject";
        // One flow is dealt this many queues.
        let hand = count(queuing.int("handSize"), HAND).min(count(queuing.int("queues"), QUEUES));
        let length = count(queuing.int("queueLengthLimit"), LENGTH);
        Level {
            uid: object.text("metadata.uid").into(),
            name: object.text("metadata.name").into(),
            exempt,
            shares: count(
                part.int("nominalConcurrencyShares"),
                if exempt { 0 } else { SHARES },
            ),
            lendable: count(part.int("lendablePercent"), 0).min(100),
            borrowing: part
                .int("borrowingLimitPercent")
                .map(|percent| count(Some(percent), 0)),
            waiting: if refuses { 0 } else { hand.saturating_mul(length) },
        }
    }

    /// What it would have of `seats` if `all` are the shares of all levels.
    fn share(&self, seats: usize, all: usize) -> Share {
        let nominal = (seats * self.shares).div_ceil(all.max(1));
        let part = |percent: usize| (nominal * percent + 50) / 100;
        let borrowing = self.borrowing.map(|percent| nominal + part(percent));
        Share {
            nominal,
            own: nominal - part(self.lendable),
            most: borrowing.unwrap_or(seats),
            single: false,
        }
    }
}

/// What every level but the exempt ones has of `seats`. All that levels have for themselves is less than that, and no
/// level may take more than the others leave it: so each of them may take one at least, unless it may take none.
pub(super) fn divided(levels: &[Arc<Level>], seats: usize) -> Vec<(Arc<Level>, Share)> {
    let all: usize = levels.iter().map(|level| level.shares).sum();
    let limited = levels.iter().filter(|level| !level.exempt);
    let mut shares: Vec<_> = limited
        .map(|level| (level.clone(), level.share(seats, all)))
        .collect();
    // What is too much together, for each is rounded up, the largest goes without.
    shares.sort_by_key(|(_, share)| share.own);
    let mut left = seats.saturating_sub(1);
    for (_, share) in &mut shares {
        share.own = share.own.min(left);
        left -= share.own;
    }
    for (_, share) in &mut shares {
        share.most = share.most.min(left + 1 + share.own);
    }
    shares
}
