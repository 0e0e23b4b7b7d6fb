//! Whose turn it is.
use super::super::decode::Incoming;
use super::super::flows::Share;
use super::state::Lane;
use super::*;
use crate::auth::attributes::Attributes;
use axum::body::Body;
use futures::StreamExt;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};

const SHARE: usize = SEATS / 4 * 3;

fn place(lane: &str, flow: &str) -> Place {
    Place {
        lane: lane.into(),
        flow: flow.into(),
    }
}

fn asked(fairness: &Fairness, place: Place, seats: usize) -> Result<Turn> {
    let table = fairness.lock().arranged.clone().unwrap_or_default();
    fairness.ask(&table, place, seats, 2)
}

fn seated(fairness: &Fairness, place: Place, seats: usize) -> Seats {
    match asked(fairness, place, seats).ok().unwrap() {
        Turn::Now(seats) => seats,
        Turn::Later(_) => panic!("there is no seat"),
    }
}

/// Asks without waiting.
fn asks(fairness: &Fairness, place: Place, seats: usize) -> oneshot::Receiver<Seats> {
    match asked(fairness, place, seats).ok().unwrap() {
        Turn::Later(turn) => turn,
        Turn::Now(_) => panic!("there was a seat"),
    }
}

fn with_levels(shares: &[(&str, usize, usize)]) -> Fairness {
    let fairness = Fairness::default();
    fairness.lock().arrange(&Arc::default());
    for (name, own, most) in shares {
        let share = Share {
            own: *own,
            most: *most,
            ..Share::default()
        };
        fairness.lock().lanes.insert((*name).into(), Lane::new(share));
    }
    fairness
}

#[test]
fn nobody_takes_all() {
    let fairness = Fairness::default();
    let held = seated(&fairness, place("", "greedy"), SHARE);
    let mut more = asks(&fairness, place("", "greedy"), 1);
    let other = seated(&fairness, place("", "modest"), 1);
    assert!(more.try_recv().is_err());
    drop(held);
    assert!(more.try_recv().is_ok());
    drop((other, more));
    assert!(
        fairness
            .lock()
            .lanes
            .values()
            .all(|lane| lane.flows.is_empty() && lane.held == 0)
    );
    assert_eq!(fairness.lock().free, SEATS);
}

#[test]
fn who_has_least_is_next() {
    let fairness = Fairness::default();
    let first = seated(&fairness, place("", "a"), SHARE - 1);
    let second = seated(&fairness, place("", "b"), SEATS - SHARE);
    let third = seated(&fairness, place("", "a"), 1);
    let (mut b, mut c) = (
        asks(&fairness, place("", "b"), 1),
        asks(&fairness, place("", "c"), 1),
    );
    drop(third);
    assert!(b.try_recv().is_err());
    let c = c.try_recv().unwrap();
    drop(c);
    assert!(b.try_recv().is_ok());
    drop((first, second));
}

#[test]
fn who_does_not_wait_any_more_is_passed_over() {
    let fairness = Fairness::default();
    let held = seated(&fairness, place("", "a"), SHARE);
    drop(asks(&fairness, place("", "a"), 1));
    let mut after = asks(&fairness, place("", "a"), SHARE);
    drop(held);
    assert!(after.try_recv().is_ok());
}

#[test]
fn a_level_has_its_own_seats_and_lends_the_others() {
    let fairness = with_levels(&[("high", 100, SEATS), ("low", 0, SEATS), ("small", 0, 3)]);
    let crowd: Vec<Seats> = (0..500)
        .map(|i| seated(&fairness, place("low", &i.to_string()), 1))
        .collect();
    let mut late = asks(&fairness, place("low", "late"), 1);
    let high = seated(&fairness, place("high", "a"), 100);
    drop(high);
    assert!(late.try_recv().is_err());
    drop(crowd);
    assert!(late.try_recv().is_ok());
    // A body that is worth more seats than the level may ever have takes all of them.
    let whole = seated(&fairness, place("small", "a"), 49);
    assert_eq!(whole.count, 3);
    let mut other = asks(&fairness, place("small", "b"), 1);
    drop(whole);
    assert!(other.try_recv().is_ok());
}

#[tokio::test]
async fn too_many_and_too_long_is_429() {
    let fairness = Fairness::default();
    let _held = seated(&fairness, place("", "a"), SHARE);
    let turn = asks(&fairness, place("", "a"), 1);
    let late = fairness.await_turn(turn, Duration::from_millis(1)).await;
    assert_eq!(late.err().unwrap().code, 429);
    let _waiting = [(); 2].map(|()| asks(&fairness, place("", "a"), 1));
    assert_eq!(asked(&fairness, place("", "a"), 1).err().unwrap().code, 429);
    let masters = Identity::new("root", [MASTERS.to_owned()]);
    let entered = fairness.enter(&Arc::default(), &masters, None, SEATS).await;
    assert!(entered.ok().unwrap().held.is_none());
}

#[test]
fn who_may_not_wait_leaves_nothing_behind() {
    let fairness = with_levels(&[("none", 0, 0)]);
    let table = fairness.lock().arranged.clone().unwrap_or_default();
    let refused = fairness.ask(&table, place("none", "a"), 1, 0);
    assert_eq!(refused.err().unwrap().code, 429);
    assert!(fairness.lock().lanes["none"].flows.is_empty());
}

#[test]
fn large_bodies_take_more() {
    assert_eq!(cost(0), 1);
    assert_eq!(cost(1000), 1);
    assert_eq!(cost(SEAT_BYTES), 2);
    assert_eq!(cost(BODY_LIMIT), 49);
}

#[test]
fn a_small_level_has_a_flow_take_most_of_it() {
    let fairness = with_levels(&[("three", 0, 3)]);
    let first = seated(&fairness, place("three", "a"), 1);
    let second = seated(&fairness, place("three", "a"), 1);
    let third = asks(&fairness, place("three", "a"), 1);
    let other = seated(&fairness, place("three", "b"), 1);
    drop((first, second, third, other));
    let single = Share {
        most: 3,
        single: true,
        ..Share::default()
    };
    fairness.lock().lanes.insert("one".into(), Lane::new(single));
    let _all = [(); 3].map(|()| seated(&fairness, place("one", "a"), 1));
}

#[tokio::test]
async fn who_waited_for_one_that_went_away_has_its_turn() {
    let fairness = with_levels(&[("l", 0, 60)]);
    let held = seated(&fairness, place("l", "a"), 45);
    let counts = Counts::default();
    let table = fairness.lock().arranged.clone().unwrap_or_default();
    let large = fairness.take(&table, place("l", "b"), (49, 2), &counts);
    let mut large = Box::pin(large);
    assert!(futures::poll!(&mut large).is_pending());
    let mut small = asks(&fairness, place("l", "c"), 1);
    assert!(small.try_recv().is_err());
    drop(large);
    assert!(small.try_recv().is_ok());
    drop(held);
}

#[test]
fn who_knows_older_levels_divides_nothing_by_them() {
    let (before, after) = (
        Arc::new(Table::begun_with(Vec::new()).changed_at(1)),
        Arc::new(Table::with_level(100_000).changed_at(2)),
    );
    let fairness = Fairness::default();
    drop(fairness.ask(&after, place("mine", "a"), 1, 2));
    let kept = fairness.lock().lanes["mine"].share;
    drop(fairness.ask(&before, place("global-default", "b"), 1, 2));
    assert_eq!(fairness.lock().lanes["mine"].share, kept);
    assert!(!fairness.lock().arrange(&before) && !fairness.lock().arrange(&after));
}

/// A body of which so much has come, and the rest does not.
fn slow(come: usize) -> Incoming {
    let begun = futures::stream::iter([Ok::<_, std::io::Error>("x".repeat(come))]);
    let body = Body::from_stream(begun.chain(futures::stream::pending()));
    Incoming::new(body, Duration::MAX)
}

#[tokio::test]
async fn bodies_that_do_not_come_keep_no_small_ones_waiting() {
    for come in [0, SEAT_BYTES] {
        let (entrance, table) = (Entrance::default(), Arc::<Table>::default());
        let users: Vec<Identity> = (0..4).map(|i| Identity::new(&i.to_string(), [])).collect();
        let mut all: Vec<_> = users
            .iter()
            .flat_map(|who| (0..8).map(move |_| who))
            .map(|who| Box::pin(entrance.receive((&table, who, None), slow(come))))
            .collect();
        for one in &mut all {
            assert!(futures::poll!(one).is_pending());
        }
        let who = Identity::new("modest", []);
        let small = Incoming::new(Body::from("{}"), Duration::MAX);
        let small = Box::pin(entrance.receive((&table, &who, None), small));
        assert!(futures::poll!(small).is_ready(), "{come}");
    }
}

#[tokio::test]
async fn a_large_body_has_seats_when_it_is_there() {
    let (entrance, table) = (Entrance::default(), Arc::<Table>::default());
    let who = Identity::new("jane", []);
    let body = Incoming::new(Body::from("x".repeat(BODY_LIMIT)), Duration::MAX);
    let (body, entered) = entrance.receive((&table, &who, None), body).await.ok().unwrap();
    assert_eq!(body.len(), BODY_LIMIT);
    assert_eq!(entered.held.as_ref().map(|held| held.count), Some(49));
    let counts = entered.counted.counts.clone();
    let seats = |counts: &Counts| counts.executing.seats.load(Ordering::Relaxed);
    assert_eq!(seats(&counts), 49);
    drop(entered);
    assert_eq!(
        (seats(&counts), counts.executing.requests.load(Ordering::Relaxed)),
        (0, 0)
    );
    let long = Incoming::new(Body::from("x".repeat(BODY_LIMIT + 1)), Duration::MAX);
    let refused = entrance.receive((&table, &who, None), long).await;
    assert_eq!(refused.err().unwrap().code, 413);
}

#[test]
fn any_number_of_those_who_stopped_waiting_is_passed_by() {
    let fairness = Fairness::default();
    let held = [
        seated(&fairness, place("l", "a"), SHARE),
        seated(&fairness, place("l", "b"), SEATS - SHARE),
    ];
    let table = Arc::<Table>::default();
    for _ in 0..100_000 {
        drop(fairness.ask(&table, place("l", "c"), 1, usize::MAX));
    }
    let waits = fairness.ask(&table, place("l", "c"), 1, usize::MAX);
    let Ok(Turn::Later(mut turn)) = waits else {
        panic!("all seats are held");
    };
    drop(held);
    assert!(turn.try_recv().is_ok());
    assert_eq!(fairness.lock().free, SEATS);
}

#[test]
fn no_level_keeps_so_much_that_others_never_have_their_turn() {
    for shares in [2_000, 100_000] {
        let (fairness, table) = (Fairness::default(), Arc::new(Table::with_level(shares)));
        for (level, seats) in [
            ("workload-low", 49),
            ("node-high", 1),
            ("mine", SEATS),
            ("gone", 49),
        ] {
            let asked = fairness.ask(&table, place(level, "a"), seats, 2);
            assert!(matches!(asked, Ok(Turn::Now(_))), "{shares} {level}");
        }
    }
}

#[test]
fn who_waited_before_a_level_kept_more_has_its_turn() {
    let (before, after) = (
        Arc::new(Table::begun_with(Vec::new())),
        Arc::new(Table::with_level(100_000)),
    );
    let fairness = Fairness::default();
    let most = before
        .shares(SEATS)
        .into_iter()
        .find(|(name, _)| **name == *"workload-low")
        .unwrap()
        .1
        .most;
    let held = fairness.ask(&before, place("workload-low", "a"), most, 2);
    let Ok(Turn::Later(mut turn)) = fairness.ask(&before, place("workload-low", "b"), 49, 2) else {
        panic!("the level has no more");
    };
    let other = fairness.ask(&after, place("node-high", "c"), 1, 2);
    assert!(turn.try_recv().is_err());
    drop((held, other));
    assert!(turn.try_recv().is_ok());
}

#[test]
fn who_may_go_as_soon_as_levels_keep_less_does() {
    let (narrow, wide) = (
        Arc::new(Table::with_level(100_000)),
        Arc::new(Table::begun_with(Vec::new())),
    );
    let fairness = Fairness::default();
    let _held = fairness.ask(&narrow, place("system", "a"), SEATS, 2);
    let Ok(Turn::Later(mut turn)) = fairness.ask(&narrow, place("system", "b"), 1, 2) else {
        panic!("the level has no more");
    };
    let _other = fairness.ask(&wide, place("node-high", "c"), 1, 2);
    assert!(turn.try_recv().is_ok());
}

#[test]
fn who_stopped_waiting_takes_no_place_in_the_queue() {
    let fairness = Fairness::default();
    let held = seated(&fairness, place("", "a"), SHARE);
    let waits = asks(&fairness, place("", "a"), 1);
    for _ in 0..5 {
        drop(asks(&fairness, place("", "a"), 1));
    }
    assert_eq!(fairness.lock().waiting, 2);
    drop((held, waits));
    assert_eq!(fairness.lock().waiting, 0);
    assert!(fairness.lock().lanes.values().all(|lane| lane.flows.is_empty()));
}

#[test]
fn a_large_request_has_its_turn_among_ever_more_small_ones() {
    // Of others' seats, and of its level's own.
    for (own, most) in [(0, SEATS), (100, 100)] {
        let fairness = with_levels(&[("l", own, most)]);
        let mut small: VecDeque<_> = (0..most)
            .map(|i| asked(&fairness, place("l", &i.to_string()), 1))
            .collect();
        let mut large = asks(&fairness, place("l", "large"), 49);
        for i in 0..49 {
            assert!(large.try_recv().is_err());
            small.pop_front();
            small.push_back(asked(&fairness, place("l", &format!("new {i}")), 1));
        }
        assert!(large.try_recv().is_ok(), "{own} of {most}");
    }
}

#[tokio::test]
async fn what_becomes_of_requests_is_counted() {
    let (fairness, table) = (Fairness::default(), Arc::new(Table::begun_with(Vec::new())));
    let who = Identity::new("jane", []);
    let flow = table.flow(&who, &Attributes::path("get", "/version")).unwrap();
    let counts = flow.counts.clone();
    let number = |number: &AtomicI64| number.load(Ordering::Relaxed);
    let most = table
        .shares(SEATS)
        .into_iter()
        .find(|(name, _)| *name == flow.level.name)
        .unwrap()
        .1
        .most;
    let held = fairness
        .enter(&table, &who, Some(&flow), most)
        .await
        .ok()
        .unwrap();
    assert_eq!(
        (
            number(&counts.executing.requests),
            number(&counts.executing.seats)
        ),
        (1, most as i64)
    );
    let waits = fairness.enter(&table, &who, Some(&flow), 3);
    let mut waits = Box::pin(waits);
    assert!(futures::poll!(&mut waits).is_pending());
    assert_eq!(
        (number(&counts.waiting.requests), number(&counts.waiting.seats)),
        (1, 3)
    );
    drop(waits);
    assert_eq!(
        (counts.rejected(Reason::TimeOut), number(&counts.waiting.requests)),
        (1, 0)
    );
    drop(held);
    assert_eq!(
        (
            number(&counts.executing.requests),
            number(&counts.executing.seats)
        ),
        (0, 0)
    );
    assert_eq!(counts.dispatched.load(Ordering::Relaxed), 1);
}
