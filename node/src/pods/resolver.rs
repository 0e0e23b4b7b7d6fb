//! `/etc/resolv.conf` of a Pod: whom it asks for names, by `dnsPolicy` and `dnsConfig` (upstream's "DNS for Services and
//! Pods").

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PodDNSConfigOption, PodSpec};

use super::view::PodView;
use crate::dns::DOMAIN;

/// Resolvers that programs ask (resolv.conf(5), MAXNS); upstream leaves the rest out too.
const MOST_SERVERS: usize = 3;
/// Search domains, how long one may be, and all of them with what is between, as upstream has it: some programs end over more.
const MOST_SEARCHES: usize = 32;
const LONGEST_SEARCH: usize = 253;
const SEARCH_LINE: usize = 2048;
/// Short names are looked for in the cluster first, as upstream has it.
const NDOTS: &str = "ndots:5";

#[derive(Debug, Default, PartialEq, Eq)]
struct Settings {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// A file as it was made.
#[derive(Debug, PartialEq, Eq)]
pub struct ResolvConf {
    pub text: String,
    /// What there was no room for, in upstream's words: events `DNSConfigForming`.
    pub omitted: Vec<String>,
}

/// Makes the file; `cluster` is the address of the cluster's DNS, `host` the text of the host's file.
pub fn resolv_conf(pod: PodView<'_>, cluster: Option<&str>, host: &str) -> ResolvConf {
    let host = Settings::parse(host);
    let mut settings = match (pod.spec.dns_policy.as_deref(), cluster) {
        (Some("None"), _) => Settings::default(),
        (Some("Default"), _) | (_, None) => host,
        (Some("ClusterFirstWithHostNet"), Some(server)) => host.behind(server, pod.namespace()),
        (_, Some(_)) if pod.spec.host_network == Some(true) => host,
        (_, Some(server)) => host.behind(server, pod.namespace()),
    };
    settings.add(pod.spec);
    settings.file()
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

    fn file(&self) -> ResolvConf {
        let line = |word: &str, values: Vec<&str>| match values.is_empty() {
            true => String::new(),
            false => format!("{word} {}\n", values.join(" ")),
        };
        let mut omitted = Vec::new();
        let (all, mut servers) = (distinct(&self.servers), distinct(&self.servers));
        servers.truncate(MOST_SERVERS);
        if servers.len() < all.len() {
            let line = servers.join(" ");
            omitted.push(format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {line}"
            ));
        }
        let all = distinct(&self.searches);
        let searches = fitting(&all);
        if searches.len() < all.len() {
            let line = searches.join(" ");
            omitted.push(format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {line}"
            ));
        }
        let servers = servers.iter().map(|server| format!("nameserver {server}\n"));
        let servers: String = servers.collect();
        let options = line("options", distinct(&self.options));
        ResolvConf {
            text: line("search", searches) + &servers + &options,
            omitted,
        }
    }
}

fn written(option: &PodDNSConfigOption) -> String {
    let name = option.name.clone().unwrap_or_default();
    match &option.value {
        Some(value) => format!("{name}:{value}"),
        None => name,
    }
}

fn distinct(values: &[String]) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    let first = values.iter().filter(|value| seen.insert(value.as_str()));
    first.map(String::as_str).collect()
}

/// The first search domains that there is room for.
fn fitting<'a>(all: &[&'a str]) -> Vec<&'a str> {
    let some = all.iter().take(MOST_SEARCHES).copied();
    let mut some: Vec<&str> = some.filter(|domain| domain.len() <= LONGEST_SEARCH).collect();
    let mut room = SEARCH_LINE + 1;
    let fits = some.iter().take_while(|domain| {
        let left = room.checked_sub(domain.len() + 1);
        room = left.unwrap_or_default();
        left.is_some()
    });
    let fits = fits.count();
    some.truncate(fits);
    some
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
        resolv_conf(PodView::new(&pod).unwrap(), cluster, HOST).text
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
    fn what_there_is_no_room_for_is_told() {
        let names = |count: usize, length: usize| -> Vec<String> {
            (0..count).map(|n| format!("{n:0>length$}")).collect()
        };
        for (servers, searches, kept, told) in [
            (3, names(32, 10), (3, 32), vec![]),
            (
                4,
                names(2, 10),
                (3, 2),
                vec![
                    "Nameserver limits were exceeded, some nameservers have been omitted, the applied \
                nameserver line is: 0 1 2",
                ],
            ),
            (
                1,
                names(33, 10),
                (1, 32),
                vec![
                    "Search Line limits were exceeded, some search paths have been omitted, the \
                applied search line is: 0000000000 0000000001 ",
                ],
            ),
            (
                1,
                [names(1, 254), names(1, 253)].concat(),
                (1, 1),
                vec!["Search Line limits"],
            ),
            // 16 of 127 and what is between them are 2047.
            (1, names(16, 127), (1, 16), vec![]),
            (1, names(20, 127), (1, 16), vec!["Search Line limits"]),
        ] {
            let settings = Settings {
                servers: names(servers, 1),
                searches,
                options: Vec::new(),
            };
            let made = settings.file();
            let count = |what: &str| made.text.split_whitespace().filter(|word| *word == what).count();
            let found = made.text.lines().find_map(|line| line.strip_prefix("search "));
            let found = found.map_or(0, |line| line.split(' ').count());
            assert_eq!((count("nameserver"), found), kept, "{settings:?}");
            assert_eq!(made.omitted.len(), told.len(), "{:?}", made.omitted);
            for (event, beginning) in made.omitted.iter().zip(told) {
                assert!(event.starts_with(beginning), "{event}");
            }
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
