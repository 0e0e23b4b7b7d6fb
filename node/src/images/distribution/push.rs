//! Uploading: blobs that the registry lacks, in one PUT each (distribution-spec, "Pushing blobs"), then the
//! manifest.

use std::path::PathBuf;

use bytes::Bytes;
use futures::TryStreamExt;
use http::{HeaderValue, Method, StatusCode, header};
use reqwest::{Body, Url};
use tokio_util::io::ReaderStream;

use super::{
    Access, Distribution, RegistryAuth, RegistryError, Request, Session, bare, header_text, success,
};
use crate::images::digest::Digest;
use crate::images::reference::ImageReference;

/// Where a blob's bytes are.
#[derive(Debug, Clone)]
pub enum BlobSource {
    Memory(Bytes),
    File(PathBuf),
}

impl BlobSource {
    async fn len(&self) -> std::io::Result<u64> {
        match self {
            Self::Memory(bytes) => Ok(bytes.len() as u64),
            Self::File(path) => Ok(tokio::fs::metadata(path).await?.len()),
        }
    }

    /// A body over the bytes; `on_bytes` is told of each chunk handed to the connection.
    fn body(&self, on_bytes: &(impl Fn(u64) + Clone + Send + Sync + 'static)) -> Body {
        match self {
            Self::Memory(bytes) => {
                on_bytes(bytes.len() as u64);
                Body::from(bytes.clone())
            }
            Self::File(path) => {
                let path = path.clone();
                let on_bytes = on_bytes.clone();
                let open = async move {
                    Ok::<_, std::io::Error>(ReaderStream::new(tokio::fs::File::open(path).await?))
                };
                let stream = futures::stream::once(open).try_flatten();
                Body::wrap_stream(stream.inspect_ok(move |chunk| on_bytes(chunk.len() as u64)))
            }
        }
    }
}

impl Distribution {
    /// Whether the registry already has a blob.
    ///
    /// # Errors
    /// The registry could not be asked, or refuses access.
    pub async fn has_blob(
        &self,
        reference: &ImageReference,
        digest: &Digest,
        auth: &RegistryAuth,
    ) -> Result<bool, RegistryError> {
        let session = self.session(reference, Access::Push, auth)?;
        let request = Request::new(Method::HEAD, session.url(&format!("blobs/{digest}"))?);
        let response = self.send(&session, request).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            _ => success(response, &session, &reference.pinned(digest))
                .await
                .map(|_| true),
        }
    }

    /// Uploads a blob in one piece; `on_bytes` is told of the bytes sent.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn push_blob(
        &self,
        reference: &ImageReference,
        digest: &Digest,
        source: &BlobSource,
        auth: &RegistryAuth,
        on_bytes: impl Fn(u64) + Clone + Send + Sync + 'static,
    ) -> Result<(), RegistryError> {
        let session = self.session(reference, Access::Push, auth)?;
        let length = source.len().await.map_err(|source| RegistryError::Io {
            step: "read the blob",
            source,
        })?;
        let mut url = self.begin_upload(&session).await?;
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let body = || source.body(&on_bytes);
        let mut request = Request::new(Method::PUT, url);
        request.body = Some(&body);
        request.headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        request
            .headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        let response = self.send(&session, request).await?;
        success(response, &session, &reference.pinned(digest))
            .await
            .map(drop)
    }

    /// Opens an upload session and returns its URL, which must stay with the registry.
    async fn begin_upload(&self, session: &Session<'_>) -> Result<Url, RegistryError> {
        let mut request = Request::new(Method::POST, session.url("blobs/uploads/")?);
        request
            .headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        let response = self.send(session, request).await?;
        let response = success(response, session, session.repository).await?;
        let from = response.url().clone();
        let location =
            header_text(&response, header::LOCATION).and_then(|location| from.join(&location).ok());
        let to = location.ok_or_else(|| RegistryError::Header {
            url: bare(&from),
            header: "Location",
        })?;
        if from.scheme() == "https" && to.scheme() != "https" {
            return Err(RegistryError::Downgrade {
                from: bare(&from),
                to: bare(&to),
            });
        }
        Ok(to)
    }

    /// Uploads a manifest under `id` (a tag or its digest).
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn push_manifest(
        &self,
        reference: &ImageReference,
        id: &str,
        media_type: &str,
        bytes: Bytes,
        auth: &RegistryAuth,
    ) -> Result<Digest, RegistryError> {
        let session = self.session(reference, Access::Push, auth)?;
        let digest = Digest::of(&bytes);
        let body = || Body::from(bytes.clone());
        let mut request = Request::new(Method::PUT, session.url(&format!("manifests/{id}"))?);
        request.body = Some(&body);
        let media_type = HeaderValue::from_str(media_type);
        request.headers.insert(
            header::CONTENT_TYPE,
            media_type.unwrap_or(HeaderValue::from_static(crate::images::media::OCI_MANIFEST)),
        );
        let response = self.send(&session, request).await?;
        success(response, &session, &reference.to_string()).await?;
        Ok(digest)
    }
}
