//! Ports of the containers of one Pod that get in each other's way.
use serde_json::Value;

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
    for (i, port) in all.iter().enumerate() {
        for other in all[..i].iter().filter(|other| other.key() == port.key()) {
            if let Some(what) = port.beside(other) {
                told.push(format!("{}: {what} port definition with {}", port.at, other.at));
            }
        }
    }
    told.extend(names(&all));
    told
}

fn names(all: &[Port<'_>]) -> Vec<String> {
    let again = |(i, port): (usize, &Port<'_>)| {
        let name = Some(port.port.text("name")).filter(|name| !name.is_empty())?;
        let first = all[..i].iter().find(|other| other.port.text("name") == name)?;
        Some(format!(
            "{}: duplicate port name \"{name}\" with {1}, services and probes that select ports by name will use {1}",
            port.at, first.at
        ))
    };
    all.iter().enumerate().filter_map(again).collect()
}
