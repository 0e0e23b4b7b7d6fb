//! What this node has promised its Pods of CPU and memory, so that two that grow at once do not get the same rest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::sync::{self, watch};

use super::resize::Pending;
use crate::quantity;

/// The resource that every Pod takes one of.
const PODS: &str = "pods";

/// CPU in thousandths, memory and room for what is written (`ephemeral-storage`) in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub cpu: i64,
    pub memory: i64,
    pub storage: i64,
}

impl Amounts {
    pub fn of_list(list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let of = |name, read: fn(&Quantity) -> Option<i64>| list.and_then(|l| l.get(name)).and_then(read);
        Amounts {
            cpu: of("cpu", quantity::milli).unwrap_or(0),
            memory: of("memory", quantity::value).unwrap_or(0),
            storage: of("ephemeral-storage", quantity::value).unwrap_or(0),
        }
    }

    fn requests(container: &Container) -> Self {
        Self::of_list(container.resources.as_ref().and_then(|r| r.requests.as_ref()))
    }

    fn limits(container: &Container) -> Self {
        Self::of_list(container.resources.as_ref().and_then(|r| r.limits.as_ref()))
    }

    /// What a Pod asks for: containers and sidecars together, or an init container beside the sidecars before it
    /// (KEP-753), unless the Pod says it for all of them (KEP-2837); and its overhead.
    pub fn of_pod(spec: &PodSpec) -> Self {
        let own = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
        Self::together(spec, Self::requests)
            .replaced_by(own)
            .plus(Self::of_list(spec.overhead.as_ref()))
    }

    /// What a Pod may use, counted likewise; containers without a limit count nothing.
    pub fn limits_of_pod(spec: &PodSpec) -> Self {
        let own = spec.resources.as_ref().and_then(|r| r.limits.as_ref());
        Self::together(spec, Self::limits)
            .replaced_by(own)
            .plus(Self::of_list(spec.overhead.as_ref()))
    }

    fn together(spec: &PodSpec, of: fn(&Container) -> Self) -> Self {
        let running = spec.containers.iter().map(of).fold(Self::default(), Self::plus);
        let (mut sidecars, mut peak) = (Self::default(), Self::default());
        for container in spec.init_containers.iter().flatten() {
            let together = sidecars.plus(of(container));
            if container.restart_policy.as_deref() == Some("Always") {
                sidecars = together;
            }
            peak = peak.max(together);
        }
        running.plus(sidecars).max(peak)
    }

    /// With the amounts that a list has in their place.
    fn replaced_by(self, list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let (new, has) = (Self::of_list(list), |name| {
            list.is_some_and(|l| l.contains_key(name))
        });
        Amounts {
            cpu: if has("cpu") { new.cpu } else { self.cpu },
            memory: if has("memory") { new.memory } else { self.memory },
            storage: self.storage,
        }
    }

    fn plus(self, other: Self) -> Self {
        Amounts {
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
            storage: self.storage.saturating_add(other.storage),
        }
    }

    fn max(self, other: Self) -> Self {
        Amounts {
            cpu: self.cpu.max(other.cpu),
            memory: self.memory.max(other.memory),
            storage: self.storage.max(other.storage),
        }
    }

    fn named(self) -> [(&'static str, i64); 3] {
        [
            ("cpu", self.cpu),
            ("memory", self.memory),
            ("ephemeral-storage", self.storage),
        ]
    }
}

/// What a node has too little of, in the kubelet's words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
)]
pub struct Insufficient {
    pub resource: &'static str,
    requested: i64,
    used: i64,
    capacity: i64,
}

impl Insufficient {
    /// How much more it would take.
    pub fn missing(&self) -> i64 {
        let free = self.capacity.saturating_sub(self.used);
        self.requested.saturating_sub(free)
    }
}

/// The promises, by uid of the Pod.
pub struct Allocations {
    capacity: Amounts,
    /// Pods there may be.
    pods: i64,
    promised: Mutex<HashMap<String, Amounts>>,
    /// Those whom an agent before this one took and of whom it is not known yet whether they are still wanted.
    remembered: Mutex<HashSet<String>>,
    freed: watch::Sender<()>,
    turn: sync::Mutex<()>,
}

impl Allocations {
    /// Of a node with this to give.
    pub fn new(allocatable: &BTreeMap<String, Quantity>) -> Self {
        Allocations {
            capacity: Amounts::of_list(Some(allocatable)),
            pods: allocatable
                .get("pods")
                .and_then(quantity::value)
                .unwrap_or(i64::MAX),
            promised: Mutex::default(),
            remembered: Mutex::default(),
            freed: watch::Sender::new(()),
            turn: sync::Mutex::default(),
        }
    }

    /// The table is whole even if a thread panicked beside it: each write is one insertion.
    fn promised(&self) -> MutexGuard<'_, HashMap<String, Amounts>> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self) -> MutexGuard<'_, HashSet<String>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a Pod that is new here, if there is room for it beside the others.
    pub fn take(&self, uid: &str, wanted: Amounts) -> Result<(), Insufficient> {
        let mut promised = self.promised();
        if let Some(short) = self.short(&promised, uid, wanted).into_iter().next() {
            return Err(short);
        }
        promised.insert(uid.to_owned(), wanted);
        Ok(())
    }

    /// Takes a Pod that is new here, whether there is room for it or not, and says what of: nobody else gets what is freed for it.
    pub fn take_anyway(&self, uid: &str, wanted: Amounts) -> Vec<Insufficient> {
        let mut promised = self.promised();
        let short = self.short(&promised, uid, wanted);
        promised.insert(uid.to_owned(), wanted);
        short
    }

    /// One after the other: whoever has others ended does not count what they still have.
    pub async fn turn(&self) -> sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    fn short(&self, promised: &HashMap<String, Amounts>, uid: &str, wanted: Amounts) -> Vec<Insufficient> {
        let others = promised.iter().filter(|(other, _)| *other != uid);
        let (mut used, mut pods) = (Amounts::default(), 0);
        for (_, amounts) in others {
            used = used.plus(*amounts);
            pods += 1;
        }
        room((pods, self.pods), used, self.capacity, wanted)
    }

    pub fn has(&self, uid: &str) -> bool {
        self.promised().contains_key(uid)
    }

    /// What a Pod was promised of each resource; none of one that has no place here.
    pub fn promised_to(&self, uid: &str) -> Option<Vec<(&'static str, i64)>> {
        let amounts = self.promised().get(uid).copied()?;
        Some(amounts.named().into_iter().chain([(PODS, 1)]).collect())
    }

    /// Notes a Pod that an agent before this one took: [`Self::note`] or [`Self::release`] tells later whether it still counts.
    pub fn remember(&self, uid: &str, amounts: Amounts) {
        self.remembered().insert(uid.to_owned());
        self.promised().insert(uid.to_owned(), amounts);
    }

    /// Notes a Pod that was taken before.
    pub fn note(&self, uid: &str, amounts: Amounts) {
        self.promised().insert(uid.to_owned(), amounts);
        self.remembered().remove(uid);
        self.freed.send_replace(());
    }

    /// The Pod needs nothing more.
    pub fn release(&self, uid: &str) {
        let had = self.promised().remove(uid).is_some();
        if self.remembered().remove(uid) || had {
            self.freed.send_replace(());
        }
    }

    /// A Pod that is remembered counts with what it had, until more is known of it.
    pub fn counts(&self, uid: &str) {
        if self.remembered().remove(uid) {
            self.freed.send_replace(());
        }
    }

    /// Waits until of every Pod that is remembered it is known whether it still counts: many may be gone from the API since.
    pub async fn known(&self) {
        let mut freed = self.freed();
        while !self.remembered().is_empty() && freed.changed().await.is_ok() {}
    }

    /// Changes whenever somebody may have given something back.
    pub fn freed(&self) -> watch::Receiver<()> {
        self.freed.subscribe()
    }

    /// Promises a Pod other amounts, or says why not.
    pub fn ask(&self, uid: &str, wanted: Amounts) -> Result<(), Pending> {
        let mut promised = self.promised();
        let has = promised.get(uid).copied().unwrap_or_default();
        let others = promised.iter().filter(|(other, _)| *other != uid);
        let others = others
            .map(|(_, amounts)| *amounts)
            .fold(Amounts::default(), Amounts::plus);
        judge(self.capacity, has, others, wanted)?;
        promised.insert(uid.to_owned(), wanted);
        drop(promised);
        self.freed.send_replace(());
        Ok(())
    }
}

/// Upstream's `PodFitsResources`: everything that is short, and nothing of what is not asked for.
fn room((pods, most): (i64, i64), used: Amounts, capacity: Amounts, wanted: Amounts) -> Vec<Insufficient> {
    let all = wanted.named().into_iter().zip(used.named()).zip(capacity.named());
    let all = all.map(|((wanted, used), capacity)| (wanted.0, wanted.1, used.1, capacity.1));
    let all = [(PODS, 1, pods, most)].into_iter().chain(all);
    let short = all.filter(|(_, requested, used, capacity)| {
        *requested > 0 && *requested > capacity.saturating_sub(*used)
    });
    let short = short.map(|(resource, requested, used, capacity)| Insufficient {
        resource,
        requested,
        used,
        capacity,
    });
    short.collect()
}

fn judge(capacity: Amounts, has: Amounts, others: Amounts, wanted: Amounts) -> Result<(), Pending> {
    for ((name, wanted), (_, capacity)) in wanted.named().into_iter().zip(capacity.named()) {
        if wanted > capacity {
            return Err(Pending::infeasible(format!(
                "Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {capacity}"
            )));
        }
    }
    let rest = has.named().into_iter().zip(others.named()).zip(capacity.named());
    for ((name, wanted), (((_, has), (_, used)), (_, capacity))) in wanted.named().into_iter().zip(rest) {
        if wanted > has && wanted.saturating_add(used) > capacity {
            return Err(Pending::deferred(format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn amounts(cpu: i64, memory: i64) -> Amounts {
        Amounts {
            cpu,
            memory,
            storage: 0,
        }
    }

    fn node(capacity: Amounts, pods: i64) -> Allocations {
        Allocations {
            capacity,
            pods,
            promised: Mutex::default(),
            remembered: Mutex::default(),
            freed: watch::Sender::new(()),
            turn: sync::Mutex::default(),
        }
    }

    #[test]
    fn a_new_pod_is_taken_while_there_is_room() {
        let node = node(amounts(4000, 100), 3);
        let said = |uid, wanted| node.take(uid, wanted).err().map(|e| (e.resource, e.to_string()));
        assert_eq!(said("a", amounts(3000, 0)), None);
        let words = "Node didn't have enough resource: cpu, requested: 2000, used: 3000, capacity: 4000";
        assert_eq!(said("b", amounts(2000, 200)), Some(("cpu", words.to_owned())));
        assert_eq!(said("b", amounts(1000, 101)).unwrap().0, "memory");
        assert_eq!(said("b", amounts(1000, 100)), None);
        assert_eq!(
            said("a", amounts(3000, 0)),
            None,
            "its own do not count against it"
        );
        assert_eq!(
            said("c", amounts(0, 0)),
            None,
            "what is not asked for is not short"
        );
        let words = "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
        assert_eq!(said("d", amounts(0, 0)), Some(("pods", words.to_owned())));
        node.release("b");
        assert_eq!(said("d", amounts(0, 0)), None);
    }

    #[tokio::test]
    async fn what_is_remembered_becomes_known() {
        let node = node(amounts(4000, 100), 3);
        node.known().await;
        for uid in ["stays", "gone", "unknown"] {
            node.remember(uid, amounts(1000, 10));
        }
        let known = async || futures::poll!(std::pin::pin!(node.known())).is_ready();
        assert!(!known().await);
        node.counts("unknown");
        assert!(node.has("unknown"));
        node.note("stays", amounts(1000, 10));
        assert!(!known().await, "one is not known yet");
        assert!(node.take("new", amounts(0, 0)).is_err());
        node.release("gone");
        assert!(known().await);
        assert_eq!(node.take("new", amounts(0, 0)), Ok(()));
    }

    #[test]
    fn whoever_is_taken_anyway_is_told_of_all_that_is_missing() {
        let node = node(amounts(4000, 100), 2);
        node.note("a", amounts(3000, 50));
        let missing = |uid, wanted| -> Vec<(&str, i64)> {
            let short = node.take_anyway(uid, wanted);
            short.iter().map(|s| (s.resource, s.missing())).collect()
        };
        assert_eq!(missing("b", amounts(1000, 50)), []);
        assert_eq!(
            missing("c", amounts(500, 10)),
            [("pods", 1), ("cpu", 500), ("memory", 10)]
        );
        assert!(node.take("d", amounts(1, 0)).is_err(), "it has its place");
        node.release("a");
        node.release("b");
        assert_eq!(node.take("d", amounts(3500, 90)), Ok(()));
        let promised = node.promised_to("d").unwrap();
        assert!(promised.contains(&("cpu", 3500)) && promised.contains(&("pods", 1)));
        assert_eq!((node.has("a"), node.promised_to("a")), (false, None));
    }

    #[test]
    fn growth_waits_for_room_and_never_exceeds_the_node() {
        let node = node(amounts(4000, 100), 110);
        node.note("a", amounts(1000, 10));
        node.note("b", amounts(2000, 10));
        let said = |uid, wanted| node.ask(uid, wanted).err().map(|p| (p.reason, p.message));
        let deferred = "Node didn't have enough resource: cpu, requested: 2500, used: 2000, capacity: 4000";
        assert_eq!(
            said("a", amounts(2500, 10)),
            Some(("Deferred", deferred.to_owned()))
        );
        let infeasible = "Node didn't have enough capacity: memory, requested: 101, capacity: 100";
        assert_eq!(
            said("a", amounts(1000, 101)),
            Some(("Infeasible", infeasible.to_owned()))
        );
        assert_eq!(said("a", amounts(2000, 20)), None);
        let mut freed = node.freed();
        freed.mark_unchanged();
        node.release("b");
        assert!(freed.has_changed().unwrap());
        assert_eq!(said("a", amounts(4000, 100)), None);
    }

    #[test]
    fn a_pod_asks_for_its_peak() {
        let c = |cpu: &str, more: serde_json::Value| {
            let mut c = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
            c["restartPolicy"] = more;
            c
        };
        let none = json!(null);
        let spec = json!({"containers": [c("1", none.clone()), c("500m", none.clone())],
            "initContainers": [c("1", json!("Always")), c("3", none)]});
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        assert_eq!(Amounts::of_pod(&spec), amounts(4000, 0));
    }
}
