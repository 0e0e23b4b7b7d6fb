//! The Node object and its Lease: registration, heartbeats, conditions. Owns what the API knows of this node;
//! refuses to know its Pods.

pub mod join;
pub mod lease;
pub mod node;
mod told;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::api_error;
use crate::csi::Csi;
use crate::events::{Recorder, node_reference_of};
use crate::host::Host;
use crate::images::Images;
use crate::options::NodeOptions;
use crate::pressure::NodeState;
use node::Facts;
use told::Event;

/// How often the status is looked at; upstream's nodeStatusUpdateFrequency.
pub const STATUS_EVERY: Duration = Duration::from_secs(10);
/// How often it is written when nothing changed; upstream's nodeStatusReportFrequency.
pub const REPORT_EVERY: Duration = Duration::from_secs(300);
/// Time a control plane may take to come up before a node gives up on its first registration.
const REGISTER_LIMIT: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_millis(500);
/// Time the controller may take to give the node its range of Pod addresses.
const CIDR_LIMIT: Duration = Duration::from_secs(120);

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error(
        "node {node} could not be registered within {limit:?}: {source}; is the API server up, and may this node's certificate speak for it?"
    )]
    Register {
        node: String,
        limit: Duration,
        source: Box<kube::Error>,
    },
    #[error("node {node} got no podCIDR within {limit:?}; is a node controller running, or give --pod-cidr")]
    NoCidr { node: String, limit: Duration },
    #[error("watching node {node} failed: {source}")]
    Watch {
        node: String,
        source: kube::runtime::wait::Error,
    },
    #[error("node {node} has the podCIDR {text:?}, which is no network")]
    BadCidr { node: String, text: String },
}

/// What changes of the node, and the API is told.
pub struct Told {
    pub images: Images,
    pub state: NodeState,
    pub csi: Csi,
}

/// The node as the API shall know it.
pub struct Registration {
    api: Api<Node>,
    facts: Facts,
    recorder: Recorder,
}

impl Registration {
    pub fn new(
        options: &NodeOptions,
        host: Host,
        kubelet_port: u16,
        Told { images, state, csi }: Told,
        recorder: Recorder,
    ) -> Self {
        let facts = Facts {
            host,
            images,
            ip: None,
            kubelet_port,
            name: options.node_name.clone(),
            labels: options.labels.clone(),
            max_pods: options.max_pods,
            root_dir: options.layout.root().to_owned(),
            state,
            limits: options.pressure.clone(),
            csi,
            pod_cidr: None,
        };
        Registration {
            api: Api::all(options.client.clone()),
            facts,
            recorder,
        }
    }

    /// The address to report.
    pub fn set_ip(&mut self, ip: IpAddr) {
        self.facts.ip = Some(ip);
    }

    /// The range its Pods' addresses are of.
    pub fn set_pod_cidr(&mut self, range: IpNet) {
        self.facts.pod_cidr = Some(range);
    }

    pub fn allocatable(&self) -> BTreeMap<String, Quantity> {
        node::allocatable(&self.facts)
    }

    /// Creates the Node or brings its labels up to date, trying until the API server answers.
    pub async fn register(&self) -> Result<Node, RegisterError> {
        self.persist(|| self.put()).await
    }

    /// Writes the whole status once, trying until the API server answers.
    pub async fn report(&self) -> Result<Node, RegisterError> {
        self.persist(|| self.put_status()).await
    }

    async fn persist<F>(&self, attempt: impl Fn() -> F) -> Result<Node, RegisterError>
    where
        F: Future<Output = Result<Node, kube::Error>>,
    {
        let started = tokio::time::Instant::now();
        let mut told = String::new();
        loop {
            match attempt().await {
                Ok(node) => return Ok(node),
                Err(source) if started.elapsed() > REGISTER_LIMIT => {
                    let node = self.facts.name.clone();
                    return Err(RegisterError::Register {
                        node,
                        limit: REGISTER_LIMIT,
                        source: Box::new(source),
                    });
                }
                Err(error) => tell_once(&mut told, &error),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn put(&self) -> Result<Node, kube::Error> {
        let wanted = node::object(&self.facts);
        match self.api.create(&PostParams::default(), &wanted).await {
            Ok(node) => return Ok(node),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
        let labels = json!({"metadata": {"labels": wanted.metadata.labels}});
        self.api
            .patch(&self.facts.name, &PatchParams::default(), &Patch::Merge(labels))
            .await
    }

    /// Of a Node that was deleted meanwhile too, which is made anew.
    async fn put_status(&self) -> Result<Node, kube::Error> {
        let node = match self.api.get_opt(&self.facts.name).await? {
            Some(node) => node,
            None => self.put().await?,
        };
        self.write_status(&node).await
    }

    async fn write_status(&self, before: &Node) -> Result<Node, kube::Error> {
        let patch = Patch::Strategic(json!({"status": self.status(conditions(before))}));
        let written = self
            .api
            .patch_status(&self.facts.name, &PatchParams::default(), &patch)
            .await?;
        told::of_report(before, &written)
            .into_iter()
            .for_each(|event| self.tell(event));
        self.facts.state.saw(written.clone());
        Ok(written)
    }

    fn tell(&self, event: Event) {
        let node = node_reference_of(&self.facts.name);
        self.recorder
            .event(node, event.severity, event.reason, event.message);
    }

    fn status(&self, old: &[NodeCondition]) -> Value {
        json!(node::status(&self.facts, old, Timestamp::now()))
    }

    /// The range of Pod addresses the cluster gave this node.
    pub async fn pod_cidr(&self) -> Result<IpNet, RegisterError> {
        let name = &self.facts.name;
        let has_cidr = |node: Option<&Node>| cidr_of(node).is_some();
        let found = await_condition(self.api.clone(), name, has_cidr);
        let found = tokio::time::timeout(CIDR_LIMIT, found).await;
        let found = found.map_err(|_| RegisterError::NoCidr {
            node: name.clone(),
            limit: CIDR_LIMIT,
        })?;
        let node = found.map_err(|source| RegisterError::Watch {
            node: name.clone(),
            source,
        })?;
        let text = cidr_of(node.as_ref()).unwrap_or_default();
        text.parse().map_err(|_| RegisterError::BadCidr {
            node: name.clone(),
            text,
        })
    }

    /// Keeps the status current until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(STATUS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last: Option<(Value, tokio::time::Instant)> = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.facts.state.changed() => {}
                () = self.facts.csi.use_changed() => {}
                () = shutdown.cancelled() => return,
            }
            let heartbeat = self.beat(&mut last);
            match shutdown.run_until_cancelled(heartbeat).await {
                Some(Err(error)) => tracing::warn!(%error, "the status of the node was not written"),
                Some(Ok(())) => {}
                None => return,
            }
        }
    }

    /// Pods keep the addresses they have, which are of no range of this node's if the cluster thinks of another.
    fn check_range(&self, node: &Node) {
        let (given, own) = (
            cidr_of(Some(node)),
            self.facts.pod_cidr.map(|range| range.to_string()),
        );
        if given.is_some() && own.is_some() && given != own {
            tracing::error!(
                given,
                own,
                "the cluster gives this node another range of Pod addresses than its Pods have; restart the agent, which makes them anew"
            );
        }
    }

    async fn beat(&self, last: &mut Option<(Value, tokio::time::Instant)>) -> Result<(), kube::Error> {
        let Some(node) = self.api.get_opt(&self.facts.name).await? else {
            tracing::warn!("the Node was deleted; it is made anew");
            let node = self.put().await?;
            self.check_range(&node);
            self.facts.csi.tell_again();
            return self.put_status().await.map(drop);
        };
        let seen = self.facts.state.node();
        let turned = seen.and_then(|seen| told::of_schedulability(&seen, &node));
        turned.into_iter().for_each(|event| self.tell(event));
        self.facts.state.saw(node.clone());
        let old = conditions(&node);
        let now = node::without_heartbeats(self.status(old));
        let reflected = old.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        let same = last
            .as_ref()
            .is_some_and(|(said, at)| *said == now && at.elapsed() < REPORT_EVERY);
        if !(same && reflected) {
            self.write_status(&node).await?;
            *last = Some((now, tokio::time::Instant::now()));
        }
        Ok(())
    }
}

/// Says why the node is not registered yet, when that has changed.
fn tell_once(told: &mut String, error: &kube::Error) {
    let why = api_error::words(error);
    if *told != why {
        tracing::warn!(why, "the node is not registered yet; trying on");
        *told = why;
    }
}

fn conditions(node: &Node) -> &[NodeCondition] {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref());
    conditions.unwrap_or_default()
}

fn cidr_of(node: Option<&Node>) -> Option<String> {
    node?
        .spec
        .as_ref()?
        .pod_cidr
        .clone()
        .filter(|cidr| !cidr.is_empty())
}
