//! The way to a node's kubelet API, for the subresources that a node answers.
//!
//! It is dialled at its InternalIP and the port in its status; its certificate must be the cluster's and carry the
//! node's name (see ARCHITECTURE.md).
use super::super::status::{ApiError, Result};
use super::super::{Api, Call, render};
use crate::auth::pki::{CertRequest, Pki, PkiError};
use bytes::Bytes;
use http::request::Builder;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long a node may take to accept a connection and to begin its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How much of a node's error is passed on.
const ERROR_LIMIT: usize = 4 << 10;

#[derive(Debug, thiserror::Error)]
pub enum NodeClientError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("the certificate for talking to nodes cannot be used: {0}")]
    Tls(String),
}

/// Reaches kubelet APIs with the API server's client certificate.
pub struct NodeClient {
    connector: TlsConnector,
}

impl NodeClient {
    /// Issues a certificate as `kube-apiserver-kubelet-client`.
    pub fn new(pki: &Pki) -> std::result::Result<Self, NodeClientError> {
        let tls = |e: &dyn std::fmt::Display| NodeClientError::Tls(e.to_string());
        let issued = pki.issue(&CertRequest::client(
            "kube-apiserver-kubelet-client",
            crate::auth::identity::MASTERS,
        ))?;
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).map_err(|e| tls(&e))?)
            .map_err(|e| tls(&e))?;
        let chain = vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).map_err(|e| tls(&e))?];
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).map_err(|e| tls(&e))?;
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|e| tls(&e))?
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, key)
                .map_err(|e| tls(&e))?;
        Ok(NodeClient {
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    pub(super) fn connector(&self) -> TlsConnector {
        self.connector.clone()
    }

    pub(super) async fn get(&self, node: &Node, path: &str) -> Result<http::Response<Incoming>> {
        self.send(node, Request::get(path)).await
    }

    /// Sends a request without a body; the connection it makes may become another protocol's.
    pub(super) async fn send(&self, node: &Node, request: Builder) -> Result<http::Response<Incoming>> {
        let path = request.uri_ref().map(ToString::to_string).unwrap_or_default();
        let failed = |e: &dyn std::fmt::Display| {
            ApiError::bad_gateway(format!(
                "error dialing backend: https://{}{path}: {e}",
                node.address
            ))
        };
        let exchange = async {
            let tcp = TcpStream::connect(node.address).await.map_err(|e| failed(&e))?;
            // Keystrokes must not wait for Nagle; when that cannot be set, they are merely slower.
            let _ = tcp.set_nodelay(true);
            let name = ServerName::try_from(node.name.clone()).map_err(|e| failed(&e))?;
            let tls = self.connector.connect(name, tcp).await.map_err(|e| failed(&e))?;
            let handshake = hyper::client::conn::http1::handshake(TokioIo::new(tls));
            let (mut sender, connection) = handshake.await.map_err(|e| failed(&e))?;
            // Ends with the response: when either side lets go of it.
            tokio::spawn(async move { drop(connection.with_upgrades().await) });
            let request = request.header(header::HOST, node.address.to_string());
            let request = request.body(Empty::<Bytes>::new()).map_err(|e| failed(&e))?;
            sender.send_request(request).await.map_err(|e| failed(&e))
        };
        match tokio::time::timeout(ANSWER_WITHIN, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(failed(&"the node did not answer in time")),
        }
    }
}

pub(super) struct Node {
    pub name: String,
    pub address: SocketAddr,
}

/// What a node answered instead of what it was asked for. Where it wants to send us is not gone to.
pub(super) async fn refusal(answer: http::Response<Incoming>) -> ApiError {
    let code = answer.status();
    if code.is_redirection() || code.is_informational() || code.is_success() {
        return ApiError::bad_gateway(format!("the node answered with {code}, which nobody asked for"));
    }
    let text = Limited::new(answer.into_body(), ERROR_LIMIT).collect().await;
    let text = text.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned());
    ApiError::from_node(code, text.unwrap_or_default())
}

/// The container meant: the one named, or the only one.
pub(super) fn container(pod: &Value, name: &str, asked: Option<&str>) -> Result<String> {
    let named = |field: &str| -> Vec<String> {
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.filter_map(|c| c["name"].as_str().map(str::to_owned))
            .collect()
    };
    let (main, init, extra) = (
        named("containers"),
        named("initContainers"),
        named("ephemeralContainers"),
    );
    match asked {
        Some(asked) if main.iter().chain(&init).chain(&extra).any(|c| c == asked) => Ok(asked.to_owned()),
        Some(asked) => Err(ApiError::bad_request(format!(
            "container {asked} is not valid for pod {name}"
        ))),
        None if main.len() == 1 => Ok(main[0].clone()),
        None => {
            let mut why = format!(
                "a container name must be specified for pod {name}, choose one of: {}",
                shown(&main)
            );
            if !init.is_empty() {
                why.push_str(&format!(" or one of the init containers: {}", shown(&init)));
            }
            Err(ApiError::bad_request(why))
        }
    }
}

fn shown(names: &[String]) -> String {
    format!("[{}]", names.join(" "))
}

/// The node that what is asked of a Pod is passed on to. When it is not there, upstream's registry says that a Pod of its
/// name is not: it takes the resource from the request.
pub(super) fn find(call: &Call, name: &str) -> Result<Node> {
    find_in(&call.api, name).map_err(|error| match error.code {
        StatusCode::NOT_FOUND => ApiError::not_found(&call.target.kind, name),
        _ => error,
    })
}

pub(super) fn find_in(api: &Api, name: &str) -> Result<Node> {
    let kinds = api.kinds.load();
    let kind = kinds
        .resource("", "v1", "nodes")
        .ok_or_else(ApiError::no_resource)?;
    let object = api.cache.resource(kind)?.get(&kind.key(None, name));
    let node = render::value(kind, &*object.ok_or_else(|| ApiError::not_found(kind, name))?)?;
    let status = &node["status"];
    let addresses = status["addresses"].as_array().into_iter().flatten();
    let ip = addresses
        .filter(|a| a["type"] == "InternalIP")
        .find_map(|a| a["address"].as_str()?.parse::<IpAddr>().ok());
    let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        .as_u64()
        .and_then(|p| u16::try_from(p).ok());
    match (ip, port) {
        (Some(ip), Some(port)) => Ok(Node {
            name: name.to_owned(),
            address: (ip, port).into(),
        }),
        _ => Err(ApiError::bad_gateway(format!(
            "no preferred addresses found for node {name:?}; known addresses: []"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_is_named_or_the_only_one() {
        let one = json!({"spec": {"containers": [{"name": "a"}]}});
        let two = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&one, "p", None).unwrap(), "a");
        assert_eq!(container(&two, "p", Some("i")).unwrap(), "i");
        let error = container(&two, "p", None).unwrap_err();
        assert_eq!(
            error.message(),
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
        let error = container(&one, "p", Some("x")).unwrap_err();
        assert_eq!(
            (error.code.as_u16(), error.message()),
            (400, "container x is not valid for pod p")
        );
    }
}
