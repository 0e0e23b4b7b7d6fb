//! The control plane as one thing that starts and stops.
//!
//! Start: store → certificates → listener → watch cache → API → system objects → scheduler, controllers, registry.
//! Stop is the reverse. Nothing is bound before all options have been read.
use crate::admission::{Admission, PodSecurityLevel, ServiceAddresses};
use crate::api::subresource::{NodeClient, NodeClientError, ProxyTls};
use crate::api::{
    self, Api, Cache, CachedObjects, Definitions, Entrance, Flows, Metrics, OpenApi, Room, Tokens,
    Unavailable, VERSION, Ways, serve,
};
use crate::audit::{Audit, LogError, LogOptions, Policy, PolicyError};
use crate::auth::identity::MASTERS;
use crate::auth::pki::{FrontProxy, Pki, PkiError};
use crate::auth::tokens::{IssuerError, TokenAuthenticator, TokenIssuer};
use crate::auth::{Authorizer, Identity};
use crate::bootstrap::addresses::AddressesError;
use crate::bootstrap::{self, BootstrapError};
use crate::controllers::{self, ControllerOptions, Watches};
use crate::kinds::{Live, Registry};
use crate::resource_metrics::{self, ResourceMetrics};
use crate::scheduler::Followed;
use crate::store::{
    self, Keyring, KeyringError, OpenError, ReadError, RedbStore, SealedStore, Store, WriteError,
};
use crate::{registry, scheduler};
use axum::Router;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a control plane is made of.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// `DATA/control`: the store and the certificates.
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub pod_cidr: IpNet,
    /// Prefix length of a node's slice of the Pods' range; upstream's defaults without.
    pub node_cidr_mask_size: Option<u8>,
    pub service_cidr: IpNet,
    pub node_ports: RangeInclusive<u16>,
    /// The embedded OCI registry; none without.
    pub registry: Option<RegistryOptions>,
    /// What is written to the audit log in `audit/`; everything at Metadata level without.
    pub audit_policy: Option<PathBuf>,
    /// Further names and addresses that clients reach the API server by.
    pub extra_sans: Vec<String>,
    /// The Pod Security level of namespaces that say none.
    pub pod_security: PodSecurityLevel,
    /// How long clients of the API server may take.
    pub patience: serve::Patience,
}

impl ControlOptions {
    /// The flags of a cluster with the values that hold; empty where nothing was said.
    fn flags(&self) -> api::Flags {
        let path = |path: &Path| path.display().to_string();
        let registry = self.registry.as_ref().map(|registry| registry.listen.to_string());
        let mask = self.node_cidr_mask_size.map(|bits| bits.to_string());
        [
            ("audit-policy-file", self.audit_policy.as_deref().map(path)),
            ("data-dir", self.data_dir.parent().map(path)),
            ("listen", Some(self.listen.to_string())),
            ("node-cidr-mask-size", mask),
            ("pod-cidr", Some(self.pod_cidr.to_string())),
            ("pod-security-default", Some(self.pod_security.to_string())),
            ("registry", registry),
            ("service-cidr", Some(self.service_cidr.to_string())),
        ]
        .map(|(name, value)| (name, value.unwrap_or_default()))
        .into()
    }
}

/// Where the embedded registry listens and keeps its content.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    pub listen: SocketAddr,
    /// `DATA/registry`.
    pub dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error("cannot read the store: {0}")]
    Read(#[from] ReadError),
    #[error("cannot write the statuses of components: {0}")]
    Components(#[from] WriteError),
    #[error("cannot make objects of the addresses of Services: {0}")]
    Addresses(#[from] AddressesError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error(transparent)]
    AuditPolicy(#[from] PolicyError),
    #[error(transparent)]
    AuditLog(#[from] LogError),
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    #[error(transparent)]
    NodeClient(#[from] NodeClientError),
    #[error(transparent)]
    Tls(#[from] serve::TlsError),
    #[error(
        "cannot listen on {address} ({source}); stop what uses it, or choose another address with {flag}"
    )]
    Listen {
        address: SocketAddr,
        flag: &'static str,
        source: std::io::Error,
    },
    #[error(
        "the service range {0} has no address for the kubernetes Service; choose a larger --service-cidr"
    )]
    ServiceCidr(IpNet),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
}

/// A running control plane.
pub struct ControlPlane {
    local_addr: SocketAddr,
    registry_addr: Option<SocketAddr>,
    pki: Arc<Pki>,
    router: Router,
    clients: Stage,
    server: Stage,
}

/// Tasks that stop together.
struct Stage {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Stage {
    fn new() -> Self {
        Stage {
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Whether all tasks ended in time.
    async fn end(&self, deadline: Duration) -> bool {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(deadline, self.tasks.wait()).await.is_ok()
    }
}

impl ControlPlane {
    /// Starts everything; on return the API answers and the system objects are there.
    pub async fn start(options: ControlOptions) -> Result<Self, StartError> {
        let addresses = ServiceAddresses {
            cidr: options.service_cidr,
            node_ports: options.node_ports.clone(),
        };
        let cluster_ip = addresses
            .first()
            .ok_or(StartError::ServiceCidr(options.service_cidr))?;
        let cluster_dns = addresses.dns();
        let audit = open_audit(&options)?;
        let store: Arc<dyn Store> = Arc::new(RedbStore::open(&options.data_dir.join("store.redb"))?);
        let pki = Arc::new(Pki::open_or_create(
            &options.data_dir.join("pki"),
            &sans(&options, cluster_ip),
        )?);
        let store = sealed(store, &options.data_dir).await?;
        bootstrap::components::ensure(store.as_ref()).await?;
        bootstrap::addresses::ensure(store.as_ref()).await?;
        let issuer = Arc::new(TokenIssuer::open_or_create(&options.data_dir.join("pki"))?);
        let tls = serve::tls(&pki)?;
        let (listener, local_addr) = bind(options.listen, "--listen").await?;
        let registry = match &options.registry {
            Some(registry) => Some((bind(registry.listen, "--registry").await?, registry.dir.clone())),
            None => None,
        };

        let server = Stage::new();
        let front_proxy = Pki::front_proxy(&options.data_dir.join("pki"))?;
        let rules = Rules {
            issuer: issuer.clone(),
            front_proxy: front_proxy.clone(),
            audit,
            addresses,
            pod_security: options.pod_security,
            patience: options.patience,
            metrics: Metrics::of(tls.connections()),
            flags: options.flags(),
        };
        let api = build(store.clone(), &pki, rules).await?;
        let (cache, stop) = (api.cache.clone(), server.stop.clone());
        server.tasks.spawn(async move { cache.run(stop).await });
        let (definitions, stop) = (api.clone(), server.stop.clone());
        server
            .tasks
            .spawn(async move { definitions.definitions.run(stop).await });
        server
            .tasks
            .spawn(store::run_compactor(store, server.stop.clone()));
        let measured = (api.resource_metrics.clone(), api.metrics.unavailable());
        let router = api::router(api);
        server.tasks.spawn(serve::run(
            listener,
            tls,
            options.patience,
            router.clone(),
            server.stop.clone(),
        ));

        let registry_addr = registry.map(|((listener, address), dir)| {
            server
                .tasks
                .spawn(serve_registry(listener, dir, server.stop.clone()));
            address
        });
        let plane = ControlPlane {
            local_addr,
            registry_addr,
            pki,
            router,
            clients: Stage::new(),
            server,
        };
        let authorities = bootstrap::Authorities {
            clients: plane.pki.ca_pem(),
            front_proxy: &front_proxy.ca_pem,
        };
        bootstrap::run(
            &plane.client(),
            reachable(local_addr),
            options.service_cidr,
            cluster_ip,
            cluster_dns,
            authorities,
        )
        .await?;
        plane.start_clients(&options, issuer, front_proxy, measured);
        Ok(plane)
    }

    fn start_clients(
        &self,
        options: &ControlOptions,
        issuer: Arc<TokenIssuer>,
        front_proxy: FrontProxy,
        (measured, unavailable): (Arc<ResourceMetrics>, Arc<Unavailable>),
    ) {
        let stop = &self.clients.stop;
        let watches = Arc::new(Watches::default());
        let followed = Followed {
            pods: watches.pods.clone(),
            nodes: watches.nodes.clone(),
            claims: watches.claims.clone(),
            volumes: watches.volumes.clone(),
            classes: watches.classes.clone(),
        };
        self.clients.tasks.spawn(scheduler::run(
            self.component("kube-scheduler"),
            followed,
            stop.clone(),
        ));
        self.clients.tasks.spawn(resource_metrics::run(
            self.component("metrics-server"),
            watches.nodes.clone(),
            measured,
            stop.clone(),
        ));
        let controllers = ControllerOptions {
            root_ca: Some(self.pki.ca_pem().to_owned()),
            pki: Some(self.pki.clone()),
            issuer: Some(issuer),
            front_proxy: Some(front_proxy),
            node_cidr_mask_size: options.node_cidr_mask_size,
            service_cidr: Some(options.service_cidr),
            unavailable,
            ..ControllerOptions::new(options.pod_cidr)
        };
        self.clients.tasks.spawn(controllers::run(
            self.component("kube-controller-manager"),
            watches,
            controllers,
            stop.clone(),
        ));
    }

    /// Where the API server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where the embedded registry listens.
    pub fn registry_addr(&self) -> Option<SocketAddr> {
        self.registry_addr
    }

    /// An in-process client that may do everything.
    pub fn client(&self) -> kube::Client {
        self.client_as("system:admin", &[MASTERS])
    }

    /// An in-process client of a part of the control plane.
    fn component(&self, name: &str) -> kube::Client {
        self.client_as(&format!("system:{name}"), &[MASTERS])
    }

    /// An in-process client of another user.
    pub fn client_as(&self, user: &str, groups: &[&str]) -> kube::Client {
        let groups = groups.iter().map(ToString::to_string);
        serve::client(self.router.clone(), Identity::new(user, groups))
    }

    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Stops clients first, then the server; connections get until `deadline` to end.
    pub async fn shutdown(self, deadline: Duration) {
        for (name, stage) in [
            ("the controllers", &self.clients),
            ("the API server", &self.server),
        ] {
            if !stage.end(deadline).await {
                tracing::warn!("{name} did not stop in time");
            }
        }
    }
}

async fn bind(address: SocketAddr, flag: &'static str) -> Result<(TcpListener, SocketAddr), StartError> {
    let unbound = |source| StartError::Listen {
        address,
        flag,
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(unbound)?;
    let local = listener.local_addr().map_err(unbound)?;
    Ok((listener, local))
}

async fn serve_registry(listener: TcpListener, dir: PathBuf, stop: CancellationToken) {
    if let Err(error) = registry::serve(listener, &dir, stop).await {
        tracing::error!(%error, "the embedded registry ended");
    }
}

fn open_audit(options: &ControlOptions) -> Result<Audit, StartError> {
    let policy = match &options.audit_policy {
        Some(file) => Policy::read(file)?,
        None => Policy::metadata()?,
    };
    Ok(Audit::open(
        policy,
        LogOptions::new(options.data_dir.join("audit")),
    )?)
}

/// The store with Secrets encrypted, all of them under the newest key.
async fn sealed(store: Arc<dyn Store>, dir: &Path) -> Result<Arc<dyn Store>, StartError> {
    let keys = Keyring::open_or_create(&dir.join("pki").join("encryption.keys"))?;
    let sealed = SealedStore::new(store, keys);
    sealed.reseal().await?;
    Ok(Arc::new(sealed))
}

/// What this cluster's API is told beside its store and certificates.
struct Rules {
    issuer: Arc<TokenIssuer>,
    front_proxy: FrontProxy,
    audit: Audit,
    addresses: ServiceAddresses,
    /// The level of namespaces without labels.
    pod_security: PodSecurityLevel,
    patience: serve::Patience,
    metrics: Metrics,
    flags: api::Flags,
}

async fn build(store: Arc<dyn Store>, pki: &Pki, rules: Rules) -> Result<Arc<Api>, StartError> {
    let builtin = Registry::builtin();
    let kinds = Arc::new(Live::new(builtin.clone()));
    let tokens = Tokens::open(store.as_ref()).await?;
    let cache = Arc::new(Cache::load(store.clone(), builtin).await?);
    let objects = Arc::new(CachedObjects {
        cache: cache.clone(),
        kinds: kinds.clone(),
    });
    let definitions = Definitions::new(cache.clone(), kinds.clone());
    definitions.sync().await?;
    let authorizer = Authorizer::new(objects.clone());
    let bearers = TokenAuthenticator::new(rules.issuer, objects.clone());
    let admission = Admission::new(objects.clone(), rules.addresses, rules.pod_security);
    let openapi = OpenApi::new(kinds.clone(), VERSION);
    Ok(Arc::new(Api {
        store,
        cache,
        kinds,
        definitions,
        admission,
        authorizer,
        ways: Ways::default(),
        bearers,
        audit: rules.audit,
        reader: objects.clone(),
        objects,
        tokens,
        metrics: rules.metrics,
        flags: rules.flags,
        resource_metrics: Arc::default(),
        entrance: Entrance::default(),
        room: Room::default(),
        flows: Flows::default(),
        patience: rules.patience,
        openapi,
        front_proxy: rules.front_proxy,
        documents: Default::default(),
        nodes: NodeClient::new(pki)?,
        proxy_tls: ProxyTls::new()?,
    }))
}

/// An address of this machine by which others can reach the API server.
fn reachable(local: SocketAddr) -> SocketAddr {
    match local.ip() {
        ip if ip.is_unspecified() => SocketAddr::new(own_address(), local.port()),
        _ => local,
    }
}

/// Names and addresses in the serving certificate.
fn sans(options: &ControlOptions, cluster_ip: IpAddr) -> Vec<String> {
    let fixed = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "127.0.0.1",
        "::1",
    ];
    let addresses = [cluster_ip, options.listen.ip(), own_address()];
    let addresses = addresses
        .iter()
        .filter(|ip| !ip.is_unspecified())
        .map(ToString::to_string);
    fixed
        .iter()
        .map(ToString::to_string)
        .chain(addresses)
        .chain(options.extra_sans.iter().cloned())
        .collect()
}

/// The address of this machine on its way out, by asking the kernel for a route (nothing is sent); loopback without a
/// network.
fn own_address() -> IpAddr {
    let documentation = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect(documentation)?;
        socket.local_addr()
    });
    routed.map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip())
}
