//! What a path names. Pure.
use super::status::{ApiError, Result};
use crate::kinds::{Kind, Registry};
use http::Uri;
use std::sync::Arc;

/// The one subresource that has paths of its own below.
const PROXY: &str = "proxy";
/// The verb that a path may begin with, below its version.
const WATCH: &str = "watch";

/// A path below `/api` or `/apis`.
#[derive(Debug)]
pub enum Route {
    /// `/api`: the versions of the core group.
    CoreVersions,
    /// `/apis`: all groups.
    Groups,
    /// `/apis/G`.
    Group(String),
    /// `/api/v1` or `/apis/G/V`.
    Resources {
        group: String,
        version: String,
    },
    Resource(Target),
}

/// A collection, an object, or a subresource of one.
#[derive(Clone, Debug)]
pub struct Target {
    pub kind: Arc<Kind>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

impl Target {
    /// The store's key of the named object.
    pub fn key(&self, name: &str) -> String {
        self.kind.key(self.namespace.as_deref(), name)
    }

    /// What the keys of the collection begin with.
    pub fn prefix(&self) -> String {
        match &self.namespace {
            Some(namespace) if self.kind.namespaced => format!("{}/{namespace}/", self.kind.storage_prefix),
            _ => format!("{}/", self.kind.storage_prefix),
        }
    }
}

/// Reads a path. `None` when it is not below `/api` or `/apis`.
pub fn parse(kinds: &Registry, path: &str) -> Option<Result<Route>> {
    if path.starts_with("//") {
        return None;
    }
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match segments.as_slice() {
        ["api"] => Some(Ok(Route::CoreVersions)),
        ["apis"] => Some(Ok(Route::Groups)),
        ["api", version, rest @ ..] => Some(below(kinds, "", version, rest)),
        ["apis", group] => Some(decode(group).map(Route::Group)),
        ["apis", group, version, rest @ ..] => Some(below(kinds, group, version, rest)),
        _ => None,
    }
}

/// Turns a deprecated path below `watch/` into what it always meant: the same path, watched
/// (upstream's `RequestInfoFactory`, "special verbs"). Says whether it was one.
pub fn watched(uri: &mut Uri) -> Result<bool> {
    let segments: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
    let at = match segments.as_slice() {
        ["api", _, WATCH, _, ..] => 2,
        ["apis", _, _, WATCH, _, ..] => 3,
        _ => return Ok(false),
    };
    let path = [&segments[..at], &segments[at + 1..]].concat().join("/");
    let query = uri.query().map(|query| format!("&{query}")).unwrap_or_default();
    // No longer than it was, so that it is none too long.
    let plain = format!("/{path}?{WATCH}{query}").parse();
    *uri = plain.map_err(|error| ApiError::bad_request(format!("the path cannot be watched: {error}")))?;
    Ok(true)
}

fn below(kinds: &Registry, group: &str, version: &str, rest: &[&str]) -> Result<Route> {
    let rest = rest
        .iter()
        .map(|segment| decode(segment))
        .collect::<Result<Vec<_>>>()?;
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let find = |plural: &str| {
        kinds
            .resource(group, version, plural)
            .cloned()
            .ok_or_else(ApiError::no_resource)
    };
    match rest.as_slice() {
        [] => Ok(Route::Resources {
            group: group.to_owned(),
            version: version.to_owned(),
        }),
        ["namespaces", name, sub @ ("status" | "finalize")] if group.is_empty() => {
            target(find("namespaces")?, None, &[name, sub])
        }
        ["namespaces", namespace, plural, rest @ ..] => {
            let kind = find(plural)?;
            match (kind.namespaced, *namespace) {
                (false, _) => Err(ApiError::no_resource()),
                // As some clients ask for those of all namespaces.
                (true, "") if rest.is_empty() => target(kind, None, rest),
                (true, "") => Err(ApiError::bad_request("Namespace parameter required.")),
                (true, namespace) => target(kind, Some(namespace), rest),
            }
        }
        [plural, rest @ ..] => {
            let kind = find(plural)?;
            if kind.namespaced && !rest.is_empty() {
                return Err(ApiError::no_resource());
            }
            target(kind, None, rest)
        }
    }
}

fn target(kind: Arc<Kind>, namespace: Option<&str>, rest: &[&str]) -> Result<Route> {
    let (name, subresource) = match rest {
        [] => (None, None),
        [name] => (Some(*name), None),
        [name, subresource] if kind.subresource(subresource).is_some() => (Some(*name), Some(*subresource)),
        [name, PROXY, ..] if kind.subresource(PROXY).is_some() => (Some(*name), Some(PROXY)),
        _ => return Err(ApiError::no_resource()),
    };
    for segment in [namespace, name].into_iter().flatten() {
        check_segment(segment)?;
    }
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Ok(Route::Resource(Target {
        kind,
        namespace: owned(namespace),
        name: owned(name),
        subresource: owned(subresource),
    }))
}

/// A name may not be what a path could be tricked with (`ValidatePathSegmentName`).
pub fn check_segment(name: &str) -> Result<()> {
    let why = match name {
        "" => "may not be empty",
        "." => "may not be '.'",
        ".." => "may not be '..'",
        name if name.contains('/') => "may not contain '/'",
        name if name.contains('%') => "may not contain '%'",
        name if name.contains('\0') => "may not contain NUL",
        _ => return Ok(()),
    };
    Err(ApiError::bad_request(format!(
        "Name parameter invalid: {name:?}: {why}"
    )))
}

/// Percent-decodes one segment.
pub fn decode(segment: &str) -> Result<String> {
    let bad = || ApiError::bad_request(format!("the path segment {segment:?} cannot be decoded"));
    let mut out = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| char::from(b?).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let high = digit(bytes.next()).ok_or_else(bad)?;
        let low = digit(bytes.next()).ok_or_else(bad)?;
        out.push(high * 16 + low);
    }
    String::from_utf8(out).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn route(path: &str) -> String {
        match parse(Registry::builtin(), path) {
            None => "outside".into(),
            Some(Err(error)) => error.code.as_str().into(),
            Some(Ok(Route::Resource(t))) => {
                let part = |p: &Option<String>| p.clone().unwrap_or_else(|| "-".into());
                format!(
                    "{} {} {} {}",
                    t.kind.plural,
                    part(&t.namespace),
                    part(&t.name),
                    part(&t.subresource)
                )
            }
            Some(Ok(other)) => format!("{other:?}"),
        }
    }

    #[test]
    fn paths() {
        for (path, want) in [
            ("/healthz", "outside"),
            ("/api", "CoreVersions"),
            ("/apis/", "Groups"),
            ("/api/v1/pods", "pods - - -"),
            ("/api/v1/namespaces/a/pods", "pods a - -"),
            ("/api/v1/namespaces/a/pods/p/status", "pods a p status"),
            ("/api/v1/namespaces/a", "namespaces - a -"),
            ("/api/v1/namespaces/a/finalize", "namespaces - a finalize"),
            (
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "deployments a d scale",
            ),
            ("/api/v1/nodes/n%2e1", "nodes - n.1 -"),
            ("/api/v1/namespaces//pods", "pods - - -"),
            ("/apis/apps/v1/namespaces//deployments", "deployments - - -"),
            ("/api/v1/namespaces//pods/p", "400"),
            ("/api/v1/namespaces//pods/p/log", "400"),
            ("/api/v1/namespaces//nodes", "404"),
            ("/api/v1/pods/p", "404"),
            ("/api/v1/namespaces/a/nodes/n", "404"),
            ("/api/v1/namespaces/a/pods/p/nosuch", "404"),
            (
                "/api/v1/namespaces/a/pods/p:8080/proxy/x/y",
                "pods a p:8080 proxy",
            ),
            ("/api/v1/nodes/n/proxy", "nodes - n proxy"),
            ("/api/v1/namespaces/a/pods/p/status/x", "404"),
            ("/api/v1/namespaces/a/configmaps/p/proxy/x", "404"),
            ("/api/v2/pods", "404"),
            ("/api/v1/namespaces/..%2f../pods", "400"),
            ("/api/v1/namespaces/a/pods/..", "400"),
            ("/api/v1/namespaces/a/pods/a%00b", "400"),
            ("/api/v1/namespaces/a/pods/%zz", "400"),
        ] {
            assert_eq!(route(path), want, "{path}");
        }
    }

    #[test]
    fn a_path_below_watch_is_the_same_path_watched() {
        for (uri, want) in [
            ("/api/v1/watch/pods", "/api/v1/pods?watch"),
            (
                "/api/v1/watch/namespaces/a/pods/p?resourceVersion=7",
                "/api/v1/namespaces/a/pods/p?watch&resourceVersion=7",
            ),
            (
                "/apis/apps/v1/watch/namespaces/a/deployments?watch=false",
                "/apis/apps/v1/namespaces/a/deployments?watch&watch=false",
            ),
            ("/api/v1/watch/namespaces//pods", "/api/v1/namespaces//pods?watch"),
            ("/api/v1/watch", "/api/v1/watch"),
            ("/apis/watch/v1/pods", "/apis/watch/v1/pods"),
            ("/api/v1/namespaces/watch/pods", "/api/v1/namespaces/watch/pods"),
        ] {
            let mut uri: Uri = uri.parse().unwrap();
            let was = watched(&mut uri).unwrap();
            assert_eq!((uri.to_string().as_str(), was), (want, want.contains("?watch")));
        }
        let longest = format!("/api/v1/watch/pods?{:x<65515}", "");
        assert_eq!(longest.len(), usize::from(u16::MAX) - 1);
        assert!(watched(&mut longest.parse().unwrap()).unwrap());
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "(/[a-z%./0-9\\PC]{0,10}){0,6}") {
            let _ = parse(Registry::builtin(), &path);
            let _ = parse(Registry::builtin(), &format!("/api/v1{path}"));
        }
    }
}
