//! Services of further ranges, as ServiceCIDRs come and go.

use std::convert::Infallible;
use std::io::ErrorKind;

use bytes::Bytes;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::events::Recorder;

/// A Service that has an address from a further range, and none that has another.
const FURTHER: &str = "10.205.0.0/24";
const SERVICE: &str = "10.205.0.7:80";
const NOBODY: &str = "10.205.0.9:80";

fn further() -> Service {
    service(json!({"clusterIP": "10.205.0.7", "clusterIPs": ["10.205.0.7"], "ports": [{"port": 80}]}))
}

fn range(name: &str, cidr: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": name, "resourceVersion": "2", "uid": name}, "spec": {"cidrs": [cidr]}})
}

/// As servers write it, its kind first.
fn event(kind: &str, object: &Value) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#)
}

/// A body that may come bit by bit.
type Told = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// An API server with lists of some kinds, which tells of changes to ServiceCIDRs when a test says so.
struct Api {
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
    /// None: it knows no such kind.
    ranges: Option<Vec<Value>>,
    changes: Mutex<Option<UnboundedReceiver<String>>>,
}

impl Api {
    /// A client of it, and where to say what changes.
    fn serve(
        services: Vec<Service>,
        slices: Vec<EndpointSlice>,
        ranges: Option<Vec<Value>>,
    ) -> (Client, UnboundedSender<String>) {
        let (tell, changes) = unbounded();
        let changes = Mutex::new(Some(changes));
        let api = Arc::new(Self {
            services,
            slices,
            ranges,
            changes,
        });
        let answer = move |request: Request<Body>| {
            let answer = api.answer(request.uri());
            async move { Ok::<_, Infallible>(answer) }
        };
        (Client::new(tower::service_fn(answer), "default"), tell)
    }

    fn answer(&self, uri: &http::Uri) -> Response<Told> {
        let is_range = uri.path().ends_with("/servicecidrs");
        if is_range && self.ranges.is_none() {
            let missing = lines(stream::iter(["404 page not found"]));
            return Response::builder().status(404).body(missing).unwrap();
        }
        if uri.query().is_some_and(|query| query.contains("watch=")) {
            let changes = self.changes.lock().unwrap().take_if(|_| is_range);
            return Response::new(lines(stream::iter(changes).flatten().chain(stream::pending())));
        }
        let items = match uri.path() {
            "/api/v1/services" => json!(self.services),
            "/apis/discovery.k8s.io/v1/endpointslices" => json!(self.slices),
            _ => json!(self.ranges),
        };
        let list = json!({"metadata": {"resourceVersion": "1"}, "items": items});
        Response::new(lines(stream::iter([list])))
    }
}

fn lines(texts: impl Stream<Item = impl std::fmt::Display> + Send + 'static) -> Told {
    let frames = texts.map(|text| Ok(Frame::data(Bytes::from(format!("{text}\n")))));
    StreamBody::new(frames.boxed())
}

/// Asks until that comes of it.
async fn comes_to(from: Option<&PodSandbox>, to: &str, expected: Result<&str, ErrorKind>) {
    let mut last = None;
    let asking = async {
        loop {
            let answer = ask(from.map(|pod| pod.net_path.as_path()), to).await;
            let answer = answer.map_err(|error| error.kind());
            if answer.as_deref().map_err(|kind| *kind) == expected {
                return;
            }
            last = Some(answer);
            tokio::task::yield_now().await;
        }
    };
    let done = timeout(PATIENCE, asking).await;
    assert!(done.is_ok(), "{to} comes to {last:?}, not {expected:?}");
}

/// Keeps the rules what this API server says, until told to stop.
fn follow(network: &Arc<Network>, api: Client) -> (CancellationToken, JoinHandle<()>) {
    let stop = CancellationToken::new();
    let recorder = Recorder::start(api.clone(), "node", stop.clone());
    let following = services::run(
        network.clone(),
        api,
        "node".into(),
        Box::new(|_| {}),
        recorder,
        stop.clone(),
    );
    (stop, tokio::spawn(following))
}

#[test]
fn services_of_further_ranges_are_reached_or_refused_as_long_as_there_is_the_range() {
    Host::run(|host| async move {
        let network = Arc::new(host.network("a").await);
        let (server, client) = (pod(&network, "server").await, pod(&network, "client").await);
        serve(&server, 8080, "server");
        let slice = slice(json!([{"port": 8080, "protocol": "TCP"}]), &[&server]);
        let (api, tell) = Api::serve(vec![further()], vec![slice], Some(vec![]));
        let (stop, following) = follow(&network, api);
        // This host has no default route, and the range is nobody's yet: only where a Service's address is translated there is a way.
        let from_a_pod = format!("server {}", client.ip);
        comes_to(Some(&client), SERVICE, Ok(&from_a_pod)).await;
        comes_to(None, SERVICE, Err(ErrorKind::NetworkUnreachable)).await;

        tell.unbounded_send(event("ADDED", &range("further", FURTHER)))
            .unwrap();
        comes_to(None, SERVICE, Ok("server 10.201.1.1")).await;
        for from in [None, Some(&client)] {
            comes_to(from, NOBODY, Err(ErrorKind::ConnectionRefused)).await;
        }
        comes_to(Some(&client), SERVICE, Ok(&from_a_pod)).await;

        // What is this host's own stays so.
        for (name, cidr) in [
            ("pods", "10.201.0.0/16"),
            ("loopback", "127.0.0.0/8"),
            ("six", "fd00::/112"),
        ] {
            tell.unbounded_send(event("ADDED", &range(name, cidr))).unwrap();
        }
        tell.unbounded_send(event("DELETED", &range("further", FURTHER)))
            .unwrap();
        comes_to(None, SERVICE, Err(ErrorKind::NetworkUnreachable)).await;
        comes_to(Some(&client), SERVICE, Ok(&from_a_pod)).await;
        let direct = format!("{}:8080", server.ip);
        comes_to(Some(&client), &direct, Ok(&from_a_pod)).await;
        comes_to(None, "10.202.0.9:80", Err(ErrorKind::ConnectionRefused)).await;
        stop.cancel();
        following.await.unwrap();
    });
}

#[test]
fn routes_stay_until_the_next_agent_knows_ranges_and_go_with_the_cluster() {
    Host::run(|host| async move {
        let network = host.network("a").await;
        let [own, further] = ["10.202.0.0/16", FURTHER].map(|range| range.parse::<Ipv4Net>().unwrap());
        let routed = async || {
            let link = network.links.find("apaaaaaaa1").await.unwrap();
            let all = network.links.networks().await.unwrap();
            let ours = all
                .into_iter()
                .filter(|route| !route.is_kernels && route.link == link.as_ref().map(|l| l.index));
            ours.map(|route| route.network).collect::<BTreeSet<_>>()
        };
        network.route_services(&[own, further].into()).await.unwrap();
        let next = host.network("a").await;
        assert_eq!(routed().await, [own, further].into(), "taken back");
        next.route_services(&[own].into()).await.unwrap();
        assert_eq!(routed().await, [own].into());
        next.route_services(&[own, further].into()).await.unwrap();
        down("aaaaaaa1", &host.dir.path().join("run-a")).await.unwrap();
        let left = network.links.networks().await.unwrap();
        assert!(
            left.iter()
                .all(|route| route.network != own && route.network != further),
            "{left:?}"
        );
    });
}

#[test]
fn an_api_server_without_service_cidrs_leaves_the_clusters_own_range() {
    Host::run(|host| async move {
        let network = Arc::new(host.network("a").await);
        let client = pod(&network, "client").await;
        // Of no range that is known; and with an address that is this host's own.
        let mut service = further();
        let spec = service.spec.as_mut().unwrap();
        spec.external_ips = Some(vec!["10.201.1.1".into()]);
        serve_on(std::net::TcpListener::bind("10.201.1.1:80").unwrap(), "host");
        let (api, _tell) = Api::serve(vec![service], vec![], None);
        let (stop, following) = follow(&network, api);
        for (from, to) in [
            (None, "10.202.0.9:80"),
            (Some(&client), "10.202.0.9:80"),
            (Some(&client), SERVICE),
        ] {
            comes_to(from, to, Err(ErrorKind::ConnectionRefused)).await;
        }
        comes_to(Some(&client), "10.201.1.1:80", Ok(&format!("host {}", client.ip))).await;
        stop.cancel();
        following.await.unwrap();
    });
}
