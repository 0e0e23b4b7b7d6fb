//! Service addresses: cluster IPs and node ports.
//!
//! An address in use is a key in the store (`/registry/ranges/…`), written in the same transaction as the Service that
//! holds it and removed in the one that drops it. So no two Services can get the same one, however many API servers
//! there are, and nothing has to be rebuilt at start. Choosing is a guess that the transaction proves.
use super::{Action, Claims, Denial, Review, families};
use crate::kinds::FieldError;
use crate::store::{Range, Store};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

const IPS: &str = "/registry/ranges/serviceips/";
const PORTS: &str = "/registry/ranges/servicenodeports/";
/// Random guesses before all addresses are looked through.
const GUESSES: usize = 16;

/// Where addresses come from.
#[derive(Clone, Debug)]
pub struct ServiceAddresses {
    pub cidr: IpNet,
    pub node_ports: RangeInclusive<u16>,
}

impl ServiceAddresses {
    /// The address of the `kubernetes` Service: the first of the range.
    pub fn first(&self) -> Option<IpAddr> {
        self.cidr.hosts().next()
    }

    /// The address of the cluster's DNS: the tenth after the range's own, as installers of Kubernetes choose it. A range
    /// too small for it has none.
    pub fn dns(&self) -> Option<IpAddr> {
        self.cidr.hosts().nth(9)
    }

    pub(super) async fn admit(
        &self,
        store: &dyn Store,
        review: &Review<'_>,
        service: &mut Value,
    ) -> Result<Claims, Denial> {
        let old = match review.action {
            Action::Create => None,
            Action::Update { old } => Some(old),
            Action::Delete { .. } | Action::Connect { .. } | Action::Post { .. } => {
                return Ok(Claims::default());
            }
        };
        families::settle(service, old, self.cidr.addr().is_ipv4())?;
        let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else {
            return Ok(Claims::default());
        };
        let held: BTreeSet<String> = old.map(keys).unwrap_or_default().into_iter().collect();
        self.addresses(store, spec, &held).await?;
        let chosen = self.ports(store, spec, &held).await?;
        self.health_check_port(store, spec, &held, &chosen).await?;
        let wanted: BTreeSet<String> = keys(service).into_iter().collect();
        Ok(Claims {
            take: wanted.difference(&held).cloned().collect(),
            release: held.difference(&wanted).cloned().collect(),
            ..Claims::default()
        })
    }

    async fn addresses(
        &self,
        store: &dyn Store,
        spec: &mut Map<String, Value>,
        held: &BTreeSet<String>,
    ) -> Result<(), Denial> {
        if text(spec, "type") == "ExternalName" {
            return Ok(());
        }
        let asked = text(spec, "clusterIP").to_owned();
        let ip = match asked.as_str() {
            "None" => "None".to_owned(),
            "" => self.free_ip(store).await?.to_string(),
            _ => self.given_ip(store, &asked, held).await?,
        };
        spec.insert("clusterIP".into(), ip.clone().into());
        spec.insert("clusterIPs".into(), json!([ip]));
        Ok(())
    }

    /// An address that the client chose.
    async fn given_ip(
        &self,
        store: &dyn Store,
        asked: &str,
        held: &BTreeSet<String>,
    ) -> Result<String, Denial> {
        let refused = |why: String| {
            let why = format!("failed to allocate IP {asked}: {why}");
            Denial::Invalid(vec![FieldError::invalid("spec.clusterIPs", json!([asked]), why)])
        };
        // Validation names what is no address at all.
        let Ok(ip) = asked.parse::<IpAddr>() else {
            return Ok(asked.to_owned());
        };
        let key = format!("{IPS}{ip}");
        if held.contains(&key) {
            return Ok(asked.to_owned());
        }
        if !self.cidr.contains(&ip) || !self.is_host(ip) {
            let range = self.cidr.trunc();
            return Err(refused(format!(
                "the provided IP ({asked}) is not in the valid range. The range of valid IPs is {range}"
            )));
        }
        if store.get(&key).await?.is_some() {
            return Err(refused("provided IP is already allocated".to_owned()));
        }
        Ok(asked.to_owned())
    }

    fn is_host(&self, ip: IpAddr) -> bool {
        ip != self.cidr.network() && (ip != self.cidr.broadcast() || ip.is_ipv6())
    }

    async fn free_ip(&self, store: &dyn Store) -> Result<IpAddr, Denial> {
        for _ in 0..GUESSES {
            let ip = self.random_ip();
            if self.is_host(ip) && store.get(&format!("{IPS}{ip}")).await?.is_none() {
                return Ok(ip);
            }
        }
        let taken = taken(store, IPS).await?;
        let free = self.cidr.hosts().find(|ip| !taken.contains(&ip.to_string()));
        free.ok_or_else(|| Denial::Failed("failed to allocate a serviceIP: range is full".to_owned()))
    }

    fn random_ip(&self) -> IpAddr {
        match self.cidr {
            IpNet::V4(net) => {
                let host = rand::random::<u32>() & u32::from(net.hostmask());
                IpAddr::V4((u32::from(net.network()) | host).into())
            }
            IpNet::V6(net) => {
                let host = rand::random::<u128>() & u128::from(net.hostmask());
                IpAddr::V6((u128::from(net.network()) | host).into())
            }
        }
    }

    async fn ports(
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
    async fn health_check_port(
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
        let key = format!("{PORTS}{number}");
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
            if !chosen.contains(&number) && store.get(&format!("{PORTS}{number}")).await?.is_none() {
                return Ok(number);
            }
        }
        let taken = taken(store, PORTS).await?;
        let mut all = self.node_ports.clone();
        let free = all.find(|number| !chosen.contains(number) && !taken.contains(&number.to_string()));
        free.ok_or_else(|| Denial::Failed("failed to allocate a nodePort: range is full".to_owned()))
    }
}

async fn taken(store: &dyn Store, prefix: &str) -> Result<BTreeSet<String>, Denial> {
    let found = store.range(Range::prefix(prefix)).await?;
    Ok(found
        .items
        .iter()
        .filter_map(|kv| kv.key.strip_prefix(prefix).map(str::to_owned))
        .collect())
}

/// The store's keys of all addresses that a Service holds.
pub(super) fn keys(service: &Value) -> Vec<String> {
    let spec = &service["spec"];
    let ips = spec["clusterIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let ips = ips
        .filter_map(|ip| ip.parse::<IpAddr>().ok())
        .map(|ip| format!("{IPS}{ip}"));
    let ports = spec["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(node_port);
    let ports: BTreeSet<u16> = ports.chain(port_number(&spec["healthCheckNodePort"])).collect();
    ips.chain(ports.into_iter().map(|port| format!("{PORTS}{port}")))
        .collect()
}

fn node_port(port: &Value) -> Option<u16> {
    port_number(&port["nodePort"])
}

fn port_number(value: &Value) -> Option<u16> {
    value
        .as_u64()
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
}

fn text<'v>(spec: &'v Map<String, Value>, key: &str) -> &'v str {
    spec.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{RedbStore, Txn, TxnOutcome};

    fn addresses() -> ServiceAddresses {
        ServiceAddresses {
            cidr: "10.9.0.0/29".parse().unwrap(),
            node_ports: 30000..=30002,
        }
    }

    async fn admit(store: &dyn Store, old: Option<&Value>, service: &mut Value) -> Result<Claims, Denial> {
        let action = old.map_or(Action::Create, |old| Action::Update { old });
        let review = super::super::fixtures::review("services", action);
        addresses().admit(store, &review, service).await
    }

    async fn create(store: &dyn Store, spec: Value) -> Result<Value, Denial> {
        let mut service = json!({"spec": spec});
        if let Some(ip) = spec.get("clusterIP") {
            service["spec"]["clusterIPs"] = json!([ip]);
        }
        let claims = admit(store, None, &mut service).await?;
        let mut txn = Txn::default();
        claims.join("owner", &mut txn);
        assert!(matches!(
            store.txn(txn).await.unwrap(),
            TxnOutcome::Committed { .. }
        ));
        Ok(service)
    }

    fn open() -> (tempfile::TempDir, RedbStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&dir.path().join("s.redb")).unwrap();
        (dir, store)
    }

    #[tokio::test]
    async fn the_range_is_used_up_without_repeats_and_no_further() {
        let (_dir, store) = open();
        let mut seen = BTreeSet::new();
        for _ in 0..6 {
            let service = create(&store, json!({"type": "ClusterIP"})).await.unwrap();
            assert!(seen.insert(service["spec"]["clusterIP"].as_str().unwrap().to_owned()));
        }
        assert!(matches!(create(&store, json!({})).await, Err(Denial::Failed(_))));
        assert!(!seen.contains("10.9.0.0") && !seen.contains("10.9.0.7"));
    }

    #[tokio::test]
    async fn an_address_in_use_or_out_of_range_is_refused() {
        let (_dir, store) = open();
        create(&store, json!({"clusterIP": "10.9.0.3"})).await.unwrap();
        for ip in ["10.9.0.3", "10.9.1.1", "10.9.0.0"] {
            assert!(
                matches!(
                    create(&store, json!({"clusterIP": ip})).await,
                    Err(Denial::Invalid(_))
                ),
                "{ip}"
            );
        }
    }

    #[tokio::test]
    async fn a_family_that_the_cluster_has_not_is_refused() {
        let (_dir, store) = open();
        let dual = "this cluster is not configured for dual-stack services";
        let absent = "not configured on this cluster";
        let single = "when multiple IP families are specified";
        for (spec, refused) in [
            (json!({"ipFamilyPolicy": "PreferDualStack"}), vec![]),
            (
                json!({"ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}),
                vec![],
            ),
            (json!({"ipFamilyPolicy": "RequireDualStack"}), vec![dual]),
            (json!({"ipFamilies": ["IPv6"]}), vec![absent]),
            (
                json!({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "SingleStack"}),
                vec![single],
            ),
            (
                json!({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}),
                vec![dual, absent],
            ),
            (
                json!({"clusterIP": "None", "ipFamilyPolicy": "RequireDualStack"}),
                vec![],
            ),
            (
                json!({"clusterIP": "None", "ipFamilies": ["IPv6"], "selector": {"a": "b"}}),
                vec![absent],
            ),
            (
                json!({"clusterIP": "fd00::1"}),
                vec!["IPv6 is not configured on this cluster"],
            ),
            (
                json!({"ipFamilies": ["IPv4"], "clusterIP": "fd00::1"}),
                vec!["expected an IPv4 value as indicated by `ipFamilies[0]`"],
            ),
            (
                json!({"type": "ExternalName", "ipFamilyPolicy": "RequireDualStack"}),
                vec![],
            ),
        ] {
            let told = match create(&store, spec.clone()).await {
                Ok(_) => vec![],
                Err(Denial::Invalid(errors)) => errors.iter().map(FieldError::message).collect(),
                Err(_) => panic!("{spec}"),
            };
            let ends = |(told, why): (&String, &&str)| told.ends_with(*why);
            assert!(
                told.len() == refused.len() && told.iter().zip(&refused).all(ends),
                "{spec}: {told:?}"
            );
        }
    }

    #[tokio::test]
    async fn node_ports_are_given_kept_and_released() {
        let (_dir, store) = open();
        let ports = json!([{"port": 80, "protocol": "TCP"}]);
        let spec = json!({"type": "NodePort", "ipFamilies": ["IPv4"], "ports": ports});
        let old = create(&store, spec).await.unwrap();
        assert!(node_port(&old["spec"]["ports"][0]).is_some());
        let mut same = old.clone();
        assert!(admit(&store, Some(&old), &mut same).await.unwrap().is_empty());
        assert_eq!(same, old);
        let mut external = json!({"spec": {"type": "ExternalName", "externalName": "x.y"}});
        let claims = admit(&store, Some(&old), &mut external).await.unwrap();
        assert_eq!((claims.take.len(), claims.release.len()), (0, 2));
    }

    #[tokio::test]
    async fn headless_services_take_nothing() {
        let (_dir, store) = open();
        let mut service = json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
        assert!(admit(&store, None, &mut service).await.unwrap().is_empty());
    }
}
