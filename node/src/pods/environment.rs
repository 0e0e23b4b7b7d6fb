//! The variables of a container about to start: what they refer to is fetched, and the Services they name are known first.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use super::context::Context;
use super::failure::StartFailure;
use super::start::Job;
use super::view::PodView;
use crate::env::objects::Names;
use crate::env::{self, Environment, Sources};
use crate::static_pods::manifest::is_static;

/// Time the list of Services may take after the agent's start.
const SERVICES_LIMIT: Duration = Duration::from_secs(10);
/// The same for a static Pod, which may be there to make the API server run.
const SERVICES_LIMIT_STATIC: Duration = Duration::from_secs(1);

/// The variables of a container.
pub(super) async fn environment(
    ctx: &Context,
    job: &Job,
    pod: PodView<'_>,
    container: &Container,
) -> Result<Environment, StartFailure> {
    let objects = Names::of_environment(container)
        .fetch(&ctx.options.client, pod.namespace())
        .await;
    let objects = objects.map_err(StartFailure::config)?;
    services_are_known(ctx, pod).await;
    let facts = ctx.facts(pod, &job.ips);
    let sources = Sources {
        facts: &facts,
        objects: &objects,
        services: &ctx.all_services(),
        volumes: &ctx.dirs(pod).volumes(),
    };
    env::environment(container, &sources).map_err(StartFailure::config)
}

/// Containers started before Services are known would lack their variables, and Pods their resolver, for ever.
pub(super) async fn services_are_known(ctx: &Context, pod: PodView<'_>) {
    let limit = match is_static(pod.pod) {
        true => SERVICES_LIMIT_STATIC,
        false => SERVICES_LIMIT,
    };
    match tokio::time::timeout(limit, ctx.services.wait_until_ready()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "Services are not followed; containers start without them"),
        Err(_) => tracing::warn!("Services are not known yet; a container starts without their variables"),
    }
}
