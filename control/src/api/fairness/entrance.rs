//! The way in: a request has seats when its body is there, so that who is slow to bring it keeps nobody else waiting.
//!
//! Flow: one seat, as every request has upstream → what is worth that of its body → if there is more, room for all of it
//! instead, for which only large bodies wait → the rest of it → seats for all of it. Guarantees: who waits for seats has
//! none, and who waits for room has neither, so that nobody waits for who waits for him.
use super::super::decode::Incoming;
use super::super::flows::{Flow, Table};
use super::super::status::Result;
use super::{Entered, Fairness, SEAT_BYTES, cost};
use crate::auth::Identity;
use bytes::Bytes;
use std::sync::Arc;

/// The seats of requests that are worked on, and as many for bodies on their way.
#[derive(Default)]
pub struct Entrance {
    seats: Fairness,
    room: Fairness,
}

impl Entrance {
    /// Reads a body, and waits for what its request takes.
    pub async fn receive(
        &self,
        (table, who, flow): (&Arc<Table>, &Identity, Option<&Flow>),
        mut body: Incoming,
    ) -> Result<(Bytes, Entered)> {
        let mut entered = self.seats.enter(table, who, flow, 1).await?;
        if body.read(SEAT_BYTES).await? {
            return Ok((body.bytes(), entered));
        }
        drop(entered.held.take());
        let (asks, counts) = ((table, who, flow), entered.counted.counts.clone());
        let room = self.room.hold(asks, cost(body.size()), &counts).await?;
        entered.waited_for(room.as_ref());
        body.read(usize::MAX).await?;
        let body = body.bytes();
        let seats = cost(body.len());
        let held = self.seats.hold(asks, seats, &counts).await?;
        entered.waited_for(held.as_ref());
        entered.held = held;
        entered
            .counted
            .has(entered.held.as_ref().map_or(seats, |held| held.count));
        Ok((body, entered))
    }

    /// As above for a request whose body is not kept here: it is as small as any.
    pub async fn pass(&self, table: &Arc<Table>, who: &Identity, flow: Option<&Flow>) -> Result<Entered> {
        self.seats.enter(table, who, flow, 1).await
    }
}
