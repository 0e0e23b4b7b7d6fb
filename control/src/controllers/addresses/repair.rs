//! IPAddresses that are not as their Services have them: one that is missing or refers to somebody else is made anew, one
//! that nobody has goes (upstream's `RepairIPAddress`; reasons and messages are its).
//!
//! What the caches show is only a reason to look: two watches tell of one transaction at two moments. What is done is
//! decided on what the API says.
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, ParentReference};
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};

use super::{contains, is_ours};
use crate::admission::services::address::{self, FAMILY, PARENT};
use crate::controllers::context::Context;
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, Recorder, StepError, Steps, work};
use crate::uri::escape;

const WORKERS: usize = 2;
/// The index of Services by their cluster IP.
const BY_ADDRESS: usize = 0;
/// Time for both watches to tell of what happened, so that hardly ever somebody has to be asked.
const SETTLED: Duration = Duration::from_millis(500);

/// An address in no range is looked at again, as by upstream's round of all: there may be one for it by then.
const AGAIN: Duration = Duration::from_secs(60);

struct Repair {
    context: Context,
    events: Recorder,
}

/// What is wrong with the object of an address.
#[derive(Debug, PartialEq)]
enum Fault {
    /// A Service has the address, and there is no object.
    Missing,
    /// A Service has the address, and the object refers to somebody else.
    Misled,
    /// A Service has the address, and the object is not labelled so.
    Unlabelled,
    /// The object is ours, and is of no Service at all.
    Estranged,
    /// The object is ours, and there is no such Service.
    Leaked,
    /// The object is ours, and the Service does not have the address.
    Outdated,
}

/// The cluster IP of a Service that has one, by which Services are indexed.
pub fn cluster_ip(service: &Service) -> Option<String> {
    let ip = service.spec.as_ref()?.cluster_ip.as_ref()?;
    ip.parse::<IpAddr>().ok().map(|ip| ip.to_string())
}

pub(super) fn start(context: &Context) -> BoxFuture<'static, ()> {
    let queue: Arc<Queue<String>> = Arc::new(Queue::new());
    let watches = &context.watches;
    let changed = queue.clone();
    watches
        .addresses
        .on_change(move |change| changed.add_after(change.object().name_any(), SETTLED));
    let changed = queue.clone();
    watches.services.on_change(move |change| {
        let ips = [
            cluster_ip(change.object()),
            change.old().and_then(|old| cluster_ip(old)),
        ];
        let ips = ips.into_iter().flatten();
        ips.for_each(|ip| changed.add_after(ip, SETTLED));
    });
    let shutdown = context.shutdown.clone();
    let repair = Repair {
        events: context.events.recorder("ipallocator-repair-controller"),
        context: context.clone(),
    };
    work(
        "address-repair",
        queue,
        WORKERS,
        shutdown,
        repair,
        |repair, name| repair.reconcile(name).boxed(),
    )
}

impl Repair {
    async fn reconcile(&self, name: String) -> Result<Outcome, StepError> {
        let watches = &self.context.watches;
        let Ok(ip) = name.parse::<IpAddr>() else {
            return Ok(Outcome::Done);
        };
        let known = watches.addresses.get(&ObjectKey::cluster(&name));
        let holders = watches.services.indexed(BY_ADDRESS, &name);
        let parent = known.as_deref().and_then(parent_key);
        let parent = parent.and_then(|key| watches.services.get(&key));
        if fault(&name, known.as_deref(), &holders, parent.as_deref()).is_none() {
            self.tell_others(ip, known.as_deref(), &holders);
            return Ok(Outcome::Done);
        }
        let addresses: Objects<IPAddress> = Objects::all(&self.context.client);
        let found = addresses.get_opt(&name).await;
        let found = found.step(|| format!("read the IPAddress {name}"))?;
        let mut now = Vec::new();
        for holder in &holders {
            now.extend(self.service(&ObjectKey::of(holder.as_ref())).await?.map(Arc::new));
        }
        let parent = match found.as_ref().and_then(parent_key) {
            Some(key) => self.service(&key).await?,
            None => None,
        };
        // The watch of Services may be behind that of addresses: whom the object refers to may have the address already.
        let unknown = |parent: &Service| {
            !now.iter()
                .any(|holder| ObjectKey::of(holder.as_ref()) == ObjectKey::of(parent))
        };
        now.extend(parent.clone().filter(unknown).map(Arc::new));
        now.retain(|service| cluster_ip(service).as_deref() == Some(&*name));
        match fault(&name, found.as_ref(), &now, parent.as_ref()) {
            Some(fault) => self.put_right(ip, fault, found.as_ref(), now.first()).await,
            None => Ok(Outcome::Done),
        }
    }

    async fn service(&self, key: &ObjectKey) -> Result<Option<Service>, StepError> {
        let services = Objects::<Service>::in_namespace(&self.context.client, &key.namespace);
        let found = services.get_opt(&key.name).await;
        found.step(|| format!("read the Service {key}"))
    }

    async fn put_right(
        &self,
        ip: IpAddr,
        fault: Fault,
        found: Option<&IPAddress>,
        holder: Option<&Arc<Service>>,
    ) -> Result<Outcome, StepError> {
        if let Some(service) = holder
            && !self.tell_service(ip, &fault, service)
        {
            return Ok(Outcome::After(AGAIN));
        }
        if let Some(address) = found {
            if holder.is_none() {
                self.tell_address(&fault, address);
            }
            self.remove(address).await?;
        }
        match holder {
            Some(service) => self.make(ip, service).await,
            None => Ok(Outcome::Done),
        }
    }

    /// Tells the Services whose address is another's too: it was given away while somebody had removed its object.
    fn tell_others(&self, ip: IpAddr, address: Option<&IPAddress>, holders: &[Arc<Service>]) {
        let family = address::family(ip);
        let owner = address.and_then(parent_key);
        for other in holders.iter().filter(|holder| !is(holder, owner.as_ref())) {
            let why = format!(
                "Cluster IP [{family}]:{ip} was assigned to multiple services; please recreate service"
            );
            self.events
                .warning(other.as_ref(), "ClusterIPAlreadyAllocated", why);
        }
    }

    /// Tells of what is wrong with a Service's address. False when nothing can be done: it is in no range.
    fn tell_service(&self, ip: IpAddr, fault: &Fault, service: &Service) -> bool {
        let (family, key) = (address::family(ip), ObjectKey::of(service));
        let ranges = self.context.watches.service_ranges.list();
        if !ranges.iter().any(|range| contains(range, ip)) {
            let why = format!(
                "Cluster IP [{family}]: {ip} is not within any configured Service CIDR; please recreate service"
            );
            self.events.warning(service, "ClusterIPOutOfRange", why);
            return false;
        }
        let why = match fault {
            Fault::Missing => format!("Cluster IP [{family}]: {ip} is not allocated; repairing"),
            Fault::Unlabelled => return true,
            _ => {
                format!("the ClusterIP [{family}]: {ip} for Service {key} has a wrong reference; repairing")
            }
        };
        self.events.warning(service, "ClusterIPNotAllocated", why);
        true
    }

    /// Tells of an object that goes because nobody has its address.
    fn tell_address(&self, fault: &Fault, address: &IPAddress) {
        let (name, key) = (address.name_any(), parent_key(address).unwrap_or_default());
        let (reason, why) = match fault {
            Fault::Estranged => {
                let parent = shown(&address.spec.parent_ref);
                let why = format!(
                    "IPAddress {name} appears to have been modified, not referencing a Service {parent}: cleaning up"
                );
                ("IPAddressNotAllocated", why)
            }
            Fault::Outdated => {
                let why = format!("IPAddress: {name} for Service {key} has a wrong reference; cleaning up");
                ("IPAddressWrongReference", why)
            }
            _ => {
                let why = format!("IPAddress: {name} for Service {key} appears to have leaked: cleaning up");
                ("IPAddressNotAllocated", why)
            }
        };
        self.events.warning(address, reason, why);
    }

    async fn remove(&self, address: &IPAddress) -> Result<(), StepError> {
        let name = address.name_any();
        let still_this = DeleteParams::default().preconditions(Preconditions {
            resource_version: address.metadata.resource_version.clone(),
            uid: address.metadata.uid.clone(),
        });
        let addresses: Objects<IPAddress> = Objects::all(&self.context.client);
        let removed = addresses.delete(&name, &still_this).await;
        removed
            .step_opt(|| format!("remove the IPAddress {name}"))
            .map(drop)
    }

    async fn make(&self, ip: IpAddr, service: &Service) -> Result<Outcome, StepError> {
        let key = ObjectKey::of(service);
        let body = address::object(ip, &key.namespace, &key.name);
        let addresses: Objects<IPAddress> = Objects::all(&self.context.client);
        let made = addresses.create(&body).await;
        made.step(|| format!("make the IPAddress {ip} of the Service {key}"))?;
        Ok(Outcome::Done)
    }
}

/// What is wrong with the object of an address, seen together with who has the address and whom the object refers to. Pure.
fn fault(
    name: &str,
    address: Option<&IPAddress>,
    holders: &[Arc<Service>],
    parent: Option<&Service>,
) -> Option<Fault> {
    let Some(address) = address else {
        return (!holders.is_empty()).then_some(Fault::Missing);
    };
    let key = parent_key(address);
    match (holders.is_empty(), &key) {
        (false, _) if !holders.iter().any(|holder| is(holder, key.as_ref())) => Some(Fault::Misled),
        (false, _) => (!is_labelled(name, address)).then_some(Fault::Unlabelled),
        (true, _) if !is_ours(address) => None,
        (true, None) => Some(Fault::Estranged),
        (true, Some(_)) => Some(parent.map_or(Fault::Leaked, |_| Fault::Outdated)),
    }
}

fn is(service: &Service, key: Option<&ObjectKey>) -> bool {
    key == Some(&ObjectKey::of(service))
}

fn is_labelled(name: &str, address: &IPAddress) -> bool {
    let family = name.parse().ok().map(address::family);
    is_ours(address) && address.labels().get(FAMILY).map(String::as_str) == family
}

/// The Service that the object refers to. None when it is something else, or by a name that no Service can have.
fn parent_key(address: &IPAddress) -> Option<ObjectKey> {
    let parent = &address.spec.parent_ref;
    let namespace = parent.namespace.as_deref().unwrap_or_default();
    let is_service = parent.group.as_deref().unwrap_or_default().is_empty() && parent.resource == PARENT;
    let is_name = |text: &str| !text.is_empty() && escape(text) == text;
    (is_service && is_name(namespace) && is_name(&parent.name))
        .then(|| ObjectKey::new(namespace, &*parent.name))
}

/// As Go shows it.
fn shown(parent: &ParentReference) -> String {
    let (group, namespace) = (parent.group.as_deref(), parent.namespace.as_deref());
    format!(
        "&ParentReference{{Group:{},Resource:{},Namespace:{},Name:{},}}",
        group.unwrap_or_default(),
        parent.resource,
        namespace.unwrap_or_default(),
        parent.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const IP: &str = "10.1.0.5";

    fn service(name: &str, ip: &str) -> Service {
        let value = json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"clusterIP": ip}});
        serde_json::from_value(value).unwrap()
    }

    fn refers(resource: &str, name: &str, labels: Value) -> IPAddress {
        let mut value = address::object(IP.parse().unwrap(), "n", name);
        value["spec"]["parentRef"]["resource"] = resource.into();
        json_patch::merge(&mut value["metadata"]["labels"], &labels);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_wrong_with_an_address() {
        let none = json!({});
        let theirs = json!({"ipaddress.kubernetes.io/managed-by": "me"});
        let own = || Some(refers("services", "s", none.clone()));
        for (address, held, parent, want) in [
            (None, false, false, None),
            (None, true, false, Some(Fault::Missing)),
            (own(), true, true, None),
            (
                Some(refers("services", "t", none.clone())),
                true,
                true,
                Some(Fault::Misled),
            ),
            (
                Some(refers("gateways", "s", theirs.clone())),
                true,
                false,
                Some(Fault::Misled),
            ),
            (
                Some(refers("services", "s", theirs.clone())),
                true,
                true,
                Some(Fault::Unlabelled),
            ),
            (
                Some(refers(
                    "services",
                    "s",
                    json!({"ipaddress.kubernetes.io/ip-family": "IPv6"}),
                )),
                true,
                true,
                Some(Fault::Unlabelled),
            ),
            (Some(refers("gateways", "s", theirs)), false, false, None),
            (
                Some(refers("gateways", "s", none.clone())),
                false,
                false,
                Some(Fault::Estranged),
            ),
            (
                Some(refers("services", "s?x", none.clone())),
                false,
                false,
                Some(Fault::Estranged),
            ),
            (own(), false, false, Some(Fault::Leaked)),
            (own(), false, true, Some(Fault::Outdated)),
        ] {
            let ip = if held { IP } else { "None" };
            let holders: Vec<_> = held.then(|| Arc::new(service("s", ip))).into_iter().collect();
            let parent = parent.then(|| service("s", ip));
            let found = fault(IP, address.as_ref(), &holders, parent.as_ref());
            assert_eq!(found, want, "{address:?} {held}");
        }
    }
}
