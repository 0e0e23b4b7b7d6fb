//! What rules are made from, watched only while somebody needs it: NetworkPolicies once a Wasm container was to run here, all
//! Pods and Namespaces while a policy selects one of this node's Wasm Pods. A node without policies knows no other node's Pods.
//!
//! Level-triggered: every change leads to a new judge from all there is, and what guests should have is compared with what
//! they were given.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use amphipod_shim_api::network::NetworkRules;
use amphipod_shim_api::{ShimAddress, TaskClient, TaskError};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec, PodStatus};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use tokio::time::Instant;

use super::{Known, Narrower, Trouble};
use crate::api_error;
use crate::network::services::Lists;
use crate::pods::context::Context;
use crate::pods::table::Guest;
use crate::policy::{Cluster, Fronts, Judge, Peer, Policy};
use crate::reflect::{is_ready, reflect};

/// Changes come in bursts (a rollout, a start): the first waits so long for others.
const GATHER: Duration = Duration::from_millis(50);

/// How long until rules that a shim did not take are given again.
const RETRY: Duration = Duration::from_secs(5);

/// What a shim has to take rules in: others wait for theirs.
const GIVE_LIMIT: Duration = Duration::from_secs(2);

/// How long everybody is still followed when nobody needs them any more. A container waits for its rules for less time than it may
/// take to list all Pods there are, and then asks again: what it began has to go on meanwhile.
const KEPT: Duration = Duration::from_secs(300);

/// What a trouble or a change is of.
const POLICIES: &str = "networkpolicies";

/// To whoever joined this node to a control plane that gives nodes only what kubelets need.
const ADVICE: &str = "if nothing else on this node does, let it: kubectl create clusterrole amphipod:network-policies \
                      --verb=list,watch --resource=networkpolicies.networking.k8s.io,namespaces,pods; kubectl create \
                      clusterrolebinding amphipod:network-policies --clusterrole=amphipod:network-policies --group=system:nodes";

/// How long a refusal to list policies has to last to be the administrator's: a control plane that has just started has not all of its
/// roles yet. Shorter than a container waits.
const LASTING: Duration = Duration::from_secs(5);

/// There, below the node's data, when policies could be listed once: from then on they are this node's business, and a right that is
/// gone opens nothing.
const LISTED: &str = "policies-listed";

/// Shims told at once.
const AT_ONCE: usize = 8;

/// What happened to a watch.
type News = (&'static str, Result<(), watcher::Error>);

/// Keeps guests to their policies until the agent ends.
pub async fn run(ctx: Arc<Context>) {
    let shutdown = ctx.shutdown.clone();
    shutdown.run_until_cancelled(follow(ctx)).await;
}

async fn follow(ctx: Arc<Context>) {
    let mut guests = ctx.table.guest_changes();
    let mut asking = ctx.narrower.asking.subscribe();
    let mut services = ctx.narrower.services.subscribe();
    while ctx.table.guests().is_empty() && asking.borrow_and_update().is_empty() {
        tokio::select! {
            Ok(()) = guests.changed() => {}
            Ok(()) = asking.changed() => {}
        }
    }
    let (policies, news) =
        reflect::<NetworkPolicy>(ctx.options.client.clone(), |policy| trim(&mut policy.metadata));
    let mut follow = Follow {
        ctx,
        policies,
        cluster: None,
        news: named(POLICIES, news),
        troubles: BTreeMap::new(),
        refused_since: None,
    };
    let mut due = None;
    loop {
        let wait = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let now = Instant::now();
        // News are not made to wait for what is tried again later.
        let soon = |due: Option<Instant>| Some(due.map_or(now + GATHER, |at| at.min(now + GATHER)));
        tokio::select! {
            Some(news) = follow.next() => {
                follow.hear(news);
                due = soon(due);
            }
            // Who waits for rules is not made to wait for more news.
            Ok(()) = asking.changed() => due = Some(now),
            Ok(()) = guests.changed() => due = soon(due),
            Ok(()) = services.changed(), if follow.cluster.is_some() => due = soon(due),
            () = wait => due = follow.synchronise().await,
        }
    }
}

fn named(kind: &'static str, changes: crate::reflect::Changes) -> BoxStream<'static, News> {
    changes.map(move |change| (kind, change)).boxed()
}

/// All Pods and Namespaces there are.
struct Everybody {
    pods: Store<Pod>,
    namespaces: Store<Namespace>,
    news: BoxStream<'static, News>,
    /// When they are let go, while nobody needs them.
    over: Option<Instant>,
}

impl Everybody {
    fn follow(client: &kube::Client) -> Self {
        let (pods, pod_news) = reflect::<Pod>(client.clone(), only_peer);
        let (namespaces, news) = reflect::<Namespace>(client.clone(), |namespace| {
            trim(&mut namespace.metadata);
            (namespace.spec, namespace.status) = (None, None);
        });
        let news = stream::select(named("pods", pod_news), named("namespaces", news));
        Self {
            pods,
            namespaces,
            news: news.boxed(),
            over: None,
        }
    }

    fn is_ready(&self) -> bool {
        is_ready(&self.pods) && is_ready(&self.namespaces)
    }
}

/// Whether nobody has needed it for as long as it is kept; notes when that will be.
fn is_over(over: &mut Option<Instant>, needed: bool, now: Instant) -> bool {
    match needed {
        true => {
            *over = None;
            false
        }
        false => now >= *over.get_or_insert(now + KEPT),
    }
}

/// Labels and identity are all that matters of an object.
fn trim(metadata: &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) {
    metadata.managed_fields = None;
    metadata.annotations = None;
    metadata.owner_references = None;
}

/// Leaves of a Pod what makes it a peer: there may be very many.
fn only_peer(pod: &mut Pod) {
    trim(&mut pod.metadata);
    let ports = |containers: Vec<Container>| -> Vec<Container> {
        let kept = containers.into_iter().filter(|c| c.ports.is_some());
        kept.map(|c| Container {
            name: c.name,
            ports: c.ports,
            restart_policy: c.restart_policy,
            ..Container::default()
        })
        .collect()
    };
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        host_network: spec.host_network,
        containers: ports(spec.containers),
        init_containers: spec.init_containers.map(ports).filter(|all| !all.is_empty()),
        ..PodSpec::default()
    });
    pod.status = pod.status.take().map(|status| PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        pod_ips: status.pod_ips,
        ..PodStatus::default()
    });
}

struct Follow {
    ctx: Arc<Context>,
    policies: Store<NetworkPolicy>,
    cluster: Option<Everybody>,
    news: BoxStream<'static, News>,
    /// What each watch lacks.
    troubles: BTreeMap<&'static str, Trouble>,
    /// Since when policies may not be listed.
    refused_since: Option<Instant>,
}

impl Follow {
    async fn next(&mut self) -> Option<News> {
        match &mut self.cluster {
            None => self.news.next().await,
            Some(cluster) => tokio::select! {
                news = self.news.next() => news,
                news = cluster.news.next() => news,
            },
        }
    }

    /// Takes in what a watch says; a trouble is told once, as long as it stays the same.
    fn hear(&mut self, (kind, news): News) {
        match news {
            Ok(()) => {
                self.troubles.remove(kind);
                if kind == POLICIES {
                    self.refused_since = None;
                }
            }
            Err(error) => {
                let trouble = Trouble::of(kind, &error);
                if kind == POLICIES {
                    let since = self.refused_since.unwrap_or_else(Instant::now);
                    self.refused_since = trouble.forbidden.then_some(since);
                }
                if self.troubles.insert(kind, trouble.clone()).as_ref() != Some(&trouble) {
                    let advice = if trouble.forbidden { ADVICE } else { "trying again" };
                    tracing::warn!(trouble.message, "network policies are not followed; {advice}");
                }
            }
        }
    }

    /// Makes a new judge and gives guests what it says; when to look again, where a shim did not take it or somebody is followed
    /// for nobody.
    async fn synchronise(&mut self) -> Option<Instant> {
        let guests = self.ctx.table.guests();
        let asking: Vec<Peer> = self.ctx.narrower.asking.borrow().values().cloned().collect();
        if !is_ready(&self.policies) {
            self.publish(None);
            let lasting = self.refused_since.map(|since| since + LASTING);
            return lasting.filter(|at| *at > Instant::now());
        }
        self.remember_listed();
        self.follow_cluster(&guests, &asking);
        let judge = self.judge().await?;
        self.publish(Some(judge.clone()));
        let failed = self.give(&judge, guests).await;
        let over = self.cluster.as_ref().and_then(|cluster| cluster.over);
        failed
            .then(|| Instant::now() + RETRY)
            .into_iter()
            .chain(over)
            .min()
    }

    fn publish(&self, judge: Option<Arc<Judge>>) {
        // Once policies are known a watch of them may be interrupted, and go on without saying so.
        let listed = is_ready(&self.policies);
        let troubles = self.troubles.iter();
        let troubles = troubles.filter(|(kind, _)| !listed || **kind != POLICIES);
        let trouble = troubles
            .map(|(_, trouble)| trouble)
            .max_by_key(|trouble| trouble.forbidden)
            .cloned();
        let (are_withheld, may_be) = self.withheld();
        // Who waits is to go on waiting while that is not settled.
        let trouble = trouble.map(|trouble| Trouble {
            forbidden: trouble.forbidden && !may_be,
            ..trouble
        });
        self.ctx.narrower.known.send_replace(Known {
            judge,
            trouble,
            are_withheld,
        });
    }

    /// Whether policies are none of this node's business, and whether that may turn out to be so.
    fn withheld(&self) -> (bool, bool) {
        match self.refused_since {
            Some(since) if !is_ready(&self.policies) && !self.memory().exists() => {
                let lasts = since.elapsed() >= LASTING;
                (lasts, !lasts)
            }
            _ => (false, false),
        }
    }

    /// `DATA/node/policies-listed`.
    fn memory(&self) -> PathBuf {
        self.ctx.options.layout.data().join(LISTED)
    }

    fn remember_listed(&self) {
        let memory = self.memory();
        if !memory.exists()
            && let Err(error) = std::fs::write(&memory, "")
        {
            tracing::warn!(%error, path = %memory.display(), "that policies are this node's business is not remembered");
        }
    }

    /// Everybody is followed while a policy selects a Wasm Pod that is here, or about to be; and a while after.
    fn follow_cluster(&mut self, guests: &[Guest], asking: &[Peer]) {
        let nobody = Cluster {
            namespaces: &BTreeMap::new(),
            pods: &[],
        };
        let policies = self.policies.state();
        let policies: Vec<Policy> = policies
            .iter()
            .map(|policy| Policy::new(policy, &nobody))
            .collect();
        let judge = Judge {
            policies,
            ..Judge::default()
        };
        let here = || guests.iter().filter_map(|guest| Peer::of(&guest.pod));
        let selected = !judge.policies.is_empty()
            && (asking.iter().any(|pod| judge.is_selected(pod)) || here().any(|pod| judge.is_selected(&pod)));
        if selected && self.cluster.is_none() {
            self.cluster = Some(Everybody::follow(&self.ctx.options.client));
        }
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        if is_over(&mut cluster.over, selected, Instant::now()) {
            self.cluster = None;
            self.troubles.retain(|kind, _| *kind == POLICIES);
        }
    }

    async fn judge(&mut self) -> Option<Arc<Judge>> {
        let policies = self.policies.state();
        let cluster = self.cluster.as_ref().filter(|cluster| cluster.is_ready());
        let everybody = cluster.map(|cluster| (cluster.pods.state(), cluster.namespaces.state()));
        let services = match everybody {
            Some(_) => self.ctx.narrower.services.borrow().clone(),
            None => None,
        };
        let node = self.ctx.options.node_name.clone();
        let gateway = IpAddr::V4(self.ctx.network.gateway());
        let addresses = self.ctx.host_ips.iter().copied().chain([gateway]).collect();
        let making = move || {
            let fronts = services.map(|lists| fronts(&lists, &node));
            let knows_peers = everybody.is_some();
            let (pods, namespaces) = everybody.unwrap_or_default();
            let mut pods: Vec<Peer> = pods.iter().filter_map(|pod| Peer::of(pod)).collect();
            pods.extend(fronts.as_ref().and_then(Fronts::dns_pod));
            let labels = |namespace: &Arc<Namespace>| (namespace.name_any(), namespace.labels().clone());
            let cluster = Cluster {
                namespaces: &namespaces.iter().map(labels).collect(),
                pods: &pods,
            };
            Judge {
                policies: policies
                    .iter()
                    .map(|policy| Policy::new(policy, &cluster))
                    .collect(),
                knows_peers,
                fronts,
                node: addresses,
                ..Judge::default()
            }
        };
        match tokio::task::spawn_blocking(making).await {
            Ok(judge) => Some(Arc::new(judge)),
            Err(error) => {
                tracing::error!(%error, "network policies could not be understood; rules stay as they were");
                None
            }
        }
    }

    /// Gives guests the rules they do not have yet; whether some could not be given. What is not known stays as it was.
    async fn give(&mut self, judge: &Judge, guests: Vec<Guest>) -> bool {
        let narrower = &self.ctx.narrower;
        let wanted = guests.into_iter().filter_map(|guest| {
            let rules = match judge.policies.is_empty() {
                true => NetworkRules::default(),
                false => judge.rules(&Peer::of(&guest.pod)?)?,
            };
            Some((guest, rules))
        });
        let mut due: Vec<(Guest, NetworkRules)> = wanted.collect();
        {
            let given = narrower.given();
            due.retain(|(guest, rules)| given.get(&guest.id) != Some(rules));
        }
        let giving = stream::iter(by_shim(due)).map(|(shim, due)| tell(narrower, shim, due, GIVE_LIMIT));
        let failed: Vec<bool> = giving.buffer_unordered(AT_ONCE).collect().await;
        failed.contains(&true)
    }
}

/// Guests and the rules that are due to them, by the shim that serves them.
type Due = Vec<(String, NetworkRules)>;

fn by_shim(all: Vec<(Guest, NetworkRules)>) -> Vec<(ShimAddress, Due)> {
    let mut shims: BTreeMap<String, (ShimAddress, Due)> = BTreeMap::new();
    for (guest, rules) in all {
        let known = shims.entry(guest.address.address.clone());
        let (_, due) = known.or_insert_with(|| (guest.address, Due::new()));
        due.push((guest.id, rules));
    }
    shims.into_values().collect()
}

/// Gives the guests of one shim their rules, one after the other; whether some could not be given. A shim that does not answer
/// for one is not asked for the others: everybody waits for it once.
async fn tell(narrower: &Narrower, shim: ShimAddress, due: Due, limit: Duration) -> bool {
    let client = TaskClient::new(shim);
    let mut failed = false;
    for (id, rules) in due {
        // What it has is not known until it says so.
        narrower.given().remove(&id);
        let Ok(updated) = tokio::time::timeout(limit, client.narrow(&id, &rules)).await else {
            tracing::warn!(
                id,
                "a shim does not answer; the rules of its guests are given again"
            );
            return true;
        };
        match updated {
            Ok(()) => drop(narrower.given().insert(id, rules)),
            // It has ended.
            Err(TaskError::NotFound(_)) => {}
            // A shim of before knows no rules, and has none.
            Err(TaskError::InvalidArgument(_)) if rules.is_open() => {
                narrower.given().insert(id, rules);
            }
            Err(error) => {
                tracing::warn!(%error, id, "a shim did not take the rules of a guest; trying again");
                failed = true;
            }
        }
    }
    failed
}

/// Services as this node leads to them.
fn fronts(lists: &Lists, node: &str) -> Fronts {
    let is_dns = |service: &&Arc<k8s_openapi::api::core::v1::Service>| {
        service.metadata.namespace.as_deref() == Some("kube-system") && service.name_any() == "kube-dns"
    };
    let dns = lists.services.iter().find(is_dns);
    let dns = dns.and_then(|service| service.spec.as_ref()?.cluster_ip.as_ref());
    Fronts {
        ruleset: lists.rules(node),
        dns: dns.and_then(|ip| ip.parse::<Ipv4Addr>().ok()),
    }
}

impl Trouble {
    fn of(kind: &str, error: &watcher::Error) -> Self {
        let (why, forbidden) = api_error::of_watch(error);
        Self {
            message: format!("{kind} cannot be listed: {why}"),
            forbidden,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amphipod_shim_api::network::Allowed;

    #[test]
    fn a_listing_outlives_the_container_that_asked_for_it() {
        let (mut over, began) = (None, Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        for (needed, seconds, expected) in [
            (true, 0, false),
            (false, 10, false),
            (true, 20, false),
            (false, 30, false),
            (false, 329, false),
            (false, 330, true),
            (true, 331, false),
        ] {
            assert_eq!(is_over(&mut over, needed, at(seconds)), expected, "{seconds}");
        }
    }

    fn rules(n: usize) -> NetworkRules {
        NetworkRules {
            ingress: Some(vec![
                Allowed {
                    ports: None,
                    addresses: amphipod_shim_api::network::Addresses::everything(),
                };
                n
            ]),
            egress: None,
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_is_waited_for_once() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("s");
        let _hung = tokio::net::UnixListener::bind(&path).unwrap();
        let shim = ShimAddress {
            address: format!("unix://{}", path.display()),
            version: 3,
        };
        let (narrower, old) = (Narrower::default(), rules(0));
        let guests = ["a", "b", "c"].map(str::to_owned);
        narrower
            .given()
            .extend(guests.clone().map(|id| (id, old.clone())));
        let due = guests.map(|id| (id, rules(1))).into();
        assert!(tell(&narrower, shim, due, Duration::from_millis(50)).await);
        let given = narrower.given();
        assert_eq!(
            (given.get("a"), given.get("b"), given.get("c")),
            (None, Some(&old), Some(&old))
        );
    }
}
