//! Notices when what a Pod's volumes show is no longer current: changed ConfigMaps and Secrets, tokens to renew. Owns
//! the watches; each is for one name, as a node may.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::context::Context;
use super::view::PodView;
use crate::env::objects::Names;
use crate::volumes::tokens::Wish;

/// How often a Pod's tokens are looked at; also how soon a renewal that failed is tried again.
const TOKENS_EVERY: Duration = Duration::from_secs(60);

/// Replaces the watches in `tasks` by one per object the Pod's volumes refer to.
pub fn watch(ctx: &Arc<Context>, pod: &Pod, changed: &Arc<Notify>, tasks: &mut JoinSet<()>) {
    tasks.abort_all();
    let Some(view) = PodView::new(pod) else { return };
    let mut names = Names::default();
    view.spec
        .volumes
        .iter()
        .flatten()
        .for_each(|volume| names.extend(Names::of_volume(volume)));
    let volumes = view.spec.volumes.iter().flatten();
    if volumes.flat_map(Wish::of_volume).next().is_some() {
        tasks.spawn(renewals(ctx.clone(), view.uid().to_owned(), changed.clone()));
    }
    let client = &ctx.options.client;
    for name in names.config_maps {
        tasks.spawn(one(
            Api::<ConfigMap>::namespaced(client.clone(), view.namespace()),
            name,
            changed.clone(),
        ));
    }
    for name in names.secrets {
        tasks.spawn(one(
            Api::<Secret>::namespaced(client.clone(), view.namespace()),
            name,
            changed.clone(),
        ));
    }
}

async fn renewals(ctx: Arc<Context>, uid: String, changed: Arc<Notify>) {
    let mut ticks = tokio::time::interval(TOKENS_EVERY);
    loop {
        ticks.tick().await;
        if ctx.tokens.is_due(&uid, Timestamp::now()) {
            changed.notify_one();
        }
    }
}

async fn one<K>(api: Api<K>, name: String, changed: Arc<Notify>)
where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let stream = watcher::watch_object(api, &name).default_backoff();
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(_) => changed.notify_one(),
            Err(error) => tracing::debug!(%error, name, "watching an object of a volume failed"),
        }
    }
}
