//! What all controllers are given: the client, the options, the event sink and the shared watches.
use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, ReplicationController,
    ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass, VolumeAttachment, VolumeAttributesClass};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::runtime::watcher::Config;
use kube::{Client, ResourceExt};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::volumes::attachments;
use super::{ControllerOptions, account_tokens, addresses, bootstrap_tokens, endpoints, mirroring, root_ca};
use crate::toolkit::catalog::Catalog;
use crate::toolkit::{EventSink, Informer, Kind, Objects, Pod, owners, pods};

/// Index of Pods and of what keeps their number: by managing controller, see [`owner_index`].
pub const BY_OWNER: usize = 0;
/// Index of Pods: by the node they are bound to.
pub const BY_NODE: usize = 1;
/// Index of slices: those of the mirroring controller, by Service. Before it come those of the endpoints controller.
pub const MIRRORED: usize = 1;
/// Where nodes renew their leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub options: Arc<ControllerOptions>,
    pub events: EventSink,
    pub watches: Arc<Watches>,
    pub catalog: Arc<Catalog>,
    pub shutdown: CancellationToken,
}

impl Context {
    pub fn new(
        client: Client,
        watches: Arc<Watches>,
        options: ControllerOptions,
        shutdown: CancellationToken,
    ) -> Self {
        let events = EventSink::start(client.clone(), shutdown.clone());
        let catalog = Arc::new(Catalog::new(client.clone()));
        Self {
            client,
            options: Arc::new(options),
            events,
            watches,
            catalog,
            shutdown,
        }
    }
}

/// One cache per kind, shared by all controllers and the scheduler.
pub struct Watches {
    pub pods: Arc<Informer<Pod>>,
    pub replica_sets: Arc<Informer<ReplicaSet>>,
    pub replication_controllers: Arc<Informer<ReplicationController>>,
    pub deployments: Arc<Informer<Deployment>>,
    pub autoscalers: Arc<Informer<HorizontalPodAutoscaler>>,
    pub services: Arc<Informer<Service>>,
    pub slices: Arc<Informer<EndpointSlice>>,
    pub endpoints: Arc<Informer<Endpoints>>,
    pub namespaces: Arc<Informer<Namespace>>,
    pub service_accounts: Arc<Informer<ServiceAccount>>,
    /// Only Secrets that hold the token of an account.
    pub account_tokens: Arc<Informer<Secret>>,
    /// Only Secrets that are bootstrap tokens.
    pub bootstrap_tokens: Arc<Informer<Secret>>,
    /// Only the one of that name.
    pub cluster_info: Arc<Informer<ConfigMap>>,
    /// Only those that publish the cluster CA.
    pub root_cas: Arc<Informer<ConfigMap>>,
    pub definitions: Arc<Informer<CustomResourceDefinition>>,
    pub api_services: Arc<Informer<APIService>>,
    pub policies: Arc<Informer<ValidatingAdmissionPolicy>>,
    pub flow_schemas: Arc<Informer<FlowSchema>>,
    pub priority_levels: Arc<Informer<PriorityLevelConfiguration>>,
    pub nodes: Arc<Informer<Node>>,
    /// Only those of nodes.
    pub leases: Arc<Informer<Lease>>,
    pub cluster_roles: Arc<Informer<ClusterRole>>,
    pub quotas: Arc<Informer<ResourceQuota>>,
    pub budgets: Arc<Informer<PodDisruptionBudget>>,
    pub claims: Arc<Informer<PersistentVolumeClaim>>,
    pub volumes: Arc<Informer<PersistentVolume>>,
    pub classes: Arc<Informer<StorageClass>>,
    pub attributes_classes: Arc<Informer<VolumeAttributesClass>>,
    pub drivers: Arc<Informer<CSIDriver>>,
    pub attachments: Arc<Informer<VolumeAttachment>>,
    pub certificates: Arc<Informer<CertificateSigningRequest>>,
    pub addresses: Arc<Informer<IPAddress>>,
    pub service_ranges: Arc<Informer<ServiceCIDR>>,
}

impl Default for Watches {
    fn default() -> Self {
        let node_name = |pod: &Pod| pods::node_name(pod).map(str::to_owned);
        Self {
            pods: Informer::new(&[owner_index::<Pod>, node_name]),
            replica_sets: Informer::new(&[owner_index::<ReplicaSet>]),
            replication_controllers: Informer::new(&[owner_index::<ReplicationController>]),
            deployments: Informer::new(&[]),
            autoscalers: Informer::new(&[]),
            services: Informer::new(&[addresses::cluster_ip]),
            slices: Informer::new(&[endpoints::service_index, mirroring::service_index]),
            endpoints: Informer::new(&[]),
            namespaces: Informer::new(&[]),
            service_accounts: Informer::new(&[]),
            account_tokens: Informer::new(&[]),
            bootstrap_tokens: Informer::new(&[]),
            cluster_info: Informer::new(&[]),
            root_cas: Informer::new(&[]),
            definitions: Informer::new(&[]),
            api_services: Informer::new(&[]),
            policies: Informer::new(&[]),
            flow_schemas: Informer::new(&[]),
            priority_levels: Informer::new(&[]),
            nodes: Informer::new(&[]),
            leases: Informer::new(&[]),
            cluster_roles: Informer::new(&[]),
            quotas: Informer::new(&[]),
            budgets: Informer::new(&[]),
            claims: Informer::new(&[]),
            volumes: Informer::new(&[attachments::unique_index]),
            classes: Informer::new(&[]),
            attributes_classes: Informer::new(&[]),
            drivers: Informer::new(&[]),
            attachments: Informer::new(&[attachments::host_index, attachments::volume_index]),
            certificates: Informer::new(&[]),
            addresses: Informer::new(&[]),
            service_ranges: Informer::new(&[]),
        }
    }
}

impl Watches {
    /// Starts all watches on `tasks`.
    pub fn run(&self, client: &Client, shutdown: &CancellationToken, tasks: &mut JoinSet<()>) {
        macro_rules! follow_all {
            ($($cache:ident),*) => {$(
                let api = Objects::all(client);
                tasks.spawn(self.$cache.clone().run(api, Config::default(), shutdown.clone()));
            )*};
        }
        follow_all!(
            pods,
            replica_sets,
            replication_controllers,
            deployments,
            autoscalers,
            services,
            slices,
            endpoints,
            namespaces,
            service_accounts,
            definitions,
            api_services,
            policies,
            flow_schemas,
            priority_levels,
            nodes,
            cluster_roles,
            quotas,
            budgets,
            claims,
            volumes,
            classes,
            attributes_classes,
            drivers,
            attachments,
            certificates,
            addresses,
            service_ranges
        );
        let cas = Config::default().fields(&format!("metadata.name={}", root_ca::NAME));
        tasks.spawn(
            self.root_cas
                .clone()
                .run(Objects::all(client), cas, shutdown.clone()),
        );
        let tokens = Config::default().fields(&format!("type={}", account_tokens::TYPE));
        tasks.spawn(
            self.account_tokens
                .clone()
                .run(Objects::all(client), tokens, shutdown.clone()),
        );
        self.follow_bootstrap(client, shutdown, tasks);
        let leases = Objects::in_namespace(client, LEASE_NAMESPACE);
        tasks.spawn(
            self.leases
                .clone()
                .run(leases, Config::default(), shutdown.clone()),
        );
    }

    /// What new nodes join by.
    fn follow_bootstrap(&self, client: &Client, shutdown: &CancellationToken, tasks: &mut JoinSet<()>) {
        let tokens = Objects::in_namespace(client, bootstrap_tokens::NAMESPACE);
        let selected = Config::default().fields(&format!("type={}", bootstrap_tokens::TYPE));
        tasks.spawn(
            self.bootstrap_tokens
                .clone()
                .run(tokens, selected, shutdown.clone()),
        );
        let info = Objects::in_namespace(client, bootstrap_tokens::PUBLIC);
        let selected = Config::default().fields(&format!("metadata.name={}", bootstrap_tokens::CLUSTER_INFO));
        tasks.spawn(self.cluster_info.clone().run(info, selected, shutdown.clone()));
    }

    pub async fn synced(&self) {
        tokio::join!(
            self.pods.synced(),
            self.replica_sets.synced(),
            self.replication_controllers.synced(),
            self.deployments.synced(),
            self.autoscalers.synced(),
            self.services.synced(),
            self.slices.synced(),
            self.endpoints.synced(),
            self.namespaces.synced(),
            self.service_accounts.synced(),
            self.account_tokens.synced(),
            self.bootstrap_tokens.synced(),
            self.cluster_info.synced(),
            self.root_cas.synced(),
            self.definitions.synced(),
            self.api_services.synced(),
            self.policies.synced(),
            self.flow_schemas.synced(),
            self.priority_levels.synced(),
            self.nodes.synced(),
            self.leases.synced(),
            self.cluster_roles.synced(),
            self.quotas.synced(),
            self.budgets.synced(),
            self.claims.synced(),
            self.volumes.synced(),
            self.classes.synced(),
            self.attributes_classes.synced(),
            self.drivers.synced(),
            self.attachments.synced(),
            self.certificates.synced(),
            self.addresses.synced(),
            self.service_ranges.synced(),
        );
    }
}

/// Files an object under its controller's uid, or among the orphans of its namespace.
fn owner_index<K: ResourceExt>(object: &K) -> Option<String> {
    owners::controller_uid(object).or_else(|| Some(orphans_in(&object.namespace().unwrap_or_default())))
}

/// What a controller of `uid` in `namespace` may keep, adopt or release: its own and the orphans, as of one moment, since
/// who misses one that is just adopted makes another.
pub fn own_and_orphans<K: Kind>(cache: &Informer<K>, uid: &str, namespace: &str) -> Vec<Arc<K>> {
    cache.indexed_any(BY_OWNER, &[uid, &orphans_in(namespace)])
}

/// The value under which objects without a controller are filed; no uid contains a slash.
fn orphans_in(namespace: &str) -> String {
    format!("orphan/{namespace}")
}
