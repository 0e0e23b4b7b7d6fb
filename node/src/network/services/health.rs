//! What load balancers ask each node for: whether it has endpoints of a Service that leads them to the node's own only
//! (`spec.healthCheckNodePort`). Answers are upstream's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Lists;
use super::endpoints::{by_service, ready_here};
use super::ruleset::is_local;
use crate::events::Recorder;

/// Who asks says all there is to say at once, and reads a few bytes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answered at once on one port; further ones wait.
const ASKERS: usize = 64;

/// How long nobody is let in when the host has no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is known of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub namespace: String,
    pub name: String,
    /// Pods on this node that are ready.
    pub endpoints: usize,
    /// Whether the rules are what they should be.
    pub is_kept: bool,
}

/// The checks of a node by their ports.
pub fn checks(lists: &Lists, node: &str, is_kept: bool) -> BTreeMap<u16, Check> {
    let slices = by_service(lists.slices.iter().map(AsRef::as_ref));
    let check = |service: &Arc<Service>| {
        let port = port(service)?;
        let metadata = &service.metadata;
        let (namespace, name) = (metadata.namespace.as_deref()?, metadata.name.as_deref()?);
        let slices = slices.get(&(namespace, name));
        let check = Check {
            endpoints: slices.map_or(0, |slices| ready_here(slices, node)),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            is_kept,
        };
        Some((port, check))
    };
    lists.services.iter().filter_map(check).collect()
}

/// Where a Service is asked about, if anywhere.
fn port(service: &Service) -> Option<u16> {
    let spec = service.spec.as_ref()?;
    let is_asked =
        spec.type_.as_deref() == Some("LoadBalancer") && is_local(spec.external_traffic_policy.as_ref());
    let port = spec.health_check_node_port.filter(|_| is_asked)?;
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// The ports that are answered at.
#[derive(Default)]
pub struct Doors(BTreeMap<u16, Door>);

/// Closed when it is dropped.
struct Door {
    check: watch::Sender<Check>,
    _answering: JoinSet<()>,
}

impl Doors {
    /// Answers at these ports, and at no others; those where that cannot be done, with what is to be told of them.
    pub async fn keep(&mut self, wanted: BTreeMap<u16, Check>) -> Vec<Shut> {
        self.0.retain(|port, _| wanted.contains_key(port));
        let mut shut = Vec::new();
        for (port, check) in wanted {
            match self.0.get(&port) {
                Some(door) => drop(door.check.send_replace(check)),
                None => match Door::open(port, check.clone()).await {
                    Ok(door) => drop(self.0.insert(port, door)),
                    Err(error) => shut.push(Shut { port, check, error }),
                },
            }
        }
        shut
    }
}

/// A port at which nobody can ask for the health of a Service: mostly it is another program's.
pub struct Shut {
    port: u16,
    check: Check,
    error: io::Error,
}

impl Shut {
    /// The Service's event on this node, in upstream's words.
    pub fn tell(&self, recorder: &Recorder, node: &str) {
        let Check { namespace, name, .. } = &self.check;
        tracing::warn!(error = %self.error, port = self.port, namespace, name, "the health of a Service cannot be asked for");
        recorder.service(
            (namespace, name),
            "FailedToStartServiceHealthcheck",
            "Listen",
            self.message(node),
        );
    }

    fn message(&self, node: &str) -> String {
        let Self { port, check, error } = self;
        let Check { namespace, name, .. } = check;
        let why = match error.kind() {
            io::ErrorKind::AddrInUse => format!("listen tcp4 0.0.0.0:{port}: bind: address already in use"),
            _ => error.to_string(),
        };
        format!("node {node} failed to start healthcheck \"{namespace}/{name}\" on port {port}: {why}")
    }
}

impl Door {
    async fn open(port: u16, check: Check) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
        let (check, known) = watch::channel(check);
        let mut answering = JoinSet::new();
        answering.spawn(accept(listener, known));
        Ok(Self {
            check,
            _answering: answering,
        })
    }
}

async fn accept(listener: TcpListener, known: watch::Receiver<Check>) {
    let room = Arc::new(Semaphore::new(ASKERS));
    let mut connections = JoinSet::new();
    while let Ok(permit) = room.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answering = timeout(PATIENCE, connection(stream, known.clone()));
                connections.spawn(async move {
                    // Who takes longer hears nothing more.
                    let _ = answering.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept who asks for the health of a Service");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Answers one question. What goes wrong on the connection is its client's to see.
async fn connection(stream: TcpStream, known: watch::Receiver<Check>) {
    let answer = service_fn(move |_: http::Request<hyper::body::Incoming>| {
        let answer = answer(&known.borrow());
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut http = http1::Builder::new();
    let http = http.timer(TokioTimer::new()).keep_alive(false);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!(%error, "a question for the health of a Service ended");
    }
}

fn answer(check: &Check) -> Response<Full<Bytes>> {
    let body = json!({
        "service": {"namespace": check.namespace, "name": check.name},
        "localEndpoints": check.endpoints,
        "serviceProxyHealthy": check.is_kept,
    });
    let mut response = Response::new(Full::from(body.to_string()));
    if check.endpoints == 0 || !check.is_kept {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        header::HeaderValue::from_static("nosniff"),
    );
    headers.insert("x-load-balancing-endpoint-weight", check.endpoints.into());
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn service(name: &str, kind: &str, policy: &str, port: i32) -> Arc<Service> {
        let spec = json!({"type": kind, "externalTrafficPolicy": policy, "healthCheckNodePort": port});
        let object = json!({"metadata": {"name": name, "namespace": "n"}, "spec": spec});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn ready_endpoints_of_the_node_are_counted_for_load_balancers_that_lead_to_them_only() {
        let endpoint = |ip: &str, node: &str, ready: bool| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": ready, "serving": true, "terminating": !ready}});
        let slice = |port: u16| {
            let metadata = json!({"name": format!("web-{port}"), "namespace": "n",
                "labels": {"kubernetes.io/service-name": "web"}});
            let endpoints = [
                endpoint("10.1.0.2", "here", true),
                endpoint("10.1.0.3", "here", true),
                endpoint("10.1.0.4", "here", false),
                endpoint("10.2.0.2", "there", true),
            ];
            let object = json!({"metadata": metadata, "addressType": "IPv4", "ports": [{"port": port}], "endpoints": endpoints});
            Arc::new(serde_json::from_value(object).unwrap())
        };
        let lists = Lists {
            services: vec![
                service("web", "LoadBalancer", "Local", 32_000),
                service("empty", "LoadBalancer", "Local", 32_001),
                service("everywhere", "LoadBalancer", "Cluster", 32_002),
                service("none", "LoadBalancer", "Local", 0),
                service("ports", "NodePort", "Local", 32_003),
            ],
            slices: vec![slice(80), slice(443)],
            ..Lists::default()
        };
        let found = checks(&lists, "here", true);
        let found: Vec<_> = found
            .iter()
            .map(|(port, check)| (*port, check.name.as_str(), check.endpoints))
            .collect();
        assert_eq!(found, [(32_000, "web", 2), (32_001, "empty", 0)]);
    }

    async fn ask(port: u16) -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n")
            .await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await?;
        Ok(said)
    }

    #[tokio::test]
    async fn a_port_answers_what_is_known_as_long_as_it_is_wanted() {
        let port = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut doors = Doors::default();
        for (endpoints, is_kept, expected) in [(2, true, "200 OK"), (0, true, "503"), (1, false, "503")] {
            let (namespace, name) = ("n".to_owned(), "web".to_owned());
            let check = Check {
                namespace,
                name,
                endpoints,
                is_kept,
            };
            assert!(doors.keep([(port, check)].into()).await.is_empty());
            let said = ask(port).await.unwrap();
            let (head, body) = said.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {expected}")), "{said}");
            assert!(
                head.contains(&format!("x-load-balancing-endpoint-weight: {endpoints}")),
                "{said}"
            );
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            let service = json!({"namespace": "n", "name": "web"});
            let told =
                json!({"service": service, "localEndpoints": endpoints, "serviceProxyHealthy": is_kept});
            assert_eq!(body, told);
        }
        assert!(doors.keep(BTreeMap::new()).await.is_empty());
        // The listener goes with its task, which ends when the runtime comes to it.
        while ask(port).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_told_as_upstream_tells_it() {
        let taken = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let check = Check {
            namespace: "n".into(),
            name: "web".into(),
            endpoints: 1,
            is_kept: true,
        };
        let wanted = || BTreeMap::from([(port, check.clone())]);
        let mut doors = Doors::default();
        let shut = doors.keep(wanted()).await;
        let told: Vec<String> = shut.iter().map(|shut| shut.message("here")).collect();
        let expected = format!(
            "node here failed to start healthcheck \"n/web\" on port {port}: listen tcp4 0.0.0.0:{port}: bind: address already in use"
        );
        assert_eq!(told, [expected]);
        drop(taken);
        assert!(doors.keep(wanted()).await.is_empty(), "it is free now");
    }
}
