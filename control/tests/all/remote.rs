//! Servers outside the cluster that answer JSON with JSON over real HTTPS, with certificates of the cluster's authority.
use super::plane::Plane;
use amphipod_control::auth::pki::CertRequest;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What a server answers to a body; nothing means that it never does.
pub type Answer = Arc<dyn Fn(&Value) -> Option<Value> + Send + Sync>;

/// TLS for a server on 127.0.0.1.
fn acceptor(plane: &Plane) -> TlsAcceptor {
    let request = CertRequest {
        cn: "remote".into(),
        ips: vec![[127, 0, 0, 1].into()],
        server: true,
        ..CertRequest::default()
    };
    acceptor_for(plane, &request, None)
}

/// TLS with a certificate of the cluster's authority; with `clients` only those show themselves to be of that authority
/// get in.
pub fn acceptor_for(plane: &Plane, request: &CertRequest, clients: Option<&str>) -> TlsAcceptor {
    let issued = plane.control.pki().issue(request).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            let authority = CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
            roots.add(authority).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let config = builder.with_single_cert(chain, key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Serves for as long as the test runs; the URL.
pub async fn serve(plane: &Plane, answer: Answer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/review", listener.local_addr().unwrap());
    let acceptor = acceptor(plane);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else {
                    return;
                };
                let service = service_fn(move |request| respond(request, answer.clone()));
                let http = hyper::server::conn::http1::Builder::new();
                drop(http.serve_connection(TokioIo::new(tls), service).await);
            });
        }
    });
    url
}

async fn respond(request: Request<Incoming>, answer: Answer) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    match answer(&body) {
        Some(answer) => Ok(Response::new(Full::new(Bytes::from(answer.to_string())))),
        None => std::future::pending().await,
    }
}
