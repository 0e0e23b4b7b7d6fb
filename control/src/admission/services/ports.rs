//! Node ports: of the ports of a Service, and of its health check. One in use is a key in the store. In upstream's order
//! (`initNodePorts`, `updateNodePorts`, `updateHealthCheckNodePort`).
use super::{Denial, GUESSES, ServiceAddresses, node_port, port_number, taken, text};
use crate::kinds::FieldError;
use crate::kinds::view::View;
use crate::store::Store;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

pub(super) const KEYS: &str = "/registry/ranges/servicenodeports/";

const ALLOCATED: &str = "provided port is already allocated";
const FULL: &str = "range is full";
const HEALTH_CHECK: &str = "healthCheckNodePort";
/// A rehearsal that took no port yet shows the next one.
const REHEARSED: i64 = 32_768;

/// The ports that one request takes: none of them twice.
pub(super) struct Taking<'s> {
    store: &'s dyn Store,
    range: &'s RangeInclusive<u16>,
    dry_run: bool,
    taken: BTreeSet<i64>,
    /// What the request asks for is given to nobody else in it.
    asked: BTreeSet<i64>,
}

type Spec = Map<String, Value>;

impl<'s> Taking<'s> {
    pub fn of(addresses: &'s ServiceAddresses, store: &'s dyn Store, dry_run: bool) -> Self {
        Taking {
            store,
            range: &addresses.node_ports,
            dry_run,
            taken: BTreeSet::new(),
            asked: BTreeSet::new(),
        }
    }

    /// Completes the ports of a Service, `old` being what it was.
    pub async fn all(mut self, spec: &mut Spec, old: Option<&Value>) -> Result<(), Denial> {
        let exposed = ["NodePort", "LoadBalancer"].contains(&text(spec, "type"));
        let wanted = text(spec, "type") == "NodePort"
            || spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false));
        if let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut)
            && exposed
        {
            self.asked = ports.iter().filter_map(node_port).collect();
            match old {
                None => self.first(ports, wanted).await?,
                Some(old) => self.further(ports, wanted, old).await?,
            }
        }
        self.health_check(spec, old).await
    }

    /// The ports of a new Service. Those of one number, of different protocols, share their node port.
    async fn first(&mut self, ports: &mut [Value], wanted: bool) -> Result<(), Denial> {
        let mut shared = BTreeMap::new();
        for index in 0..ports.len() {
            let (number, own) = (ports[index].int("port"), node_port(&ports[index]));
            if own.is_none() && !wanted {
                continue;
            }
            let known = shared.get(&number).copied();
            let sibling = || ports.iter().filter(|port| port.int("port") == number);
            let asked = own.or(known).or_else(|| sibling().find_map(node_port));
            let given = match asked {
                Some(asked) if known == Some(asked) => asked,
                Some(asked) => self.given(index, asked).await?,
                None => self.next("nodePort").await?,
            };
            shared.entry(number).or_insert(given);
            ports[index]["nodePort"] = given.into();
        }
        Ok(())
    }

    /// The ports of a Service that was there: what its ports had stays its own.
    async fn further(&mut self, ports: &mut [Value], wanted: bool, old: &Value) -> Result<(), Denial> {
        let held: BTreeSet<i64> = old.list("spec.ports").iter().filter_map(node_port).collect();
        let mut seen = BTreeSet::new();
        for (index, port) in ports.iter_mut().enumerate() {
            let given = match node_port(port) {
                None if !wanted => continue,
                None => self.next("nodePort").await?,
                Some(own) if held.contains(&own) || self.taken.contains(&own) => own,
                Some(own) => self.given(index, own).await?,
            };
            port["nodePort"] = given.into();
            let protocol = port.text("protocol").to_owned();
            if seen.contains(&(protocol.clone(), given)) {
                return Err(twice(&protocol, given));
            }
            seen.insert((protocol, given));
        }
        Ok(())
    }

    /// A load balancer that keeps traffic local asks the nodes on a port of its own whether they have endpoints. That is
    /// settled when the Service becomes one, and not judged again.
    async fn health_check(&mut self, spec: &mut Spec, old: Option<&Value>) -> Result<(), Denial> {
        let old = old.and_then(|old| old["spec"].as_object());
        if !needs_health_check(spec) || old.is_some_and(needs_health_check) {
            return Ok(());
        }
        let Some(number) = spec.get(HEALTH_CHECK).and_then(port_number) else {
            let number = self.next("HealthCheck NodePort 0").await?;
            spec.insert(HEALTH_CHECK.into(), number.into());
            return Ok(());
        };
        // One that the Service holds already it holds for something else. Upstream calls that its own fault.
        self.take(number).await?.map_err(|why| {
            let told = format!("failed to allocate requested HealthCheck NodePort {number}: {why}");
            Denial::Failed(told)
        })
    }

    async fn given(&mut self, index: usize, number: i64) -> Result<i64, Denial> {
        let taken = self.take(number).await?;
        let field = format!("spec.ports[{index}].nodePort");
        let told = |why| Denial::Invalid(vec![FieldError::invalid(field, number, why)]);
        taken.map(|()| number).map_err(told)
    }

    /// Takes a port, or says why it cannot be had. A rehearsal asks only whether somebody has it.
    async fn take(&mut self, number: i64) -> Result<Result<(), String>, Denial> {
        let is_there = u16::try_from(number).is_ok_and(|number| self.range.contains(&number));
        if !is_there && !self.dry_run {
            let (first, last) = (self.range.start(), self.range.end());
            return Ok(Err(format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            )));
        }
        let others = is_there && self.store.get(&format!("{KEYS}{number}")).await?.is_some();
        Ok(match !others && self.taken.insert(number) {
            true => Ok(()),
            false => Err(ALLOCATED.to_owned()),
        })
    }

    /// A port that nobody has, to be `what`.
    async fn next(&mut self, what: &str) -> Result<i64, Denial> {
        let found = match self.dry_run {
            true => Some(self.taken.last().map_or(REHEARSED, |last| *last) + 1),
            false => self.free().await?,
        };
        let number = found.ok_or_else(|| Denial::Failed(format!("failed to allocate a {what}: {FULL}")))?;
        self.taken.insert(number);
        Ok(number)
    }

    async fn free(&self) -> Result<Option<i64>, Denial> {
        let is_ours = |number: &i64| self.taken.contains(number) || self.asked.contains(number);
        for _ in 0..GUESSES {
            let number = i64::from(rand::random_range(self.range.clone()));
            if !is_ours(&number) && self.store.get(&format!("{KEYS}{number}")).await?.is_none() {
                return Ok(Some(number));
            }
        }
        let taken = taken(self.store, KEYS).await?;
        let mut all = self.range.clone().map(i64::from);
        Ok(all.find(|number| !is_ours(number) && !taken.contains(&number.to_string())))
    }
}

/// Two ports of one protocol with one node port, which upstream has no better answer for.
fn twice(protocol: &str, number: i64) -> Denial {
    Denial::Refused {
        code: 500,
        reason: String::new(),
        message: format!("duplicate nodePort: {{{protocol} {number}}}"),
        details: None,
    }
}

/// Whether a Service of this spec has a port on which nodes tell if they have local endpoints.
fn needs_health_check(spec: &Spec) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}
