//! What a request asks for, as upstream's authorizers and audit logs see it. Refuses to know how it was read.

/// One request, on a resource or on a path that is none.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// `get`, `list`, `impersonate`, …; of a path the HTTP method in lower case.
    pub verb: &'a str,
    pub what: What<'a>,
}

/// What the verb is done to.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    Resource(Resource<'a>),
    Path(&'a str),
}

/// An object or a collection of a resource.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resource<'a> {
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: Option<&'a str>,
    pub namespace: Option<&'a str>,
    pub name: Option<&'a str>,
    /// The node that a field selector `spec.nodeName` limits a list to.
    pub on_node: Option<&'a str>,
}

impl<'a> Attributes<'a> {
    pub fn resource(verb: &'a str, resource: Resource<'a>) -> Self {
        Attributes {
            verb,
            what: What::Resource(resource),
        }
    }

    pub fn path(verb: &'a str, path: &'a str) -> Self {
        Attributes {
            verb,
            what: What::Path(path),
        }
    }
}

impl Resource<'_> {
    /// `pods`, or `pods/log`.
    pub fn full_name(&self) -> String {
        match self.subresource {
            Some(subresource) => format!("{}/{subresource}", self.resource),
            None => self.resource.to_owned(),
        }
    }
}

/// Upstream's sentence about a request that is refused, without what stands in front of it and without the reason.
pub fn refusal(user: &str, what: &Attributes<'_>) -> String {
    let verb = what.verb;
    let sentence = match &what.what {
        What::Path(path) => format!("User {user:?} cannot {verb} path {path:?}"),
        What::Resource(resource) => {
            let place = match resource.namespace {
                Some(namespace) if !namespace.is_empty() => format!("in the namespace {namespace:?}"),
                _ => "at the cluster scope".to_owned(),
            };
            let (name, group) = (resource.full_name(), resource.group);
            format!("User {user:?} cannot {verb} resource {name:?} in API group {group:?} {place}")
        }
    };
    // Upstream keeps what users send from looking like HTML.
    sentence
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstreams() {
        let pods = Resource {
            resource: "pods",
            namespace: Some("x"),
            ..Resource::default()
        };
        for (what, want) in [
            (
                Attributes::resource("list", pods),
                "User \"b&lt;b\" cannot list resource \"pods\" in API group \"\" in the namespace \"x\"",
            ),
            (
                Attributes::resource(
                    "get",
                    Resource {
                        group: "apps",
                        resource: "deployments",
                        subresource: Some("scale"),
                        ..Resource::default()
                    },
                ),
                "User \"b&lt;b\" cannot get resource \"deployments/scale\" in API group \"apps\" at the cluster scope",
            ),
            (
                Attributes::path("get", "/metrics"),
                "User \"b&lt;b\" cannot get path \"/metrics\"",
            ),
        ] {
            assert_eq!(refusal("b<b", &what), want);
        }
    }
}
