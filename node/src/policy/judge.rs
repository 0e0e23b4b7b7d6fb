//! The rules of any Pod of a node, from all that is known of the cluster at one moment.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use amphipod_shim_api::network::{Addresses, Allowed, NetworkRules, merged};

use super::evaluate::{Policy, rules};
use super::peer::Peer;
use super::services::Fronts;

/// Policies, and what stands beside them.
#[derive(Debug, Default)]
pub struct Judge {
    pub policies: Vec<Policy>,
    /// Whether the policies' peers were looked up among all Pods there are.
    pub knows_peers: bool,
    /// Unknown until the lists of Services are whole.
    pub fronts: Option<Fronts>,
    /// The node's own addresses, from which everything comes in: its agent's probes, and who asks by its ports.
    pub node: Addresses,
    /// What goes out by the same policies is the same for all Pods.
    pub ways_out: Mutex<HashMap<Vec<usize>, Vec<Allowed>>>,
}

impl Judge {
    /// Whether some policy is about the Pod.
    pub fn is_selected(&self, pod: &Peer) -> bool {
        self.policies.iter().any(|policy| policy.selects(pod))
    }

    /// The Pod's rules; `None` when something that they come from is not known yet. A Pod always reaches itself.
    pub fn rules(&self, pod: &Peer) -> Option<NetworkRules> {
        let all = self.policies.iter().enumerate();
        let (ids, selecting): (Vec<usize>, Vec<&Policy>) =
            all.filter(|(_, policy)| policy.selects(pod)).unzip();
        if selecting.is_empty() {
            return Some(NetworkRules::default());
        }
        let fronts = self.fronts.as_ref().filter(|_| self.knows_peers)?;
        let rules = rules(pod, selecting);
        let everything = |addresses: Addresses| Allowed {
            ports: None,
            addresses,
        };
        let itself = || everything(pod.addresses.iter().copied().collect::<Addresses>());
        let node = everything(self.node.clone());
        let ingress = rules
            .ingress
            .map(|all| merged(all.into_iter().chain([itself(), node])));
        let egress = rules.egress.map(|all| {
            let mut known = self.ways_out.lock().unwrap_or_else(PoisonError::into_inner);
            let through = known.entry(ids).or_insert_with(|| fronts.through(&all));
            merged(through.iter().cloned().chain([itself()]))
        });
        Some(NetworkRules { ingress, egress })
    }
}

#[cfg(test)]
mod tests {
    use super::super::evaluate::Cluster;
    use super::*;
    use crate::network::services::Ruleset;
    use amphipod_shim_api::network::Protocol::Tcp;
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    fn deny(pods: &[Peer]) -> Policy {
        let spec = serde_json::json!({"policyTypes": ["Ingress", "Egress"]});
        let object = serde_json::json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
        let cluster = Cluster {
            namespaces: &BTreeMap::new(),
            pods,
        };
        Policy::new(&serde_json::from_value(object).unwrap(), &cluster)
    }

    fn fronts() -> Fronts {
        Fronts {
            ruleset: Ruleset::default(),
            dns: None,
        }
    }

    #[test]
    fn what_is_known_and_what_not() {
        let pod = Peer {
            namespace: "n".into(),
            addresses: vec![[10, 42, 0, 5].into()],
            ..Peer::default()
        };
        let other = Peer {
            namespace: "other".into(),
            ..Peer::default()
        };
        let mut judge = Judge {
            policies: vec![deny(&[])],
            ..Judge::default()
        };
        assert!(judge.rules(&other).unwrap().is_open() && !judge.is_selected(&other));
        assert!(
            judge.rules(&pod).is_none() && judge.is_selected(&pod),
            "peers are not known"
        );
        judge.knows_peers = true;
        assert!(judge.rules(&pod).is_none(), "Services are not known");
        judge.fronts = Some(fronts());
        judge.node = [IpAddr::from([10, 42, 0, 1])].into_iter().collect();
        let rules = judge.rules(&pod).unwrap();
        let [own, node, next] = [5, 1, 6].map(|last| IpAddr::from([10, 42, 0, last]));
        assert!(rules.lets_in(Tcp, own, 1) && rules.lets_in(Tcp, node, 1) && !rules.lets_in(Tcp, next, 1));
        let lets_out = |ip: IpAddr| rules.lets_out(Tcp, (ip, 1).into());
        assert!(lets_out(own) && !lets_out(node) && !lets_out(next));
        assert_eq!(judge.rules(&pod), Some(rules), "asked again");
    }
}
