//! What a request asks for by its path and its method alone, of whatever kind, known or not (upstream's `RequestInfo`).
//! Pure.
use super::query::Query;
use super::route::{self, check_segment};
use super::selectors::FieldSelector;
use crate::auth::attributes::Resource;
use http::request::Parts;
use http::{Method, Uri};

/// A verb and what it is done to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub namespace: Option<String>,
    pub resource: String,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

impl Asked {
    /// None for a path that is no resource: `/apis/G/V` itself.
    pub fn of(parts: &Parts) -> Option<Asked> {
        Asked::by(&parts.method, &parts.uri)
    }

    /// As above by what it is read from.
    pub fn by(method: &Method, uri: &Uri) -> Option<Asked> {
        let mut uri = uri.clone();
        // A path that cannot be watched is what it is without; of a query that cannot be read, nothing counts.
        let watched = route::watched(&mut uri).unwrap_or_default();
        let query = Query::of(&uri).unwrap_or_default();
        let asked = Asked::read(method.as_str(), uri.path(), query.flag("watch"))?;
        let verb = if watched { "watch" } else { asked.verb };
        let name = asked.name.or_else(|| selected_name(verb, &query));
        Some(Asked { verb, name, ..asked })
    }

    fn read(method: &str, path: &str, watches: bool) -> Option<Asked> {
        let segments = path.trim_matches('/').split('/');
        let segments: Vec<String> = segments
            .map(|segment| route::decode(segment).unwrap_or_else(|_| segment.to_owned()))
            .collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (group, version, below) = match segments.as_slice() {
            ["api", version, below @ ..] => ("", version, below),
            ["apis", group, version, below @ ..] => (*group, version, below),
            _ => return None,
        };
        let owned = |text: &&str| (*text).to_owned();
        let (namespace, rest) = match below {
            // A namespace is in itself, and these are parts of it.
            ["namespaces", namespace] | ["namespaces", namespace, "status" | "finalize"] => {
                (Some(owned(namespace)).filter(|_| group.is_empty()), below)
            }
            ["namespaces", namespace, rest @ ..] => (Some(owned(namespace)), rest),
            rest => (None, rest),
        };
        let resource = rest.first().filter(|resource| !resource.is_empty())?;
        let name = rest.get(1).map(owned);
        let verb = match (method, name.is_some()) {
            ("GET" | "HEAD", true) => "get",
            // One object is watched by its name below `watch/` only.
            ("GET" | "HEAD", false) if watches => "watch",
            ("GET" | "HEAD", false) => "list",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", true) => "delete",
            ("DELETE", false) => "deletecollection",
            _ => "",
        };
        Some(Asked {
            verb,
            group: group.to_owned(),
            version: owned(version),
            namespace,
            resource: owned(resource),
            name,
            subresource: rest.get(2).map(owned),
        })
    }

    /// As authorizers are told it.
    pub fn attributes(&self) -> Resource<'_> {
        Resource {
            group: &self.group,
            resource: &self.resource,
            subresource: self.subresource.as_deref(),
            namespace: self.namespace.as_deref(),
            name: self.name.as_deref(),
            on_node: None,
        }
    }
}

/// The name that a list or a watch limits itself to, which counts as that of the request.
pub(super) fn selected_name(verb: &str, query: &Query) -> Option<String> {
    if !matches!(verb, "list" | "watch") {
        return None;
    }
    let selector = FieldSelector::parse(query.get("fieldSelector")?).ok()?;
    let name = selector.exact("metadata.name")?;
    check_segment(name).ok().map(|()| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_limited_to_a_name_has_it() {
        for (uri, want) in [
            ("/api/v1/pods?fieldSelector=metadata.name%3Dq", Some("q")),
            (
                "/api/v1/pods?watch=1&fieldSelector=metadata.name=q,spec.nodeName=n",
                Some("q"),
            ),
            ("/api/v1/pods?fieldSelector=metadata.name!=q", None),
            ("/api/v1/pods?fieldSelector=metadata.name=..", None),
            ("/api/v1/pods", None),
        ] {
            let asked = Asked::by(&Method::GET, &uri.parse().unwrap()).unwrap();
            assert_eq!(asked.name.as_deref(), want, "{uri}");
            assert_eq!(asked.version, "v1");
        }
        let uri = "/api/v1/pods?fieldSelector=metadata.name=q".parse().unwrap();
        assert_eq!(Asked::by(&Method::DELETE, &uri).unwrap().name, None);
    }

    #[test]
    fn watched_is_a_collection_or_what_is_below_watch() {
        for (uri, want) in [
            ("/api/v1/namespaces/n/pods?watch=1", "watch pods -"),
            ("/api/v1/namespaces/n/pods/p?watch=1", "get pods p"),
            ("/api/v1/namespaces/n/services/s/proxy/?watch=1", "get services s"),
            ("/api/v1/watch/namespaces/n/secrets", "watch secrets -"),
            ("/apis/g/v1/watch/namespaces/n/foos/a", "watch foos a"),
            ("/api/v1/nodes/a%3Ab", "get nodes a:b"),
        ] {
            let asked = Asked::by(&Method::GET, &uri.parse().unwrap()).unwrap();
            let name = asked.name.as_deref().unwrap_or("-");
            assert_eq!(format!("{} {} {name}", asked.verb, asked.resource), want, "{uri}");
        }
    }

    #[test]
    fn paths() {
        let shown = |method: &str, path: &str, watches: bool| {
            Asked::read(method, path, watches).map(|a| {
                let part = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
                format!(
                    "{} {} {} {} {}",
                    a.verb,
                    part(a.namespace),
                    a.resource,
                    part(a.name),
                    part(a.subresource)
                )
            })
        };
        for (method, path, watches, want) in [
            ("GET", "/metrics", false, None),
            ("GET", "/api/v1", false, None),
            (
                "OPTIONS",
                "/api/v1/namespaces/n/foos/a",
                false,
                Some(" n foos a -"),
            ),
            (
                "PUT",
                "/api/v1/namespaces/n/finalize",
                false,
                Some("update n namespaces n finalize"),
            ),
            ("GET", "/apis/g/v1", false, None),
            ("GET", "/apis/g/v1/", false, None),
            ("GET", "/apis/g/v1/foos", false, Some("list - foos - -")),
            ("GET", "/apis/g/v1/foos", true, Some("watch - foos - -")),
            (
                "PUT",
                "/apis/g/v1/namespaces/n/foos/a/status",
                false,
                Some("update n foos a status"),
            ),
            (
                "DELETE",
                "/apis/g/v1/namespaces/n/foos",
                false,
                Some("deletecollection n foos - -"),
            ),
            (
                "GET",
                "/apis/g/v1/namespaces/n",
                false,
                Some("get - namespaces n -"),
            ),
        ] {
            assert_eq!(shown(method, path, watches).as_deref(), want, "{method} {path}");
        }
    }
}
