//! `watch`: the changes of a collection as a stream of lines.
//!
//! Flow: find where to begin → subscribe to the cache → initial lines → lines as they come, with bookmarks → end at
//! the timeout, at shutdown, or when the client is too slow.
use super::Call;
use super::cache::{Cache, ChangeKind, Delivery, First, Resource, Scope, Shown, Start, Subscription};
use super::list::Selection;
use super::negotiate::{Format, Shape};
use super::object::Object;
use super::render::{self, Include, Style};
use super::status::{ApiError, Result, too_old};
use crate::kinds::Kind;
use crate::store::{ReadError, Revision, WatchError};
use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt};
use http::StatusCode;
use serde_json::json;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, Interval, Sleep};

/// Upstream's `--min-request-timeout`: a watch without `timeoutSeconds` ends within one to two of these.
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);
/// How often a quiet watch is told how far the server has come.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A piece of the response takes events until it is as large as this; more of them wait in the queue, where they are
/// shared.
const PIECE: usize = 64 << 10;
/// When changes come faster than one by one, each watcher is written to once in this time for each of the watchers, so
/// that writing to all of them in turn does not take more than the time there is …
const TURN: Duration = Duration::from_micros(20);
/// … nor, where watchers are few, more often than this: waking each of them costs more than the event …
const SHORTEST_TURN: Duration = Duration::from_millis(2);
/// … but never later than a person or a controller would notice.
const LONGEST_TURN: Duration = Duration::from_millis(20);

/// What the query says about how to begin.
struct Beginning {
    revision: Option<Revision>,
    bookmarks: bool,
    /// Whether what is there already is to be shown; where nothing is said, it is unless a revision is.
    initial_events: Option<bool>,
}

pub async fn serve(call: &Call, style: Style) -> Result<Response> {
    let began = Instant::now();
    if style.accepted.format == Format::Yaml {
        return Err(ApiError::no_stream(call.target.kind.custom.is_none()));
    }
    let selection = selection(call)?;
    let beginning = beginning(call)?;
    let timeout = call
        .query
        .timeout()?
        .unwrap_or_else(|| MIN_TIMEOUT + MIN_TIMEOUT.mul_f64(rand::random::<f64>()));
    let resource = call.api.cache.resource(&call.target.kind)?;
    let converts = call.target.kind.converter().is_some();
    let mut begun = match begin(call, &resource, &beginning, selection.clone()).await {
        Ok(begun) => begun,
        Err(error) if error.code == StatusCode::GONE => return Ok(gone(style, &error)),
        Err(error) => return Err(error),
    };
    let watcher = Watcher {
        encoder: Encoder {
            kind: call.target.kind.clone(),
            style,
            light: call.in_process,
            headers_sent: false,
        },
        selects: converts.then_some(selection),
        api: call.api.clone(),
        resource,
        initial: std::mem::take(&mut begun.subscription.initial).into_iter(),
        begun,
        bookmarks: beginning.bookmarks,
        timer: tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY),
        deadline: Box::pin(tokio::time::sleep(timeout)),
        not_before: Instant::now(),
        state: State::Initial,
        sent: sent(call),
        began,
        scope: scope(call),
    };
    let lines = stream::unfold(watcher, |mut watcher| async move {
        watcher.next().await.map(|line| (line, watcher))
    });
    let lines = lines.map(Ok::<_, std::convert::Infallible>);
    Ok(render::events(style.accepted.format, Body::from_stream(lines)))
}

fn sent(call: &Call) -> Arc<AtomicU64> {
    let kind = &call.target.kind;
    call.api.metrics.watches.events(kind)
}

fn scope(call: &Call) -> &'static str {
    match (&call.target.name, &call.target.namespace) {
        (Some(_), _) => "resource",
        (None, Some(_)) => "namespace",
        (None, None) => "cluster",
    }
}

/// Upstream begins the stream and says in it that the history is gone.
fn gone(style: Style, error: &ApiError) -> Response {
    let format = style.accepted.format;
    let line = render::event(format, "ERROR", &error.status());
    render::events(format, Body::from(line))
}

/// A name below `watch/` is a watch of that one object.
fn selection(call: &Call) -> Result<Selection> {
    let mut selection = Selection::of(&call.target.kind, &call.query)?;
    if let Some(name) = &call.target.name {
        selection.fields.require("metadata.name", name);
    }
    Ok(selection)
}

fn beginning(call: &Call) -> Result<Beginning> {
    let query = &call.query;
    query.version_match(true)?;
    Ok(Beginning {
        revision: query.revision()?,
        bookmarks: query.flag("allowWatchBookmarks"),
        initial_events: query.tristate("sendInitialEvents"),
    })
}

/// Where a watch stands after it has been set up.
struct Begun {
    subscription: Subscription,
    /// Events up to here are not for this watcher.
    after: Revision,
    /// The revision of the bookmark that ends the initial events, when one was asked for.
    mark: Option<Revision>,
}

/// Subscribes from where the watch is to begin: with what is there, or with what came after a revision.
async fn begin(
    call: &Call,
    resource: &Arc<Resource>,
    how: &Beginning,
    selection: Selection,
) -> Result<Begun> {
    let scope = selection.scope(&call.target);
    let cache = &call.api.cache;
    let since = how.revision.filter(|revision| *revision != 0);
    if how.initial_events.unwrap_or(since.is_none()) {
        return begin_now(cache, resource, how, scope).await;
    }
    let after = match since {
        Some(revision) => revision,
        None => cache.fresh().await?,
    };
    let subscription = match resource.subscribe(scope.clone(), Start::After(after)) {
        Some(subscription) => subscription,
        None => begin_before(call, resource, scope, after).await?,
    };
    Ok(Begun {
        subscription,
        after,
        mark: None,
    })
}

async fn begin_now(cache: &Cache, resource: &Arc<Resource>, how: &Beginning, scope: Scope) -> Result<Begun> {
    let reached = match how.revision {
        Some(revision) => cache.at_least(revision).await?,
        None => cache.fresh().await?,
    };
    let subscription = resource.subscribe(scope, Start::Now).ok_or_else(lost)?;
    let mark = reached.max(subscription.revision);
    Ok(Begun {
        subscription,
        after: 0,
        mark: how.bookmarks.then_some(mark),
    })
}

/// After a revision that is out of the cache's memory: from the store's log up to what the cache remembers.
async fn begin_before(
    call: &Call,
    resource: &Arc<Resource>,
    scope: Scope,
    after: Revision,
) -> Result<Subscription> {
    let memory_from = resource.recent_after();
    let mut subscription = resource
        .subscribe(scope.clone(), Start::After(memory_from))
        .ok_or_else(lost)?;
    let older = older(call, resource, &scope.prefix, (after, memory_from)).await?;
    let seen = older.into_iter().filter_map(|delivery| {
        let kind = delivery.shown.seen_by(|object| (scope.filter)(object))?;
        Some(First::Past(Delivery { kind, ..delivery }))
    });
    let newer = std::mem::take(&mut subscription.initial);
    subscription.initial = seen.chain(newer).collect();
    Ok(subscription)
}

fn lost() -> ApiError {
    ApiError::internal("the watch cache moved on while a watch began; try again")
}

/// Events of the store's log after the first revision, up to and including the second.
async fn older(
    call: &Call,
    resource: &Resource,
    prefix: &str,
    (after, until): (Revision, Revision),
) -> Result<Vec<Delivery>> {
    let mut batches = match call.api.store.watch(after).await {
        Ok(batches) => batches,
        Err(WatchError::Compacted { wanted, oldest }) => return Err(too_old(wanted, oldest)),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        if batch.revision <= until {
            let mine = batch.events.iter().filter(|event| event.key.starts_with(prefix));
            found.extend(
                mine.map(|event| past(&resource.kind, event))
                    .collect::<Result<Vec<_>>>()?,
            );
        }
        if batch.revision >= until {
            break;
        }
    }
    Ok(found)
}

fn past(kind: &Kind, event: &crate::store::Event) -> Result<Delivery> {
    let read = |kv: &Option<crate::store::KeyValue>| {
        let object = kv
            .as_ref()
            .map(|kv| Object::read(kind, kv).map(Arc::new))
            .transpose();
        object.map_err(|e| ApiError::from(ReadError::Backend(e.to_string())))
    };
    let shown = Shown::new(event.revision, read(&event.now)?, read(&event.before)?);
    Ok(Delivery {
        kind: ChangeKind::Modified,
        shown: Arc::new(shown),
    })
}

/// What a watch is about to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Initial,
    Live,
    Ended,
}

struct Watcher {
    encoder: Encoder,
    /// Chooses among converted objects; none where the cache has chosen.
    selects: Option<Selection>,
    api: Arc<super::Api>,
    resource: Arc<Resource>,
    /// What is left to show before the queue.
    initial: std::vec::IntoIter<First>,
    begun: Begun,
    bookmarks: bool,
    timer: Interval,
    deadline: Pin<Box<Sleep>>,
    /// Changes of the time until then go out together.
    not_before: Instant,
    state: State,
    /// Events sent, for `/metrics`.
    sent: Arc<AtomicU64>,
    began: Instant,
    /// Upstream's word for how much is watched.
    scope: &'static str,
}

/// Why a live watch woke up.
enum Woken {
    Event(Delivery),
    Timer,
    End,
}

impl Watcher {
    /// The next piece of the response.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let piece = match self.state {
                State::Initial => self.initial().await,
                State::Live => self.live().await,
                State::Ended => return None,
            };
            match piece {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Some(piece),
                Err(error) => {
                    self.state = State::Ended;
                    let format = self.encoder.style.accepted.format;
                    return Some(render::event(format, "ERROR", &error.status()));
                }
            }
        }
    }

    async fn initial(&mut self) -> Result<Bytes> {
        let mut batch = Vec::new();
        let mut size = 0;
        while size < PIECE {
            let Some(delivery) = self.initial.next().map(Delivery::from) else {
                self.state = State::Live;
                break;
            };
            size += delivery.shown.size();
            batch.push(delivery);
        }
        let mut piece = self.encode(batch).await?;
        if let (State::Live, Some(revision)) = (self.state, self.begun.mark) {
            piece.extend_from_slice(&self.encoder.bookmark(revision, true)?);
            let watches = &self.api.metrics.watches;
            watches.listed(&self.encoder.kind, self.scope, self.began.elapsed());
        }
        Ok(piece.freeze())
    }

    async fn live(&mut self) -> Result<Bytes> {
        // Read before the queue: all events up to here are in the queue or were delivered.
        let progress = self.api.cache.revision();
        match self.wake().await {
            Woken::Event(first) => {
                let batch = self.joined(first);
                Ok(self.encode(batch).await?.freeze())
            }
            Woken::Timer if self.bookmarks && self.begun.subscription.is_empty() => {
                self.encoder.bookmark(progress.max(self.begun.after), false)
            }
            Woken::Timer => Ok(Bytes::new()),
            Woken::End => {
                self.state = State::Ended;
                Ok(Bytes::new())
            }
        }
    }

    async fn wake(&mut self) -> Woken {
        if self.not_before > Instant::now() {
            tokio::time::sleep_until(self.not_before).await;
        }
        tokio::select! {
            biased;
            () = self.deadline.as_mut() => Woken::End,
            event = self.begun.subscription.next() => match event {
                None => Woken::End,
                Some(event) => Woken::Event(event),
            },
            _ = self.timer.tick() => Woken::Timer,
        }
    }

    /// The event and those that wait behind it.
    fn joined(&mut self, first: Delivery) -> Vec<Delivery> {
        let watchers = u32::try_from(self.resource.watching()).unwrap_or(u32::MAX);
        let turn = TURN.saturating_mul(watchers).clamp(SHORTEST_TURN, LONGEST_TURN);
        self.not_before = Instant::now() + turn;
        let mut size = first.shown.size();
        let mut batch = vec![first];
        while size < PIECE
            && let Some(next) = self.begun.subscription.waiting()
        {
            size += next.shown.size();
            batch.push(next);
        }
        batch
    }

    async fn encode(&mut self, mut events: Vec<Delivery>) -> Result<BytesMut> {
        let mut piece = BytesMut::new();
        if let Some(selection) = &self.selects {
            events.retain(|delivery| delivery.shown.revision > self.begun.after);
            events = converted(&self.api, &self.encoder.kind, selection, events).await?;
        }
        self.sent.fetch_add(events.len() as u64, Ordering::Relaxed);
        for delivery in events
            .iter()
            .filter(|delivery| delivery.shown.revision > self.begun.after)
        {
            piece.extend_from_slice(&self.encoder.line(delivery)?);
        }
        Ok(piece)
    }
}

/// The deliveries with their objects converted, as far as they are selected then.
async fn converted(
    api: &super::Api,
    kind: &Kind,
    selection: &Selection,
    events: Vec<Delivery>,
) -> Result<Vec<Delivery>> {
    let sides = events.iter().flat_map(|e| [&e.shown.now, &e.shown.before]);
    let objects: Vec<Arc<Object>> = sides.flatten().cloned().collect();
    let mut objects = super::convert::objects(api, kind, objects).await?.into_iter();
    let mut selected = Vec::new();
    for event in events {
        let now = event.shown.now.as_ref().and_then(|_| objects.next());
        let before = event.shown.before.as_ref().and_then(|_| objects.next());
        let shown = Shown::new(event.shown.revision, now, before);
        if let Some(change) = shown.seen_by(|object| selection.matches(kind, object)) {
            selected.push(Delivery {
                kind: change,
                shown: Arc::new(shown),
            });
        }
    }
    Ok(selected)
}

/// Turns deliveries into lines of one kind and shape.
struct Encoder {
    kind: Arc<Kind>,
    style: Style,
    /// Nobody reads who owns the fields.
    light: bool,
    headers_sent: bool,
}

impl Encoder {
    fn line(&mut self, delivery: &Delivery) -> Result<Bytes> {
        let format = self.style.accepted.format;
        match (format, self.style.accepted.shape) {
            _ if !self.kind.stored_as_served() => {}
            (Format::Protobuf, Shape::Object) => {
                let encoded = delivery.shown.protobuf_frame(delivery.kind);
                return encoded.map_err(ApiError::internal);
            }
            (Format::Protobuf, _) => {}
            (_, Shape::Object) if self.light => return Ok(delivery.shown.light_frame(delivery.kind)),
            (_, Shape::Object) => return Ok(delivery.shown.frame(delivery.kind)),
            (_, Shape::Metadata) if self.style.accepted.beta => {}
            (_, Shape::Metadata) => return Ok(delivery.shown.metadata_frame(delivery.kind)),
            (_, Shape::Table | Shape::MetadataList) => {}
        }
        let object = render::reread(&self.kind, &delivery.shown.object(delivery.kind))?;
        let shaped = render::shape(&self.kind, self.style, &object, !self.headers_sent)?;
        self.headers_sent = true;
        let shown = shaped.as_ref().unwrap_or(&object);
        Ok(render::event(format, delivery.kind.word(), shown))
    }

    /// An object with nothing but a resource version; in a Table that is a row like others.
    fn bookmark(&mut self, revision: Revision, initial_end: bool) -> Result<Bytes> {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object =
            json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata});
        let mut style = self.style;
        // Who asks for rows alone still has to see the end of the beginning.
        if initial_end && style.include == Include::None {
            style.include = Include::Metadata;
        }
        let shaped = render::shape(&self.kind, style, &object, !self.headers_sent)?;
        self.headers_sent = true;
        let shown = shaped.as_ref().unwrap_or(&object);
        Ok(render::event(style.accepted.format, "BOOKMARK", shown))
    }
}
