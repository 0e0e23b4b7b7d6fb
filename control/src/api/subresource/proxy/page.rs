//! Pages for people: held until they are whole, and sent on with their links led through here. What is too long, too slow or
//! no text passes as it is, as it comes.
use super::super::super::status::{ApiError, Result};
use super::coding::Coding;
use super::links;
use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Longer ones are no pages for people.
const LENGTH: usize = 8 << 20;
/// With its links led through here a page is longer; one that is so by more has been made for that.
const LED: usize = 2 * LENGTH;
/// Pages that are held at once: for the memory, and for the processors that look for links.
const PAGES: usize = 8;
/// How long a page may take to have its place and to be whole; what goes on for longer is no page for people either.
pub(super) const WHOLE_WITHIN: Duration = Duration::from_secs(5);

/// Of all users together, for memory and processors are one.
static PLACES: Semaphore = Semaphore::const_new(PAGES);

/// Whether the answer is HTML, and is not said to be too long to be held.
pub(super) fn is_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = text(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next());
    let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    kind.is_some_and(|kind| kind.trim() == "text/html") && length.is_none_or(|length| length <= LENGTH)
}

/// The page with its links led through here, if it is whole `within` that time.
pub(super) async fn sent_on(
    answer: Response,
    coding: Coding,
    within: Duration,
    lead: impl Fn(&str) -> Option<String> + Send + 'static,
) -> Result<Response> {
    let (mut head, mut body) = answer.into_parts();
    let mut read = BytesMut::new();
    let place = tokio::time::timeout(within, held(&mut body, &mut read)).await;
    let place = place.unwrap_or(Ok(None))?;
    let read = read.freeze();
    let Some(place) = place else {
        let begun = stream::iter((!read.is_empty()).then_some(Ok(read)));
        let all = begun.chain(body.into_data_stream());
        return Ok(Response::from_parts(head, Body::from_stream(all)));
    };
    // A little that is compressed may be much. The place is free again when the work is done, whoever waits for it.
    let sent = tokio::task::spawn_blocking(move || {
        let _place = place;
        led(&read, coding, lead).unwrap_or((read, false))
    });
    let (sent, changed) = sent.await.map_err(ApiError::internal)?;
    if changed {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    Ok(Response::from_parts(head, Body::from(sent)))
}

/// Reads a page until it ends, and answers its place; none when it is too long to be held.
async fn held(body: &mut Body, read: &mut BytesMut) -> Result<Option<SemaphorePermit<'static>>> {
    let place = PLACES.acquire().await.map_err(ApiError::internal)?;
    while read.len() <= LENGTH {
        let Some(frame) = body.frame().await else {
            return Ok(Some(place));
        };
        let frame = frame.map_err(|why| ApiError::unreachable(&why.to_string()))?;
        read.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
    }
    Ok(None)
}

/// The page as it is sent on, and that it has changed; none for what is no text.
fn led(read: &[u8], coding: Coding, lead: impl Fn(&str) -> Option<String>) -> Option<(Bytes, bool)> {
    let text = coding.text(read, LENGTH)?;
    // Compressing into memory does not fail.
    let sent = coding.sent(links::rewritten(&text, LED, lead)?).ok()?;
    Some((sent.into(), true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    const BEGINNING: &str = "<a href=/x>";

    fn lead(_: &str) -> Option<String> {
        Some("/proxy/x".to_owned())
    }

    /// What is sent on of an answer that never ends.
    async fn first_of(answer: Body) -> Bytes {
        let sent = sent_on(
            Response::new(answer),
            Coding::Plain,
            Duration::from_millis(1),
            lead,
        );
        let mut sent = sent.await.expect("an answer").into_body().into_data_stream();
        sent.next().await.expect("its beginning").expect("no error")
    }

    #[tokio::test]
    async fn what_is_not_whole_in_time_passes_as_it_comes() {
        let beginning = stream::iter([Ok::<_, io::Error>(Bytes::from(BEGINNING))]);
        let endless = Body::from_stream(beginning.chain(stream::pending()));
        assert_eq!(first_of(endless).await, BEGINNING);
    }

    #[tokio::test]
    async fn no_more_pages_are_held_than_have_places() {
        let places = PLACES
            .acquire_many(PAGES as u32)
            .await
            .expect("it is never closed");
        assert_eq!(first_of(Body::from(BEGINNING)).await, BEGINNING);
        drop(places);
        let sent = sent_on(
            Response::new(Body::from(BEGINNING)),
            Coding::Plain,
            WHOLE_WITHIN,
            lead,
        );
        let sent = sent.await.expect("an answer").into_body().collect().await;
        assert_eq!(sent.expect("a page").to_bytes(), "<a href=/proxy/x>");
    }
}
