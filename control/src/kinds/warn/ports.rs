//! Ports of the containers of one Pod that get in each other's way.
use serde_json::Value;
use std::collections::HashMap;

use super::TOLD;
use crate::kinds::view::View;

struct Port<'a> {
    at: String,
    port: &'a Value,
}

impl Port<'_> {
    fn host_port(&self) -> i64 {
        self.port.int("hostPort").unwrap_or(0)
    }

    fn key(&self) -> (Option<i64>, &str) {
        (self.port.int("containerPort"), self.port.text("protocol"))
    }

    /// What is wrong with two definitions of one port.
    fn beside(&self, other: &Self) -> Option<&'static str> {
        let ips = (self.port.text("hostIP"), other.port.text("hostIP"));
        let ports = (self.host_port(), other.host_port());
        if ips.0 == ips.1 && ports.0 == ports.1 {
            return Some("duplicate");
        }
        if ports.0 == 0 || ports.1 == 0 {
            return Some("overlapping");
        }
        let half = ips.0.is_empty() != ips.1.is_empty();
        (ports.0 == ports.1 && half).then_some("dangerously ambiguous")
    }
}

pub(super) fn of_containers(containers: &[(&Value, String)]) -> Vec<String> {
    let of = |(container, at): &(&Value, String)| -> Vec<String> {
        let ports = container.list("ports").iter().enumerate();
        ports.map(|(i, _)| format!("{at}.ports[{i}]")).collect()
    };
    let paths = containers.iter().flat_map(of);
    let ports = containers
        .iter()
        .flat_map(|(container, _)| container.list("ports"));
    let all: Vec<Port<'_>> = paths.zip(ports).map(|(at, port)| Port { at, port }).collect();
    let mut told = Vec::new();
    let mut seen = Seen::default();
    for (i, port) in all.iter().enumerate() {
        for other in seen.in_the_way_of(port).into_iter().map(|other| &all[other]) {
            if let Some(what) = port.beside(other) {
                told.push(format!("{}: {what} port definition with {}", port.at, other.at));
            }
        }
        if told.len() > TOLD {
            break;
        }
        seen.add(i, port);
    }
    told.extend(names(&all));
    told
}

/// A port of a container by number and protocol.
type Key<'a> = (Option<i64>, &'a str);

/// The ports before one, by what [`Port::beside`] compares: each that is found is told, so that finding costs what is told.
#[derive(Default)]
struct Seen<'a> {
    all: HashMap<Key<'a>, Vec<usize>>,
    of_host_port: HashMap<(Key<'a>, i64), Vec<usize>>,
    of_host_address: HashMap<(Key<'a>, i64, &'a str), Vec<usize>>,
}

impl<'a> Seen<'a> {
    fn add(&mut self, at: usize, port: &'a Port<'a>) {
        let (key, host, ip) = (port.key(), port.host_port(), port.port.text("hostIP"));
        self.all.entry(key).or_default().push(at);
        self.of_host_port.entry((key, host)).or_default().push(at);
        self.of_host_address.entry((key, host, ip)).or_default().push(at);
    }

    /// In their order.
    fn in_the_way_of(&self, port: &'a Port<'a>) -> Vec<usize> {
        let (key, host, ip) = (port.key(), port.host_port(), port.port.text("hostIP"));
        let found = match (host, ip) {
            (0, _) => vec![self.all.get(&key)],
            (_, "") => vec![
                self.of_host_port.get(&(key, 0)),
                self.of_host_port.get(&(key, host)),
            ],
            _ => vec![
                self.of_host_port.get(&(key, 0)),
                self.of_host_address.get(&(key, host, ip)),
                self.of_host_address.get(&(key, host, "")),
            ],
        };
        let mut found: Vec<usize> = found.into_iter().flatten().flatten().copied().collect();
        found.sort_unstable();
        found
    }
}

fn names(all: &[Port<'_>]) -> Vec<String> {
    let mut first: HashMap<&str, &Port<'_>> = HashMap::new();
    let mut told = Vec::new();
    for port in all {
        let name = port.port.text("name");
        if name.is_empty() {
            continue;
        }
        let first = *first.entry(name).or_insert(port);
        if !std::ptr::eq(first, port) {
            told.push(format!(
                "{}: duplicate port name \"{name}\" with {1}, services and probes that select ports by name will use {1}",
                port.at, first.at
            ));
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What comparing each with each finds.
    fn one_by_one(ports: &[Value]) -> Vec<String> {
        let all: Vec<Port<'_>> = ports
            .iter()
            .enumerate()
            .map(|(i, port)| Port {
                at: format!("c.ports[{i}]"),
                port,
            })
            .collect();
        let mut told = Vec::new();
        for (i, port) in all.iter().enumerate() {
            for other in all[..i].iter().filter(|other| other.key() == port.key()) {
                told.extend(
                    port.beside(other)
                        .map(|what| format!("{}: {what} port definition with {}", port.at, other.at)),
                );
            }
        }
        told
    }

    proptest::proptest! {
        #[test]
        fn an_index_finds_what_comparing_each_with_each_does(
            ports in proptest::collection::vec((1..3_i64, 0..3_i64, 0..3_usize), 0..24)
        ) {
            let ips = ["", "10.0.0.1", "10.0.0.2"];
            let ports: Vec<Value> = ports
                .into_iter()
                .map(|(port, host, ip)| json!({"containerPort": port, "hostPort": host, "hostIP": ips[ip]}))
                .collect();
            let container = json!({"ports": ports});
            proptest::prop_assert_eq!(of_containers(&[(&container, "c".to_owned())]), one_by_one(&ports));
        }
    }

    #[test]
    fn ports_that_are_all_the_same_are_told_to_an_end() {
        let ports = vec![json!({"containerPort": 1, "name": "p"}); 20_000];
        let told = of_containers(&[(&json!({"ports": ports}), "c".to_owned())]);
        assert!((TOLD..TOLD * 2 + 20_000).contains(&told.len()), "{}", told.len());
    }
}
