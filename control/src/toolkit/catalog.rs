//! Which resources the API serves, for controllers that act on all of them (garbage collection, namespace deletion).
use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{DeleteParams, ListParams, ObjectList, Patch, PatchParams};
use kube::core::Version;
use kube::core::discovery::v2::{APIGroupDiscovery, APIResourceDiscovery};
use kube::core::gvk::GroupVersion;
use kube::discovery::ApiResource;
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::{StepError, Steps};
use super::raw::Metadata;
use crate::uri::escape;

/// How long an answer is trusted: upstream's garbage collector looks for new resources as often.
pub const FRESH_FOR: Duration = Duration::from_secs(30);

/// How long it is trusted that a kind is not served.
const MISS_FRESH_FOR: Duration = Duration::from_secs(1);

/// One served resource, in its most stable version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Served {
    pub resource: ApiResource,
    pub namespaced: bool,
    verbs: Vec<String>,
}

impl Served {
    pub fn supports(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    /// The objects of this resource in a namespace (ignored for cluster-scoped resources).
    pub fn instances(&self, client: Client, namespace: &str) -> Instances {
        Instances(if self.namespaced && !namespace.is_empty() {
            Api::namespaced_with(client, namespace, &self.resource)
        } else {
            Api::all_with(client, &self.resource)
        })
    }

    /// `pods` or `deployments.apps`
    pub fn qualified_name(&self) -> String {
        match self.resource.group.as_str() {
            "" => self.resource.plural.clone(),
            group => format!("{}.{group}", self.resource.plural),
        }
    }
}

/// Objects of a resource, by their metadata.
pub struct Instances(Api<Metadata>);

impl Instances {
    pub async fn get_opt(&self, name: &str) -> kube::Result<Option<Metadata>> {
        self.0.get_opt(&escape(name)).await
    }

    pub async fn list(&self, page: &ListParams) -> kube::Result<ObjectList<Metadata>> {
        self.0.list(page).await
    }

    pub async fn merge(&self, name: &str, body: Value) -> kube::Result<Metadata> {
        self.0
            .patch(&escape(name), &PatchParams::default(), &Patch::Merge(body))
            .await
    }

    pub async fn delete(&self, name: &str, params: &DeleteParams) -> kube::Result<()> {
        self.0.delete(&escape(name), params).await.map(drop)
    }

    pub async fn delete_all(&self, params: &DeleteParams) -> kube::Result<()> {
        let all = ListParams::default();
        self.0.delete_collection(params, &all).await.map(drop)
    }

    /// The API itself, for watches.
    pub fn into_api(self) -> Api<Metadata> {
        self.0
    }
}

/// What one look at discovery found.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Discovered {
    pub served: Vec<Served>,
    /// Versions whose server does not answer now (`GROUP/VERSION`): what they hold is not known.
    pub silent: Vec<String>,
}

/// Discovery with a short memory.
pub struct Catalog {
    client: Client,
    known: Mutex<Option<(Instant, Arc<Discovered>)>>,
}

impl Catalog {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            known: Mutex::new(None),
        }
    }

    /// What is served; asks the API when the last answer is older than [`FRESH_FOR`].
    pub async fn known(&self) -> Result<Arc<Discovered>, StepError> {
        let mut known = self.known.lock().await;
        if let Some((_, found)) = known.as_ref().filter(|(at, _)| at.elapsed() < FRESH_FOR) {
            return Ok(found.clone());
        }
        let found = Arc::new(discover(&self.client).await?);
        *known = Some((Instant::now(), found.clone()));
        Ok(found)
    }

    async fn forget_after(&self, age: Duration) {
        let mut known = self.known.lock().await;
        if known.as_ref().is_some_and(|(at, _)| at.elapsed() > age) {
            *known = None;
        }
    }

    /// What is served now.
    pub async fn refreshed(&self) -> Result<Arc<Discovered>, StepError> {
        self.known.lock().await.take();
        self.known().await
    }

    /// The resource of a kind, whatever version it is named in.
    pub async fn find(&self, api_version: &str, kind: &str) -> Result<Option<Served>, StepError> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let matches = |served: &&Served| served.resource.group == group && served.resource.kind == kind;
        if let Some(found) = self.known().await?.served.iter().find(matches) {
            return Ok(Some(found.clone()));
        }
        // It may be a custom resource that is younger than what is remembered.
        self.forget_after(MISS_FRESH_FOR).await;
        Ok(self.known().await?.served.iter().find(matches).cloned())
    }
}

/// All groups, in two documents, which say how fresh they are (KEP-3352).
async fn discover(client: &Client) -> Result<Discovered, StepError> {
    let core = client.list_core_api_versions_aggregated().await;
    let named = client.list_api_groups_aggregated().await;
    let core = core.step(|| "discover the resources of the core group".into())?;
    let named = named.step(|| "discover the served groups".into())?;
    Ok(discovered(core.items.into_iter().chain(named.items)))
}

fn discovered(groups: impl IntoIterator<Item = APIGroupDiscovery>) -> Discovered {
    let mut found = Discovered::default();
    for group in groups {
        let name = group.metadata.and_then(|meta| meta.name).unwrap_or_default();
        let mut versions = group.versions;
        versions.sort_by_cached_key(|v| {
            Reverse(Version::parse(v.version.as_deref().unwrap_or_default()).priority())
        });
        let mut known = HashSet::new();
        for version in versions {
            let of = GroupVersion {
                group: name.clone(),
                version: version.version.unwrap_or_default(),
            };
            if version.freshness.as_deref() == Some("Stale") {
                found.silent.push(of.api_version());
            }
            // What a more stable version has, too, is used by that.
            let resources = version
                .resources
                .into_iter()
                .map(|resource| served(&of, resource));
            found
                .served
                .extend(resources.filter(|served| known.insert(served.resource.plural.clone())));
        }
    }
    found.silent.sort();
    found.served.sort_by(|a, b| {
        (&a.resource.group, &a.resource.plural).cmp(&(&b.resource.group, &b.resource.plural))
    });
    found
}

fn served(of: &GroupVersion, resource: APIResourceDiscovery) -> Served {
    Served {
        resource: ApiResource {
            group: of.group.clone(),
            version: of.version.clone(),
            api_version: of.api_version(),
            kind: resource
                .response_kind
                .and_then(|kind| kind.kind)
                .unwrap_or_default(),
            plural: resource.resource.unwrap_or_default(),
        },
        namespaced: resource.scope.as_deref() == Some("Namespaced"),
        verbs: resource.verbs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use std::sync::PoisonError;

    fn resource(plural: &str, kind: &str, scope: &str) -> Value {
        json!({"resource": plural, "responseKind": {"kind": kind}, "scope": scope, "verbs": ["list"]})
    }

    fn document(path: &str) -> Value {
        let group = |name: &str, versions: Value| json!({"metadata": {"name": name}, "versions": versions});
        let items = match path {
            "/api" => json!([group(
                "",
                json!([{"version": "v1", "resources": [resource("pods", "Pod", "Namespaced")]}])
            )]),
            _ => json!([
                group(
                    "a.example",
                    json!([
                        {"version": "v1beta1", "freshness": "Current",
                            "resources": [resource("xs", "X", "Cluster"), resource("ys", "Y", "Cluster")]},
                        {"version": "v1", "freshness": "Current", "resources": [resource("xs", "X", "Cluster")]},
                    ])
                ),
                group("z.example", json!([{"version": "v2", "freshness": "Stale"}])),
                group("b.example", json!([{"version": "v1", "freshness": "Stale"}])),
            ]),
        };
        json!({"apiVersion": "apidiscovery.k8s.io/v2", "kind": "APIGroupDiscoveryList", "items": items})
    }

    #[tokio::test]
    async fn each_document_is_read_once_for_what_is_served_and_for_who_is_silent() {
        let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
        let heard = asked.clone();
        let server = tower::service_fn(move |request: Request<Body>| {
            let path = request.uri().path().to_owned();
            let body = document(&path).to_string().into_bytes();
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(path);
            async move { Ok::<_, std::io::Error>(Response::new(Body::from(body))) }
        });
        let catalog = Catalog::new(Client::new(server, "default"));
        let found = catalog.refreshed().await.expect("found");
        assert_eq!(*asked.lock().unwrap(), ["/api", "/apis"]);
        assert_eq!(found.silent, ["b.example/v1", "z.example/v2"]);
        let served = found.served.iter();
        let served: Vec<(String, &str, bool)> = served
            .map(|s| (s.qualified_name(), s.resource.api_version.as_str(), s.namespaced))
            .collect();
        let of = |name: &str, version: &'static str, namespaced| (name.to_owned(), version, namespaced);
        assert_eq!(
            served,
            [
                of("pods", "v1", true),
                of("xs.a.example", "a.example/v1", false),
                of("ys.a.example", "a.example/v1beta1", false)
            ]
        );
    }
}
