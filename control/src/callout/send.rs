//! One HTTP/1.1 request over a connection of its own, which may become another protocol's.
use super::Place;
use super::tls::{Trust, dial};
use crate::auth::pki::Issued;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::error::Error;

/// Sends the request; the connection ends with the answer.
pub async fn send<B>(
    place: &Place,
    trust: Trust<'_>,
    own: Option<&Issued>,
    request: Request<B>,
) -> Result<Response<Incoming>, String>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let tls = dial(place, trust, own).await?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(tls));
    let (mut sender, connection) = handshake.await.map_err(|e| e.to_string())?;
    // Ends with the answer: when either side lets go of it.
    tokio::spawn(async move { drop(connection.with_upgrades().await) });
    sender.send_request(request).await.map_err(|e| e.to_string())
}
