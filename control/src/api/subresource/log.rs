//! `pods/log`: asks the Pod's node and passes the answer on as it comes.
//!
//! The node's kubelet API is dialled at its InternalIP and the port in its status; its certificate must be the
//! cluster's and carry the node's name (see ARCHITECTURE.md).
use super::super::status::{ApiError, Result};
use super::super::{Call, query::Query, render};
use crate::auth::pki::{CertRequest, Pki, PkiError};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
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
/// Query options of `log` that the kubelet API knows by the same name.
const OPTIONS: [&str; 9] = [
    "follow",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "timestamps",
    "tailLines",
    "limitBytes",
    "insecureSkipTLSVerifyBackend",
    "stream",
];

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

    async fn get(&self, node: &Node, path: &str) -> Result<http::Response<Incoming>> {
        let failed = |e: &dyn std::fmt::Display| {
            ApiError::bad_gateway(format!("Get \"https://{}{path}\": {e}", node.address))
        };
        let exchange = async {
            let tcp = TcpStream::connect(node.address).await.map_err(|e| failed(&e))?;
            let name = ServerName::try_from(node.name.clone()).map_err(|e| failed(&e))?;
            let tls = self.connector.connect(name, tcp).await.map_err(|e| failed(&e))?;
            let handshake = hyper::client::conn::http1::handshake(TokioIo::new(tls));
            let (mut sender, connection) = handshake.await.map_err(|e| failed(&e))?;
            // Ends with the response: when either side lets go of it.
            tokio::spawn(async move { drop(connection.await) });
            let request = Request::get(path).header(header::HOST, node.address.to_string());
            let request = request.body(Empty::<Bytes>::new()).map_err(|e| failed(&e))?;
            sender.send_request(request).await.map_err(|e| failed(&e))
        };
        match tokio::time::timeout(ANSWER_WITHIN, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(failed(&"the node did not answer in time")),
        }
    }
}

struct Node {
    name: String,
    address: SocketAddr,
}

pub(super) async fn serve(call: &Call, name: &str) -> Result<Response> {
    let pod = render::value(
        &call.target.kind,
        call.api.read(&call.target, name).await?.as_ref(),
    )?;
    let container = container(&pod, name, call.query.get("container"))?;
    let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else {
        // Upstream answers with nothing: there can be no log yet.
        return Ok(log_response(Body::empty()));
    };
    let node = find(call, node)?;
    let namespace = call.target.namespace.as_deref().unwrap_or_default();
    let path = format!(
        "/containerLogs/{namespace}/{name}/{container}{}",
        options(&call.query)
    );
    let answer = call.api.nodes.get(&node, &path).await?;
    if answer.status() == StatusCode::OK {
        return Ok(log_response(Body::new(answer.into_body())));
    }
    let code = answer.status();
    let text = Limited::new(answer.into_body(), ERROR_LIMIT)
        .collect()
        .await
        .map(|body| body.to_bytes());
    let text = text
        .map(|text| String::from_utf8_lossy(&text).trim().to_owned())
        .unwrap_or_default();
    Err(ApiError::from_node(code, text))
}

fn log_response(body: Body) -> Response {
    (
        [(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))],
        body,
    )
        .into_response()
}

/// The container meant: the one named, or the only one.
fn container(pod: &Value, name: &str, asked: Option<&str>) -> Result<String> {
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

/// The options that were given, as a query.
fn options(query: &Query) -> String {
    let given = OPTIONS
        .iter()
        .filter_map(|name| query.get(name).map(|value| (name, value)));
    let given: Vec<String> = given
        .map(|(name, value)| format!("{name}={}", escape(value)))
        .collect();
    if given.is_empty() {
        String::new()
    } else {
        format!("?{}", given.join("&"))
    }
}

/// Percent-encodes what is not unreserved (RFC 3986).
fn escape(text: &str) -> String {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    text.bytes()
        .map(|b| {
            if unreserved(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

fn find(call: &Call, name: &str) -> Result<Node> {
    let kind = call
        .api
        .kinds
        .resource("", "v1", "nodes")
        .ok_or_else(ApiError::no_resource)?;
    let object = call.api.cache.resource(kind)?.get(&kind.key(None, name));
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

    #[test]
    fn options_are_escaped() {
        let query = Query::of(
            &"/x?tailLines=5&sinceTime=2026-01-01T00:00:00%2B01:00&evil=1"
                .parse()
                .unwrap(),
        )
        .unwrap();
        assert_eq!(
            options(&query),
            "?sinceTime=2026-01-01T00%3A00%3A00%2B01%3A00&tailLines=5"
        );
    }
}
