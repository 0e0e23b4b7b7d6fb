//! On which nodes of a NUMA host a container's memory is to be (set_mempolicy(2)).

use super::error::{During, InitError};
use crate::sys::scheduling::set_memory_policy;

/// The kernel knows at most this many nodes (`MAX_NUMNODES` of every common configuration).
const NODES: usize = 1024;
/// Words of a mask of all of them.
pub const WORDS: usize = NODES / 64;

/// A policy in the kernel's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// Mode and flags in one (`MPOL_*`, `MPOL_F_*`).
    pub mode: u32,
    pub nodes: [u64; WORDS],
}

/// Reads a list such as `0-3,7`; nothing for what is no list, or names a node no kernel has.
pub fn nodes(list: &str) -> Option<[u64; WORDS]> {
    let mut mask = [0; WORDS];
    for part in list.split(',').map(str::trim).filter(|_| !list.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= NODES {
            return None;
        }
        for node in first..=last {
            mask[node / 64] |= 1 << (node % 64);
        }
    }
    Some(mask)
}

/// Sets the policy of this process and its children.
pub fn apply(policy: &MemoryPolicy) -> Result<(), InitError> {
    set_memory_policy(policy).during(|| "set the memory policy".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_lists_of_ranges() {
        assert_eq!(nodes("0-2,65").map(|m| (m[0], m[1])), Some((7, 2)));
        assert_eq!(nodes(" "), Some([0; WORDS]));
        for bad in ["a", "2-1", "0-9876543210", "1,,2", "1024"] {
            assert_eq!(nodes(bad), None, "{bad}");
        }
    }
}
