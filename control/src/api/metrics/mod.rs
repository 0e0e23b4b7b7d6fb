//! What the API server counts about itself, under upstream's names (`apiserver_request_total` and so on).
//!
//! Owns the counters and how a request is classed. Refuses to know what requests do. Label values come from the table
//! of kinds and from lists here, never from a client, so that the number of series is bounded.
mod exposition;
mod flow_control;
mod histogram;
mod process;

use super::query::Query;
use super::route::{self, Route, Target};
use super::{Api, text};
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use exposition::Exposition;
pub(super) use histogram::Histogram;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
pub use process::started;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

/// Upstream's buckets of `apiserver_request_duration_seconds`, in microseconds.
static BUCKETS: [u64; 22] = [
    5_000, 25_000, 50_000, 100_000, 200_000, 400_000, 600_000, 800_000, 1_000_000, 1_250_000, 1_500_000,
    2_000_000, 3_000_000, 4_000_000, 5_000_000, 6_000_000, 8_000_000, 10_000_000, 15_000_000, 20_000_000,
    30_000_000, 45_000_000,
];
/// Paths that are no resource and have series of their own.
const PATHS: [&str; 8] = [
    "/healthz",
    "/livez",
    "/readyz",
    "/metrics",
    "/version",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
];
/// Subresources whose requests last as long as the client wants.
const STREAMS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];

/// What tells the series of requests apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Class {
    verb: &'static str,
    dry_run: bool,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

/// The numbers of one class.
#[derive(Debug)]
struct Series {
    by_code: Mutex<BTreeMap<u16, u64>>,
    durations: Histogram<{ BUCKETS.len() }>,
    /// Long-running requests under way.
    running: AtomicI64,
}

impl Default for Series {
    fn default() -> Self {
        Series {
            by_code: Mutex::default(),
            durations: Histogram::new(&BUCKETS),
            running: AtomicI64::default(),
        }
    }
}

/// Group, version and resource of a kind.
type Resource = (String, String, String);

#[derive(Default)]
pub struct Metrics {
    requests: RwLock<HashMap<Class, Arc<Series>>>,
    events: RwLock<BTreeMap<Resource, Arc<AtomicU64>>>,
    inflight: Inflight,
}

/// Requests under way that are not long-running.
#[derive(Default)]
struct Inflight {
    mutating: Arc<AtomicI64>,
    reading: Arc<AtomicI64>,
}

/// Counts one up, until it is dropped.
struct Held(Arc<AtomicI64>);

impl Held {
    fn new(gauge: &Arc<AtomicI64>) -> Held {
        gauge.fetch_add(1, Ordering::Relaxed);
        Held(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// As [`Held`], for a long-running request of a class.
struct Running(Arc<Series>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request under way.
pub(super) struct Measured {
    series: Arc<Series>,
    begun: Instant,
    streams: bool,
    _held: Option<Held>,
}

impl Metrics {
    /// Begins to count a request.
    pub(super) fn begin(api: &Api, request: &Request) -> Measured {
        let (class, streams) = class(api, request);
        let mutates = !matches!(class.verb, "GET" | "LIST" | "WATCH");
        let inflight = &api.metrics.inflight;
        let gauge = if mutates {
            &inflight.mutating
        } else {
            &inflight.reading
        };
        Measured {
            series: api.metrics.series(class),
            begun: Instant::now(),
            streams,
            _held: (!streams).then(|| Held::new(gauge)),
        }
    }

    fn series(&self, class: Class) -> Arc<Series> {
        let known = self
            .requests
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&class)
            .cloned();
        known.unwrap_or_else(|| {
            let mut all = self.requests.write().unwrap_or_else(PoisonError::into_inner);
            all.entry(class).or_default().clone()
        })
    }

    /// The counter of events sent to watchers of a resource.
    pub fn events(&self, group: &str, version: &str, resource: &str) -> Arc<AtomicU64> {
        let key = (group.to_owned(), version.to_owned(), resource.to_owned());
        let mut all = self.events.write().unwrap_or_else(PoisonError::into_inner);
        all.entry(key).or_default().clone()
    }
}

impl Measured {
    /// Counts the answer. What streams is under way until its body is dropped.
    pub(super) fn end(self, response: Response) -> Response {
        let code = response.status();
        let mut codes = self.series.by_code.lock().unwrap_or_else(PoisonError::into_inner);
        *codes.entry(code.as_u16()).or_default() += 1;
        drop(codes);
        if !self.streams {
            self.series.durations.observe(self.begun.elapsed());
            return response;
        }
        if code != StatusCode::OK {
            return response;
        }
        self.series.running.fetch_add(1, Ordering::Relaxed);
        let running = Running(self.series);
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _until_dropped = &running;
                frame
            }))
        })
    }
}

/// The class of a request, and whether it is long-running.
fn class(api: &Api, request: &Request) -> (Class, bool) {
    let query = Query::of(request.uri()).ok();
    let flag = |name: &str| query.as_ref().is_some_and(|q| q.flag(name));
    let path = request.uri().path();
    let target = match route::parse(&api.kinds.load(), path) {
        Some(Ok(Route::Resource(target))) => target,
        _ => return (elsewhere(request.method(), path), false),
    };
    let stream = target
        .subresource
        .as_deref()
        .is_some_and(|s| STREAMS.contains(&s));
    let verb = verb(request, &target, flag("watch"), stream);
    let long =
        verb == "WATCH" || (stream && (target.subresource.as_deref() != Some("log") || flag("follow")));
    let class = Class {
        verb,
        dry_run: query.as_ref().is_some_and(|q| q.get("dryRun").is_some()),
        group: target.kind.group.clone(),
        version: target.kind.version.clone(),
        resource: target.kind.plural.clone(),
        scope: scope(&target),
        subresource: target.subresource.unwrap_or_default(),
    };
    (class, long)
}

fn scope(target: &Target) -> &'static str {
    match (&target.name, &target.namespace) {
        (Some(_), _) => "resource",
        (None, Some(_)) => "namespace",
        (None, None) => "cluster",
    }
}

/// The verb as upstream's metrics name it.
fn verb(request: &Request, target: &Target, watch: bool, stream: bool) -> &'static str {
    let applies = || {
        let content = request.headers().get(header::CONTENT_TYPE);
        content.is_some_and(|v| v.as_bytes().starts_with(b"application/apply-patch"))
    };
    match (request.method().as_str(), target.name.is_some()) {
        (_, true) if stream && target.subresource.as_deref() != Some("log") => "CONNECT",
        ("GET" | "HEAD", _) if watch => "WATCH",
        ("GET" | "HEAD", true) => "GET",
        ("GET" | "HEAD", false) => "LIST",
        ("POST", _) => "POST",
        ("PUT", _) => "PUT",
        ("PATCH", _) if applies() => "APPLY",
        ("PATCH", _) => "PATCH",
        ("DELETE", true) => "DELETE",
        ("DELETE", false) => "DELETECOLLECTION",
        _ => "other",
    }
}

/// The class of a request for no resource.
fn elsewhere(method: &Method, path: &str) -> Class {
    let known = PATHS.iter().find(|known| path.starts_with(**known));
    Class {
        verb: if method == Method::GET { "GET" } else { "other" },
        dry_run: false,
        group: String::new(),
        version: String::new(),
        resource: String::new(),
        subresource: known.copied().unwrap_or_default().to_owned(),
        scope: "",
    }
}

/// `/metrics` in Prometheus' text format, version 0.0.4.
pub(super) fn answer(api: &Api) -> Response {
    let mut out = Exposition::default();
    requests(&api.metrics, &mut out);
    watches(&api.metrics, &mut out);
    objects(api, &mut out);
    flow_control::write(api, &mut out);
    process::write(&mut out);
    let mut response = text(StatusCode::OK, out.finish());
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, format);
    response
}

impl Class {
    fn labels(&self) -> Vec<(&'static str, String)> {
        vec![
            ("component", "apiserver".to_owned()),
            ("dry_run", if self.dry_run { "All" } else { "" }.to_owned()),
            ("group", self.group.clone()),
            ("resource", self.resource.clone()),
            ("scope", self.scope.to_owned()),
            ("subresource", self.subresource.clone()),
            ("verb", self.verb.to_owned()),
            ("version", self.version.clone()),
        ]
    }
}

fn requests(metrics: &Metrics, out: &mut Exposition) {
    let all = metrics
        .requests
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let mut all: Vec<(Class, Arc<Series>)> = all.into_iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    out.begin(
        "apiserver_request_total",
        "counter",
        "Requests by class and answer.",
    );
    for (class, series) in &all {
        let codes = series
            .by_code
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (code, count) in codes {
            let mut labels = class.labels();
            labels.push(("code", code.to_string()));
            out.sample("apiserver_request_total", &labels, count);
        }
    }
    let name = "apiserver_request_duration_seconds";
    out.begin(
        name,
        "histogram",
        "How long requests took that are not long-running.",
    );
    for (class, series) in &all {
        series.durations.write(name, &class.labels(), out);
    }
    let name = "apiserver_longrunning_requests";
    out.begin(name, "gauge", "Watches and streams under way.");
    for (class, series) in &all {
        match series.running.load(Ordering::Relaxed) {
            0 => {}
            running => out.sample(name, &class.labels(), running),
        }
    }
    let name = "apiserver_current_inflight_requests";
    out.begin(name, "gauge", "Requests under way that are not long-running.");
    for (kind, gauge) in [
        ("mutating", &metrics.inflight.mutating),
        ("readOnly", &metrics.inflight.reading),
    ] {
        out.sample(
            name,
            &[("request_kind", kind.to_owned())],
            gauge.load(Ordering::Relaxed),
        );
    }
}

fn watches(metrics: &Metrics, out: &mut Exposition) {
    let name = "apiserver_watch_events_total";
    out.begin(name, "counter", "Events sent to watchers.");
    let all = metrics.events.read().unwrap_or_else(PoisonError::into_inner);
    for ((group, version, resource), count) in all.iter() {
        let labels = [
            ("group", group.clone()),
            ("resource", resource.clone()),
            ("version", version.clone()),
        ];
        out.sample(name, &labels, count.load(Ordering::Relaxed));
    }
}

fn objects(api: &Api, out: &mut Exposition) {
    let name = "apiserver_resource_objects";
    out.begin(name, "gauge", "Stored objects by resource.");
    for (kind, count) in api.cache.counts() {
        let labels = [("group", kind.group.clone()), ("resource", kind.plural.clone())];
        out.sample(name, &labels, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn durations_fall_into_buckets_that_add_up() {
        let metrics = Metrics::default();
        let series = metrics.series(elsewhere(&Method::GET, "/livez/ping"));
        for millis in [1, 30, 30, 100_000] {
            series.durations.observe(Duration::from_millis(millis));
        }
        let mut out = Exposition::default();
        requests(&metrics, &mut out);
        let text = out.finish();
        for (le, count) in [("0.005", 1), ("0.025", 1), ("0.05", 3), ("45", 3), ("+Inf", 4)] {
            let sample = format!("subresource=\"/livez\",verb=\"GET\",version=\"\",le=\"{le}\"}} {count}\n");
            assert!(text.contains(&sample), "{sample} in {text}");
        }
        assert!(text.contains("apiserver_request_duration_seconds_sum{") && text.contains("} 100.061\n"));
    }

    #[test]
    fn a_held_place_is_given_back() {
        let gauge = Arc::new(AtomicI64::new(0));
        let held = Held::new(&gauge);
        assert_eq!(gauge.load(Ordering::Relaxed), 1);
        drop(held);
        assert_eq!(gauge.load(Ordering::Relaxed), 0);
    }
}
