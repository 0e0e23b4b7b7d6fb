//! Service addresses: cluster IPs and node ports.
//!
//! An address in use is a key in the store, written in the same transaction as the Service that holds it and removed in
//! the one that drops it: of a cluster IP it is that of its IPAddress object, so that neither is there without the other.
//! So no two Services can get the same one, however many API servers there are, and nothing has to be rebuilt at start.
//! Choosing is a guess that the transaction proves, and with it that the range is still open.
pub mod address;
mod ports;
pub mod ranges;

use super::{Action, Claims, Denial, Review, families};
use crate::kinds::FieldError;
use crate::store::{Range, Store};
use address::Left;
use ipnet::IpNet;
use ports::Taking;
use ranges::Opened;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

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
        let source = match old.is_none_or(is_external) {
            true => self.cluster_ip(store, review, spec).await?,
            false => None,
        };
        Taking::of(self, store, review.dry_run).all(spec, old).await?;
        let wanted: BTreeSet<String> = keys(service).into_iter().collect();
        let mut claims = released(store, held.difference(&wanted).cloned()).await?;
        claims
            .unchanged
            .extend(source.into_iter().map(|opened| opened.source));
        for key in wanted.difference(&held).cloned() {
            match key.strip_prefix(address::KEYS).and_then(|ip| ip.parse().ok()) {
                Some(ip) => {
                    let namespace = review.namespace.unwrap_or_default();
                    let object = address::stored(ip, namespace, review.name);
                    claims.make.push((key, object));
                }
                None => claims.take.push(key),
            }
        }
        Ok(claims)
    }

    /// Chooses the cluster IP of a Service that had none, or proves the one that was chosen. The range that it is from.
    async fn cluster_ip(
        &self,
        store: &dyn Store,
        review: &Review<'_>,
        spec: &mut Map<String, Value>,
    ) -> Result<Option<Opened>, Denial> {
        if text(spec, "type") == "ExternalName" {
            return Ok(None);
        }
        let asked = text(spec, "clusterIP").to_owned();
        let (ip, source) = match asked.as_str() {
            "None" => (asked, None),
            // What nobody will have need not be free.
            _ if review.dry_run => (self.rehearsed(&asked)?, None),
            "" => {
                let (ip, opened) = self.free_ip(store, review.name).await?;
                (ip.to_string(), Some(opened))
            }
            _ => {
                let source = self.given_ip(store, &asked).await?;
                (asked, source)
            }
        };
        spec.insert("clusterIP".into(), ip.clone().into());
        spec.insert("clusterIPs".into(), json!([ip]));
        Ok(source)
    }

    /// What upstream shows in the place of an address that is not to be taken: the range's own.
    fn rehearsed(&self, asked: &str) -> Result<String, Denial> {
        match asked.parse::<IpAddr>() {
            Ok(ip) if !ranges::holds(&self.cidr, ip) => {
                let range = self.cidr.trunc();
                let why = format!(
                    "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"
                );
                Err(unavailable(asked, &why))
            }
            _ if asked.is_empty() => Ok(self.cidr.network().to_string()),
            _ => Ok(asked.to_owned()),
        }
    }

    /// The range of an address that the client chose.
    async fn given_ip(&self, store: &dyn Store, asked: &str) -> Result<Option<Opened>, Denial> {
        // Validation names what is no address at all.
        let Ok(ip) = asked.parse::<IpAddr>() else {
            return Ok(None);
        };
        let mut opened = ranges::opened(store, ip.is_ipv4()).await?.into_iter();
        let Some(opened) = opened.find(|opened| ranges::holds(&opened.net, ip)) else {
            let why = "the provided network does not match the current range";
            return Err(unavailable(asked, why));
        };
        match store.get(&address::key(ip)).await? {
            Some(_) => Err(unavailable(asked, "provided IP is already allocated")),
            None => Ok(Some(opened)),
        }
    }

    /// An address that nobody has, of the first range that has one.
    async fn free_ip(&self, store: &dyn Store, name: &str) -> Result<(IpAddr, Opened), Denial> {
        for opened in ranges::opened(store, self.cidr.addr().is_ipv4()).await? {
            for band in ranges::bands(&opened.net) {
                if let Some(ip) = free_of(store, &opened.net, band).await? {
                    return Ok((ip, opened));
                }
            }
        }
        let why = format!("failed to allocate a serviceIP for Service {name:?}: range is full");
        Err(Denial::Failed(why))
    }
}

fn unavailable(asked: &str, why: &str) -> Denial {
    let why = format!("failed to allocate IP {asked}: {why}");
    Denial::Invalid(vec![FieldError::invalid("spec.clusterIPs", json!([asked]), why)])
}

/// Whether a Service has no addresses of its own.
fn is_external(service: &Value) -> bool {
    service["spec"]["type"] == "ExternalName"
}

/// An address of this part of a range that nobody has: guessed, and when that fails the first.
async fn free_of(
    store: &dyn Store,
    net: &IpNet,
    band: RangeInclusive<u128>,
) -> Result<Option<IpAddr>, Denial> {
    if band.is_empty() {
        return Ok(None);
    }
    for _ in 0..GUESSES {
        let guess = ranges::nth(net, rand::random_range(band.clone()));
        if let Some(ip) = guess
            && store.get(&address::key(ip)).await?.is_none()
        {
            return Ok(guess);
        }
    }
    let taken = taken(store, address::KEYS).await?;
    let mut all = band.filter_map(|number| ranges::nth(net, number));
    Ok(all.find(|ip| !taken.contains(&ip.to_string())))
}

async fn taken(store: &dyn Store, prefix: &str) -> Result<BTreeSet<String>, Denial> {
    let found = store.range(Range::prefix(prefix)).await?;
    Ok(found
        .items
        .iter()
        .filter_map(|kv| kv.key.strip_prefix(prefix).map(str::to_owned))
        .collect())
}

/// Gives these keys back; the object of an address that finalizers hold is marked instead.
pub(super) async fn released(
    store: &dyn Store,
    keys: impl IntoIterator<Item = String>,
) -> Result<Claims, Denial> {
    let mut claims = Claims::default();
    for key in keys {
        let found = match key.starts_with(address::KEYS) {
            true => store.get(&key).await?,
            false => None,
        };
        let Some(found) = found else {
            claims.release.push(key);
            continue;
        };
        let left = Left::of(&found.value).map_err(|error| Denial::Failed(format!("{key}: {error}")))?;
        match left {
            Left::Marked(object) => claims.replace.push((key, found.mod_revision, object)),
            Left::Nothing => {
                claims.unchanged.push((key.clone(), found.mod_revision));
                claims.release.push(key);
            }
            Left::Same => claims.unchanged.push((key, found.mod_revision)),
        }
    }
    Ok(claims)
}

/// The store's keys of all addresses that a Service holds.
pub(super) fn keys(service: &Value) -> Vec<String> {
    let spec = &service["spec"];
    let ips = spec["clusterIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let ips = ips.filter_map(|ip| ip.parse::<IpAddr>().ok()).map(address::key);
    let ports = spec["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(node_port);
    let ports: BTreeSet<i64> = ports.chain(port_number(&spec["healthCheckNodePort"])).collect();
    ips.chain(ports.into_iter().map(|port| format!("{}{port}", ports::KEYS)))
        .collect()
}

fn node_port(port: &Value) -> Option<i64> {
    port_number(&port["nodePort"])
}

/// As it is asked for, whether there are such ports or not.
fn port_number(value: &Value) -> Option<i64> {
    value.as_i64().filter(|number| *number != 0)
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

    async fn open() -> (tempfile::TempDir, RedbStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&dir.path().join("s.redb")).unwrap();
        put_range(&store, "kubernetes", json!({}), "10.9.0.0/29").await;
        (dir, store)
    }

    async fn put_range(store: &dyn Store, name: &str, meta: Value, cidr: &str) {
        let range = json!({"metadata": meta, "spec": {"cidrs": [cidr]}});
        let key = format!("/registry/servicecidrs/{name}");
        let there = store.get(&key).await.unwrap().map_or(0, |kv| kv.mod_revision);
        let written = store.txn(Txn::swap(key, there, range.to_string())).await;
        assert!(matches!(written, Ok(TxnOutcome::Committed { .. })));
    }

    #[tokio::test]
    async fn the_range_is_used_up_without_repeats_and_no_further() {
        let (_dir, store) = open().await;
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
        let (_dir, store) = open().await;
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
    async fn a_further_range_is_used_after_the_clusters_own_and_until_it_is_given_up() {
        let (_dir, store) = open().await;
        let outside = "spec.clusterIPs: Invalid value: [\"10.10.0.2\"]: failed to allocate IP 10.10.0.2: the provided \
                       network does not match the current range";
        match create(&store, json!({"clusterIP": "10.10.0.2"})).await {
            Err(Denial::Invalid(errors)) => assert_eq!(errors[0].to_string(), outside),
            other => panic!("{other:?}"),
        }
        put_range(&store, "a", json!({}), "10.10.0.0/29").await;
        create(&store, json!({"clusterIP": "10.10.0.2"})).await.unwrap();
        for index in 0..11 {
            let service = create(&store, json!({"type": "ClusterIP"})).await.unwrap();
            let own = service["spec"]["clusterIP"]
                .as_str()
                .unwrap()
                .starts_with("10.9.0.");
            assert_eq!(own, index < 6, "{index}: {service}");
        }
        let mut late = json!({"spec": {"clusterIP": "10.10.1.1", "clusterIPs": ["10.10.1.1"]}});
        put_range(&store, "b", json!({}), "10.10.1.0/29").await;
        let claims = admit(&store, None, &mut late).await.unwrap();
        let leaving = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        put_range(&store, "b", leaving, "10.10.1.0/29").await;
        let mut txn = Txn::create("/late", "");
        claims.join("/late", &mut txn);
        assert!(matches!(store.txn(txn).await, Ok(TxnOutcome::Conflict { .. })));
        let refused = create(&store, json!({"clusterIP": "10.10.1.1"})).await;
        assert!(matches!(refused, Err(Denial::Invalid(_))));
    }

    #[tokio::test]
    async fn a_family_that_the_cluster_has_not_is_refused() {
        let (_dir, store) = open().await;
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
        let (_dir, store) = open().await;
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
    async fn a_health_check_port_is_judged_when_it_is_taken() {
        let (_dir, store) = open().await;
        let balancer = |node: u16, check: u16, policy: &str| {
            json!({"type": "LoadBalancer", "ipFamilies": ["IPv4"], "externalTrafficPolicy": policy,
                "healthCheckNodePort": check, "ports": [{"port": 80, "nodePort": node}]})
        };
        let (both, other) = (balancer(30001, 30001, "Local"), balancer(30000, 30001, "Local"));
        assert!(matches!(
            create(&store, both.clone()).await,
            Err(Denial::Failed(_))
        ));
        let old = create(&store, other).await.unwrap();
        let update = async |old: &Value, spec: Value| {
            let mut new = json!({"spec": spec});
            new["spec"]["clusterIP"] = old["spec"]["clusterIP"].clone();
            new["spec"]["clusterIPs"] = old["spec"]["clusterIPs"].clone();
            admit(&store, Some(old), &mut new)
                .await
                .map(|claims| (claims.take, claims.release))
        };
        // What a Service holds for the check is no node port of its own, unless it was one before.
        let Err(Denial::Invalid(refused)) = update(&old, both.clone()).await else {
            panic!("it is taken")
        };
        let why = "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated";
        assert_eq!(refused[0].to_string(), why);
        let mut twice = old.clone();
        twice["spec"]["ports"][0]["nodePort"] = 30001.into();
        assert_eq!(update(&twice, both).await.unwrap(), (vec![], vec![]));
        // But what it holds as a node port, even one that it lets go of, is taken when it wants it for the check.
        let mut before = old.clone();
        before["spec"]["externalTrafficPolicy"] = "Cluster".into();
        before["spec"]
            .as_object_mut()
            .unwrap()
            .remove("healthCheckNodePort");
        for node in [30000, 30002] {
            let told = update(&before, balancer(node, 30000, "Local")).await;
            let Err(Denial::Failed(why)) = told else {
                panic!("{node}: {told:?}");
            };
            let wanted =
                "failed to allocate requested HealthCheck NodePort 30000: provided port is already allocated";
            assert_eq!(why, wanted);
        }
    }

    #[tokio::test]
    async fn headless_services_take_nothing() {
        let (_dir, store) = open().await;
        let mut service = json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
        assert!(admit(&store, None, &mut service).await.unwrap().is_empty());
    }
}
