//! One HTTPS request to a webhook, to a URL or to an endpoint of a Service.
use super::super::{Objects, ResourceName};
use crate::kinds::view::View;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const SERVICES: ResourceName<'_> = ("", "v1", "services");
const SLICES: ResourceName<'_> = ("discovery.k8s.io", "v1", "endpointslices");
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Bytes of an answer: an object and a patch of it fit twice over.
const ANSWER: usize = 6 << 20;
/// Where systems keep the authorities they trust, for webhooks without a bundle of their own.
const SYSTEM_ROOTS: [&str; 2] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

/// Where a webhook is.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// What the certificate must be for.
    host: String,
    /// Where to connect: address or name, and port.
    address: String,
    path: String,
}

#[derive(Default)]
pub(super) struct Caller {}

impl Caller {
    /// Posts the review; the error says which step failed.
    pub async fn call(&self, objects: &dyn Objects, webhook: &Value, review: Value) -> Result<Value, String> {
        let config = webhook.at("clientConfig");
        let seconds = webhook.int("timeoutSeconds").unwrap_or(10).clamp(1, 30);
        let within = Duration::from_secs(seconds.unsigned_abs());
        let place = place(objects, config)?;
        let url = format!("https://{}{}?timeout={seconds}s", place.host, place.path);
        let failed = |why: String| format!("failed to call webhook: Post {url:?}: {why}");
        let exchange = exchange(&place, config, seconds, review);
        match tokio::time::timeout(within, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(why)) => Err(failed(why)),
            Err(_) => Err(failed("context deadline exceeded".to_owned())),
        }
    }
}

async fn exchange(place: &Place, config: &Value, seconds: i64, review: Value) -> Result<Value, String> {
    let said = |e: &dyn std::fmt::Display| e.to_string();
    let connector = TlsConnector::from(Arc::new(tls(config.at("caBundle").as_str())?));
    let tcp = TcpStream::connect(&place.address)
        .await
        .map_err(|e| format!("dial tcp {}: {e}", place.address))?;
    let name = ServerName::try_from(place.host.clone()).map_err(|e| said(&e))?;
    let tls = connector
        .connect(name, tcp)
        .await
        .map_err(|e| format!("tls: {e}"))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(tls));
    let (mut sender, connection) = handshake.await.map_err(|e| said(&e))?;
    let driven = tokio::spawn(connection);
    let request = Request::post(format!("{}?timeout={seconds}s", place.path))
        .header(header::HOST, &place.host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Full::new(Bytes::from(review.to_string())))
        .map_err(|e| said(&e))?;
    let answer = sender.send_request(request).await.map_err(|e| said(&e))?;
    let code = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER).collect().await;
    driven.abort();
    let body = body.map_err(|e| said(&e))?.to_bytes();
    if !code.is_success() {
        let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
        return Err(format!(
            "an error on the server ({text:?}) has prevented the request from succeeding: {code}"
        ));
    }
    serde_json::from_slice(&body).map_err(|e| format!("the answer is not JSON: {e}"))
}

/// Trusts the bundle, or what the system trusts.
fn tls(bundle: Option<&str>) -> Result<rustls::ClientConfig, String> {
    let pem = match bundle.filter(|b| !b.is_empty()) {
        Some(bundle) => STANDARD
            .decode(bundle)
            .map_err(|e| format!("caBundle cannot be decoded: {e}"))?,
        None => {
            let mut files = SYSTEM_ROOTS.iter();
            files
                .find_map(|file| std::fs::read(file).ok())
                .unwrap_or_default()
        }
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| format!("caBundle cannot be read: {e}"))?;
        // A system's bundle holds old forms that rustls does not take; a bundle of none at all trusts nobody.
        let _ = roots.add(certificate);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn place(objects: &dyn Objects, config: &Value) -> Result<Place, String> {
    match config.at("url").as_str() {
        Some(url) => by_url(url),
        None => by_service(objects, config.at("service")),
    }
}

fn by_url(url: &str) -> Result<Place, String> {
    let uri: Uri = url
        .parse()
        .map_err(|e| format!("the url {url:?} cannot be read: {e}"))?;
    let host = uri.host().ok_or_else(|| format!("the url {url:?} has no host"))?;
    let port = uri.port_u16().unwrap_or(443);
    Ok(Place {
        address: format!("{host}:{port}"),
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        path: uri.path().to_owned(),
    })
}

/// A ready endpoint of the Service, at random.
fn by_service(objects: &dyn Objects, reference: &Value) -> Result<Place, String> {
    let (namespace, name) = (reference.text("namespace"), reference.text("name"));
    let wanted = reference.int("port").unwrap_or(443);
    let service = objects
        .get(SERVICES, Some(namespace), name)
        .ok_or_else(|| format!("failed to call webhook: service {name:?} not found"))?;
    let ports = service.list("spec.ports");
    let port = ports
        .iter()
        .find(|p| p.int("port") == Some(wanted))
        .ok_or_else(|| format!("no service port {wanted} found for service {name:?}"))?;
    let mut found = Vec::new();
    for slice in objects.list(SLICES, Some(namespace)) {
        if slice
            .at("metadata.labels")
            .get(SERVICE_LABEL)
            .is_none_or(|n| n != name)
        {
            continue;
        }
        let target = slice
            .list("ports")
            .iter()
            .find(|p| p.text("name") == port.text("name"));
        let Some(target) = target.and_then(|p| p.int("port")) else {
            continue;
        };
        let ready = slice
            .list("endpoints")
            .iter()
            .filter(|e| e.at("conditions.ready") != &Value::Bool(false));
        let addresses = ready.flat_map(|e| e.list("addresses")).filter_map(Value::as_str);
        found.extend(addresses.map(|address| match address.contains(':') {
            true => format!("[{address}]:{target}"),
            false => format!("{address}:{target}"),
        }));
    }
    if found.is_empty() {
        return Err(format!(
            "failed to call webhook: no endpoints available for service {name:?}"
        ));
    }
    let chosen = rand::random_range(0..found.len());
    let path = match reference.text("path") {
        "" => "/",
        path => path,
    };
    Ok(Place {
        host: format!("{name}.{namespace}.svc"),
        address: found.swap_remove(chosen),
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::fixtures::Fixed;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_is_called_at_its_endpoints() {
        let service = json!({"metadata": {"name": "w", "namespace": "n"}, "spec": {"ports": [{"name": "s", "port": 443}]}});
        let slice = json!({
            "metadata": {"name": "w-1", "namespace": "n", "labels": {SERVICE_LABEL: "w"}},
            "ports": [{"name": "s", "port": 8443}],
            "endpoints": [{"addresses": ["10.1.1.1"]}, {"addresses": ["10.1.1.2"], "conditions": {"ready": false}}]});
        let objects = Fixed(vec![("services", service), ("endpointslices", slice)]);
        let found = by_service(&objects, &json!({"name": "w", "namespace": "n", "path": "/x"}));
        let want = Place {
            host: "w.n.svc".into(),
            address: "10.1.1.1:8443".into(),
            path: "/x".into(),
        };
        assert_eq!(found, Ok(want));
        assert!(by_service(&objects, &json!({"name": "w", "namespace": "n", "port": 80})).is_err());
        assert!(by_service(&Fixed::default(), &json!({"name": "w", "namespace": "n"})).is_err());
    }

    #[test]
    fn urls() {
        let place = by_url("https://example.com:8443/a").expect("a url");
        assert_eq!(
            (place.host.as_str(), place.address.as_str()),
            ("example.com", "example.com:8443")
        );
        assert_eq!(by_url("https://[::1]/").expect("a url").host, "::1");
    }
}
