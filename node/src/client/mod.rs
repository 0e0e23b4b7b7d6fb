//! The agent's client of an API server elsewhere: all watches and requests over few connections of HTTP/2, as other agents
//! have them; `kube`'s own client has a connection for each and keeps those that idle for ever. Owns which connection a
//! request takes; refuses to know what is asked.

mod connection;

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use http::uri::Scheme;
use http::{Request, Response};
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, Service, ServiceBuilder};

use connection::{ConnectError, Connection, Held, Server};

/// Connections at most; what is asked beyond them waits at the server's door.
const MOST: usize = 64;
/// Times a request is given to a connection; it is given to another where the first ended before sending any of it.
const TRIES: usize = 3;

/// A client of the API server that `config` names. One without TLS, or behind a proxy, is `kube`'s to reach or to refuse, and one
/// that has no HTTP/2 (`--disable-http2-serving`, or what ends TLS before it) as well. Looks at once; a server that is not there yet is
/// taken for one that has it.
pub async fn client(config: Config) -> Result<(Client, Renewal), kube::Error> {
    let is_direct = config.cluster_url.scheme() == Some(&Scheme::HTTPS) && config.proxy_url.is_none();
    let Some(server) = Server::of(&config)?.filter(|_| is_direct) else {
        return Ok((Client::try_from(config)?, Renewal(None)));
    };
    let first = match server.connect().await {
        Err(error @ ConnectError::Http1 { .. }) => {
            tracing::warn!(%error, "each watch has a connection of its own");
            return Ok((Client::try_from(config)?, Renewal(None)));
        }
        tried => tried.ok().map(Arc::new),
    };
    let connections = Arc::new(Connections {
        state: Mutex::new(State {
            server: Arc::new(server),
            open: first.into_iter().collect(),
            connecting: None,
        }),
    });
    let requests = Requests(connections.clone());
    let retry = config
        .default_retry
        .then(|| RetryLayer::new(RetryPolicy::server_retry()));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(retry)
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .service(requests);
    let client = ClientBuilder::new(service, config.default_namespace).build();
    Ok((client, Renewal(Some(connections))))
}

/// Gives a client that is in use another certificate.
#[derive(Clone)]
pub struct Renewal(Option<Arc<Connections>>);

impl Renewal {
    /// From now on the client is who `config` says. What is under way on connections of before comes to its end there. False where the
    /// client is `kube`'s own, which keeps what it has.
    ///
    /// # Errors
    /// When `config` cannot be used.
    pub fn renew(&self, config: &Config) -> Result<bool, kube::Error> {
        let (Some(connections), Some(server)) = (&self.0, Server::of(config)?) else {
            return Ok(false);
        };
        let mut state = connections.lock();
        state.server = Arc::new(server);
        state.open.clear();
        state.connecting = None;
        Ok(true)
    }
}

/// Sends each request over a connection that has room for it.
#[derive(Clone)]
struct Requests(Arc<Connections>);

impl Service<Request<Body>> for Requests {
    type Response = Response<Held>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Held>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let connections = self.0.clone();
        Box::pin(async move { connections.send(request).await })
    }
}

/// The connections there are.
struct Connections {
    state: Mutex<State>,
}

/// A connection that is being made, for all who wait for it: where there is no server, all of them learn that at once.
type Connecting = Shared<BoxFuture<'static, Result<Arc<Connection>, Arc<ConnectError>>>>;

/// The first that is open stays; further ones go when nothing is under way on them.
struct State {
    server: Arc<Server>,
    open: Vec<Arc<Connection>>,
    connecting: Option<Connecting>,
}

impl State {
    /// The first connection that has room, or, where there are as many as there may be, the emptiest.
    fn choose(&mut self) -> Option<Arc<Connection>> {
        self.open.retain(|connection| !connection.has_ended());
        let roomy = self.open.iter().find(|one| in_use(one) < one.room());
        let emptiest = || {
            let all = self.open.iter().filter(|_| self.open.len() >= MOST);
            all.min_by_key(|one| in_use(one))
        };
        // Held from here on, so that a new one is not taken for one that nobody uses any more.
        let chosen = roomy.or_else(emptiest).cloned();
        let mut is_first = true;
        self.open
            .retain(|connection| mem::take(&mut is_first) || in_use(connection) > 0);
        chosen
    }

    /// Takes in the connection that was waited for, once.
    fn take_in(&mut self) {
        if let Some(made) = self.connecting.take_if(|connecting| connecting.peek().is_some()) {
            self.open.extend(made.now_or_never().and_then(Result::ok));
        }
    }
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, mut request: Request<Body>) -> Result<Response<Held>, BoxError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let connection = self.with_room().await?;
            match connection.send(request).await {
                Ok(response) => return Ok(response),
                Err((_, Some(unsent))) if tries < TRIES => request = unsent,
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    async fn with_room(&self) -> Result<Arc<Connection>, Arc<ConnectError>> {
        loop {
            let connecting = {
                let mut state = self.lock();
                state.take_in();
                if let Some(found) = state.choose() {
                    return Ok(found);
                }
                let server = state.server.clone();
                let connect = || async move { server.connect().await.map(Arc::new).map_err(Arc::new) };
                state
                    .connecting
                    .get_or_insert_with(|| connect().boxed().shared())
                    .clone()
            };
            connecting.await?;
        }
    }
}

/// What is under way on a connection: all that is holds it, until the last byte of its answer. One handle is the list's.
fn in_use(connection: &Arc<Connection>) -> usize {
    Arc::strong_count(connection) - 1
}

#[cfg(test)]
mod tests;
