//! Which resources the API serves, for controllers that act on all of them (garbage collection, namespace deletion).
use std::sync::Arc;
use std::time::Duration;

use kube::api::{DeleteParams, ListParams, ObjectList, Patch, PatchParams};
use kube::discovery::{ApiCapabilities, ApiResource, Discovery, Scope};
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

/// All groups in one document, which says how fresh they are (KEP-3352).
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

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

/// Discovery with a short memory.
pub struct Catalog {
    client: Client,
    known: Mutex<Option<(Instant, Arc<Vec<Served>>)>>,
}

impl Catalog {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            known: Mutex::new(None),
        }
    }

    /// What is served; asks the API when the last answer is older than [`FRESH_FOR`].
    pub async fn served(&self) -> Result<Arc<Vec<Served>>, StepError> {
        let mut known = self.known.lock().await;
        if let Some((_, served)) = known.as_ref().filter(|(at, _)| at.elapsed() < FRESH_FOR) {
            return Ok(served.clone());
        }
        let served = Arc::new(discover(&self.client).await?);
        *known = Some((Instant::now(), served.clone()));
        Ok(served)
    }

    async fn forget_after(&self, age: Duration) {
        let mut known = self.known.lock().await;
        if known.as_ref().is_some_and(|(at, _)| at.elapsed() > age) {
            *known = None;
        }
    }

    /// What is served now.
    pub async fn refreshed(&self) -> Result<Arc<Vec<Served>>, StepError> {
        self.known.lock().await.take();
        self.served().await
    }

    /// Versions whose server does not answer now (`GROUP/VERSION`): what they hold is not known.
    pub async fn stale(&self) -> Result<Vec<String>, StepError> {
        let request = http::Request::get("/apis").header(http::header::ACCEPT, AGGREGATED);
        let asked = async {
            let request = request.body(Vec::new()).map_err(kube::Error::HttpError)?;
            self.client.request::<Value>(request).await
        };
        let document = asked.await.step(|| "discover the served groups".into())?;
        Ok(stale(&document))
    }

    /// The resource of a kind, whatever version it is named in.
    pub async fn find(&self, api_version: &str, kind: &str) -> Result<Option<Served>, StepError> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let matches = |served: &&Served| served.resource.group == group && served.resource.kind == kind;
        if let Some(found) = self.served().await?.iter().find(matches) {
            return Ok(Some(found.clone()));
        }
        // It may be a custom resource that is younger than what is remembered.
        self.forget_after(MISS_FRESH_FOR).await;
        Ok(self.served().await?.iter().find(matches).cloned())
    }
}

/// `GROUP/VERSION` of what a discovery document has no fresh word of.
fn stale(document: &Value) -> Vec<String> {
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut stale = Vec::new();
    for group in list(document, "items") {
        let name = text(&group["metadata"]["name"]);
        let old = list(&group, "versions").into_iter();
        let old = old.filter(|version| version["freshness"] == "Stale");
        stale.extend(old.map(|version| format!("{name}/{}", text(&version["version"]))));
    }
    stale.sort();
    stale
}

async fn discover(client: &Client) -> Result<Vec<Served>, StepError> {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        // Servers before 1.26 list group by group.
        Err(_) => Discovery::new(client.clone())
            .run()
            .await
            .step(|| "discover the served resources".into())?,
    };
    let all = discovery
        .groups()
        .flat_map(|group| group.resources_by_stability());
    let mut served: Vec<Served> = all.map(served).collect();
    served.sort_by(|a, b| {
        (&a.resource.group, &a.resource.plural).cmp(&(&b.resource.group, &b.resource.plural))
    });
    Ok(served)
}

fn served((resource, capabilities): (ApiResource, ApiCapabilities)) -> Served {
    Served {
        resource,
        namespaced: capabilities.scope == Scope::Namespaced,
        verbs: capabilities.operations,
    }
}
