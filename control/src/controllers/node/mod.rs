//! Nodes as the cluster sees them: whether they are alive, which taints follow, which Pods must leave, which addresses
//! are theirs, how long copies are good for them, and what becomes of Pods whose node is gone.
mod cidr;
mod disruption;
mod evict;
mod health;
mod lifecycle;
mod orphans;
mod taint;
mod ttl;

use futures::future::BoxFuture;

use super::context::Context;

/// Registers for changes and returns the futures that do the work.
pub fn start(context: &Context) -> Vec<BoxFuture<'static, ()>> {
    vec![
        lifecycle::start(context),
        evict::start(context),
        cidr::start(context),
        orphans::start(context),
        ttl::start(context),
    ]
}
