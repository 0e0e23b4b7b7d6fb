//! Notices when what a Pod's volumes show is no longer current: changed ConfigMaps and Secrets, tokens to renew, claims that
//! have grown, what drivers want to publish once more. Owns when; the watches are `followed`'s.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::context::Context;
use super::expansion;
use super::followed::{Followed, Kind};
use super::republish;
use super::view::PodView;
use crate::env::objects::Names;
use crate::volumes::claims;
use crate::volumes::tokens::Wish;

/// How often a Pod's tokens are looked at; also how soon a renewal that failed is tried again.
const TOKENS_EVERY: Duration = Duration::from_secs(60);
/// A change is shown so much later, with those that follow it; and a Pod that starts is not disturbed by what it began with.
const SETTLED_AFTER: Duration = Duration::from_millis(500);

/// Fills `tasks`, once, with what notices changes from now on.
pub fn watch(ctx: &Arc<Context>, pod: &Pod, changed: &Arc<Notify>, tasks: &mut JoinSet<()>) {
    let Some(view) = PodView::new(pod).filter(|_| tasks.is_empty()) else {
        return;
    };
    let mut names = Names::default();
    view.spec
        .volumes
        .iter()
        .flatten()
        .for_each(|volume| names.extend(Names::of_volume(volume)));
    let volumes = view.spec.volumes.iter().flatten();
    let wishes: Vec<Wish> = volumes.flat_map(Wish::of_volume).collect();
    if !wishes.is_empty() {
        tasks.spawn(renewals(
            ctx.clone(),
            view.uid().to_owned(),
            wishes,
            changed.clone(),
        ));
    }
    let mut volumes = view.spec.volumes.iter().flatten();
    if volumes.any(|volume| claims::name_of(view.name(), volume).is_some()) {
        tasks.spawn(expansion::follow(ctx.clone(), pod.clone()));
    }
    let mut volumes = view.spec.volumes.iter().flatten();
    if volumes.any(|volume| republish::may_concern(view, volume)) {
        tasks.spawn(republish::follow(ctx.clone(), pod.clone()));
    }
    let kinds = [
        (Kind::ConfigMap, names.config_maps),
        (Kind::Secret, names.secrets),
    ];
    for (kind, names) in kinds {
        for name in names {
            let key = (kind, view.namespace().to_owned(), name);
            let followed = ctx.follower.follow(&ctx.options.client, key);
            // From now on, not from when the task runs.
            let changes = followed.changes();
            tasks.spawn(tell(followed, changes, changed.clone()));
        }
    }
}

async fn renewals(ctx: Arc<Context>, uid: String, wishes: Vec<Wish>, changed: Arc<Notify>) {
    let mut ticks = tokio::time::interval(TOKENS_EVERY);
    loop {
        ticks.tick().await;
        if ctx.tokens.is_due(&uid, &wishes) {
            changed.notify_one();
        }
    }
}

/// Holds the watch as long as this runs.
async fn tell(_followed: Arc<Followed>, mut changes: watch::Receiver<()>, changed: Arc<Notify>) {
    while changes.changed().await.is_ok() {
        tokio::time::sleep(SETTLED_AFTER).await;
        changes.mark_unchanged();
        changed.notify_one();
    }
}
