//! Image references as people write them, normalised as Docker does (distribution/reference `normalize.go`): short
//! names belong to `docker.io/library`, no tag means `latest`. It knows nothing of where a registry is reached.

use std::fmt;
use std::str::FromStr;

use super::digest::{Digest, DigestError};
use super::grammar::{self, Parts};

const DOCKER_HUB: &str = "docker.io";
/// Its name of before.
const DOCKER_HUB_INDEX: &str = "index.docker.io";
/// Most characters of a repository's name.
const NAME_LIMIT: usize = 255;

/// A normalised reference. Its `Display` is the name an image is recorded under.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a string is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    #[error("invalid reference format: repository name must not be more than 255 characters")]
    TooLong,
    #[error("invalid reference format: repository name ({0}) cannot be 64 hexadecimal digits")]
    Identifier(String),
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl ImageReference {
    /// Reads a name; one without a registry is in `registry` if that is given, without Docker Hub's `library/`, as CRI-O's
    /// and Podman's search registries.
    ///
    /// # Errors
    /// It is no reference.
    pub fn parse(text: &str, registry: Option<&str>) -> Result<Self, ReferenceError> {
        match registry.filter(|registry| *registry != DOCKER_HUB && !names_registry(text)) {
            None => text.parse(),
            Some(registry) => {
                text.parse::<Self>()?;
                format!("{registry}/{text}").parse()
            }
        }
    }

    /// The registry as named, such as `docker.io` or `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository inside the registry, such as `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; none when only a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when the reference pins one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What to ask the registry for: the digest where there is one, else the tag.
    pub fn manifest_id(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// `registry/repository@digest`: the imageID Kubernetes reports.
    pub fn pinned(&self, digest: &Digest) -> String {
        format!("{}/{}@{digest}", self.registry, self.repository)
    }
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let Parts { name, tag, digest } = grammar::parts(text).ok_or_else(|| explain(text))?;
        let (registry, repository) = split(name);
        if repository.len() > NAME_LIMIT {
            return Err(ReferenceError::TooLong);
        }
        let digest: Option<Digest> = digest.map(str::parse).transpose()?;
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(repository));
        }
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ReferenceError::Identifier(text.to_owned()));
        }
        let latest = digest.is_none().then_some("latest");
        Ok(Self {
            registry,
            repository,
            tag: tag.or(latest).map(str::to_owned),
            digest,
        })
    }
}

/// The registry and its repository that a name means.
fn split(name: &str) -> (String, String) {
    let (registry, repository) = match name.split_once('/').filter(|_| names_registry(name)) {
        Some((DOCKER_HUB_INDEX, rest)) => (DOCKER_HUB, rest),
        Some(parts) => parts,
        None => (DOCKER_HUB, name),
    };
    let is_official = registry == DOCKER_HUB && !repository.contains('/');
    let library = if is_official { "library/" } else { "" };
    (registry.to_owned(), format!("{library}{repository}"))
}

/// Whether the first part of a name is a registry, as Docker tells: by a dot, a port, or because it is `localhost`.
fn names_registry(text: &str) -> bool {
    text.split_once('/')
        .is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost")
}

/// Says what is wrong with `text` in the words of Docker's own parser.
fn explain(text: &str) -> ReferenceError {
    let name = text.split('@').next().unwrap_or(text);
    let path = name.rsplit_once(':').map_or(name, |(path, _)| path);
    let is_one = |path: &str| grammar::parts(path).is_some();
    match !is_one(path) && is_one(&path.to_ascii_lowercase()) {
        true => ReferenceError::Uppercase(path.to_owned()),
        false => ReferenceError::Format,
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(input: &str, expected: &str) {
        assert_eq!(
            input.parse::<ImageReference>().unwrap().to_string(),
            expected,
            "{input}"
        );
    }

    #[test]
    fn short_names_are_normalised() {
        check("nginx", "docker.io/library/nginx:latest");
        check("nginx:1.27", "docker.io/library/nginx:1.27");
        check("me/app", "docker.io/me/app:latest");
        check("index.docker.io/nginx", "docker.io/library/nginx:latest");
        check("amphipod.local/hello", "amphipod.local/hello:latest");
        check("localhost/x", "localhost/x:latest");
        check("localhost:5000/a/b:t", "localhost:5000/a/b:t");
        let pinned = format!("ghcr.io/a/b@sha256:{}", "ab".repeat(32));
        check(&pinned, &pinned);
        for (algorithm, octets) in [("sha384", 48), ("sha512", 64)] {
            let pinned = format!("ghcr.io/a/b@{algorithm}:{}", "ab".repeat(octets));
            check(&pinned, &pinned);
        }
        let both = format!("ghcr.io/a/b:v1@sha256:{}", "ab".repeat(32));
        check(&both, &both);
        assert!(
            both.parse::<ImageReference>()
                .unwrap()
                .manifest_id()
                .starts_with("sha256:")
        );
    }

    #[test]
    fn short_names_are_of_the_default_registry() {
        for (name, registry, expected) in [
            ("nginx", Some("r.example:5000"), "r.example:5000/nginx:latest"),
            ("me/app:v1", Some("r.example"), "r.example/me/app:v1"),
            ("ghcr.io/a/b", Some("r.example"), "ghcr.io/a/b:latest"),
            ("localhost/x", Some("r.example"), "localhost/x:latest"),
            ("nginx", Some("docker.io"), "docker.io/library/nginx:latest"),
            ("nginx", None, "docker.io/library/nginx:latest"),
        ] {
            let reference = ImageReference::parse(name, registry).unwrap();
            assert_eq!(reference.to_string(), expected);
        }
        assert!(ImageReference::parse("a b", Some("r.example")).is_err());
    }

    #[test]
    fn bad_names_say_why() {
        for bad in [
            "",
            ":",
            "a b",
            "../x",
            "a/../b",
            "nginx:",
            "nginx@",
            "http://x/y",
            "x//y",
            "-x",
            "x:y:z",
        ] {
            assert!(bad.parse::<ImageReference>().is_err(), "{bad:?}");
        }
        assert!(matches!(
            "Nginx".parse::<ImageReference>(),
            Err(ReferenceError::Uppercase(_))
        ));
        assert!(matches!(
            "Foo/bar".parse::<ImageReference>(),
            Err(ReferenceError::Uppercase(_))
        ));
        assert!(matches!(
            "x@sha256:../x".parse::<ImageReference>(),
            Err(ReferenceError::Format)
        ));
        let short = format!("x@sha256:{}", "ab".repeat(20));
        assert!(matches!(
            short.parse::<ImageReference>(),
            Err(ReferenceError::Digest(_))
        ));
        assert!(matches!(
            "ab".repeat(32).parse::<ImageReference>(),
            Err(ReferenceError::Identifier(_))
        ));
    }

    proptest! {
        #[test]
        fn parsing_is_total_and_idempotent(text in "\\PC{0,80}") {
            if let Ok(reference) = text.parse::<ImageReference>() {
                let again: ImageReference = reference.to_string().parse().unwrap();
                prop_assert_eq!(again, reference);
            }
        }

        #[test]
        fn well_formed_references_keep_their_parts(
            registry in "[a-z]{1,8}\\.[a-z]{2,4}(:[1-9][0-9]{1,3})?",
            repository in "[a-z0-9]{1,6}(/[a-z0-9]{1,6}){0,3}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            prop_assume!(registry != "docker.io" && registry != "index.docker.io");
            let reference: ImageReference = format!("{registry}/{repository}:{tag}").parse().unwrap();
            prop_assert_eq!(reference.registry(), registry);
            prop_assert_eq!(reference.repository(), repository);
            prop_assert_eq!(reference.tag(), Some(tag.as_str()));
        }
    }
}
