//! `/livez`, `/readyz`, `/healthz`: open to everybody, so that a load balancer needs no certificate.
//!
//! `?verbose` lists the checks, `?exclude=NAME` leaves one out, and `/livez/NAME` asks for one alone (KEP-1623), for which
//! one must be allowed to.
use super::query::Query;
use super::{Api, text};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{StatusCode, header};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a check may take.
const CHECK_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// The server answers.
    Ping,
    /// The store answers, and what is written lasts.
    Store,
    /// Everything that is stored can be served from memory.
    WatchCache,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::Ping => "ping",
            Check::Store => "store",
            Check::WatchCache => "watch-cache",
        }
    }

    /// By its own name, or by what upstream has in its place.
    fn is_called(self, name: &str) -> bool {
        let theirs = match self {
            Check::Ping => None,
            Check::Store => Some("etcd"),
            Check::WatchCache => Some("informer-sync"),
        };
        name == self.name() || Some(name) == theirs
    }

    async fn passes(self, api: &Api) -> bool {
        match self {
            Check::Ping => true,
            Check::WatchCache => api.cache.revision() > 0,
            Check::Store => {
                let answered = tokio::time::timeout(CHECK_WITHIN, api.store.writable()).await;
                matches!(answered, Ok(Ok(_)))
            }
        }
    }
}

/// Each probe with what it checks.
const PROBES: [(&str, &[Check]); 3] = [
    ("healthz", &[Check::Ping, Check::Store]),
    ("livez", &[Check::Ping, Check::Store]),
    ("readyz", &[Check::Ping, Check::Store, Check::WatchCache]),
];

fn probe(path: &str) -> Option<&'static (&'static str, &'static [Check])> {
    let name = path.strip_prefix('/')?;
    PROBES.iter().find(|(probe, _)| *probe == name)
}

/// Whether the path is for everybody.
pub(super) fn is_open(parts: &Parts) -> bool {
    probe(parts.uri.path()).is_some()
}

/// The paths of single checks.
pub(super) fn paths() -> impl Iterator<Item = String> {
    let of = |(probe, checks): (&'static str, &'static [Check])| {
        checks
            .iter()
            .map(move |check| format!("/{probe}/{}", check.name()))
    };
    PROBES.into_iter().flat_map(of)
}

/// One check alone, when the path is that of one. Upstream's names for what is checked here too are understood.
pub(super) async fn one(api: &Api, path: &str) -> Option<Response> {
    let (probe, name) = path.strip_prefix('/')?.split_once('/')?;
    let (_, checks) = PROBES.iter().find(|(known, _)| *known == probe)?;
    let check = checks.iter().find(|check| check.is_called(name))?;
    Some(match check.passes(api).await {
        true => ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], "ok").into_response(),
        false => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("internal server error: {name} failed\n"),
        ),
    })
}

/// What a path for everybody answers.
pub(super) async fn answer(api: &Api, parts: &Parts) -> Response {
    let Some((probe, checks)) = probe(parts.uri.path()) else {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    };
    let query = Query::of(&parts.uri).unwrap_or_default();
    let excluded = |check: &Check| query.all("exclude").any(|name| check.is_called(name));
    let (mut lines, mut good) = (String::new(), true);
    for check in *checks {
        let line = match excluded(check) {
            true => format!("[+]{} excluded: ok\n", check.name()),
            false => {
                let passes = check.passes(api).await;
                api.metrics.slis.observe(check.name(), probe, passes);
                good &= passes;
                match passes {
                    true => format!("[+]{} ok\n", check.name()),
                    false => format!("[-]{} failed: reason withheld\n", check.name()),
                }
            }
        };
        lines.push_str(&line);
    }
    lines.push_str(&not_excluded(&query, checks));
    match good {
        true if !query.has("verbose") => text(StatusCode::OK, "ok"),
        true => text(StatusCode::OK, format!("{lines}{probe} check passed\n")),
        false => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{lines}{probe} check failed\n"),
        ),
    }
}

/// The line about checks that were to be left out, of which there are none.
fn not_excluded(query: &Query, checks: &[Check]) -> String {
    let unknown = |name: &&str| !checks.iter().any(|check| check.is_called(name));
    let names: BTreeSet<&str> = query.all("exclude").filter(unknown).collect();
    if names.is_empty() {
        return String::new();
    }
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    let names = names.join(",");
    format!("warn: some health checks cannot be excluded: no matches for {names}\n")
}
