//! What this node has promised its Pods of CPU and memory, so that two that grow at once do not get the same rest.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::sync::watch;

use super::resize::Pending;
use crate::quantity;

/// CPU in thousandths, memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub cpu: i64,
    pub memory: i64,
}

impl Amounts {
    pub fn of_list(list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let of = |name, read: fn(&Quantity) -> Option<i64>| list.and_then(|l| l.get(name)).and_then(read);
        Amounts {
            cpu: of("cpu", quantity::milli).unwrap_or(0),
            memory: of("memory", quantity::value).unwrap_or(0),
        }
    }

    fn requests(container: &Container) -> Self {
        Self::of_list(container.resources.as_ref().and_then(|r| r.requests.as_ref()))
    }

    fn limits(container: &Container) -> Self {
        Self::of_list(container.resources.as_ref().and_then(|r| r.limits.as_ref()))
    }

    /// What a Pod asks for: containers and sidecars together, or an init container beside the sidecars before it
    /// (KEP-753).
    pub fn of_pod(spec: &PodSpec) -> Self {
        Self::together(spec, Self::requests)
    }

    /// What a Pod's containers may use, counted likewise; those without a limit count nothing.
    pub fn limits_of_pod(spec: &PodSpec) -> Self {
        Self::together(spec, Self::limits)
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
    pub fn replaced_by(self, list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let (new, has) = (Self::of_list(list), |name| {
            list.is_some_and(|l| l.contains_key(name))
        });
        Amounts {
            cpu: if has("cpu") { new.cpu } else { self.cpu },
            memory: if has("memory") { new.memory } else { self.memory },
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Amounts {
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
        }
    }

    fn max(self, other: Self) -> Self {
        Amounts {
            cpu: self.cpu.max(other.cpu),
            memory: self.memory.max(other.memory),
        }
    }

    fn named(self) -> [(&'static str, i64); 2] {
        [("cpu", self.cpu), ("memory", self.memory)]
    }
}

/// The promises, by uid of the Pod.
pub struct Allocations {
    capacity: Amounts,
    promised: Mutex<HashMap<String, Amounts>>,
    freed: watch::Sender<()>,
}

impl Allocations {
    /// Of a node with this to give.
    pub fn new(allocatable: &BTreeMap<String, Quantity>) -> Self {
        Allocations {
            capacity: Amounts::of_list(Some(allocatable)),
            promised: Mutex::default(),
            freed: watch::Sender::new(()),
        }
    }

    /// The table is whole even if a thread panicked beside it: each write is one insertion.
    fn promised(&self) -> MutexGuard<'_, HashMap<String, Amounts>> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a Pod on as the scheduler gave it.
    pub fn note(&self, uid: &str, amounts: Amounts) {
        self.promised().insert(uid.to_owned(), amounts);
        self.freed.send_replace(());
    }

    /// The Pod needs nothing more.
    pub fn release(&self, uid: &str) {
        if self.promised().remove(uid).is_some() {
            self.freed.send_replace(());
        }
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
        Amounts { cpu, memory }
    }

    #[test]
    fn growth_waits_for_room_and_never_exceeds_the_node() {
        let node = Allocations {
            capacity: amounts(4000, 100),
            promised: Mutex::default(),
            freed: watch::Sender::new(()),
        };
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
