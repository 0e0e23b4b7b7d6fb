//! A client of the OCI distribution API (distribution-spec v1.1) that gives nothing away: manifests are bounded,
//! redirects are followed by hand so that credentials stay with the registry they were given for, and nothing
//! steps down from HTTPS to HTTP unless the registry is listed as insecure.
//!
//! It knows URLs, tokens and bytes; it refuses to know where content is kept or what an image is.

mod auth;
mod challenge;
mod endpoint;
mod fetch;
mod push;

pub use endpoint::{EndpointError, Endpoints};
pub use oci_distribution::secrets::RegistryAuth;
pub use push::BlobSource;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::{Body, Response, Url};

use self::auth::Tokens;
use super::digest::Digest;
use super::reference::ImageReference;

/// Largest manifest or index accepted; the distribution spec asks registries for at least this (4 MiB).
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;
/// Largest error or token document read from a registry.
const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// Redirects followed for one request: registries use one, proxies in front of them another.
const MAX_REDIRECTS: usize = 5;
/// A host that does not accept a connection in this time is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A transfer without a single byte for this long is dead.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a registry did not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("{what}: not found")]
    NotFound { what: String },
    #[error(
        "pull access denied, repository {repository} does not exist or may require authorization: {message}"
    )]
    Denied { repository: String, message: String },
    #[error("unexpected status from {url}: {status}{message}")]
    Status {
        url: String,
        status: StatusCode,
        message: String,
    },
    #[error("failed to do request to {url}: {message}")]
    Transport { url: String, message: String },
    #[error("registry {registry} asks for credentials to be sent to {realm}, which is refused")]
    ForeignRealm { registry: String, realm: String },
    #[error("redirect from {from} to {to} would leave HTTPS; list the registry as insecure if that is meant")]
    Downgrade { from: String, to: String },
    #[error("{url} redirects too often or nowhere")]
    Redirects { url: String },
    #[error("{what} is larger than the limit of {limit} bytes")]
    TooLarge { what: &'static str, limit: usize },
    #[error("the registry's answer does not match its digest: expected {expected}, got {actual}")]
    DigestMismatch { expected: Digest, actual: Digest },
    #[error("the registry sent {actual} bytes where the manifest says {expected}")]
    SizeMismatch { expected: u64, actual: u64 },
    #[error("{url} gave no usable {header} header")]
    Header { url: String, header: &'static str },
    #[error("token server {realm} gave no token: {message}")]
    Token { realm: String, message: String },
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Digest(#[from] super::digest::DigestError),
    #[error("cannot {step}: {source}")]
    Io {
        step: &'static str,
        source: std::io::Error,
    },
}

/// A manifest as served, digest verified where one was asked for.
#[derive(Debug, Clone)]
pub struct RawManifest {
    pub media_type: String,
    pub digest: Digest,
    pub bytes: Bytes,
}

/// What a request may do, in the token specification's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Access {
    Pull,
    Push,
}

/// A client of any number of registries. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Distribution {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoints: Endpoints,
    /// Honours the proxy environment, as other container tools do.
    proxied: reqwest::Client,
    /// For loopback addresses, which no proxy can reach.
    direct: reqwest::Client,
    tokens: Tokens,
}

/// One request; `body` is called again when it has to be sent again.
struct Request<'a> {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<&'a (dyn Fn() -> Body + Send + Sync)>,
}

impl Request<'_> {
    fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            body: None,
        }
    }
}

/// Who asks for what: the part of a request that decides its credentials.
struct Session<'a> {
    registry: &'a str,
    repository: &'a str,
    access: Access,
    auth: &'a RegistryAuth,
    base: Url,
}

impl Distribution {
    /// # Errors
    /// The TLS stack or the system's root certificates cannot be loaded.
    pub fn new(endpoints: Endpoints) -> Result<Self, reqwest::Error> {
        // Whoever else in the process installed a provider first wins; every build here has only ring.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(STALL_TIMEOUT)
                .user_agent(concat!("amphipod/", env!("CARGO_PKG_VERSION")))
        };
        let inner = Inner {
            endpoints,
            proxied: builder().build()?,
            direct: builder().no_proxy().build()?,
            tokens: Tokens::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// A JSON document below `/v2/`, such as `_catalog`; for registries that may be listed.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn document(
        &self,
        registry: &str,
        path: &str,
        auth: &RegistryAuth,
    ) -> Result<Bytes, RegistryError> {
        let base = self.inner.endpoints.resolve(registry)?;
        let session = Session {
            registry,
            repository: "",
            access: Access::Pull,
            auth,
            base,
        };
        let url = join(&session.base, &format!("/v2/{path}"))?;
        let response = self.send(&session, Request::new(Method::GET, url)).await?;
        let mut response = success(response, &session, path).await?;
        bounded(&mut response, "listing", MAX_MANIFEST_BYTES).await
    }

    fn session<'a>(
        &self,
        reference: &'a ImageReference,
        access: Access,
        auth: &'a RegistryAuth,
    ) -> Result<Session<'a>, RegistryError> {
        let base = self.inner.endpoints.resolve(reference.registry())?;
        Ok(Session {
            registry: reference.registry(),
            repository: reference.repository(),
            access,
            auth,
            base,
        })
    }

    /// Sends a request with what is known of the credentials, answers one challenge, and follows redirects.
    async fn send(&self, session: &Session<'_>, request: Request<'_>) -> Result<Response, RegistryError> {
        let response = self.follow(session, &request).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let challenge = header_text(&response, header::WWW_AUTHENTICATE);
        let challenge = challenge.as_deref().and_then(challenge::parse);
        let Some(challenge) = challenge else {
            return Ok(response);
        };
        match self.authenticate(session, challenge).await? {
            true => self.follow(session, &request).await,
            false => Ok(response),
        }
    }

    async fn follow(&self, session: &Session<'_>, request: &Request<'_>) -> Result<Response, RegistryError> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.once(session, request, &url).await?;
            if !is_redirect(&request.method, response.status()) {
                return Ok(response);
            }
            url = self.redirect_target(&url, &response)?;
        }
        Err(RegistryError::Redirects {
            url: request.url.to_string(),
        })
    }

    fn redirect_target(&self, from: &Url, response: &Response) -> Result<Url, RegistryError> {
        let location = header_text(response, header::LOCATION);
        let target = location.and_then(|location| from.join(&location).ok());
        let to = target.ok_or_else(|| RegistryError::Redirects { url: bare(from) })?;
        match self.inner.endpoints.may_redirect(from, &to) {
            true => Ok(to),
            false => Err(RegistryError::Downgrade {
                from: bare(from),
                to: bare(&to),
            }),
        }
    }

    async fn once(
        &self,
        session: &Session<'_>,
        request: &Request<'_>,
        url: &Url,
    ) -> Result<Response, RegistryError> {
        let client = self.client_for(url);
        let mut builder = client
            .request(request.method.clone(), url.clone())
            .headers(request.headers.clone());
        if endpoint::same_authority(url, &session.base) && url.scheme() == session.base.scheme() {
            builder = self.inner.tokens.apply(session, builder);
        }
        if let Some(body) = request.body {
            builder = builder.body(body());
        }
        builder.send().await.map_err(|error| transport(url, &error))
    }

    fn client_for(&self, url: &Url) -> &reqwest::Client {
        match url.host_str().is_some_and(endpoint::is_loopback) {
            true => &self.inner.direct,
            false => &self.inner.proxied,
        }
    }
}

impl Session<'_> {
    /// `path` below the repository.
    fn url(&self, path: &str) -> Result<Url, RegistryError> {
        join(&self.base, &format!("/v2/{}/{path}", self.repository))
    }
}

fn join(base: &Url, path: &str) -> Result<Url, RegistryError> {
    let mut url = base.clone();
    let (path, query) = path
        .split_once('?')
        .map_or((path, None), |(path, query)| (path, Some(query)));
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url.set_query(query);
    Ok(url)
}

fn is_redirect(method: &Method, status: StatusCode) -> bool {
    matches!(*method, Method::GET | Method::HEAD) && matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// A URL without its query: signed URLs are secrets and do not belong in messages.
fn bare(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

fn header_text(response: &Response, name: header::HeaderName) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// The innermost cause is the useful one ("connection refused"); reqwest's outer text repeats the URL.
fn transport(url: &Url, error: &reqwest::Error) -> RegistryError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    RegistryError::Transport {
        url: bare(url),
        message: cause.to_string(),
    }
}

/// Passes a success on and turns everything else into an error that says what was asked.
async fn success(
    mut response: Response,
    session: &Session<'_>,
    what: &str,
) -> Result<Response, RegistryError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let url = bare(response.url());
    let message = error_message(&mut response).await;
    match status {
        StatusCode::NOT_FOUND => Err(RegistryError::NotFound {
            what: what.to_owned(),
        }),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(RegistryError::Denied {
            repository: format!("{}/{}", session.registry, session.repository),
            message: if message.is_empty() {
                status.to_string()
            } else {
                message
            },
        }),
        _ => {
            let message = if message.is_empty() {
                message
            } else {
                format!(": {message}")
            };
            Err(RegistryError::Status { url, status, message })
        }
    }
}

/// The messages of an error document (distribution-spec, "Error Codes"); empty when there is none.
async fn error_message(response: &mut Response) -> String {
    #[derive(serde::Deserialize)]
    struct Document {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(body) = bounded(response, "error document", MAX_DOCUMENT_BYTES).await else {
        return String::new();
    };
    let Ok(document) = serde_json::from_slice::<Document>(&body) else {
        return String::new();
    };
    let texts: Vec<String> = document
        .errors
        .iter()
        .map(|e| format!("{}: {}", e.code, e.message))
        .collect();
    texts.join("; ")
}

/// Reads a whole body, refusing more than `limit` bytes.
async fn bounded(response: &mut Response, what: &'static str, limit: usize) -> Result<Bytes, RegistryError> {
    let mut body = Vec::new();
    let url = response.url().clone();
    while let Some(chunk) = response.chunk().await.map_err(|error| transport(&url, &error))? {
        if body.len() + chunk.len() > limit {
            return Err(RegistryError::TooLarge { what, limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}
