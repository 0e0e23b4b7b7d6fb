//! Reading and removing blobs, in whole or by range (RFC 9110 §14).

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, Method, StatusCode, header};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::error::{ApiError, Code};
use super::names::{Digest, Name};
use super::{Registry, empty, method_not_allowed};

/// Bytes read from disk at a time.
const READ_BYTES: usize = 64 << 10;

/// Runs file system work off the async threads.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, ApiError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined
        .map_err(|error| ApiError::internal(error.to_string()))?
        .map_err(ApiError::from)
}

/// Everything on `/v2/NAME/blobs/DIGEST`.
pub async fn answer(
    registry: &Registry,
    name: Name,
    digest: Digest,
    request: Request,
) -> Result<Response, ApiError> {
    let unknown = ApiError::new(Code::BlobUnknown, format!("{name} has no blob {digest}"));
    let disk = registry.disk.clone();
    let (method, headers) = (request.method().clone(), request.headers().clone());
    match method {
        Method::GET | Method::HEAD => {
            let (at, wanted) = (name.clone(), digest.clone());
            let path = blocking(move || Ok(disk.has_blob(&at, &wanted).then(|| disk.blob(&wanted)))).await?;
            let file = File::open(path.ok_or(unknown)?).await?;
            serve(file, &digest, &method, &headers).await
        }
        Method::DELETE => match blocking(move || disk.unlink_blob(&name, &digest)).await? {
            true => empty(StatusCode::ACCEPTED, &[]),
            false => Err(unknown),
        },
        _ => Err(method_not_allowed(&method)),
    }
}

async fn serve(
    mut file: File,
    digest: &Digest,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let size = file.metadata().await?.len();
    let range = match *method {
        Method::GET => requested_range(headers, size)?,
        _ => None,
    };
    let (status, start, length) = match range {
        Some((start, end)) => (StatusCode::PARTIAL_CONTENT, start, end - start + 1),
        None => (StatusCode::OK, 0, size),
    };
    let mut headers = vec![
        ("content-type", "application/octet-stream".to_owned()),
        ("content-length", length.to_string()),
        ("accept-ranges", "bytes".to_owned()),
        ("docker-content-digest", digest.to_string()),
        ("etag", format!("\"{digest}\"")),
    ];
    if status == StatusCode::PARTIAL_CONTENT {
        headers.push((
            "content-range",
            format!("bytes {start}-{}/{size}", start + length - 1),
        ));
    }
    let mut response = empty(status, &headers)?;
    if *method == Method::GET {
        file.seek(std::io::SeekFrom::Start(start)).await?;
        *response.body_mut() = Body::from_stream(ReaderStream::with_capacity(file.take(length), READ_BYTES));
    }
    Ok(response)
}

/// The first and last byte asked for; none when there is no range, or one this server need not understand.
fn requested_range(headers: &HeaderMap, size: u64) -> Result<Option<(u64, u64)>, ApiError> {
    let Some(spec) = headers
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok()?.strip_prefix("bytes="))
    else {
        return Ok(None);
    };
    let Some((first, last)) = spec.split_once('-').filter(|(_, last)| !last.contains(',')) else {
        return Ok(None);
    };
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.min(size.saturating_sub(1))),
        (Ok(first), Err(_)) if last.is_empty() => (first, size.saturating_sub(1)),
        (Err(_), Ok(count)) if first.is_empty() && count > 0 => {
            (size.saturating_sub(count), size.saturating_sub(1))
        }
        _ => return Ok(None),
    };
    match range.0 < size {
        true => Ok(Some(range)),
        false => Err(ApiError::new(
            Code::Range,
            format!("range {spec} is beyond the {size} bytes"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let range = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, text.parse().unwrap());
            requested_range(&headers, 10)
        };
        assert_eq!(range("bytes=2-4").unwrap(), Some((2, 4)));
        assert_eq!(range("bytes=2-").unwrap(), Some((2, 9)));
        assert_eq!(range("bytes=2-99").unwrap(), Some((2, 9)));
        assert_eq!(range("bytes=-3").unwrap(), Some((7, 9)));
        assert_eq!(range("bytes=-30").unwrap(), Some((0, 9)));
        for ignored in ["bytes=4-2", "bytes=0-1,3-4", "lines=1-2", "bytes=x-y", "bytes=-0"] {
            assert_eq!(range(ignored).unwrap(), None, "{ignored}");
        }
        assert_eq!(range("bytes=10-").unwrap_err().code, Code::Range);
    }
}
