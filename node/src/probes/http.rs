//! The HTTP probe: a GET whose status from 200 to 399 is success (API reference, HTTPGetAction).
//!
//! Redirects are followed within the same host, ten at most; one to another host ends the probe with
//! success and a warning. Certificates are not verified: the probe asks whether a container
//! answers, not who it is (documentation: Configure Probes, "scheme").

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::check::Outcome;
use super::dial;

/// What of an answer is read, and shown in a warning.
const BODY_LIMIT: usize = 10 * 1024;

const REDIRECTS: usize = 10;

/// What is said of a server that speaks no TLS.
pub const NO_TLS: &str = "http: server gave HTTP response to HTTPS client";

/// The minor version is the one of the API this node speaks.
pub const AGENT: &str = "kube-probe/1.36";

/// A GET and where it goes.
#[derive(Clone, Debug)]
pub struct HttpCheck {
    url: Url,
    headers: HeaderMap,
    /// The Host header where it is not the URL's.
    host: Option<HeaderValue>,
}

/// As much of a URL as probes need.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Url {
    tls: bool,
    host: String,
    port: Option<u16>,
    /// Path and query, beginning with a slash.
    path: String,
}

impl HttpCheck {
    pub fn new(get: &HTTPGetAction, host: String, port: u16, agent: &'static str) -> Self {
        let tls = get.scheme.as_deref() == Some("HTTPS");
        let url = Url {
            tls,
            host,
            port: Some(port),
            path: path(get.path.as_deref().unwrap_or("/")),
        };
        let mut headers = HeaderMap::new();
        let mut own_host = None;
        for header in get.http_headers.iter().flatten() {
            let (Ok(name), Ok(value)) = (
                HeaderName::try_from(&header.name),
                HeaderValue::try_from(&header.value),
            ) else {
                continue;
            };
            if name == HOST {
                own_host = Some(value);
            } else {
                headers.append(name, value);
            }
        }
        default_header(&mut headers, USER_AGENT, agent);
        default_header(&mut headers, ACCEPT, "*/*");
        Self {
            url,
            headers,
            host: own_host,
        }
    }

    pub async fn run(&self, within: Duration) -> Outcome {
        let deadline = Instant::now() + within;
        let mut url = self.url.clone();
        for _ in 0..=REDIRECTS {
            let answer = match self.get(&url, deadline).await {
                Ok(answer) => answer,
                Err(error) => return Outcome::Failure(format!("Get \"{url}\": {error}")),
            };
            match redirect(&url, &answer.status, &answer.headers) {
                Redirect::None | Redirect::Elsewhere => return judge(answer, deadline).await,
                Redirect::Broken(why) => return Outcome::Failure(format!("Get \"{url}\": {why}")),
                Redirect::To(next) => url = next,
            }
        }
        Outcome::Failure(format!("Get \"{url}\": stopped after {REDIRECTS} redirects"))
    }

    /// Sends the request once; whatever the answer, that it came is enough.
    pub async fn ask(&self, deadline: Instant) -> Result<(), String> {
        let answer = self.get(&self.url, deadline).await;
        answer
            .map(drop)
            .map_err(|error| format!("Get \"{}\": {error}", self.url))
    }

    /// The same without TLS, and without what only who has proven his name may read.
    pub fn without_tls(&self) -> Self {
        let mut plain = self.clone();
        plain.url.tls = false;
        plain.headers.remove(AUTHORIZATION);
        plain
    }

    /// Host and port.
    pub fn authority(&self) -> String {
        self.url.authority()
    }

    async fn get(&self, url: &Url, deadline: Instant) -> Result<Answer, String> {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let stream = dial::connect(&url.host, url.port(), remaining)
            .await
            .map_err(|error| {
                let suffix = if error.is_timeout() {
                    " (Client.Timeout exceeded while awaiting headers)"
                } else {
                    ""
                };
                format!("{error}{suffix}")
            })?;
        let ends = stream.local_addr().ok().zip(stream.peer_addr().ok());
        let exchange = async {
            if url.tls {
                let name = server_name(&url.host)?;
                let stream = CONNECTOR.connect(name, stream).await.map_err(|e| tls_words(&e))?;
                self.exchange(url, stream, ends).await
            } else {
                self.exchange(url, stream, ends).await
            }
        };
        timeout_at(deadline, exchange).await.unwrap_or_else(|_| {
            Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned())
        })
    }

    async fn exchange<S>(
        &self,
        url: &Url,
        stream: S,
        ends: Option<(SocketAddr, SocketAddr)>,
    ) -> Result<Answer, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = shake.await.map_err(|e| words(&e, ends))?;
        // Errors of the connection are those of the request, which are looked at.
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        let driver = Driver(driver);
        let request = self.request(url).map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| words(&e, ends))?;
        let (head, body) = Response::into_parts(response);
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            ends,
            _driver: driver,
        })
    }

    fn request(&self, url: &Url) -> Result<Request<Empty<Bytes>>, http::Error> {
        let mut request = Request::get(url.path.as_str()).body(Empty::new())?;
        *request.headers_mut() = self.headers.clone();
        let host = match &self.host {
            Some(host) => host.clone(),
            None => HeaderValue::try_from(url.authority())?,
        };
        request.headers_mut().insert(HOST, host);
        request
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        Ok(request)
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    ends: Option<(SocketAddr, SocketAddr)>,
    _driver: Driver,
}

/// The task that moves a connection's bytes; ends with the answer.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn judge(answer: Answer, deadline: Instant) -> Outcome {
    let status = answer.status;
    let text = match timeout_at(deadline, read_some(answer.body)).await {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => return Outcome::BrokenOff(body_words(&error, answer.ends)),
        Err(_) => {
            let text =
                "context deadline exceeded (Client.Timeout or context cancellation while reading body)";
            return Outcome::BrokenOff(text.to_owned());
        }
    };
    match status.as_u16() {
        200..=299 => Outcome::Success,
        300..=399 => Outcome::Warning(format!("Probe terminated redirects, Response body: {text}")),
        code => Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
    }
}

async fn read_some(mut body: Incoming) -> Result<String, hyper::Error> {
    let mut bytes = Vec::new();
    while bytes.len() < BODY_LIMIT {
        let Some(frame) = body.frame().await else { break };
        bytes.extend_from_slice(frame?.data_ref().map(AsRef::as_ref).unwrap_or_default());
    }
    bytes.truncate(BODY_LIMIT);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[derive(Debug, PartialEq, Eq)]
enum Redirect {
    None,
    To(Url),
    /// To another host: not followed.
    Elsewhere,
    Broken(String),
}

fn redirect(from: &Url, status: &StatusCode, headers: &HeaderMap) -> Redirect {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Redirect::None;
    }
    let Some(location) = headers.get(LOCATION) else {
        return match status.as_u16() {
            307 | 308 => Redirect::None,
            code => Redirect::Broken(format!("{code} response missing Location header")),
        };
    };
    match location.to_str().ok().and_then(|location| from.join(location)) {
        Some(next) if next.host == from.host => Redirect::To(next),
        Some(_) => Redirect::Elsewhere,
        None => Redirect::Broken(format!("failed to parse Location header {location:?}")),
    }
}

impl Url {
    fn port(&self) -> u16 {
        self.port.unwrap_or(if self.tls { 443 } else { 80 })
    }

    fn authority(&self) -> String {
        match self.port {
            Some(port) => dial::authority(&self.host, port),
            None if self.host.contains(':') => format!("[{}]", self.host),
            None => self.host.clone(),
        }
    }

    /// What a Location header means here: a whole URL, one without its scheme, or a path.
    fn join(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next().unwrap_or_default();
        if let Some(rest) = location.strip_prefix("//") {
            let scheme = if self.tls { "https" } else { "http" };
            return self.join(&format!("{scheme}://{rest}"));
        }
        if location.contains("://") {
            let uri: Uri = location.parse().ok()?;
            let tls = uri.scheme() == Some(&Scheme::HTTPS);
            if !tls && uri.scheme() != Some(&Scheme::HTTP) {
                return None;
            }
            let authority = uri.authority()?;
            let host = authority
                .host()
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned();
            let path = path(uri.path_and_query().map_or("/", PathAndQuery::as_str));
            return Some(Self {
                tls,
                host,
                port: authority.port().map(|p| p.as_u16()),
                path,
            });
        }
        let path = match location {
            "" => self.path.clone(),
            absolute if absolute.starts_with('/') => path(absolute),
            relative => {
                let base = self.path.split('?').next().unwrap_or("/");
                let folder = &base[..=base.rfind('/').unwrap_or(0)];
                path(&format!("{folder}{relative}"))
            }
        };
        Some(Self { path, ..self.clone() })
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

/// Path and query from what a manifest says: with a slash in front, without fragment, and with
/// what has no place in a request line percent-encoded.
fn path(text: &str) -> String {
    let text = text.split('#').next().unwrap_or_default();
    let mut out = String::from(if text.starts_with('/') { "" } else { "/" });
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte);
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Adds a header unless the probe has it; one given as empty is not sent at all.
fn default_header(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    match headers.get(&name) {
        None => drop(headers.insert(name, HeaderValue::from_static(value))),
        Some(given) if given.is_empty() => drop(headers.remove(name)),
        Some(_) => {}
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    // A name that is no valid SNI is asked for as an address that matches nothing and is not sent.
    let name = host
        .parse::<Authority>()
        .ok()
        .and_then(|_| ServerName::try_from(host.to_owned()).ok());
    Ok(name.unwrap_or(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())))
}

/// An error of the exchange as upstream words it.
fn words(error: &hyper::Error, ends: Option<(SocketAddr, SocketAddr)>) -> String {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return "EOF".to_owned();
    }
    if error.is_parse() {
        return "net/http: HTTP/1.x transport connection broken: malformed HTTP response".to_owned();
    }
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match (io, ends) {
        (Some(io), Some((local, peer))) => format!("read tcp {local}->{peer}: read: {}", dial::words(io)),
        _ => error.to_string(),
    }
}

/// An error in the middle of a body.
fn body_words(error: &hyper::Error, ends: Option<(SocketAddr, SocketAddr)>) -> String {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match io.map(std::io::Error::kind) {
        Some(std::io::ErrorKind::UnexpectedEof) => "unexpected EOF".to_owned(),
        _ => words(error, ends),
    }
}

/// An error of the handshake: what is no TLS at all is mostly plain HTTP, and upstream says so.
fn tls_words(error: &std::io::Error) -> String {
    let of_tls = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match of_tls {
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => NO_TLS.to_owned(),
        _ => error.to_string(),
    }
}

static CONNECTOR: LazyLock<TlsConnector> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    TlsConnector::from(Arc::new(unverified(provider, algorithms)))
});

fn unverified(provider: Arc<CryptoProvider>, algorithms: WebPkiSupportedAlgorithms) -> ClientConfig {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring's provider supports the default TLS versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(algorithms)))
        .with_no_client_auth()
}

/// Takes any certificate, as probes are documented to.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(path: &str) -> Url {
        Url {
            tls: false,
            host: "10.1.0.2".into(),
            port: Some(8080),
            path: path.into(),
        }
    }

    #[test]
    fn paths_become_request_targets() {
        for (given, target) in [
            ("/", "/"),
            ("", "/"),
            ("healthz", "/healthz"),
            ("/a b?c=d e", "/a%20b?c=d%20e"),
            ("/x#y", "/x"),
            ("/%20ü", "/%20%C3%BC"),
        ] {
            assert_eq!(path(given), target);
        }
    }

    #[test]
    fn locations_are_joined() {
        for (from, location, to) in [
            ("/a/b?q", "/c", "http://10.1.0.2:8080/c"),
            ("/a/b?q", "c", "http://10.1.0.2:8080/a/c"),
            ("/", "https://10.1.0.2/d", "https://10.1.0.2/d"),
            ("/", "//other:81/d?e", "http://other:81/d?e"),
        ] {
            assert_eq!(url(from).join(location).unwrap().to_string(), to);
        }
        assert_eq!(url("/").join("ftp://x/"), None);
    }

    #[test]
    fn redirects_stay_on_the_host() {
        let to = |code, location: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(location) = location {
                headers.insert(LOCATION, HeaderValue::from_str(location).unwrap());
            }
            redirect(&url("/"), &StatusCode::from_u16(code).unwrap(), &headers)
        };
        assert_eq!(to(302, Some("/x")), Redirect::To(url("/x")));
        assert_eq!(to(302, Some("http://elsewhere/x")), Redirect::Elsewhere);
        assert_eq!(to(304, Some("/x")), Redirect::None);
        assert_eq!(to(307, None), Redirect::None);
        assert!(matches!(to(302, None), Redirect::Broken(_)));
    }
}
