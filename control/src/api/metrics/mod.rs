//! What the API server counts about itself, under upstream's names (`apiserver_request_total` and so on).
//!
//! Owns the counters and how a request is classed. Refuses to know what requests do. Label values come from the table
//! of kinds, from lists here, and from what administrators name; never from a client, so that the number of series is bounded.
mod access;
mod class;
mod connections;
mod flow_control;
mod others;
mod process;
mod requests;
mod slis;
mod storage;
mod watches;

use super::{Api, text};
use crate::measures::Exposition;
use access::Access;
use axum::response::Response;
pub use connections::Connections;
use http::{HeaderValue, StatusCode, header};
pub use others::Unavailable;
pub use process::started;
use requests::Requests;
pub(super) use requests::Waited;
use slis::Slis;
use std::sync::Arc;
use watches::Watches;

#[derive(Default)]
pub struct Metrics {
    requests: Requests,
    pub(super) access: Access,
    pub(super) watches: Watches,
    pub(super) slis: Slis,
    connections: Arc<Connections>,
    unavailable: Arc<Unavailable>,
}

impl Metrics {
    /// Those of a server that listens somewhere.
    pub fn of(connections: Arc<Connections>) -> Metrics {
        Metrics {
            connections,
            ..Metrics::default()
        }
    }

    /// Where it is counted how often servers of others went away.
    pub fn unavailable(&self) -> Arc<Unavailable> {
        self.unavailable.clone()
    }
}

/// `/metrics` in Prometheus' text format, version 0.0.4.
pub(super) async fn answer(api: &Api) -> Response {
    let mut out = Exposition::default();
    let metrics = &api.metrics;
    metrics.requests.write(&mut out);
    metrics.watches.write(&mut out);
    api.admission.measured(&mut out);
    metrics.access.write(&mut out);
    metrics.connections.write(&mut out);
    storage::write(api, &mut out).await;
    flow_control::write(api, &mut out);
    others::write(api, &metrics.unavailable, &mut out);
    process::write(&mut out);
    exposed(out)
}

fn exposed(out: Exposition) -> Response {
    let mut response = text(StatusCode::OK, out.finish());
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, format);
    response
}
