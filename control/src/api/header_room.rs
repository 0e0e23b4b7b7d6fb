//! Large headers of a connection's requests: each may have as much as upstream's, all that are being answered a bounded room, so that
//! a thousand streams are not a thousand times that.
use super::text;
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tower::ServiceExt;

/// KiB of large headers of one connection.
const ROOM: u32 = 16 << 10;
/// KiB of headers that do not count.
const SMALL: u32 = 64;
/// What a header takes beside its name and its value (RFC 9113, section 6.5.2).
const HEADER: usize = 32;

/// The room of one connection.
#[derive(Clone)]
pub struct HeaderRoom(Arc<Semaphore>);

impl Default for HeaderRoom {
    fn default() -> Self {
        HeaderRoom(Arc::new(Semaphore::new(ROOM as usize)))
    }
}

impl HeaderRoom {
    /// Answers the request, or 431 when others have the room. It is given back when the answer has been sent.
    pub async fn pass(self, router: Router, request: Request<Body>) -> Result<Response, Infallible> {
        let size = kib(request.headers());
        if size < SMALL {
            return router.oneshot(request).await;
        }
        let Ok(place) = self.0.try_acquire_many_owned(size) else {
            let why = "all headers of this connection's requests are too large together\n";
            return Ok(text(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, why));
        };
        let answer = router.oneshot(request).await?;
        Ok(answer.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _taken = &place;
                frame
            }))
        }))
    }
}

fn kib(headers: &HeaderMap) -> u32 {
    let bytes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + HEADER);
    u32::try_from(bytes.sum::<usize>() >> 10).unwrap_or(ROOM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kib: usize) -> Request<Body> {
        let large = "x".repeat(kib << 10);
        let request = Request::get("/").header("x-large", large);
        request.body(Body::empty()).expect("a request")
    }

    #[tokio::test]
    async fn large_headers_have_a_room_until_their_requests_are_answered() {
        let answers = Router::new().fallback(|| async { "well" });
        let room = HeaderRoom::default();
        let ask = async |kib| {
            room.clone()
                .pass(answers.clone(), request(kib))
                .await
                .expect("an answer")
        };
        let mut held = Vec::new();
        for _ in 0..16 {
            held.push(ask(1023).await);
        }
        assert!(held.iter().all(|answer| answer.status() == 200));
        assert_eq!(ask(1023).await.status(), 431);
        assert_eq!(ask(1).await.status(), 200, "what is small has room");
        let last = held
            .pop()
            .expect("one")
            .into_body()
            .collect()
            .await
            .expect("a body");
        assert_eq!(last.to_bytes(), "well");
        assert_eq!(ask(1023).await.status(), 200);
    }
}
