//! What is read of an image, from the mirrors of its registry first and then from the registry itself. Refuses to know how a
//! request is proved and led on.

use http::{HeaderValue, Method, header};
use reqwest::Response;

use super::super::media;
use super::{
    Access, Digest, Distribution, ImageReference, MAX_MANIFEST_BYTES, RawManifest, RegistryAuth,
    RegistryError, Request, Session, bounded, header_text, success,
};

/// Who shows no credentials.
static NOBODY: RegistryAuth = RegistryAuth::Anonymous;

impl Distribution {
    /// The manifest or index `id` (a tag or digest) names in `reference`'s repository.
    ///
    /// # Errors
    /// See [`RegistryError`]; content that does not match a digest asked for is refused.
    pub async fn manifest(
        &self,
        reference: &ImageReference,
        id: &str,
        auth: &RegistryAuth,
    ) -> Result<RawManifest, RegistryError> {
        for mirror in self.mirrors(reference) {
            match self.manifest_from(&mirror, reference, id).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => tracing::info!(%error, mirror = mirror.registry, "a mirror is passed over"),
            }
        }
        let session = self.session(reference, Access::Pull, auth)?;
        self.manifest_from(&session, reference, id).await
    }

    async fn manifest_from(
        &self,
        session: &Session<'_>,
        reference: &ImageReference,
        id: &str,
    ) -> Result<RawManifest, RegistryError> {
        let mut request = Request::new(Method::GET, session.url(&format!("manifests/{id}"))?);
        let accept = HeaderValue::from_str(&media::MANIFESTS.join(", "));
        request
            .headers
            .insert(header::ACCEPT, accept.unwrap_or(HeaderValue::from_static("*/*")));
        let response = self.send(session, request).await?;
        let mut response = success(response, session, &reference.to_string()).await?;
        let media_type = header_text(&response, header::CONTENT_TYPE).unwrap_or_default();
        let bytes = bounded(&mut response, "manifest", MAX_MANIFEST_BYTES).await?;
        let expected = id.parse::<Digest>().ok();
        let digest = expected
            .as_ref()
            .map_or_else(|| Digest::of(&bytes), |expected| expected.like(&bytes));
        match expected {
            Some(expected) if expected != digest => Err(RegistryError::DigestMismatch {
                expected,
                actual: digest,
            }),
            _ => Ok(RawManifest {
                media_type,
                digest,
                bytes,
            }),
        }
    }

    /// The body of a blob, not yet verified: the caller hashes what it reads. It is asked for from byte `from`; a registry that
    /// does not answer 206 sends all of it.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn blob(
        &self,
        reference: &ImageReference,
        digest: &Digest,
        from: u64,
        auth: &RegistryAuth,
    ) -> Result<Response, RegistryError> {
        for mirror in self.mirrors(reference) {
            match self.blob_from(&mirror, reference, digest, from).await {
                Ok(response) => return Ok(response),
                Err(error) => tracing::info!(%error, mirror = mirror.registry, "a mirror is passed over"),
            }
        }
        let session = self.session(reference, Access::Pull, auth)?;
        self.blob_from(&session, reference, digest, from).await
    }

    async fn blob_from(
        &self,
        session: &Session<'_>,
        reference: &ImageReference,
        digest: &Digest,
        from: u64,
    ) -> Result<Response, RegistryError> {
        let mut request = Request::new(Method::GET, session.url(&format!("blobs/{digest}"))?);
        if from > 0 {
            let range = HeaderValue::from_str(&format!("bytes={from}-"));
            request
                .headers
                .extend(range.ok().map(|range| (header::RANGE, range)));
        }
        let response = self.send(session, request).await?;
        success(response, session, &reference.pinned(digest)).await
    }

    /// Who is asked before the registry. They are shown nobody's credentials: those were given for the registry.
    fn mirrors<'a>(&'a self, reference: &'a ImageReference) -> impl Iterator<Item = Session<'a>> {
        let before = self.inner.endpoints.before(reference.registry());
        before.filter_map(|(name, base)| {
            let base = base.inspect_err(|error| tracing::warn!(%error, "a mirror cannot be asked"));
            Some(Session {
                registry: name,
                repository: reference.repository(),
                access: Access::Pull,
                auth: &NOBODY,
                base: base.ok()?,
            })
        })
    }
}
