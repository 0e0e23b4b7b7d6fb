//! What is committed and not in the tables yet, and the tables below it: shared by the writer, who adds, the settler,
//! who takes away, and readers. Knows nothing of files.
//!
//! Commits are added to the *filling* generation. The settler makes it the *settling* one, writes that to the tables
//! and replaces the base, all while the next is filled. A key's newest value is in filling, else in settling, else in
//! the base.
use super::base::Base;
use super::journal::Span;
use super::view::View;
use crate::store::record::Undo;
use crate::store::{Batch, KeyValue, Range, ReadError, Revision, WriteError};
use ::redb::Database;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Bytes of changes after which a generation is settled: a thousand Pods, held in memory until then.
const SETTLE_BYTES: usize = 4 << 20;
/// Fewer are settled after this time, so that an idle cluster holds none. After a failure: when to try again.
const SETTLE_AFTER: Duration = Duration::from_secs(5);

/// Changes of some commits in a row.
#[derive(Default)]
pub(super) struct Generation {
    /// Keys as they are after it.
    pub(super) keys: BTreeMap<Arc<str>, Option<KeyValue>>,
    /// In the order of the revisions.
    pub(super) log: Vec<Undo>,
    /// Where its frames lie; none when it is empty.
    pub(super) span: Option<Span>,
    bytes: usize,
}

impl Generation {
    pub(super) fn add(&mut self, batches: &[Batch], span: Span) {
        for event in batches.iter().flat_map(|batch| batch.events.iter()) {
            let size = |kv: &Option<KeyValue>| kv.as_ref().map_or(0, |kv| kv.value.len());
            self.bytes += event.key.len() + size(&event.now) + size(&event.before);
            self.keys.insert(event.key.clone(), event.now.clone());
            self.log.push(Undo {
                revision: event.revision,
                key: event.key.clone(),
                deleted: event.now.is_none(),
                before: event.before.clone(),
            });
        }
        let start = self.span.map_or(span.start, |own| own.start);
        self.span = Some(Span { start, end: span.end });
    }

    pub(super) fn newest(&self) -> Option<Revision> {
        self.log.last().map(|undo| undo.revision)
    }

    fn undo_after(&self, after: Revision) -> &[Undo] {
        let from = self.log.partition_point(|undo| undo.revision <= after);
        &self.log[from..]
    }

    fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a Option<KeyValue>)> {
        let from = self
            .keys
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.take_while(move |(key, _)| key.starts_with(prefix))
    }
}

/// A compaction to do, and who waits for it.
pub(super) type Compaction = (Revision, oneshot::Sender<Result<(), WriteError>>);

struct State {
    base: Arc<Base>,
    settling: Option<Arc<Generation>>,
    filling: Generation,
    newest: Revision,
    compactions: Vec<Compaction>,
    /// The writer waits for room in the journal.
    hurry: bool,
    closing: bool,
    /// Why the last settlement did not succeed.
    failure: Option<String>,
}

impl State {
    fn generations(&self) -> impl DoubleEndedIterator<Item = &Generation> {
        self.settling.as_deref().into_iter().chain([&self.filling])
    }

    fn pending(&self, key: &str) -> Option<&Option<KeyValue>> {
        self.generations()
            .rev()
            .find_map(|generation| generation.keys.get(key))
    }

    fn kept(&self) -> Option<u64> {
        self.generations()
            .find_map(|generation| generation.span)
            .map(|span| span.start)
    }

    fn has_work(&self) -> bool {
        let more = self.hurry || self.filling.bytes >= SETTLE_BYTES;
        self.closing || !self.compactions.is_empty() || (more && self.failure.is_none())
    }
}

/// What the settler is to do next.
pub(super) struct Work {
    pub(super) generation: Option<Arc<Generation>>,
    pub(super) compactions: Vec<Compaction>,
    pub(super) closing: bool,
}

/// A key's newest value, or where to look for it.
pub(super) enum Found {
    Pending(Option<KeyValue>),
    Below(Arc<Base>),
}

pub(super) struct Pending {
    state: Mutex<State>,
    work: Condvar,
    room: Condvar,
    /// Last: what reads it goes first.
    pub(super) db: Database,
}

impl Pending {
    pub(super) fn new(db: Database, base: Base, filling: Generation) -> Self {
        let newest = filling.newest().unwrap_or(base.revision);
        Pending {
            state: Mutex::new(State {
                base: Arc::new(base),
                settling: None,
                filling,
                newest,
                compactions: Vec::new(),
                hurry: false,
                closing: false,
                failure: None,
            }),
            work: Condvar::new(),
            room: Condvar::new(),
            db,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn newest(&self) -> Revision {
        self.state().newest
    }

    pub(super) fn find(&self, key: &str) -> Found {
        let state = self.state();
        match state.pending(key) {
            Some(now) => Found::Pending(now.clone()),
            None => Found::Below(state.base.clone()),
        }
    }

    /// The newest value, read from the tables if it must be.
    pub(super) fn get(&self, key: &str) -> Result<Option<KeyValue>, ReadError> {
        match self.find(key) {
            Found::Pending(now) => Ok(now),
            Found::Below(base) => base.get(key),
        }
    }

    pub(super) fn check_retained(&self, revision: Revision) -> Result<(), ReadError> {
        self.state().base.check_retained(revision)
    }

    /// Keys of the range now, and what to take back to come to its revision.
    pub(super) fn view_of(&self, range: &Range) -> View {
        let state = self.state();
        let over = state
            .generations()
            .flat_map(|generation| generation.under(&range.prefix));
        let over = over.map(|(key, now)| (key.clone(), now.clone())).collect();
        let since = range.revision.unwrap_or(state.newest);
        let undo = state
            .generations()
            .flat_map(|generation| generation.undo_after(since));
        View {
            over,
            undo: undo.cloned().collect(),
            base: state.base.clone(),
            revision: state.newest,
        }
    }

    /// What changed after a revision.
    pub(super) fn view_since(&self, after: Revision) -> View {
        let state = self.state();
        let mut view = View {
            over: BTreeMap::new(),
            undo: Vec::new(),
            base: state.base.clone(),
            revision: state.newest,
        };
        for generation in state.generations() {
            for undo in generation.undo_after(after) {
                let now = generation.keys.get(&undo.key).cloned().flatten();
                view.over.insert(undo.key.clone(), now);
                view.undo.push(undo.clone());
            }
        }
        view
    }

    /// From here on everybody sees the batches. They are on disk.
    pub(super) fn add(&self, batches: &[Batch], span: Span) {
        let mut state = self.state();
        state.filling.add(batches, span);
        state.newest = state.filling.newest().unwrap_or(state.newest);
        if state.has_work() {
            self.work.notify_one();
        }
    }

    /// The first frame in the journal that is still needed.
    pub(super) fn kept(&self) -> Option<u64> {
        self.state().kept()
    }

    /// Waits until fewer frames are needed than from `kept` on.
    pub(super) fn wait_for_room(&self, kept: Option<u64>) -> Result<(), String> {
        let mut state = self.state();
        state.hurry = true;
        self.work.notify_one();
        let waits = |state: &mut State| state.kept() == kept && state.failure.is_none();
        let state = self
            .room
            .wait_while(state, waits)
            .unwrap_or_else(PoisonError::into_inner);
        match &state.failure {
            Some(failure) if state.kept() == kept => Err(failure.clone()),
            _ => Ok(()),
        }
    }

    pub(super) fn compact(&self, compaction: Compaction) {
        self.state().compactions.push(compaction);
        self.work.notify_one();
    }

    pub(super) fn close(&self) {
        self.state().closing = true;
        self.work.notify_one();
    }

    /// Waits until there is something to settle, or something else to do.
    pub(super) fn next_work(&self) -> Work {
        let idle = |state: &mut State| !state.has_work();
        let waited = self.work.wait_timeout_while(self.state(), SETTLE_AFTER, idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.settling.is_none() && state.filling.span.is_some() {
            let filled = std::mem::take(&mut state.filling);
            state.settling = Some(Arc::new(filled));
        }
        Work {
            generation: state.settling.clone(),
            compactions: std::mem::take(&mut state.compactions),
            closing: state.closing,
        }
    }

    /// The tables have changed: they have what was settling.
    pub(super) fn settled(&self, base: Base) {
        let base = Arc::new(base);
        let mut state = self.state();
        let old = (state.settling.take(), std::mem::replace(&mut state.base, base));
        (state.hurry, state.failure) = (false, None);
        self.room.notify_all();
        drop(state);
        // Thousands of values go here; nobody needs to wait for that.
        drop(old);
    }

    /// Fails while what is pending cannot be brought to the tables.
    pub(super) fn check_settled(&self) -> Result<(), String> {
        match &self.state().failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }

    pub(super) fn failed(&self, message: String) {
        let mut state = self.state();
        (state.hurry, state.failure) = (false, Some(message));
        self.room.notify_all();
    }
}
