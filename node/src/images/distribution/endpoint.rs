//! Where a registry is reached and under which scheme, and who may be given its credentials. Pure policy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use http::Uri;
use reqwest::Url;

/// How the node's operator wants registries reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Registry name → base URL to use in its place, such as `amphipod.local` → `http://127.0.0.1:5050`.
    pub mirrors: BTreeMap<String, String>,
    /// Registry name → base URLs that pulls ask before the registry itself.
    pub pull_mirrors: BTreeMap<String, Vec<String>>,
    /// `host` or `host:port` of registries spoken to over plain HTTP. Loopback addresses always are.
    pub insecure: BTreeSet<String>,
}

/// A registry name nothing can be dialled by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("registry endpoint {0:?} is not an http:// or https:// URL")]
pub struct EndpointError(String);

impl Endpoints {
    /// The base URL of `registry`.
    ///
    /// # Errors
    /// The mirror's URL, or the name itself, is not one.
    pub fn resolve(&self, registry: &str) -> Result<Url, EndpointError> {
        let text = match self.mirrors.get(registry) {
            Some(mirror) => mirror.clone(),
            None if registry == "docker.io" => "https://registry-1.docker.io".to_owned(),
            None if self.allows_http(registry) => format!("http://{registry}"),
            None => format!("https://{registry}"),
        };
        base(&text)
    }

    /// What is asked before `registry`, as it was given and as a base URL.
    pub fn before<'a>(
        &'a self,
        registry: &str,
    ) -> impl Iterator<Item = (&'a str, Result<Url, EndpointError>)> + use<'a> {
        let mirrors = self.pull_mirrors.get(registry).into_iter().flatten();
        mirrors.map(|mirror| (mirror.as_str(), base(mirror)))
    }

    /// Whether plain HTTP to `authority` (`host` or `host:port`) is acceptable: it is listed, a loopback address,
    /// or a mirror configured with an `http://` URL.
    pub fn allows_http(&self, authority: &str) -> bool {
        let host = host_of(authority);
        let listed = self.insecure.contains(authority) || self.insecure.contains(&host);
        let mirror = || {
            let plain = |url: &String| {
                url.parse::<Uri>().is_ok_and(|uri| {
                    uri.scheme_str() == Some("http")
                        && uri.authority().is_some_and(|a| a.as_str() == authority)
                })
            };
            let before = self.pull_mirrors.values().flatten();
            self.mirrors.values().chain(before).any(plain)
        };
        listed || is_loopback(&host) || mirror()
    }

    /// Whether a request to `from` may go on at `to`: never from HTTPS down to HTTP, unless that host is one plain
    /// HTTP is spoken to anyway; never to another scheme.
    pub fn may_redirect(&self, from: &Url, to: &Url) -> bool {
        match to.scheme() {
            "https" => true,
            "http" => from.scheme() == "http" || self.allows_http(&authority(to)),
            _ => false,
        }
    }
}

fn base(text: &str) -> Result<Url, EndpointError> {
    let wrong = || EndpointError(text.to_owned());
    let url = Url::parse(text).map_err(|_| wrong())?;
    let usable = matches!(url.scheme(), "http" | "https") && url.has_host();
    usable.then_some(url).ok_or_else(wrong)
}

/// `host[:port]` of a URL, as a registry is named.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn host_of(authority: &str) -> String {
    let bracketed = authority
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .map(|(host, _)| host);
    bracketed
        .unwrap_or_else(|| authority.split(':').next().unwrap_or(authority))
        .to_owned()
}

/// Whether `host` is this machine by definition, whatever the resolver says.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// Whether two URLs are the same origin as far as credentials go: host and port.
pub fn same_authority(a: &Url, b: &Url) -> bool {
    a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

/// Whether the token server `realm` may be shown the user's password for `registry`: the same host, a parent
/// domain of it (`gitlab.com` for `registry.gitlab.com`), or Docker Hub's own pair; never a step down to HTTP.
pub fn may_authenticate(registry: &Url, realm: &Url) -> bool {
    if realm.scheme() != "https" && !(registry.scheme() == "http" && same_authority(registry, realm)) {
        return false;
    }
    let (Some(ours), Some(theirs)) = (registry.host_str(), realm.host_str()) else {
        return false;
    };
    let is_ip = theirs.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let parent = !is_ip && theirs.contains('.') && ours.ends_with(&format!(".{theirs}"));
    ours == theirs || parent || (ours == "registry-1.docker.io" && theirs == "auth.docker.io")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints() -> Endpoints {
        Endpoints {
            mirrors: [("amphipod.local".to_owned(), "http://127.0.0.1:5050".to_owned())].into(),
            insecure: ["plain.example:5000".to_owned(), "lab".to_owned()].into(),
            ..Endpoints::default()
        }
    }

    #[test]
    fn schemes_by_registry() {
        let cases = [
            ("docker.io", "https://registry-1.docker.io/"),
            ("ghcr.io", "https://ghcr.io/"),
            ("amphipod.local", "http://127.0.0.1:5050/"),
            ("plain.example:5000", "http://plain.example:5000/"),
            ("plain.example:5001", "https://plain.example:5001/"),
            ("lab:80", "http://lab/"),
            ("localhost:5000", "http://localhost:5000/"),
            ("127.0.0.1:1", "http://127.0.0.1:1/"),
            ("10.0.0.1:5000", "https://10.0.0.1:5000/"),
        ];
        for (registry, expected) in cases {
            assert_eq!(
                endpoints().resolve(registry).unwrap().as_str(),
                expected,
                "{registry}"
            );
        }
        let bad = Endpoints {
            mirrors: [("x".to_owned(), "file:///etc".to_owned())].into(),
            ..Endpoints::default()
        };
        assert!(bad.resolve("x").is_err());
    }

    #[test]
    fn redirects_never_step_down() {
        let cases = [
            ("https://ghcr.io/a", "https://cdn.example/b", true),
            ("https://ghcr.io/a", "http://ghcr.io/b", false),
            ("https://ghcr.io/a", "http://plain.example:5000/b", true),
            ("http://plain.example:5000/a", "http://cdn.example/b", true),
            ("https://ghcr.io/a", "file:///etc/shadow", false),
            ("https://ghcr.io/a", "ftp://ghcr.io/b", false),
        ];
        for (from, to, expected) in cases {
            let (f, t) = (Url::parse(from).unwrap(), Url::parse(to).unwrap());
            assert_eq!(endpoints().may_redirect(&f, &t), expected, "{from} {to}");
        }
    }

    #[test]
    fn passwords_go_only_where_they_belong() {
        let cases = [
            ("https://ghcr.io", "https://ghcr.io/token", true),
            (
                "https://registry-1.docker.io",
                "https://auth.docker.io/token",
                true,
            ),
            ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", true),
            ("https://registry.example.com", "https://evil.com/token", false),
            (
                "https://registry.example.com",
                "https://auth.example.com/token",
                false,
            ),
            ("https://registry.com", "https://com/token", false),
            ("https://ghcr.io", "http://ghcr.io/token", false),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000/token", true),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token", false),
        ];
        for (registry, realm, expected) in cases {
            let (r, t) = (Url::parse(registry).unwrap(), Url::parse(realm).unwrap());
            assert_eq!(may_authenticate(&r, &t), expected, "{registry} {realm}");
        }
    }
}
