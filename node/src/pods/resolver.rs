//! `/etc/resolv.conf` of a Pod: whom it asks for names, by `dnsPolicy` and `dnsConfig` (upstream's "DNS for Services and
//! Pods").

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PodDNSConfigOption, PodSpec};

use super::view::PodView;
use crate::dns::DOMAIN;

/// Resolvers that programs ask (resolv.conf(5), MAXNS); upstream leaves the rest out too.
const MOST_SERVERS: usize = 3;
/// Search domains, as upstream has it.
const MOST_SEARCHES: usize = 32;
/// Short names are looked for in the cluster first, as upstream has it.
const NDOTS: &str = "ndots:5";

#[derive(Debug, Default, PartialEq, Eq)]
struct Settings {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// The file's text; `cluster` is the address of the cluster's DNS, `host` the text of the host's file.
pub fn resolv_conf(pod: PodView<'_>, cluster: Option<&str>, host: &str) -> String {
    let host = Settings::parse(host);
    let mut settings = match (pod.spec.dns_policy.as_deref(), cluster) {
        (Some("None"), _) => Settings::default(),
        (Some("Default"), _) | (_, None) => host,
        (Some("ClusterFirstWithHostNet"), Some(server)) => host.behind(server, pod.namespace()),
        (_, Some(_)) if pod.spec.host_network == Some(true) => host,
        (_, Some(server)) => host.behind(server, pod.namespace()),
    };
    settings.add(pod.spec);
    settings.text()
}

impl Settings {
    fn parse(text: &str) -> Self {
        let mut settings = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => settings.servers.extend(words.next()),
                // The last one counts (resolv.conf(5)).
                Some("search") => settings.searches = words.collect(),
                Some("options") => settings.options.extend(words),
                _ => {}
            }
        }
        settings
    }

    /// The cluster's DNS, which asks the host's resolvers itself; the host's search domains come last.
    fn behind(self, server: &str, namespace: &str) -> Self {
        let own = [
            format!("{namespace}.svc.{DOMAIN}"),
            format!("svc.{DOMAIN}"),
            DOMAIN.to_owned(),
        ];
        Self {
            servers: vec![server.to_owned()],
            searches: own.into_iter().chain(self.searches).collect(),
            options: vec![NDOTS.to_owned()],
        }
    }

    fn add(&mut self, spec: &PodSpec) {
        let Some(config) = &spec.dns_config else { return };
        self.servers.extend(config.nameservers.iter().flatten().cloned());
        self.searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            self.options.retain(|known| known.split(':').next() != Some(name));
            self.options.push(written(option));
        }
    }

    fn text(&self) -> String {
        let line = |word: &str, values: Vec<&str>| match values.is_empty() {
            true => String::new(),
            false => format!("{word} {}\n", values.join(" ")),
        };
        let servers = distinct(&self.servers, MOST_SERVERS);
        let servers: String = servers
            .iter()
            .map(|server| format!("nameserver {server}\n"))
            .collect();
        let searches = line("search", distinct(&self.searches, MOST_SEARCHES));
        let options = line("options", distinct(&self.options, usize::MAX));
        searches + &servers + &options
    }
}

fn written(option: &PodDNSConfigOption) -> String {
    let name = option.name.clone().unwrap_or_default();
    match &option.value {
        Some(value) => format!("{name}:{value}"),
        None => name,
    }
}

fn distinct(values: &[String], most: usize) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    let first = values.iter().filter(|value| seen.insert(value.as_str()));
    first.map(String::as_str).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    const HOST: &str = "# by hand\nnameserver 192.0.2.1\nsearch old\nsearch corp\noptions edns0 ndots:2\n";
    const CLUSTER: &str = "search n.svc.cluster.local svc.cluster.local cluster.local corp\nnameserver 10.43.0.10\n\
                           options ndots:5\n";

    fn text(spec: Value, cluster: Option<&str>) -> String {
        let mut object =
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": []}});
        json_merge(&mut object["spec"], spec);
        let pod: Pod = serde_json::from_value(object).unwrap();
        resolv_conf(PodView::new(&pod).unwrap(), cluster, HOST)
    }

    fn json_merge(into: &mut Value, from: Value) {
        for (key, value) in from.as_object().into_iter().flatten() {
            into[key] = value.clone();
        }
    }

    #[test]
    fn policies() {
        let host = "search corp\nnameserver 192.0.2.1\noptions edns0 ndots:2\n";
        let cluster = Some("10.43.0.10");
        for (spec, server, want) in [
            (json!({}), cluster, CLUSTER),
            (json!({"dnsPolicy": "ClusterFirst"}), cluster, CLUSTER),
            (json!({"dnsPolicy": "ClusterFirst"}), None, host),
            (
                json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}),
                cluster,
                host,
            ),
            (
                json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
                cluster,
                CLUSTER,
            ),
            (json!({"dnsPolicy": "Default"}), cluster, host),
            (json!({"dnsPolicy": "None"}), cluster, ""),
        ] {
            assert_eq!(text(spec.clone(), server), want, "{spec}");
        }
    }

    #[test]
    fn what_a_pod_adds() {
        let config = json!({"nameservers": ["192.0.2.53", "192.0.2.1", "192.0.2.54"], "searches": ["x", "corp"],
            "options": [{"name": "ndots", "value": "1"}, {"name": "debug"}]});
        let with = |policy: &str| {
            text(
                json!({"dnsPolicy": policy, "dnsConfig": config}),
                Some("10.43.0.10"),
            )
        };
        assert_eq!(
            with("Default"),
            "search corp x\nnameserver 192.0.2.1\nnameserver 192.0.2.53\nnameserver 192.0.2.54\n\
             options edns0 ndots:1 debug\n"
        );
        assert_eq!(
            with("ClusterFirst"),
            "search n.svc.cluster.local svc.cluster.local cluster.local corp x\nnameserver 10.43.0.10\n\
             nameserver 192.0.2.53\nnameserver 192.0.2.1\noptions ndots:1 debug\n"
        );
    }
}
