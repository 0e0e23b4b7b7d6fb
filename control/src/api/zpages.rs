//! `/statusz`: the program at a glance, for people (KEP-4827). Nothing is to read it by machine, so its form may change.
use super::metrics::started;
use super::text;
use super::version::{GIT_VERSION, MAJOR, MINOR};
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;

pub(super) fn status() -> Response {
    let now = Timestamp::now().as_second();
    // Seconds: a time of this century fits.
    let began = started().map_or(now, |seconds| seconds as i64);
    let up = (now - began).max(0);
    let began = Timestamp::from_second(began).unwrap_or_default();
    text(
        StatusCode::OK,
        format!(
            "\napiserver statusz\n\
             Warning: this page is for people, and may look otherwise at any time.\n\n\
             Started: {}\nUp: {} hr {} min {} sec\nBinary version: {GIT_VERSION}\nEmulation version: {MAJOR}.{MINOR}\n\
             Paths: /flagz /healthz /livez /metrics /metrics/slis /readyz /statusz /version\n",
            began.strftime("%a %b %e %H:%M:%S UTC %Y"),
            up / 3600,
            up / 60 % 60,
            up % 60,
        ),
    )
}
