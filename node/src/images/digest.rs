//! Content digests: an algorithm of those that OCI registers and others implement (image-spec, descriptor.md, "Digests";
//! opencontainers/go-digest), and as many lower-case hex digits as it makes, so that a digest is always safe as a file name, and
//! those of two algorithms never have the same.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// How content is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// As digests begin.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    fn hex_digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }
}

/// Content that is being hashed.
#[derive(Clone, Debug)]
pub enum Hasher {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha384 => Self::Sha384(Sha384::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha384(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all that it was given; it begins anew.
    pub fn finish(&mut self) -> Digest {
        let (algorithm, hex) = match self {
            Self::Sha256(hasher) => (Algorithm::Sha256, hex::encode(hasher.finalize_reset())),
            Self::Sha384(hasher) => (Algorithm::Sha384, hex::encode(hasher.finalize_reset())),
            Self::Sha512(hasher) => (Algorithm::Sha512, hex::encode(hasher.finalize_reset())),
        };
        Digest { algorithm, hex }
    }
}

/// The digest of some content.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

/// Why a string is not a digest this program uses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid digest {0:?}: expected sha256, sha384 or sha512, a colon and the lower-case hex digits of it"
)]
pub struct DigestError(pub String);

impl Digest {
    /// The digest of `bytes` by the algorithm that is usual.
    pub fn of(bytes: &[u8]) -> Self {
        Self::by(Algorithm::Sha256, bytes)
    }

    /// The digest of what was fed to a hasher of that algorithm.
    pub fn finish(hasher: Sha256) -> Self {
        Hasher::Sha256(hasher).finish()
    }

    fn by(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest of `bytes` by this one's algorithm: the same, if it is theirs.
    pub fn like(&self, bytes: &[u8]) -> Self {
        Self::by(self.algorithm, bytes)
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hex digits: the file name in a content store.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let invalid = || DigestError(text.to_owned());
        let (name, hex) = text.split_once(':').ok_or_else(invalid)?;
        let algorithm = Algorithm::ALL.into_iter().find(|known| known.name() == name);
        let algorithm = algorithm.ok_or_else(invalid)?;
        let valid = hex.len() == algorithm.hex_digits()
            && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !valid {
            return Err(invalid());
        }
        Ok(Self {
            algorithm,
            hex: hex.to_owned(),
        })
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_accepted() {
        for (name, octets) in [("sha256", 32), ("sha384", 48), ("sha512", 64)] {
            let good = format!("{name}:{}", "0f".repeat(octets));
            assert_eq!(good.parse::<Digest>().unwrap().to_string(), good);
            for bad in [
                format!("{name}:"),
                format!("{name}:../x"),
                format!("{name}:{}", "0F".repeat(octets)),
                format!("{name}:{}/", "0f".repeat(octets)),
                format!("{name}:{}", "0f".repeat(octets - 1)),
                format!("{}:{}", name.to_uppercase(), "0f".repeat(octets)),
            ] {
                assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
            }
        }
        for bad in ["", "0f", &format!("md5:{}", "0f".repeat(32))] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn of_empty_content() {
        // FIPS 180-4's examples of no bytes.
        for known in [
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha384:38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b",
            "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
        ] {
            let known: Digest = known.parse().unwrap();
            assert_eq!(known.like(b""), known);
            assert_ne!(known.like(b"x"), known);
        }
        assert_eq!(Digest::of(b"").algorithm(), Algorithm::Sha256);
    }
}
