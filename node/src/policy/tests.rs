//! Tables of policies: what upstream's documentation says of each field ("Network Policies", the API reference) and what
//! its end-to-end tests ask, from the point of view of one Pod.

use super::*;
use serde_json::{Value, json};
use std::net::IpAddr;

/// Three namespaces with three Pods each, as upstream's tests have them: `x/a` is 10.0.0.1, `y/a` 10.0.1.1, `z/c` 10.0.2.3. Each
/// serves 80 (`serve-80`) and 81 (`serve-81`) by TCP and UDP; but that `z/c` calls 8080 by the first name.
struct World {
    namespaces: BTreeMap<String, Labels>,
    pods: Vec<Peer>,
}

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn address(namespace: usize, pod: usize) -> IpAddr {
    [10, 0, namespace as u8, pod as u8 + 1].into()
}

impl World {
    fn new() -> Self {
        let namespace = |name: &&str| {
            (
                name.to_string(),
                labels(&[("ns", name), ("kubernetes.io/metadata.name", name)]),
            )
        };
        let pods = (0..3).flat_map(|n| (0..3).map(move |p| pod(n, p)));
        Self {
            namespaces: NAMESPACES.iter().map(namespace).collect(),
            pods: pods.collect(),
        }
    }

    fn pod(&self, name: &str) -> &Peer {
        let (namespace, pod) = name.split_once('/').unwrap();
        let found = self
            .pods
            .iter()
            .find(|p| p.namespace == namespace && p.labels["pod"] == pod);
        found.unwrap()
    }

    fn rules(&self, pod: &str, policies: &[Value]) -> NetworkRules {
        let cluster = Cluster {
            namespaces: &self.namespaces,
            pods: &self.pods,
        };
        let policies = policies.iter().map(|spec| policy("x", spec));
        let policies: Vec<Policy> = policies.map(|policy| Policy::new(&policy, &cluster)).collect();
        let pod = self.pod(pod);
        rules(pod, policies.iter().filter(|policy| policy.selects(pod)))
    }

    /// Who of all Pods passes, at a port.
    fn passing(&self, lets: impl Fn(IpAddr) -> bool) -> String {
        let all = (0..3).flat_map(|n| (0..3).map(move |p| (n, p)));
        let passing = all.filter(|(n, p)| lets(address(*n, *p)));
        let passing: Vec<String> = passing
            .map(|(n, p)| format!("{}/{}", NAMESPACES[n], PODS[p]))
            .collect();
        passing.join(" ")
    }
}

fn pod(namespace: usize, pod: usize) -> Peer {
    let first = if (namespace, pod) == (2, 2) { 8080 } else { 80 };
    let port = |name: &str, protocol, number| super::super::peer::NamedPort {
        name: name.to_owned(),
        protocol,
        number,
    };
    Peer {
        namespace: NAMESPACES[namespace].to_owned(),
        labels: labels(&[("pod", PODS[pod])]),
        addresses: vec![address(namespace, pod)],
        ports: vec![
            port("serve-80", Protocol::Tcp, first),
            port("serve-81", Protocol::Tcp, 81),
            port("serve-81-udp", Protocol::Udp, 81),
        ],
    }
}

fn policy(namespace: &str, spec: &Value) -> NetworkPolicy {
    let metadata = json!({"name": "p", "namespace": namespace});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn a_policy(selects: &str, rest: Value) -> Value {
    let mut spec = json!({"podSelector": {"matchLabels": {"pod": selects}}});
    for (key, value) in rest.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

const ALL: &str = "x/a x/b x/c y/a y/b y/c z/a z/b z/c";

fn named(key: &str, value: &str) -> Value {
    json!({"matchLabels": {key: value}})
}

fn is_one_of(key: &str, operator: &str, values: &[&str]) -> Value {
    json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
}

/// Each row: the peers of one rule, and who of all Pods they are.
fn peers() -> Vec<(Value, &'static str)> {
    let pod = |selector: Value| json!({"podSelector": selector});
    let namespace = |selector: Value| json!({"namespaceSelector": selector});
    let both = |namespace: Value, pod: Value| json!({"namespaceSelector": namespace, "podSelector": pod});
    let block = |cidr: &str, except: &[&str]| json!({"ipBlock": {"cidr": cidr, "except": except}});
    vec![
        (json!([]), ALL),
        (json!([pod(json!({}))]), "x/a x/b x/c"),
        (json!([pod(named("pod", "b"))]), "x/b"),
        (json!([pod(is_one_of("pod", "NotIn", &["a", "b"]))]), "x/c"),
        (json!([pod(is_one_of("pod", "Exists", &[]))]), "x/a x/b x/c"),
        (json!([pod(is_one_of("pod", "DoesNotExist", &[]))]), ""),
        (json!([pod(is_one_of("other", "NotIn", &["a"]))]), "x/a x/b x/c"),
        (json!([pod(is_one_of("pod", "Near", &["a"]))]), ""),
        (json!([namespace(json!({}))]), ALL),
        (json!([namespace(named("ns", "y"))]), "y/a y/b y/c"),
        (
            json!([namespace(named("kubernetes.io/metadata.name", "z"))]),
            "z/a z/b z/c",
        ),
        (
            json!([namespace(is_one_of("ns", "NotIn", &["x"]))]),
            "y/a y/b y/c z/a z/b z/c",
        ),
        (
            json!([pod(named("pod", "b")), namespace(named("ns", "y"))]),
            "x/b y/a y/b y/c",
        ),
        (json!([both(named("ns", "y"), named("pod", "b"))]), "y/b"),
        (
            json!([both(
                is_one_of("ns", "NotIn", &["x"]),
                is_one_of("pod", "In", &["b", "c"])
            )]),
            "y/b y/c z/b z/c",
        ),
        (json!([pod(named("pod", "b")), pod(named("pod", "c"))]), "x/b x/c"),
        (json!([block("10.0.1.0/24", &[])]), "y/a y/b y/c"),
        (
            json!([block("10.0.0.0/16", &["10.0.0.0/24", "10.0.2.2/31"])]),
            "y/a y/b y/c z/a",
        ),
        (
            json!([block("10.0.1.0/24", &["10.0.1.2/32"]), block("10.0.1.2/32", &[])]),
            "y/a y/b y/c",
        ),
        (json!([block("nonsense", &[])]), ""),
        (json!([{}]), ""),
    ]
}

#[test]
fn peers_of_what_comes_in_and_of_what_goes_out() {
    let world = World::new();
    for (peers, expected) in peers() {
        let ingress = a_policy("a", json!({"ingress": [{"from": peers}]}));
        let rules = world.rules("x/a", &[ingress]);
        let passing = world.passing(|from| rules.lets_in(Protocol::Tcp, from, 80));
        assert_eq!(passing, expected, "from {peers}");
        assert!(rules.egress.is_none(), "not about what goes out");
        let egress = a_policy("a", json!({"policyTypes": ["Egress"], "egress": [{"to": peers}]}));
        let rules = world.rules("x/a", &[egress]);
        let passing = world.passing(|to| rules.lets_out(Protocol::Udp, (to, 9).into()));
        assert_eq!(passing, expected, "to {peers}");
        assert!(rules.ingress.is_none(), "not about what comes in");
    }
}

#[test]
fn ports() {
    let world = World::new();
    let all = (Protocol::Sctp, 9);
    let (tcp, udp, next) = ((Protocol::Tcp, 80), (Protocol::Udp, 80), (Protocol::Tcp, 81));
    for (ports, expected) in [
        (json!([]), vec![tcp, udp, next, all]),
        (json!([{"port": 80}]), vec![tcp]),
        (json!([{"port": 80, "protocol": "UDP"}]), vec![udp]),
        (
            json!([{"port": 80}, {"port": 80, "protocol": "UDP"}]),
            vec![tcp, udp],
        ),
        (json!([{"protocol": "TCP"}]), vec![tcp, next]),
        (json!([{"protocol": "SCTP"}]), vec![all]),
        (json!([{"port": 80, "endPort": 81}]), vec![tcp, next]),
        (json!([{"port": 70, "endPort": 80}]), vec![tcp]),
        (json!([{"port": 81, "protocol": "SCTP"}]), vec![]),
        (json!([{"port": "serve-80"}]), vec![tcp]),
        (
            json!([{"port": "serve-81"}, {"port": "serve-80"}]),
            vec![tcp, next],
        ),
        (json!([{"port": "serve-80", "protocol": "UDP"}]), vec![]),
        (json!([{"port": "nobody-has-it"}]), vec![]),
    ] {
        let rule = json!({"policyTypes": ["Ingress", "Egress"], "ingress": [{"ports": ports}], "egress": [{"ports": ports}]});
        let rules = world.rules("x/a", &[a_policy("a", rule)]);
        for at in [tcp, udp, next, all] {
            let peer = address(1, 0);
            let expected = expected.contains(&at);
            assert_eq!(rules.lets_in(at.0, peer, at.1), expected, "in: {ports} at {at:?}");
            assert_eq!(
                rules.lets_out(at.0, (peer, at.1).into()),
                expected,
                "out: {ports} at {at:?}"
            );
        }
    }
}

#[test]
fn a_name_of_a_port_is_the_targets() {
    let world = World::new();
    let rule = |peers: Value| {
        let rule =
            json!({"policyTypes": ["Egress"], "egress": [{"to": peers, "ports": [{"port": "serve-80"}]}]});
        world.rules("x/a", &[a_policy("a", rule)])
    };
    let reaches =
        |rules: &NetworkRules, port| world.passing(|to| rules.lets_out(Protocol::Tcp, (to, port).into()));
    let z = json!([{"namespaceSelector": named("ns", "z")}]);
    assert_eq!(
        (reaches(&rule(z.clone()), 80), reaches(&rule(z), 8080)),
        ("z/a z/b".into(), "z/c".into())
    );
    let anybody = rule(json!([]));
    assert_eq!(reaches(&anybody, 8080), "z/c");
    assert!(
        !anybody.lets_out(Protocol::Tcp, "192.0.2.1:80".parse().unwrap()),
        "who is no Pod names no port"
    );
    assert_eq!(
        reaches(&rule(json!([{"ipBlock": {"cidr": "10.0.0.0/8"}}])), 80),
        ""
    );
    let ingress = a_policy("c", json!({"ingress": [{"ports": [{"port": "serve-80"}]}]}));
    let cluster = Cluster {
        namespaces: &world.namespaces,
        pods: &world.pods,
    };
    let policy = Policy::new(&policy("z", &ingress), &cluster);
    let rules = rules(world.pod("z/c"), [&policy]);
    let lets = |port| rules.lets_in(Protocol::Tcp, address(0, 0), port);
    assert!(lets(8080) && !lets(80));
}

/// Which directions a policy isolates: by its types, else by what it has.
#[test]
fn directions_by_type() {
    let world = World::new();
    let some = json!([{}]);
    for (spec, expected) in [
        (json!({}), (true, false)),
        (json!({"ingress": some}), (true, false)),
        (json!({"egress": some}), (true, true)),
        (json!({"egress": []}), (true, false)),
        (json!({"policyTypes": []}), (true, false)),
        (json!({"policyTypes": ["Ingress"], "egress": some}), (true, false)),
        (json!({"policyTypes": ["Egress"], "ingress": some}), (false, true)),
        (json!({"policyTypes": ["Egress"]}), (false, true)),
        (json!({"policyTypes": ["Ingress", "Egress"]}), (true, true)),
    ] {
        let rules = world.rules("x/a", &[a_policy("a", spec.clone())]);
        assert_eq!(
            (rules.ingress.is_some(), rules.egress.is_some()),
            expected,
            "{spec}"
        );
    }
}

#[test]
fn whom_a_policy_selects() {
    let world = World::new();
    let deny = |selector: Value| json!({"podSelector": selector, "policyTypes": ["Ingress", "Egress"]});
    let isolated = |selector: Value| {
        let is = |name: &&str| !world.rules(name, &[deny(selector.clone())]).is_open();
        ALL.split(' ').filter(is).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(isolated(json!({})), "x/a x/b x/c");
    assert_eq!(isolated(named("pod", "a")), "x/a");
    assert_eq!(isolated(is_one_of("pod", "NotIn", &["a"])), "x/b x/c");
    assert_eq!(isolated(named("pod", "none")), "");
    let without = json!({"policyTypes": ["Ingress"]});
    assert!(
        !world.rules("x/a", &[without]).is_open(),
        "no selector is all Pods"
    );
    let isolated = world.rules("x/a", &[deny(json!({}))]);
    let nothing = Some(Vec::new());
    assert_eq!((&isolated.ingress, &isolated.egress), (&nothing, &nothing));
}

/// Several policies add up, whatever each of them leaves out.
#[test]
fn several_policies_are_a_union() {
    let world = World::new();
    let deny = json!({"policyTypes": ["Ingress", "Egress"]});
    let from = |selector: Value, port: u16| {
        let from = json!([{"namespaceSelector": {}, "podSelector": selector}]);
        a_policy(
            "a",
            json!({"ingress": [{"from": from, "ports": [{"port": port}]}]}),
        )
    };
    let all = json!({"ingress": [{}], "policyTypes": ["Ingress"]});
    let everywhere = json!({"egress": [{}], "policyTypes": ["Egress"]});
    let two = [
        deny.clone(),
        from(named("pod", "b"), 80),
        from(named("pod", "c"), 81),
    ];
    let rules = world.rules("x/a", &two);
    let comes = |rules: &NetworkRules, port| world.passing(|from| rules.lets_in(Protocol::Tcp, from, port));
    assert_eq!(
        (comes(&rules, 80), comes(&rules, 81)),
        ("x/b y/b z/b".into(), "x/c y/c z/c".into())
    );
    let [first, second, third] = two;
    assert_eq!(
        world.rules("x/a", &[third, second, first]),
        rules,
        "in whatever order"
    );
    let open = world.rules("x/a", &[deny.clone(), all]);
    assert_eq!(comes(&open, 7), ALL);
    assert_eq!(open.egress, Some(Vec::new()));
    let out = world.rules("x/a", &[deny, everywhere]);
    assert!(out.lets_out(Protocol::Sctp, "192.0.2.1:9".parse().unwrap()) && comes(&out, 80).is_empty());
}

/// The example of upstream's documentation, as it stands there.
#[test]
fn the_documented_example() {
    let mut world = World::new();
    let web = labels(&[("role", "frontend")]);
    world.pods[1].labels.extend(web);
    world
        .namespaces
        .get_mut("y")
        .unwrap()
        .extend(labels(&[("project", "myproject")]));
    let spec = json!({
        "podSelector": named("pod", "a"),
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{
            "from": [
                {"ipBlock": {"cidr": "172.17.0.0/16", "except": ["172.17.1.0/24"]}},
                {"namespaceSelector": named("project", "myproject")},
                {"podSelector": named("role", "frontend")},
            ],
            "ports": [{"protocol": "TCP", "port": 6379}],
        }],
        "egress": [{
            "to": [{"ipBlock": {"cidr": "10.0.0.0/24"}}],
            "ports": [{"protocol": "TCP", "port": 5978}],
        }],
    });
    let rules = world.rules("x/a", &[spec]);
    assert_eq!(
        world.passing(|from| rules.lets_in(Protocol::Tcp, from, 6379)),
        "x/b y/a y/b y/c"
    );
    assert_eq!(
        world.passing(|to| rules.lets_out(Protocol::Tcp, (to, 5978).into())),
        "x/a x/b x/c"
    );
    for (ip, expected) in [
        ("172.17.0.255", true),
        ("172.17.1.0", false),
        ("172.17.1.255", false),
        ("172.17.2.0", true),
    ] {
        assert_eq!(
            rules.lets_in(Protocol::Tcp, ip.parse().unwrap(), 6379),
            expected,
            "{ip}"
        );
    }
    assert_eq!(
        serde_json::to_value(&rules.ingress).unwrap(),
        json!([{
            "ports": [{"protocol": "TCP", "first": 6379, "last": 6379}],
            "addresses": ["10.0.0.2", "10.0.1.1-10.0.1.3", "172.17.0.0-172.17.0.255", "172.17.2.0-172.17.255.255"],
        }])
    );
}
