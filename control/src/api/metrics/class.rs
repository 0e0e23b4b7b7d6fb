//! What tells requests apart. Values come from the table of kinds and from lists here, never from a client, so that the number
//! of series is bounded.
use super::super::Api;
use super::super::query::Query;
use super::super::route::{self, Route, Target};
use crate::measures::Labels;
use axum::extract::Request;
use http::{HeaderMap, Method, header};

/// Paths that are no resource and have series of their own.
const PATHS: [&str; 8] = [
    "/healthz",
    "/livez",
    "/readyz",
    "/metrics",
    "/version",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
];
/// Subresources whose requests last as long as the client wants.
const STREAMS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];
/// Programs of upstream's control plane, whose requests are told apart.
const SYSTEM: [&str; 4] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "cluster-policy-controller",
];

/// What tells the series of requests apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Class {
    pub verb: &'static str,
    /// Of a request that may change something; others never do.
    pub dry_run: bool,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

/// What is known of a request before it is looked at.
pub(super) struct Classed {
    pub class: Class,
    /// It is long-running.
    pub streams: bool,
    /// It is for a version that should not be used any more.
    pub deprecated: bool,
}

impl Class {
    /// With upstream's labels of most families.
    pub fn labels(&self) -> Labels {
        vec![
            ("component", "apiserver".to_owned()),
            ("group", self.group.clone()),
            ("resource", self.resource.clone()),
            ("scope", self.scope.to_owned()),
            ("subresource", self.subresource.clone()),
            ("verb", self.verb.to_owned()),
            ("version", self.version.clone()),
        ]
    }

    /// As above, of families that tell dry runs apart.
    pub fn labels_with_dry_run(&self) -> Labels {
        let mut labels = self.labels();
        labels.insert(1, ("dry_run", if self.dry_run { "All" } else { "" }.to_owned()));
        labels
    }

    /// Of a version that is deprecated. No release is named that will be without one of those that are served here.
    pub fn labels_of_deprecated(&self) -> Labels {
        vec![
            ("group", self.group.clone()),
            ("removed_release", String::new()),
            ("resource", self.resource.clone()),
            ("subresource", self.subresource.clone()),
            ("version", self.version.clone()),
        ]
    }

    /// Whether nothing is changed by it.
    pub fn reads(&self) -> bool {
        matches!(self.verb, "GET" | "LIST" | "WATCH")
    }
}

/// The class of a request, and what else its path tells.
pub(super) fn of(api: &Api, request: &Request) -> Classed {
    let query = Query::of(request.uri()).ok();
    let flag = |name: &str| query.as_ref().is_some_and(|q| q.flag(name));
    let path = request.uri().path();
    let target = match route::parse(&api.kinds.load(), path) {
        Some(Ok(Route::Resource(target))) => target,
        _ => {
            return Classed {
                class: elsewhere(request.method(), path),
                streams: false,
                deprecated: false,
            };
        }
    };
    let stream = target
        .subresource
        .as_deref()
        .is_some_and(|s| STREAMS.contains(&s));
    let verb = verb(request, &target, flag("watch"), stream);
    let streams =
        verb == "WATCH" || (stream && (target.subresource.as_deref() != Some("log") || flag("follow")));
    let mut class = Class {
        verb,
        dry_run: false,
        group: target.kind.group.clone(),
        version: target.kind.version.clone(),
        resource: target.kind.plural.clone(),
        scope: scope(&target, verb),
        subresource: target.subresource.unwrap_or_default(),
    };
    class.dry_run = !class.reads() && query.as_ref().is_some_and(|q| q.get("dryRun").is_some());
    Classed {
        class,
        streams,
        deprecated: target.kind.warning().is_some(),
    }
}

fn scope(target: &Target, verb: &str) -> &'static str {
    match (&target.name, &target.namespace) {
        (Some(_), _) => "resource",
        _ if verb == "POST" => "resource",
        (None, Some(_)) => "namespace",
        (None, None) => "cluster",
    }
}

/// The verb as upstream's metrics name it.
fn verb(request: &Request, target: &Target, watch: bool, stream: bool) -> &'static str {
    let applies = || {
        let content = request.headers().get(header::CONTENT_TYPE);
        content.is_some_and(|v| v.as_bytes().starts_with(b"application/apply-patch"))
    };
    match (request.method().as_str(), target.name.is_some()) {
        (_, true) if stream && target.subresource.as_deref() != Some("log") => "CONNECT",
        ("GET" | "HEAD", _) if watch => "WATCH",
        ("GET" | "HEAD", true) => "GET",
        ("GET" | "HEAD", false) => "LIST",
        ("POST", _) => "POST",
        ("PUT", _) => "PUT",
        ("PATCH", _) if applies() => "APPLY",
        ("PATCH", _) => "PATCH",
        ("DELETE", true) => "DELETE",
        ("DELETE", false) => "DELETECOLLECTION",
        _ => "other",
    }
}

/// The class of a request for no resource.
pub(super) fn elsewhere(method: &Method, path: &str) -> Class {
    let known = PATHS.iter().find(|known| path.starts_with(**known));
    Class {
        verb: if method == Method::GET { "GET" } else { "other" },
        dry_run: false,
        group: String::new(),
        version: String::new(),
        resource: String::new(),
        subresource: known.copied().unwrap_or_default().to_owned(),
        scope: "",
    }
}

/// The part of the control plane that a request says it comes from; empty for everybody else.
pub(super) fn system_client(headers: &HeaderMap) -> &'static str {
    let agent = headers.get(header::USER_AGENT).map(|agent| agent.as_bytes());
    let program = agent.and_then(|agent| agent.split(|byte| *byte == b'/').next());
    let known = SYSTEM.iter().find(|known| Some(known.as_bytes()) == program);
    known.copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_control_planes_own_requests_are_told_apart() {
        for (agent, client) in [
            (
                "kube-scheduler/v1.36.0 (linux/amd64) kubernetes/1",
                "kube-scheduler",
            ),
            ("kube-controller-manager", "kube-controller-manager"),
            ("kube-scheduler-simulator/v1", ""),
            ("kubectl/v1.36.0", ""),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
            assert_eq!(system_client(&headers), client, "{agent}");
        }
        assert_eq!(system_client(&HeaderMap::new()), "");
    }
}
