//! Addresses of Services as objects (KEP-1880): ServiceCIDRs say whether they can be used, and IPAddresses that somebody
//! removed or changed are put right.
//!
//! The addresses themselves come and go with their Services, in one transaction (`admission/services/`): there is nothing
//! to do here for who leaves them alone.
pub mod ranges;
mod repair;

use std::net::IpAddr;

use futures::future::BoxFuture;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::ResourceExt;

use super::context::Context;
use crate::admission::services::address::{ALLOCATOR, MANAGED_BY};
use crate::admission::services::ranges::holds;

pub use repair::cluster_ip;

/// Registers for changes and returns the futures that do the work.
pub fn start(context: &Context) -> [BoxFuture<'static, ()>; 2] {
    [ranges::start(context), repair::start(context)]
}

/// Whether it is one of ours, and not one that reserves an address for something else.
fn is_ours(address: &IPAddress) -> bool {
    address.labels().get(MANAGED_BY).is_some_and(|by| by == ALLOCATOR)
}

/// Whether a range has this address for a Service.
fn contains(range: &ServiceCIDR, ip: IpAddr) -> bool {
    let cidrs = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    let mut nets = cidrs.filter_map(|cidr| cidr.parse::<IpNet>().ok());
    nets.any(|net| holds(&net, ip))
}
