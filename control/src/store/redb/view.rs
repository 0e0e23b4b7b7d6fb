//! One consistent view of the store: redb's tables and, over them, what is in the journal only. Reads of the present,
//! of the past through the log, and the events since. Knows nothing of writing or of watchers.
use super::base::Base;
use crate::store::record::Undo;
use crate::store::{Event, KeyValue, Range, RangeResult, ReadError, Revision, replay};
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

/// Keys whose value in the tables is not the newest.
pub(super) type Over = BTreeMap<Arc<str>, Option<KeyValue>>;

pub(super) struct View {
    pub(super) base: Arc<Base>,
    pub(super) over: Over,
    /// Records that are not in the log yet, of those the view was made for.
    pub(super) undo: Vec<Undo>,
    pub(super) revision: Revision,
}

impl View {
    /// For a view of the range's prefix and with the undo records since its revision.
    pub(super) fn range(&self, range: &Range) -> Result<RangeResult, ReadError> {
        let revision = range.revision.unwrap_or(self.revision);
        if revision > self.revision {
            return Err(ReadError::Future {
                wanted: revision,
                newest: self.revision,
            });
        }
        self.base.check_retained(revision)?;
        let limit = range.limit.unwrap_or(usize::MAX);
        let (items, more) = if revision == self.revision {
            self.present(&range.prefix, range.after.as_deref(), limit)?
        } else {
            self.past(&range.prefix, range.after.as_deref(), limit, revision)?
        };
        Ok(RangeResult {
            items,
            revision,
            more,
        })
    }

    fn present(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<KeyValue>, bool), ReadError> {
        let start = after.unwrap_or(prefix);
        let over = self
            .over
            .range::<str, _>((Bound::Included(start), Bound::Unbounded));
        let mut items = Vec::new();
        for kv in merged(self.base.from(start)?, over) {
            let kv = kv?;
            if !kv.key.starts_with(prefix) {
                break;
            }
            if after == Some(&*kv.key) {
                continue;
            }
            if items.len() == limit {
                return Ok((items, true));
            }
            items.push(kv);
        }
        Ok((items, false))
    }

    /// Reads the present and takes back what happened after `revision`.
    fn past(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        revision: Revision,
    ) -> Result<(Vec<KeyValue>, bool), ReadError> {
        let (present, _) = self.present(prefix, None, usize::MAX)?;
        let mut keys: BTreeMap<_, _> = present.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        for (key, then) in replay::past(self.undo_after(revision)?.into_iter()) {
            match then {
                Some(kv) if key.starts_with(prefix) => drop(keys.insert(key, kv)),
                Some(_) => {}
                None => drop(keys.remove(&key)),
            }
        }
        let mut rest = keys
            .into_values()
            .filter(|kv| after.is_none_or(|after| &*kv.key > after));
        let items: Vec<_> = rest.by_ref().take(limit).collect();
        Ok((items, rest.next().is_some()))
    }

    /// For a view of what changed after `after`.
    pub(super) fn events_after(&self, after: Revision) -> Result<Vec<Event>, ReadError> {
        self.base.check_retained(after)?;
        replay::events(self.undo_after(after)?, |key| match self.over.get(key) {
            Some(now) => Ok(now.clone()),
            None => self.base.get(key),
        })
    }

    fn undo_after(&self, after: Revision) -> Result<Vec<Undo>, ReadError> {
        let mut undo = self.base.undo_after(after)?;
        undo.extend(self.undo.iter().cloned());
        Ok(undo)
    }
}

/// Both in the order of their keys; what is over hides what is below.
fn merged<'a>(
    below: impl Iterator<Item = Result<KeyValue, ReadError>>,
    over: impl Iterator<Item = (&'a Arc<str>, &'a Option<KeyValue>)>,
) -> impl Iterator<Item = Result<KeyValue, ReadError>> {
    let (mut below, mut over) = (below.peekable(), over.peekable());
    std::iter::from_fn(move || {
        loop {
            if below_is_next(&mut below, &mut over) {
                return below.next();
            }
            if let Some(now) = over.next()?.1 {
                return Some(Ok(now.clone()));
            }
        }
    })
}

/// Drops what is hidden.
fn below_is_next<'a>(
    below: &mut Peekable<impl Iterator<Item = Result<KeyValue, ReadError>>>,
    over: &mut Peekable<impl Iterator<Item = (&'a Arc<str>, &'a Option<KeyValue>)>>,
) -> bool {
    let (Some(Ok(kv)), Some((key, _))) = (below.peek(), over.peek()) else {
        return below.peek().is_some();
    };
    if kv.key == **key {
        below.next();
        return false;
    }
    kv.key < **key
}
