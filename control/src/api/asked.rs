//! What a request to a resource of an unknown kind asks for (upstream's `RequestInfo`). Pure.
use super::super::query::Query;
use http::request::Parts;

/// A verb and what it is done to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub verb: &'static str,
    pub namespace: Option<String>,
    pub resource: String,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

impl Asked {
    /// None for a path that is no resource: `/apis/G/V` itself.
    pub fn of(parts: &Parts) -> Option<Asked> {
        let watches = Query::of(&parts.uri).is_ok_and(|query| query.flag("watch"));
        Asked::read(parts.method.as_str(), parts.uri.path(), watches)
    }

    fn read(method: &str, path: &str, watches: bool) -> Option<Asked> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').skip(3).collect();
        let owned = |text: &&str| (*text).to_owned();
        let (namespace, rest) = match segments.as_slice() {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(owned(namespace)), rest),
            rest => (None, rest),
        };
        let resource = rest.first().filter(|resource| !resource.is_empty())?;
        let name = rest.get(1).map(owned);
        let verb = match (method, name.is_some()) {
            ("GET" | "HEAD", _) if watches => "watch",
            ("GET" | "HEAD", true) => "get",
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
            namespace,
            resource: owned(resource),
            name,
            subresource: rest.get(2).map(owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
