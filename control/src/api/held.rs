//! Answers that are held whole until they are read, such as lists in protobuf, YAML and Tables (those in JSON are made piece by
//! piece). All of them together have a bounded room, and who does not read his in time loses it, as upstream, whose
//! requests end after `--request-timeout`.
use super::list::Page;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

/// KiB of all such answers.
const ROOM: u32 = 512 << 10;
/// Smaller answers do not count.
const SMALL: usize = 1 << 20;
/// What a connection is handed at once.
const PIECE: usize = 64 << 10;
/// Upstream's `--request-timeout`.
const WITHIN: Duration = Duration::from_secs(60);

/// The room for them.
#[derive(Clone)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM as usize)))
    }
}

impl Room {
    /// Waits until there is room for what shows this page: about as much as the objects have in JSON.
    pub async fn hold(&self, page: &Page) -> Option<OwnedSemaphorePermit> {
        let bytes: usize = page.objects.iter().map(|object| object.line.len()).sum();
        if bytes < SMALL {
            return None;
        }
        let wanted = u32::try_from(bytes >> 10).unwrap_or(ROOM).min(ROOM);
        // It is never closed.
        self.0.clone().acquire_many_owned(wanted).await.ok()
    }
}

/// The answer, which gives its room back when it is read or was not for too long.
pub fn within(room: Option<OwnedSemaphorePermit>, answer: Response) -> Response {
    match room {
        Some(room) => answer.map(|body| Body::new(Held::new(body, room, WITHIN))),
        None => answer,
    }
}

struct Held {
    kept: Arc<Mutex<Option<Kept>>>,
    size: SizeHint,
    _limit: AbortOnDropHandle<()>,
}

struct Kept {
    body: Body,
    /// Of what came of the body last.
    rest: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Held {
    fn new(body: Body, room: OwnedSemaphorePermit, within: Duration) -> Self {
        let size = body.size_hint();
        let kept = Arc::new(Mutex::new(Some(Kept {
            body,
            rest: Bytes::new(),
            _room: room,
        })));
        let limited = kept.clone();
        let limit = tokio::spawn(async move {
            tokio::time::sleep(within).await;
            lock(&limited).take();
        });
        Self {
            kept,
            size,
            _limit: AbortOnDropHandle::new(limit),
        }
    }
}

impl Drop for Held {
    /// The room is free at once, not when the limit's task is gone.
    fn drop(&mut self) {
        lock(&self.kept).take();
    }
}

fn lock(kept: &Mutex<Option<Kept>>) -> MutexGuard<'_, Option<Kept>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut held = lock(&self.kept);
        let Some(kept) = held.as_mut() else {
            let late = io::Error::new(io::ErrorKind::TimedOut, "the answer was not read in time");
            return Poll::Ready(Some(Err(axum::Error::new(late))));
        };
        while kept.rest.is_empty() {
            match ready!(Pin::new(&mut kept.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => kept.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = kept.rest.split_to(PIECE.min(kept.rest.len()));
        // A slice would keep all of the answer for as long as the connection has it.
        Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&piece)))))
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn held(room: &Arc<Semaphore>, answer: Vec<u8>, within: Duration) -> Body {
        let place = room.clone().try_acquire_many_owned(1).expect("room");
        Body::new(Held::new(Body::from(answer), place, within))
    }

    #[tokio::test]
    async fn an_answer_has_its_room_until_it_is_read() {
        let room = Arc::new(Semaphore::new(1));
        let answer: Vec<u8> = (0..200_000_u32).map(|at| at.to_le_bytes()[0]).collect();
        let mut body = held(&room, answer.clone(), WITHIN);
        assert_eq!(body.size_hint().exact(), Some(200_000));
        let first = body.frame().await.expect("a piece").expect("a piece");
        let mut read = first.into_data().expect("data").to_vec();
        assert_eq!((read.len(), room.available_permits()), (PIECE, 0));
        read.extend(body.collect().await.expect("the rest").to_bytes());
        assert_eq!((read == answer, room.available_permits()), (true, 1));
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_loses_its_room() {
        let room = Arc::new(Semaphore::new(1));
        let mut body = held(&room, vec![0; 200_000], Duration::from_millis(1));
        let _again = room.acquire().await.expect("room");
        assert!(body.frame().await.expect("an end").is_err());
    }
}
