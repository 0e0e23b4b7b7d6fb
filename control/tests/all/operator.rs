//! The `kube` crate as operators use it: a CustomResourceDefinition, a Controller with a finalizer and children of
//! its own, a Lease that only one of many gets.
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::plane::Plane;

const PATIENCE: Duration = Duration::from_secs(60);
const FINALIZER: &str = "example.com/widgets";
const MANAGER: &str = "widgets-controller";

const KIND: &str = "Widget";
const GROUP: &str = "example.com";
const DEFINITION: &str = "widgets.example.com";

/// What `#[derive(CustomResource)]` makes, written out: the macro would change the features of half the dependencies.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Widget {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    spec: WidgetSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<WidgetStatus>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct WidgetSpec {
    size: i32,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct WidgetStatus {
    made: i32,
}

impl Resource for Widget {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        KIND.into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        "widgets".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Widget {
    fn new(name: &str, size: i32) -> Self {
        Widget {
            api_version: format!("{GROUP}/v1"),
            kind: KIND.into(),
            metadata: ObjectMeta {
                name: Some(name.into()),
                ..ObjectMeta::default()
            },
            spec: WidgetSpec { size },
            status: None,
        }
    }
}

fn definition() -> CustomResourceDefinition {
    let count = |field: &str| json!({"type": "object", "properties": {field: {"type": "integer"}}, "required": [field]});
    let schema = json!({"type": "object", "required": ["spec"],
        "properties": {"spec": count("size"), "status": {"nullable": true, "type": "object",
            "properties": {"made": {"type": "integer"}}}}});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]});
    let names = json!({"plural": "widgets", "singular": "widget", "kind": KIND, "shortNames": ["wdg"]});
    serde_json::from_value(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": DEFINITION},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]}}))
    .unwrap()
}

async fn define(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let apply = PatchParams::apply(MANAGER);
    definitions
        .patch(DEFINITION, &apply, &Patch::Apply(definition()))
        .await
        .unwrap();
    let established = await_condition(definitions, DEFINITION, conditions::is_crd_established());
    timeout(PATIENCE, established)
        .await
        .expect("established")
        .unwrap();
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Finalizer(#[from] Box<kube::runtime::finalizer::Error<kube::Error>>),
}

async fn reconcile(widget: Arc<Widget>, client: Arc<Client>) -> Result<Action, Failed> {
    let widgets: Api<Widget> = Api::default_namespaced(Client::clone(&client));
    let done = finalizer(&widgets, FINALIZER, widget, |event| async {
        match event {
            Event::Apply(widget) => make(&widget, &client).await,
            Event::Cleanup(widget) => clean_up(&widget, &client).await,
        }
    });
    Ok(done.await.map_err(Box::new)?)
}

/// A ConfigMap of the widget's, by server-side apply, and its status.
async fn make(widget: &Widget, client: &Client) -> kube::Result<Action> {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let (name, apply) = (widget.name_any(), PatchParams::apply(MANAGER).force());
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "ownerReferences": [widget.controller_owner_ref(&())]},
        "data": {"size": widget.spec.size.to_string()}});
    maps.patch(&name, &apply, &Patch::Apply(map)).await?;
    let widgets: Api<Widget> = Api::default_namespaced(client.clone());
    let status =
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "status": {"made": widget.spec.size}});
    widgets.patch_status(&name, &apply, &Patch::Apply(status)).await?;
    Ok(Action::await_change())
}

/// Leaves a trace that the finalizer was waited for.
async fn clean_up(widget: &Widget, client: &Client) -> kube::Result<Action> {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let trace = json!({"metadata": {"name": format!("{}-was-here", widget.name_any())}});
    let trace = serde_json::from_value(trace).map_err(kube::Error::SerdeError)?;
    maps.create(&PostParams::default(), &trace).await?;
    Ok(Action::await_change())
}

fn run_controller(client: &Client, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
    let widgets: Api<Widget> = Api::default_namespaced(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let soon = |_: Arc<Widget>, _: &Failed, _: Arc<Client>| Action::requeue(Duration::from_millis(200));
    let runs = Controller::new(widgets, watcher::Config::default())
        .owns(maps, watcher::Config::default())
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, soon, Arc::new(client.clone()));
    tokio::spawn(runs.for_each(async |ran| {
        if let Err(error) = ran {
            eprintln!("a reconciliation failed: {error:?}");
        }
    }))
}

async fn until<K>(api: &Api<K>, name: &str, what: &str, is: impl Fn(Option<&K>) -> bool + Send)
where
    K: Clone + std::fmt::Debug + Resource<DynamicType = ()> + Send + 'static + for<'de> Deserialize<'de>,
{
    let waited = timeout(PATIENCE, await_condition(api.clone(), name, is)).await;
    waited.unwrap_or_else(|_| panic!("{name}: {what}")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_makes_keeps_and_cleans_up() {
    let plane = Plane::start().await;
    let client = plane.client();
    define(&client).await;
    let (widgets, maps): (Api<Widget>, Api<ConfigMap>) = (
        Api::default_namespaced(client.clone()),
        Api::default_namespaced(client.clone()),
    );
    let stop = CancellationToken::new();
    let controller = run_controller(&client, stop.clone());

    let widget = Widget::new("w", 3);
    widgets.create(&PostParams::default(), &widget).await.unwrap();
    let sized = |size: &'static str| {
        move |map: Option<&ConfigMap>| {
            let data = map.and_then(|m| m.data.as_ref());
            data.and_then(|d| d.get("size")).is_some_and(|s| s == size)
        }
    };
    until(&maps, "w", "its map is made", sized("3")).await;
    let done = |widget: Option<&Widget>| {
        widget
            .and_then(|w| w.status.as_ref())
            .is_some_and(|s| s.made == 3)
    };
    until(&widgets, "w", "its status is told", done).await;

    let bigger = Patch::Merge(json!({"spec": {"size": 4}}));
    widgets
        .patch("w", &PatchParams::default(), &bigger)
        .await
        .unwrap();
    until(&maps, "w", "its map follows", sized("4")).await;

    let before = maps.get("w").await.unwrap().uid();
    maps.delete("w", &DeleteParams::default()).await.unwrap();
    let again = move |map: Option<&ConfigMap>| map.is_some_and(|m| m.uid() != before);
    until(&maps, "w", "its map is made again", again).await;

    widgets.delete("w", &DeleteParams::default()).await.unwrap();
    until(
        &maps,
        "w-was-here",
        "the finalizer ran",
        |map: Option<&ConfigMap>| map.is_some(),
    )
    .await;
    until(&widgets, "w", "it is gone", |widget: Option<&Widget>| {
        widget.is_none()
    })
    .await;
    until(&maps, "w", "its map is collected", |map: Option<&ConfigMap>| {
        map.is_none()
    })
    .await;

    stop.cancel();
    timeout(PATIENCE, controller)
        .await
        .expect("the controller ends")
        .unwrap();
    plane.control.shutdown(PATIENCE).await;
}

/// Takes the lease, if what was read of it is still so.
async fn acquire(leases: &Api<Lease>, mut lease: Lease, who: String) -> Option<String> {
    let now = Timestamp::now();
    let transitions = lease.spec.as_ref().and_then(|s| s.lease_transitions).unwrap_or(0);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(who.clone()),
        lease_duration_seconds: Some(15),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(transitions + 1),
        ..LeaseSpec::default()
    });
    match leases.replace("leader", &PostParams::default(), &lease).await {
        Ok(_) => Some(who),
        Err(kube::Error::Api(status)) if status.code == 409 => None,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_gets_the_lease() {
    let plane = Plane::start().await;
    let leases: Api<Lease> = Api::default_namespaced(plane.client());
    let vacant: Lease = serde_json::from_value(json!({"metadata": {"name": "leader"}})).unwrap();
    leases.create(&PostParams::default(), &vacant).await.unwrap();
    for term in 1..=3 {
        let seen = leases.get("leader").await.unwrap();
        let candidates = (0..16).map(|i| acquire(&leases, seen.clone(), format!("candidate-{i}")));
        let winners: Vec<String> = futures::future::join_all(candidates)
            .await
            .into_iter()
            .flatten()
            .collect();
        let [winner] = winners.as_slice() else {
            panic!("term {term}: {winners:?}")
        };
        let spec = leases.get("leader").await.unwrap().spec.unwrap();
        assert_eq!(spec.holder_identity.as_ref(), Some(winner));
        assert_eq!(spec.lease_transitions, Some(term));
    }
    plane.control.shutdown(PATIENCE).await;
}
