//! `resolv.conf` (resolv.conf(5)): whom to ask, and for what.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Where resolvers listen (RFC 1035, 4.2).
const PORT: u16 = 53;

/// Resolvers that are asked (`MAXNS`), and search domains, of which newer C libraries take any number.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// What the C library uses when nothing is said, and the most it accepts.
const NDOTS: (usize, usize) = (1, 15);
const TIMEOUT_SECONDS: (u64, u64) = (5, 30);
const ATTEMPTS: (u32, u32) = (2, 5);

/// What the file says.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    pub servers: Vec<SocketAddr>,
    /// Time for one resolver to answer.
    pub patience: Duration,
    pub attempts: u32,
    searches: Vec<String>,
    /// A name with as many dots is looked up as it is before it is looked for in the search domains.
    ndots: usize,
}

impl Settings {
    /// Reads the file's text; what is not understood is left out.
    pub fn parse(text: &str) -> Self {
        let mut settings = Self {
            servers: Vec::new(),
            patience: Duration::from_secs(TIMEOUT_SECONDS.0),
            attempts: ATTEMPTS.0,
            searches: Vec::new(),
            ndots: NDOTS.0,
        };
        text.lines().for_each(|line| settings.line(line));
        if settings.servers.is_empty() {
            settings
                .servers
                .push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
        }
        settings.servers.truncate(MAX_SERVERS);
        settings
    }

    fn line(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                self.servers
                    .extend(address.map(|address| SocketAddr::new(address, PORT)));
            }
            // The last one counts.
            Some("search" | "domain") => {
                self.searches = words.take(MAX_SEARCHES).map(str::to_owned).collect();
            }
            Some("options") => words.for_each(|option| self.option(option)),
            _ => {}
        }
    }

    fn option(&mut self, option: &str) {
        let Some((name, value)) = option.split_once(':') else {
            return;
        };
        match (name, value.parse::<u32>()) {
            ("ndots", Ok(dots)) => self.ndots = NDOTS.1.min(dots as usize),
            ("timeout", Ok(seconds)) => {
                self.patience = Duration::from_secs(u64::from(seconds).clamp(1, TIMEOUT_SECONDS.1));
            }
            ("attempts", Ok(attempts)) => self.attempts = attempts.clamp(1, ATTEMPTS.1),
            _ => {}
        }
    }

    /// The full names a name may stand for, in the order in which they are to be asked for.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(full) = name.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let searched = self
            .searches
            .iter()
            .map(|domain| format!("{name}.{}", domain.trim_end_matches('.')));
        let mut all: Vec<String> = searched.collect();
        let as_it_is = match name.matches('.').count() >= self.ndots {
            true => 0,
            false => all.len(),
        };
        all.insert(as_it_is, name.to_owned());
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_file() {
        let settings = Settings::parse(
            "# by the node\nsearch old\nsearch a.svc b\nnameserver 10.43.0.10\nnameserver x\noptions ndots:2 timeout:3 \
             attempts:9 edns0\n",
        );
        assert_eq!(settings.servers, ["10.43.0.10:53".parse().unwrap()]);
        assert_eq!(
            (settings.patience, settings.attempts),
            (Duration::from_secs(3), 5)
        );
        for (name, expected) in [
            ("web", "web.a.svc web.b web"),
            ("web.x", "web.x.a.svc web.x.b web.x"),
            ("web.x.y", "web.x.y web.x.y.a.svc web.x.y.b"),
            ("web.", "web"),
        ] {
            assert_eq!(settings.candidates(name).join(" "), expected);
        }
    }

    #[test]
    fn an_empty_file() {
        let settings = Settings::parse("");
        assert_eq!(settings.servers, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(settings.candidates("web"), ["web"]);
    }
}
