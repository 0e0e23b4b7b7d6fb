//! The names of everything the network makes on a host, from the cluster's id.
//!
//! Two clusters on one host never share a name, and a name alone says whose a thing is: this is what
//! lets `down` find what to remove when every file of the cluster is gone.

use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};

/// What the names of links and tables of one cluster are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    id: String,
}

/// The id is not eight lower-case hex digits, so names made of it would not fit or not be unique.
#[derive(Debug, thiserror::Error)]
#[error("cluster id {0:?} is not eight lower-case hexadecimal digits")]
pub struct BadClusterId(pub String);

/// The uid of a Pod holds a character that has no place in a file name.
#[derive(Debug, thiserror::Error)]
#[error("Pod uid {0:?} is not a name of at most 63 letters, digits and dashes")]
pub struct BadUid(pub String);

/// A uid becomes a folder name; a UUID has 36 characters, the limit leaves room for hashes of static Pods.
const UID_LIMIT: usize = 63;

impl Names {
    pub fn new(id: &str) -> Result<Self, BadClusterId> {
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if id.len() == 8 && id.chars().all(hex) {
            Ok(Self { id: id.to_owned() })
        } else {
            Err(BadClusterId(id.to_owned()))
        }
    }

    /// The link that has the gateway's address and the Services' route: one end of a pair that leads nowhere. (A `dummy` would
    /// do; not every kernel has it, and Pods need the driver of pairs anyway.)
    pub fn gateway_link(&self) -> String {
        format!("ap{}", self.id)
    }

    /// The other end of it.
    pub fn blind_end(&self) -> String {
        format!("ap{}-end", self.id)
    }

    /// The nftables table (family ip) with all rules of the cluster.
    pub fn table(&self) -> String {
        format!("amphipod-{}", self.id)
    }

    /// The host end of the veth pair of the Pod with that address: 15 characters, all an interface name may have. As much of a
    /// hash of the uid two of a thousand Pods would often have in common; addresses are each Pod's own.
    pub fn veth(&self, ip: Ipv4Addr) -> String {
        format!("{}{}", self.pods_links(), hex::encode(&ip.octets()[1..]))
    }

    /// What the names of all Pods' links begin with, and no other's: rules name all of them by it.
    pub fn pods_links(&self) -> String {
        format!("v{}", self.id)
    }

    pub fn is_pods_link(&self, name: &str) -> bool {
        name.len() == 15 && name.starts_with(&self.pods_links())
    }

    /// Whether a link on the host belongs to this cluster.
    pub fn owns_link(&self, name: &str) -> bool {
        name == self.gateway_link() || name == self.blind_end() || self.is_pods_link(name)
    }

    /// The hardware address of the host's end of every Pod's link, which is all that Pods see of the host: that it is one and
    /// the same harms nobody where each link has two ends only.
    pub fn host_address(&self) -> [u8; 6] {
        let digest = Sha256::digest(self.id.as_bytes());
        [0x0a, 0x58, digest[0], digest[1], digest[2], digest[3]]
    }
}

/// The hardware address of a Pod's eth0, from its IP: an address given to a new Pod keeps its
/// hardware address, so no neighbour's cache goes stale.
pub fn pod_address(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x59, a, b, c, d]
}

/// Refuses a uid that could not be a single path component.
pub fn check_uid(uid: &str) -> Result<(), BadUid> {
    let fits = !uid.is_empty() && uid.len() <= UID_LIMIT;
    if fits && uid.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        Ok(())
    } else {
        Err(BadUid(uid.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_an_interface_and_carry_the_id() {
        let names = Names::new("0a1b2c3d").unwrap();
        assert_eq!(names.gateway_link(), "ap0a1b2c3d");
        assert!(names.blind_end().len() <= 15);
        assert_eq!(names.table(), "amphipod-0a1b2c3d");
        let veth = names.veth(Ipv4Addr::new(10, 42, 0, 255));
        assert_eq!((veth.as_str(), veth.len()), ("v0a1b2c3d2a00ff", 15));
        for (own, of_a_pod) in [
            (veth, true),
            (names.gateway_link(), false),
            (names.blind_end(), false),
        ] {
            assert!(names.owns_link(&own), "{own}");
            assert_eq!(names.is_pods_link(&own), of_a_pod, "{own}");
        }
        for other in ["ap0a1b2c3e", "v0a1b2c3e123456", "v0a1b2c3d12345", "eth0", ""] {
            assert!(!names.owns_link(other), "{other}");
        }
    }

    #[test]
    fn ids_and_uids_that_are_no_names_are_refused() {
        for id in ["", "0a1b2c3", "0A1B2C3D", "0a1b2c3d4", "../../..", "0a1b2c3g"] {
            assert!(Names::new(id).is_err(), "{id}");
        }
        for uid in ["", ".", "..", "a/b", "a\0b", &"a".repeat(64)] {
            assert!(check_uid(uid).is_err(), "{uid}");
        }
        assert!(check_uid("0b8ad7d6-3f6f-4d0f-9f55-2c7a1f0f6d11").is_ok());
    }
}
