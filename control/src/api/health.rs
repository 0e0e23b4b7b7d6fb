//! `/livez`, `/readyz`, `/healthz`: open to everybody, so that a load balancer needs no certificate.
//!
//! `?verbose` lists the checks, `?exclude=NAME` leaves one out, and `/livez/NAME` asks for one alone (KEP-1623).
use super::query::Query;
use super::{Api, text};
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
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

/// The answer, when the path is one of these.
pub(super) async fn answer(api: &Api, parts: &Parts) -> Option<Response> {
    let mut segments = parts.uri.path().strip_prefix('/')?.splitn(2, '/');
    let probe = segments.next().unwrap_or_default();
    let checks: &[Check] = match probe {
        "livez" | "healthz" => &[Check::Ping, Check::Store],
        "readyz" => &[Check::Ping, Check::Store, Check::WatchCache],
        _ => return None,
    };
    let Some(name) = segments.next() else {
        return Some(all(api, parts, probe, checks).await);
    };
    let Some(check) = checks.iter().find(|check| check.name() == name) else {
        return Some(text(StatusCode::NOT_FOUND, "404 page not found\n"));
    };
    Some(match check.passes(api).await {
        true => text(StatusCode::OK, "ok"),
        false => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("internal server error: {name} failed\n"),
        ),
    })
}

async fn all(api: &Api, parts: &Parts, probe: &str, checks: &[Check]) -> Response {
    let query = Query::of(&parts.uri).ok();
    let excluded = |check: &Check| query.as_ref().is_some_and(|q| q.says("exclude", check.name()));
    let (mut lines, mut good) = (String::new(), true);
    for check in checks {
        let line = match excluded(check) {
            true => format!("[+]{} excluded: ok\n", check.name()),
            false if check.passes(api).await => format!("[+]{} ok\n", check.name()),
            false => {
                good = false;
                format!("[-]{} failed: reason withheld\n", check.name())
            }
        };
        lines.push_str(&line);
    }
    let verbose = query.as_ref().is_some_and(|q| q.has("verbose"));
    match good {
        true if !verbose => text(StatusCode::OK, "ok"),
        true => text(StatusCode::OK, format!("{lines}{probe} check passed\n")),
        false => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{lines}{probe} check failed\n"),
        ),
    }
}
