//! The controllers: each one watches, decides with pure functions, and writes through the API as any client would.
//!
//! Level-triggered throughout: a lost event costs latency, never correctness. They share one set of watches, so that each
//! kind is cached once. It refuses to know the store and the HTTP server.
mod account_tokens;
pub mod addresses;
mod adoption;
mod api_services;
mod autoscaler;
mod bootstrap_tokens;
mod certificate_cleaner;
mod certificates;
mod cluster_role;
mod context;
mod definitions;
mod deployment;
mod disruption;
pub mod dns;
mod endpoints;
mod event_ttl;
mod expectations;
mod flow_control;
mod garbage;
mod mirroring;
mod namespace;
mod node;
mod pod_template;
mod policies;
mod protection;
mod quota;
mod replicaset;
mod root_ca;
mod service_account;
pub mod volumes;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ipnet::IpNet;
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use context::Context;
pub use context::Watches;

use crate::api::Unavailable;
use crate::auth::pki::{FrontProxy, Pki};
use crate::auth::tokens::TokenIssuer;

/// What the controllers need to know beyond what the API tells them.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// The range that is cut into one slice per node.
    pub pod_cidr: IpNet,
    /// The range of Services' addresses that the cluster is started with; it is not kept without.
    pub service_cidr: Option<IpNet>,
    /// Prefix length of a slice; upstream's defaults without.
    pub node_cidr_mask_size: Option<u8>,
    /// PEM of the cluster CA, published as `kube-root-ca.crt` in every namespace.
    pub root_ca: Option<String>,
    /// The authority that signs approved CertificateSigningRequests; none without.
    pub pki: Option<Arc<Pki>>,
    /// Signs the tokens that are kept in Secrets; none without.
    pub issuer: Option<Arc<TokenIssuer>>,
    /// Who we are to extension servers, when their availability is checked; nobody without.
    pub front_proxy: Option<FrontProxy>,
    /// Where it is counted how often extension servers went away.
    pub unavailable: Arc<Unavailable>,
    /// How long a node may stay silent before it counts as unreachable.
    pub node_monitor_grace: Duration,
    /// How long one may take until it reports for the first time.
    pub node_startup_grace: Duration,
}

impl ControllerOptions {
    pub fn new(pod_cidr: IpNet) -> Self {
        Self {
            pod_cidr,
            service_cidr: None,
            node_cidr_mask_size: None,
            root_ca: None,
            pki: None,
            issuer: None,
            front_proxy: None,
            unavailable: Arc::default(),
            node_monitor_grace: Duration::from_secs(50),
            node_startup_grace: Duration::from_secs(60),
        }
    }
}

/// Runs every controller, and the watches, until `shutdown`.
pub async fn run(
    client: Client,
    watches: Arc<Watches>,
    options: ControllerOptions,
    shutdown: CancellationToken,
) {
    let context = Context::new(client, watches, options, shutdown.clone());
    let mut controllers: Vec<BoxFuture<'static, ()>> = vec![
        deployment::start(&context),
        autoscaler::start(&context),
        endpoints::start(&context),
        mirroring::start(&context),
        service_account::start(&context),
        account_tokens::start(&context),
        root_ca::start(&context),
        namespace::start(&context),
        garbage::start(&context),
        event_ttl::start(&context),
        cluster_role::start(&context),
        quota::start(&context),
        certificates::start(&context),
        certificate_cleaner::start(&context),
        disruption::start(&context),
        dns::start(&context),
        definitions::start(&context),
        api_services::start(&context),
        policies::start(&context),
        flow_control::start(&context),
    ];
    controllers.extend(replicaset::start(&context));
    controllers.extend(node::start(&context));
    controllers.extend(bootstrap_tokens::start(&context));
    controllers.extend(protection::start(&context));
    controllers.extend(volumes::start(&context));
    controllers.extend(addresses::start(&context));
    let mut tasks = JoinSet::new();
    context.watches.run(&context.client, &shutdown, &mut tasks);
    let synced = shutdown.run_until_cancelled(context.watches.synced()).await;
    if synced.is_some() {
        for controller in controllers {
            tasks.spawn(controller);
        }
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller ended");
        }
    }
}
