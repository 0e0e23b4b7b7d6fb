//! Requests by class: how many, how long, how large their answers, how they ended.
//!
//! A class is looked up once for each request; what is counted then is an atomic of it, or behind a lock of its own.
use super::super::Api;
use super::super::dispatch::Reply;
use super::Metrics;
use super::class::{self, Class, Classed};
use crate::measures::{Exposition, Histogram, Labels, Scale};
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{Method, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Upstream's buckets of `apiserver_request_duration_seconds`, in microseconds.
static DURATIONS: [u64; 23] = [
    5_000, 25_000, 50_000, 100_000, 200_000, 400_000, 600_000, 800_000, 1_000_000, 1_250_000, 1_500_000,
    2_000_000, 3_000_000, 4_000_000, 5_000_000, 6_000_000, 8_000_000, 10_000_000, 15_000_000, 20_000_000,
    30_000_000, 45_000_000, 60_000_000,
];
/// Upstream's buckets of `apiserver_request_sli_duration_seconds`, in microseconds.
static OWN: [u64; 21] = [
    50_000, 100_000, 200_000, 400_000, 600_000, 800_000, 1_000_000, 1_250_000, 1_500_000, 2_000_000,
    3_000_000, 4_000_000, 5_000_000, 6_000_000, 8_000_000, 10_000_000, 15_000_000, 20_000_000, 30_000_000,
    45_000_000, 60_000_000,
];
/// Upstream's buckets of `apiserver_response_sizes`, in bytes.
static SIZES: [u64; 7] = [
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
];

/// The numbers of one class.
#[derive(Debug)]
pub(super) struct Series {
    /// By the answer's code and the part of the control plane that asked.
    by_code: Mutex<BTreeMap<(u16, &'static str), u64>>,
    /// Requests that were ended to protect the server, by the answer's code.
    terminated: Mutex<BTreeMap<u16, u64>>,
    durations: Histogram<{ DURATIONS.len() }>,
    /// Without what others took, of those that are no dry runs.
    own: Histogram<{ OWN.len() }>,
    /// Of what is read.
    sizes: Histogram<{ SIZES.len() }>,
    /// Long-running requests under way.
    running: AtomicI64,
    /// Somebody asked for a version that is deprecated.
    deprecated: AtomicBool,
}

impl Default for Series {
    fn default() -> Self {
        Series {
            by_code: Mutex::default(),
            terminated: Mutex::default(),
            durations: Histogram::new(Scale::Microseconds, &DURATIONS),
            own: Histogram::new(Scale::Microseconds, &OWN),
            sizes: Histogram::new(Scale::Ones, &SIZES),
            running: AtomicI64::default(),
            deprecated: AtomicBool::default(),
        }
    }
}

/// One more of them.
fn count<K: Ord>(counts: &Mutex<BTreeMap<K, u64>>, key: K) {
    *counts
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(key)
        .or_default() += 1;
}

fn counted<K: Clone>(counts: &Mutex<BTreeMap<K, u64>>) -> BTreeMap<K, u64> {
    counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// What a request waited for that is not this server's doing: its turn, and webhooks.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Waited(Arc<AtomicU64>);

impl Waited {
    pub fn add(&self, time: Duration) {
        if !time.is_zero() {
            let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            self.0.fetch_add(micros, Ordering::Relaxed);
        }
    }

    fn total(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// All classes, and the requests under way that are not long-running.
#[derive(Default)]
pub(super) struct Requests {
    classes: RwLock<HashMap<Class, Arc<Series>>>,
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

/// A request under way.
pub(in super::super) struct Measured {
    series: Arc<Series>,
    client: &'static str,
    begun: Instant,
    streams: bool,
    dry_run: bool,
    deprecated: bool,
    /// The size of what is answered counts.
    sized: bool,
    _held: Option<Held>,
}

impl Metrics {
    /// Begins to count a request.
    pub(in super::super) fn begin(api: &Api, request: &Request) -> Measured {
        let Classed {
            class,
            streams,
            deprecated,
        } = class::of(api, request);
        let requests = &api.metrics.requests;
        let gauge = match class.reads() {
            true => &requests.reading,
            false => &requests.mutating,
        };
        Measured {
            begun: Instant::now(),
            client: class::system_client(request.headers()),
            streams,
            dry_run: class.dry_run,
            deprecated,
            sized: class.reads() && request.method() == Method::GET,
            _held: (!streams).then(|| Held::new(gauge)),
            series: requests.series(class),
        }
    }
}

impl Measured {
    /// Counts the answer. What streams is under way until its body is dropped.
    pub(in super::super) fn end(self, response: Response, reply: &Reply) -> Response {
        let (series, code) = (&self.series, response.status());
        count(&series.by_code, (code.as_u16(), self.client));
        if reply.terminated {
            count(&series.terminated, code.as_u16());
        }
        if reply.received && self.deprecated {
            series.deprecated.store(true, Ordering::Relaxed);
        }
        if !self.streams {
            let took = self.begun.elapsed();
            series.durations.observe(took);
            if !self.dry_run {
                series.own.observe(took.saturating_sub(reply.waited.total()));
            }
        }
        self.follow(response)
    }

    /// Counts what of an answer is only known when it has been sent.
    fn follow(self, response: Response) -> Response {
        let runs = self.streams && response.status() == StatusCode::OK;
        let size = response.body().size_hint().exact();
        if let Some(size) = size.filter(|_| self.sized && !runs) {
            self.series.sizes.add(size);
            return response;
        }
        if !runs && !self.sized {
            return response;
        }
        let mut answer = Answer::new(self.series, runs, self.sized);
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                answer.sends(frame.data_ref().map_or(0, |data| data.len() as u64));
                frame
            }))
        })
    }
}

/// An answer on its way, until it is dropped.
struct Answer {
    series: Arc<Series>,
    runs: bool,
    sized: bool,
    sent: u64,
}

impl Answer {
    fn new(series: Arc<Series>, runs: bool, sized: bool) -> Answer {
        series.running.fetch_add(i64::from(runs), Ordering::Relaxed);
        Answer {
            series,
            runs,
            sized,
            sent: 0,
        }
    }

    fn sends(&mut self, bytes: u64) {
        self.sent += bytes;
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.series
            .running
            .fetch_sub(i64::from(self.runs), Ordering::Relaxed);
        if self.sized {
            self.series.sizes.add(self.sent);
        }
    }
}

impl Requests {
    fn series(&self, class: Class) -> Arc<Series> {
        let known = self
            .classes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&class)
            .cloned();
        known.unwrap_or_else(|| {
            let mut all = self.classes.write().unwrap_or_else(PoisonError::into_inner);
            all.entry(class).or_default().clone()
        })
    }

    fn sorted(&self) -> Vec<(Class, Arc<Series>)> {
        let all = self
            .classes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    pub fn write(&self, out: &mut Exposition) {
        let all = self.sorted();
        totals(&all, out);
        durations(&all, out);
        sizes(&all, out);
        ends(&all, out);
        self.under_way(&all, out);
    }

    fn under_way(&self, all: &[(Class, Arc<Series>)], out: &mut Exposition) {
        let name = "apiserver_longrunning_requests";
        out.begin(name, "gauge", "Watches and streams under way.");
        for (class, series) in all {
            match series.running.load(Ordering::Relaxed) {
                0 => {}
                running => out.sample(name, &class.labels(), running),
            }
        }
        let name = "apiserver_current_inflight_requests";
        out.begin(name, "gauge", "Requests under way that are not long-running.");
        for (kind, gauge) in [("mutating", &self.mutating), ("readOnly", &self.reading)] {
            let labels = [("request_kind", kind.to_owned())];
            out.sample(name, &labels, gauge.load(Ordering::Relaxed));
        }
    }
}

fn totals(all: &[(Class, Arc<Series>)], out: &mut Exposition) {
    let name = "apiserver_request_total";
    out.begin(name, "counter", "Requests by class and answer.");
    for (class, series) in all {
        for ((code, client), count) in counted(&series.by_code) {
            let mut labels = class.labels_with_dry_run();
            labels.push(("code", code.to_string()));
            labels.push(("system_client", client.to_owned()));
            out.sample(name, &labels, count);
        }
    }
}

fn durations(all: &[(Class, Arc<Series>)], out: &mut Exposition) {
    let name = "apiserver_request_duration_seconds";
    let help = "How long requests took that are not long-running.";
    out.begin(name, "histogram", help);
    for (class, series) in all {
        series.durations.write(name, &class.labels_with_dry_run(), out);
    }
    let name = "apiserver_request_sli_duration_seconds";
    let help = "As above, without what they waited for webhooks and for their turn; dry runs are left out.";
    out.begin(name, "histogram", help);
    for (class, series) in all {
        series.own.write(name, &class.labels(), out);
    }
}

fn sizes(all: &[(Class, Arc<Series>)], out: &mut Exposition) {
    let name = "apiserver_response_sizes";
    out.begin(name, "histogram", "Bytes of what was answered to who reads.");
    for (class, series) in all {
        series.sizes.write(name, &class.labels(), out);
    }
}

/// What is told of several classes together.
fn ends(all: &[(Class, Arc<Series>)], out: &mut Exposition) {
    let mut terminated: BTreeMap<Labels, u64> = BTreeMap::new();
    let mut deprecated: BTreeSet<Labels> = BTreeSet::new();
    for (class, series) in all {
        for (code, count) in counted(&series.terminated) {
            let mut labels = class.labels();
            labels.push(("code", code.to_string()));
            *terminated.entry(labels).or_default() += count;
        }
        if series.deprecated.load(Ordering::Relaxed) {
            deprecated.insert(class.labels_of_deprecated());
        }
    }
    let name = "apiserver_request_terminations_total";
    let help = "Requests that were sent back, or ended, to protect the server.";
    out.begin(name, "counter", help);
    for (labels, count) in terminated {
        out.sample(name, &labels, count);
    }
    let name = "apiserver_requested_deprecated_apis";
    out.begin(name, "gauge", "Deprecated versions that somebody asked for.");
    for labels in deprecated {
        out.sample(name, &labels, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(requests: &Requests) -> String {
        let mut out = Exposition::default();
        requests.write(&mut out);
        out.finish()
    }

    #[test]
    fn durations_fall_into_buckets_that_add_up() {
        let requests = Requests::default();
        let series = requests.series(class::elsewhere(&Method::GET, "/livez/ping"));
        for millis in [1, 30, 30, 100_000] {
            series.durations.observe(Duration::from_millis(millis));
        }
        let text = written(&requests);
        for (le, count) in [("0.005", 1), ("0.025", 1), ("0.05", 3), ("60", 3), ("+Inf", 4)] {
            let sample = format!("subresource=\"/livez\",verb=\"GET\",version=\"\",le=\"{le}\"}} {count}\n");
            assert!(text.contains(&sample), "{sample} in {text}");
        }
        assert!(text.contains("apiserver_request_duration_seconds_sum{") && text.contains("} 100.061\n"));
    }

    #[test]
    fn what_others_take_is_not_the_servers_own_time() {
        let requests = Requests::default();
        let measured = |streams, sized| Measured {
            series: requests.series(class::elsewhere(&Method::GET, "/version")),
            client: "",
            begun: Instant::now()
                .checked_sub(Duration::from_secs(3))
                .expect("a time"),
            streams,
            dry_run: false,
            deprecated: false,
            sized,
            _held: None,
        };
        let reply = Reply {
            terminated: true,
            ..Reply::default()
        };
        reply.waited.add(Duration::from_secs(2));
        drop(measured(false, true).end(Response::new(Body::from("abc")), &reply));
        let text = written(&requests);
        for (sample, is_there) in [
            (
                "apiserver_request_duration_seconds_bucket{component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"\",scope=\"\",subresource=\"/version\",verb=\"GET\",version=\"\",le=\"2\"} 0",
                true,
            ),
            (
                "apiserver_request_sli_duration_seconds_bucket{component=\"apiserver\",group=\"\",resource=\"\",scope=\"\",subresource=\"/version\",verb=\"GET\",version=\"\",le=\"2\"} 1",
                true,
            ),
            (
                "apiserver_response_sizes_sum{component=\"apiserver\",group=\"\",resource=\"\",scope=\"\",subresource=\"/version\",verb=\"GET\",version=\"\"} 3",
                true,
            ),
            (
                "apiserver_request_terminations_total{component=\"apiserver\",group=\"\",resource=\"\",scope=\"\",subresource=\"/version\",verb=\"GET\",version=\"\",code=\"200\"} 1",
                true,
            ),
            ("apiserver_requested_deprecated_apis{", false),
        ] {
            assert_eq!(text.contains(sample), is_there, "{sample} in {text}");
        }
    }

    #[tokio::test]
    async fn what_streams_counts_when_it_is_over() {
        let requests = Requests::default();
        let series = requests.series(class::elsewhere(&Method::GET, "/version"));
        let parts = futures::stream::iter(["ab", "cde"].map(Ok::<_, std::convert::Infallible>));
        let measured = Measured {
            series: series.clone(),
            client: "",
            begun: Instant::now(),
            streams: true,
            dry_run: false,
            deprecated: false,
            sized: true,
            _held: None,
        };
        let response = measured.end(Response::new(Body::from_stream(parts)), &Reply::default());
        assert_eq!(series.running.load(Ordering::Relaxed), 1);
        assert!(!written(&requests).contains("response_sizes_sum"));
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "abcde");
        assert_eq!(series.running.load(Ordering::Relaxed), 0);
        let text = written(&requests);
        assert!(
            text.contains("response_sizes_sum") && text.contains("version=\"\"} 5\n"),
            "{text}"
        );
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
