//! What went through network interfaces, by the host's own counters (/proc/net/dev, proc(5)). A Pod's are those of the host's
//! end of its link, the other way round.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

/// Counters of one interface since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub received: Direction,
    pub sent: Direction,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

impl Counters {
    /// As the other end of the link sees it.
    pub fn turned(self) -> Counters {
        Counters {
            received: self.sent,
            sent: self.received,
        }
    }

    /// An InterfaceStats of the summary.
    pub fn summary(&self, name: &str) -> Value {
        json!({
            "name": name,
            "rxBytes": self.received.bytes,
            "rxErrors": self.received.errors,
            "txBytes": self.sent.bytes,
            "txErrors": self.sent.errors,
        })
    }
}

/// All interfaces of the host.
pub fn all() -> BTreeMap<String, Counters> {
    parse(&fs::read_to_string("/proc/net/dev").unwrap_or_default())
}

fn parse(text: &str) -> BTreeMap<String, Counters> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter_map(|(name, numbers)| {
            let numbers: Vec<u64> = numbers
                .split_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect();
            let direction = |from: usize| {
                Some(Direction {
                    bytes: *numbers.get(from)?,
                    packets: *numbers.get(from + 1)?,
                    errors: *numbers.get(from + 2)?,
                    dropped: *numbers.get(from + 3)?,
                })
            };
            let counters = Counters {
                received: direction(0)?,
                sent: direction(8)?,
            };
            Some((name.trim().to_owned(), counters))
        })
        .collect()
}

/// The interface of the default route (/proc/net/route).
pub fn default_interface() -> Option<String> {
    let routes = fs::read_to_string("/proc/net/route").ok()?;
    let mut fields = routes.lines().skip(1).map(|line| line.split_whitespace());
    fields.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.next() == Some("00000000")).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_and_turned() {
        let text = "Inter-|   Receive\n face |bytes\n  eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
        let found = parse(text)["eth0"];
        assert_eq!((found.received.bytes, found.sent.dropped), (1, 8));
        assert_eq!(found.turned().received.packets, 6);
        assert!(all().contains_key("lo"));
    }
}
