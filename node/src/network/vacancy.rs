//! Whether the ranges of a node are free on its host, found out before anything is made there.

use ipnet::Ipv4Net;

use super::links::Links;
use super::names::Names;
use super::{OpenError, routes};

/// Whether no link of another has these ranges: that of Services, and that of Pods where it is known.
///
/// # Errors
/// [`OpenError::PodOverlap`] and [`OpenError::ServiceOverlap`] name the link.
pub async fn check(cluster_id: &str, pods: Option<Ipv4Net>, services: Ipv4Net) -> Result<(), OpenError> {
    let (links, names) = (Links::open()?, Names::new(cluster_id)?);
    are_free(&links, &names, pods, services).await
}

/// The same. A gateway's link that is there already may have them.
pub(super) async fn are_free(
    links: &Links,
    names: &Names,
    pods: Option<Ipv4Net>,
    services: Ipv4Net,
) -> Result<(), OpenError> {
    let own = links.find(&names.gateway_link()).await?;
    // No link has the index 0.
    let own = own.map_or(0, |link| link.index);
    if let Some(range) = pods
        && let Some(other) = links.overlapping(range, own).await?
    {
        return Err(OpenError::PodOverlap(range, other));
    }
    let plan = routes::plan(&links.networks().await?, own, &[services.trunc()].into());
    match plan.elsewhere.first() {
        None => Ok(()),
        Some((range, index)) => {
            let other = links.name_of(*index).await?;
            Err(OpenError::ServiceOverlap(*range, other.unwrap_or_default()))
        }
    }
}
