//! The grammar of the distribution API: repository names, tags, digests and paths. Pure; nothing that does not
//! match gets past here, so the rest may use these words in file names.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::error::{ApiError, Code};

/// Longest repository name; with the registry's host most clients stop at 255.
const MAX_NAME_BYTES: usize = 255;

/// A repository name: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` components joined by `/` (distribution-spec, "Pulling
/// manifests").
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self, ApiError> {
        let valid = text.len() <= MAX_NAME_BYTES && text.split('/').all(is_component);
        valid
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| ApiError::new(Code::NameInvalid, format!("invalid repository name {text:?}")))
    }
}

fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators = text
        .split(|c: char| alphanumeric(c as u8) && c.is_ascii())
        .filter(|part| !part.is_empty());
    let bounded = |b: Option<&u8>| b.is_some_and(|b| alphanumeric(*b));
    bounded(text.as_bytes().first())
        && bounded(text.as_bytes().last())
        && separators
            .into_iter()
            .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

/// A `sha256:` digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    hex: String,
}

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self::finish(Sha256::new_with_prefix(bytes))
    }

    pub fn finish(hasher: Sha256) -> Self {
        Self {
            hex: hex::encode(hasher.finalize()),
        }
    }

    /// The 64 hex digits: the file name.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// A digest from a file name.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let valid = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| Self { hex: hex.to_owned() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex)
    }
}

impl FromStr for Digest {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self, ApiError> {
        text.strip_prefix("sha256:")
            .and_then(Self::from_hex)
            .ok_or_else(|| {
                ApiError::new(
                    Code::DigestInvalid,
                    format!("invalid or unsupported digest {text:?}"),
                )
            })
    }
}

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    Tag(String),
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self, ApiError> {
        if text.contains(':') {
            return text.parse().map(Self::Digest);
        }
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let valid = (1..=128).contains(&text.len())
            && word(text.as_bytes()[0])
            && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'));
        let invalid = || ApiError::new(Code::ManifestInvalid, format!("invalid tag {text:?}"));
        valid.then(|| Self::Tag(text.to_owned())).ok_or_else(invalid)
    }
}

/// The end points of the API.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    Base,
    Catalog,
    Tags { name: Name },
    Manifest { name: Name, reference: Reference },
    Blob { name: Name, digest: Digest },
    Uploads { name: Name },
    Upload { name: Name, id: String },
    Referrers { name: Name, subject: Digest },
}

/// Reads a request's path. The last parts decide, because names hold slashes too.
///
/// # Errors
/// No end point has this path, or one of its words is malformed.
pub fn route(path: &str) -> Result<Route, ApiError> {
    let unknown = || ApiError::new(Code::NotFound, format!("no such end point: {path}"));
    // Clients may escape the colon of a digest; nothing else in the grammar needs escaping.
    let decoded = path.replace("%3A", ":").replace("%3a", ":");
    let rest = match decoded.strip_prefix("/v2") {
        Some("" | "/") => return Ok(Route::Base),
        Some("/_catalog") => return Ok(Route::Catalog),
        Some(rest) => rest.strip_prefix('/').ok_or_else(unknown)?,
        None => return Err(unknown()),
    };
    if let Some((name, id)) = rest.rsplit_once("/blobs/uploads/") {
        let name = name.parse()?;
        return Ok(if id.is_empty() {
            Route::Uploads { name }
        } else {
            Route::Upload { name, id: id.into() }
        });
    }
    if let Some(name) = rest.strip_suffix("/blobs/uploads") {
        return Ok(Route::Uploads { name: name.parse()? });
    }
    let (head, last) = rest.rsplit_once('/').ok_or_else(unknown)?;
    let (name, kind) = head.rsplit_once('/').ok_or_else(unknown)?;
    let name = name.parse()?;
    match (kind, last) {
        ("tags", "list") => Ok(Route::Tags { name }),
        ("manifests", reference) => Ok(Route::Manifest {
            name,
            reference: reference.parse()?,
        }),
        ("blobs", digest) => Ok(Route::Blob {
            name,
            digest: digest.parse()?,
        }),
        ("referrers", digest) => Ok(Route::Referrers {
            name,
            subject: digest.parse()?,
        }),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_follow_the_spec() {
        for good in [
            "a",
            "library/nginx",
            "a.b/c_d/e__f/g---h/0",
            "uploads",
            "blobs/uploads",
        ] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in [
            "", "A", "a//b", "/a", "a/", "..", "a/../b", "_a", "a_", "a..b", "a___b", "a._b", "é", "a b",
            ".a",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
        assert!("a".repeat(256).parse::<Name>().is_err());
    }

    #[test]
    fn paths_become_routes() {
        let digest = Digest::of(b"x");
        let name: Name = "a/b".parse().unwrap();
        let cases = [
            ("/v2/".to_owned(), Route::Base),
            ("/v2/_catalog".to_owned(), Route::Catalog),
            ("/v2/a/b/tags/list".to_owned(), Route::Tags { name: name.clone() }),
            (
                format!("/v2/a/b/blobs/{digest}"),
                Route::Blob {
                    name: name.clone(),
                    digest: digest.clone(),
                },
            ),
            (
                format!("/v2/a/b/blobs/sha256%3A{}", digest.hex()),
                Route::Blob {
                    name: name.clone(),
                    digest: digest.clone(),
                },
            ),
            (
                "/v2/a/b/blobs/uploads/".to_owned(),
                Route::Uploads { name: name.clone() },
            ),
            (
                "/v2/a/b/blobs/uploads/x".to_owned(),
                Route::Upload {
                    name: name.clone(),
                    id: "x".into(),
                },
            ),
            (
                "/v2/a/b/manifests/v1".to_owned(),
                Route::Manifest {
                    name: name.clone(),
                    reference: Reference::Tag("v1".into()),
                },
            ),
            (
                format!("/v2/a/b/referrers/{digest}"),
                Route::Referrers {
                    name,
                    subject: digest,
                },
            ),
        ];
        for (path, expected) in cases {
            assert_eq!(route(&path).unwrap(), expected, "{path}");
        }
        for bad in [
            "/",
            "/v2x",
            "/v1/",
            "/v2/a/manifests/",
            "/v2/manifests/x",
            "/v2/../manifests/x",
            "/v2/a/manifests/..",
            "/v2/a/manifests/sha256:../x",
            "/v2/a/blobs/x",
            "/v2/%2e%2e/manifests/x",
            "/v2/a/manifests/.x",
        ] {
            assert!(route(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_path_becomes_a_climbing_name(path in "/v2/[a-z./%_-]{0,40}/manifests/[a-zA-Z0-9._%:-]{0,20}") {
            if let Ok(Route::Manifest { name, reference }) = route(&path) {
                prop_assert!(name.as_str().split('/').all(|part| !part.starts_with('.') && !part.starts_with('_')));
                prop_assert!(!matches!(reference, Reference::Tag(tag) if tag.starts_with('.')));
            }
        }
    }
}
