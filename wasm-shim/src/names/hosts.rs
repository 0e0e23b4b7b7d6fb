//! The hosts file (hosts(5)).

use std::net::IpAddr;

/// Most entries that are kept.
const MAX_ENTRIES: usize = 4_096;

/// Names and their addresses, in the file's order.
#[derive(Debug, Default)]
pub struct Hosts(Vec<(String, IpAddr)>);

impl Hosts {
    /// Reads the file's text; lines that are not understood are left out.
    pub fn parse(text: &str) -> Self {
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default());
        let entries = lines.flat_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
            words.filter_map(move |name| Some((plain(name), address?)))
        });
        Self(entries.take(MAX_ENTRIES).collect())
    }

    /// The addresses of a name, IPv4 first.
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let name = plain(name);
        let mut found: Vec<IpAddr> = self
            .0
            .iter()
            .filter(|(known, _)| *known == name)
            .map(|(_, address)| *address)
            .collect();
        found.sort_by_key(IpAddr::is_ipv6);
        found.dedup();
        found
    }
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let hosts = Hosts::parse(
            "# comment\n::1 localhost\n127.0.0.1\tlocalhost Local # more\n10.0.0.1 db db.shop\nnonsense here\n\n10.0.0.2 db\n",
        );
        for (name, expected) in [
            ("localhost", "127.0.0.1 ::1"),
            ("LOCAL.", "127.0.0.1"),
            ("db", "10.0.0.1 10.0.0.2"),
            ("here", ""),
            ("more", ""),
        ] {
            let found: Vec<String> = hosts.addresses(name).iter().map(IpAddr::to_string).collect();
            assert_eq!(found.join(" "), expected, "{name}");
        }
    }
}
