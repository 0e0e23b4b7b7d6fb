//! Requests with large bodies, on threads of their own: they are decoded, defaulted, validated and merged without a pause, which
//! takes seconds at worst, and nobody else's request, watch or lease waits for that. (Go's scheduler interrupts such work.)
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body::Body as _;
use std::io;
use std::sync::OnceLock;
use tokio::runtime::{Builder, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// Bytes of a body. Few objects that are written often are as large.
const LARGE: u64 = 16 << 10;

/// The threads of all API servers of this process, from the first large body on: as many as processors, so that large bodies get half
/// of them when there is other work. They are never joined.
static THREADS: OnceLock<Runtime> = OnceLock::new();

/// Answers the request, here or there.
pub async fn apart(request: Request, next: Next) -> Response {
    if !is_large(&request) {
        return next.run(request).await;
    }
    let threads = match threads() {
        Ok(threads) => threads,
        Err(error) => {
            tracing::warn!(%error, "no threads for large requests; they are answered among the others");
            return next.run(request).await;
        }
    };
    let answered = AbortOnDropHandle::new(threads.spawn(next.run(request))).await;
    // It is aborted by nobody else, so what did not end has panicked, and does so here as it would have without threads.
    answered.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))
}

/// Whether its body is, or may be: who does not say how long it is may send any.
fn is_large(request: &Request) -> bool {
    let body = request.body();
    !body.is_end_stream() && body.size_hint().upper().is_none_or(|most| most > LARGE)
}

fn threads() -> io::Result<&'static Runtime> {
    if let Some(threads) = THREADS.get() {
        return Ok(threads);
    }
    let threads = Builder::new_multi_thread()
        .thread_name("large-requests")
        .enable_all()
        .build()?;
    // Who was faster made as good ones.
    if let Err(late) = THREADS.set(threads) {
        late.shutdown_background();
    }
    THREADS.get().ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::Body;
    use axum::routing::any;
    use tower::ServiceExt;

    fn request(length: u64) -> Request {
        let length = usize::try_from(length).expect("a length");
        Request::new(Body::from(vec![b' '; length]))
    }

    #[test]
    fn what_may_be_large_is_told_by_its_length() {
        for (length, want) in [(0, false), (LARGE, false), (LARGE + 1, true)] {
            assert_eq!(is_large(&request(length)), want, "{length}");
        }
        let endless = futures::stream::pending::<io::Result<bytes::Bytes>>();
        assert!(is_large(&Request::new(Body::from_stream(endless))));
    }

    /// The one thread of this test is held by nothing but small requests.
    #[tokio::test]
    async fn a_small_request_is_answered_while_a_large_one_is_worked_on() {
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (begun, released) = (std::sync::Mutex::new(begun), std::sync::Mutex::new(released));
        let shared = std::sync::Arc::new((begun, released));
        let work = move |request: Request| {
            let shared = shared.clone();
            async move {
                if is_large(&request) {
                    shared.0.lock().expect("a lock").send(()).expect("somebody waits");
                    shared.1.lock().expect("a lock").recv().expect("a release");
                }
                "done"
            }
        };
        let app = Router::new()
            .route("/", any(work))
            .layer(axum::middleware::from_fn(apart));
        let large = tokio::spawn(app.clone().oneshot(request(LARGE + 1)));
        tokio::task::yield_now().await;
        has_begun.recv().expect("it begins");
        let small = app.oneshot(request(1)).await.expect("an answer");
        assert_eq!(small.status(), 200);
        release.send(()).expect("it waits");
        assert_eq!(large.await.expect("it ends").expect("an answer").status(), 200);
    }
}
