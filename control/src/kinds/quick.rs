//! Maps of the names of fields and types: every write looks up each of its fields several times.
//!
//! Their keys are the API's own and those of definitions, never those of who looks something up, so that a hash need not
//! withstand everybody; what it begins with is still different in every process.
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::LazyLock;

pub(super) type Names<V> = HashMap<String, V, BuildHasherDefault<Quick>>;

/// An odd number with as many ones as zeros, in no order.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// Half of the bits: the upper ones of a product depend on all of both factors.
const HALF: u32 = 32;

static START: LazyLock<u64> = LazyLock::new(rand::random::<u64>);

pub(super) struct Quick(u64);

impl Default for Quick {
    fn default() -> Self {
        Quick(*START)
    }
}

impl Quick {
    fn add(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(FACTOR);
        self.0 = mixed ^ (mixed >> HALF);
    }
}

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        let rest = rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        self.add(rest);
    }

    /// What ends a text says nothing where nothing follows.
    fn write_u8(&mut self, _: u8) {}

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(FACTOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::{BuildHasher, Hash};

    #[test]
    fn names_do_not_meet() {
        let hasher = BuildHasherDefault::<Quick>::default();
        let names: Vec<String> = (0..300_000).map(|n| format!("field{n}")).collect();
        let hashes = names.iter().map(|name| hasher.hash_one(name));
        let found: HashSet<u64> = hashes.clone().collect();
        assert_eq!(
            found.len(),
            names.len(),
            "of 2^64 none meet by chance, of 2^32 ten would"
        );
        let upper: HashSet<u64> = hashes.take(20_000).map(|hash| hash >> 40).collect();
        // Of 20,000 in 2^24 places some 12 meet by chance.
        assert!(upper.len() > 19_900, "{}", upper.len());
        let mut one = Quick::default();
        "a".hash(&mut one);
        assert_ne!(one.finish(), hasher.hash_one("b"));
    }
}
