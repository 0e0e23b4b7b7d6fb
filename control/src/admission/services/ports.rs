//! Node ports: of the ports of a Service, and of its health check. One in use is a key in the store.
use super::{Denial, GUESSES, ServiceAddresses, node_port, port_number, taken, text};
use crate::kinds::FieldError;
use crate::kinds::view::View;
use crate::store::Store;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const KEYS: &str = "/registry/ranges/servicenodeports/";

const ALLOCATED: &str = "provided port is already allocated";

impl ServiceAddresses {
    /// Completes the ports. Those of a `new` Service that have one number, of different protocols, share their node port, as
    /// upstream.
    pub(super) async fn ports(
        &self,
        store: &dyn Store,
        spec: &mut Map<String, Value>,
        held: &BTreeSet<String>,
        new: bool,
    ) -> Result<BTreeSet<u16>, Denial> {
        let wanted = match text(spec, "type") {
            "NodePort" => true,
            "LoadBalancer" => spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
            _ => false,
        };
        let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) else {
            return Ok(BTreeSet::new());
        };
        let mut chosen: BTreeSet<u16> = ports.iter().filter_map(node_port).collect();
        let (mut shared, mut given) = (BTreeMap::new(), BTreeSet::new());
        for index in 0..ports.len() {
            let number = ports[index].int("port");
            let own = node_port(&ports[index]);
            if own.is_none() && !wanted {
                continue;
            }
            let known = shared.get(&number).copied();
            let sibling = || ports.iter().filter(|port| new && port.int("port") == number);
            let asked = own.or(known).or_else(|| sibling().find_map(node_port));
            let node_port = match asked {
                Some(asked) if known == Some(asked) => asked,
                Some(asked) => {
                    let field = format!("spec.ports[{index}].nodePort");
                    let twice = new && !given.insert(asked);
                    self.given_port(store, &field, asked, held, twice).await?;
                    asked
                }
                None => self.free_port(store, &chosen).await?,
            };
            chosen.insert(node_port);
            if new {
                shared.entry(number).or_insert(node_port);
            }
            ports[index]["nodePort"] = node_port.into();
        }
        Ok(chosen)
    }

    /// A load balancer that keeps traffic local asks the nodes on a port of its own whether they have endpoints. That is
    /// settled when the Service becomes one, and not judged again.
    pub(super) async fn health_check_port(
        &self,
        store: &dyn Store,
        spec: &mut Map<String, Value>,
        old: Option<&Value>,
        chosen: &BTreeSet<u16>,
    ) -> Result<(), Denial> {
        const FIELD: &str = "healthCheckNodePort";
        let old = old.and_then(|old| old["spec"].as_object());
        if !needs_health_check(spec) || old.is_some_and(needs_health_check) {
            return Ok(());
        }
        match spec.get(FIELD).and_then(port_number) {
            Some(number) => {
                let twice = chosen.contains(&number).then(|| ALLOCATED.to_owned());
                // One that the Service holds already it holds for something else.
                match self.refusal(store, number, &BTreeSet::new()).await?.or(twice) {
                    // Upstream calls that its own fault.
                    Some(why) => Err(Denial::Failed(format!(
                        "failed to allocate requested HealthCheck NodePort {number}: {why}"
                    ))),
                    None => Ok(()),
                }
            }
            None => {
                let number = self.free_port(store, chosen).await?;
                spec.insert(FIELD.into(), number.into());
                Ok(())
            }
        }
    }

    async fn given_port(
        &self,
        store: &dyn Store,
        field: &str,
        number: u16,
        held: &BTreeSet<String>,
        twice: bool,
    ) -> Result<(), Denial> {
        let refused = |why| Err(Denial::Invalid(vec![FieldError::invalid(field, number, why)]));
        match self.refusal(store, number, held).await? {
            Some(why) => refused(why),
            None if twice => refused(ALLOCATED.to_owned()),
            None => Ok(()),
        }
    }

    /// Why a port cannot be had, if it cannot.
    async fn refusal(
        &self,
        store: &dyn Store,
        number: u16,
        held: &BTreeSet<String>,
    ) -> Result<Option<String>, Denial> {
        let key = format!("{KEYS}{number}");
        if held.contains(&key) {
            return Ok(None);
        }
        if !self.node_ports.contains(&number) {
            let (first, last) = (self.node_ports.start(), self.node_ports.end());
            return Ok(Some(format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            )));
        }
        Ok(store.get(&key).await?.map(|_| ALLOCATED.to_owned()))
    }

    async fn free_port(&self, store: &dyn Store, chosen: &BTreeSet<u16>) -> Result<u16, Denial> {
        for _ in 0..GUESSES {
            let number = rand::random_range(self.node_ports.clone());
            if !chosen.contains(&number) && store.get(&format!("{KEYS}{number}")).await?.is_none() {
                return Ok(number);
            }
        }
        let taken = taken(store, KEYS).await?;
        let mut all = self.node_ports.clone();
        let free = all.find(|number| !chosen.contains(number) && !taken.contains(&number.to_string()));
        free.ok_or_else(|| Denial::Failed("failed to allocate a nodePort: range is full".to_owned()))
    }
}

/// Whether a Service of this spec has a port on which nodes tell if they have local endpoints.
fn needs_health_check(spec: &Map<String, Value>) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}
