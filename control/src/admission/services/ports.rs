//! Node ports: of the ports of a Service, and of its health check. One in use is a key in the store.
use super::{Denial, GUESSES, ServiceAddresses, node_port, port_number, taken, text};
use crate::kinds::FieldError;
use crate::store::Store;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

pub(super) const KEYS: &str = "/registry/ranges/servicenodeports/";

impl ServiceAddresses {
    pub(super) async fn ports(
        &self,
        store: &dyn Store,
        spec: &mut Map<String, Value>,
        held: &BTreeSet<String>,
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
        for (index, port) in ports.iter_mut().enumerate() {
            match node_port(port) {
                Some(number) => {
                    let field = format!("spec.ports[{index}].nodePort");
                    self.given_port(store, &field, number, held).await?;
                }
                None if wanted => {
                    let number = self.free_port(store, &chosen).await?;
                    chosen.insert(number);
                    port["nodePort"] = number.into();
                }
                None => {}
            }
        }
        Ok(chosen)
    }

    /// A load balancer that keeps traffic local asks the nodes on a port of its own whether they have endpoints.
    pub(super) async fn health_check_port(
        &self,
        store: &dyn Store,
        spec: &mut Map<String, Value>,
        held: &BTreeSet<String>,
        chosen: &BTreeSet<u16>,
    ) -> Result<(), Denial> {
        const FIELD: &str = "healthCheckNodePort";
        if text(spec, "type") != "LoadBalancer" || text(spec, "externalTrafficPolicy") != "Local" {
            return Ok(());
        }
        match spec.get(FIELD).and_then(port_number) {
            Some(number) => {
                self.given_port(store, &format!("spec.{FIELD}"), number, held)
                    .await
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
    ) -> Result<(), Denial> {
        let refused = |why: String| Denial::Invalid(vec![FieldError::invalid(field, number, why)]);
        let key = format!("{KEYS}{number}");
        if held.contains(&key) {
            return Ok(());
        }
        if !self.node_ports.contains(&number) {
            let (first, last) = (self.node_ports.start(), self.node_ports.end());
            return Err(refused(format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            )));
        }
        if store.get(&key).await?.is_some() {
            return Err(refused("provided port is already allocated".to_owned()));
        }
        Ok(())
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
