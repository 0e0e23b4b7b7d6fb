//! Links, addresses and routes, by rtnetlink, in whatever network namespace the socket was opened in.
//! Knows names and indexes; what they mean is the caller's.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecUnspec, InetDevConf, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::task::AbortHandle;

/// A request the kernel refused, and for which link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    #[error("cannot {step} {link}: {reason}")]
    Request {
        step: &'static str,
        link: String,
        reason: String,
        code: i32,
    },
    #[error("link {0} is gone")]
    Gone(String),
}

/// The mesh of a netlink socket and the task that serves it; dropping it ends the task.
pub struct Links {
    handle: Handle,
    driver: AbortHandle,
}

/// A link as found.
#[derive(Clone, Debug)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Its hardware address.
    pub address: Vec<u8>,
    pub mtu: Option<u32>,
    pub up: bool,
    pub is_bridge: bool,
}

/// A network that this host routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed {
    pub network: Ipv4Net,
    /// The index of the link it is routed out of, if of one.
    pub link: Option<u32>,
    /// The kernel made the route, for a link's own address.
    pub is_kernels: bool,
}

/// What a Pod's end of a veth pair is made of.
pub struct PodEnd<'a> {
    pub name: &'a str,
    pub address: [u8; 6],
    pub mtu: Option<u32>,
    /// The name of the other end, its hardware address, and the network namespace it appears in.
    pub peer: &'a str,
    pub peer_address: [u8; 6],
    pub peer_namespace: BorrowedFd<'a>,
}

/// Whether a link of this name is in the network namespace of the calling thread. Waits for nobody.
pub fn is_there(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

impl Links {
    /// Opens a socket in the network namespace of the calling thread. Must be called within a tokio runtime.
    pub fn open() -> Result<Self, LinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(LinkError::Socket)?;
        let driver = tokio::spawn(connection).abort_handle();
        Ok(Self { handle, driver })
    }

    pub async fn find(&self, name: &str) -> Result<Option<Link>, LinkError> {
        let found = self
            .handle
            .link()
            .get()
            .match_name(name)
            .execute()
            .try_next()
            .await;
        match found.map_err(|e| refused("look up", name, &e)) {
            Ok(message) => Ok(message.map(|m| describe(&m))),
            Err(LinkError::Request { code, .. }) if code == -libc::ENODEV => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub async fn get(&self, name: &str) -> Result<Link, LinkError> {
        self.find(name)
            .await?
            .ok_or_else(|| LinkError::Gone(name.to_owned()))
    }

    pub async fn all(&self) -> Result<Vec<Link>, LinkError> {
        let links = self.handle.link().get().execute().map_ok(|m| describe(&m));
        links
            .try_collect()
            .await
            .map_err(|e| refused("list", "links", &e))
    }

    /// Makes a veth pair with both ends here.
    pub async fn add_pair(&self, name: &str, other: &str, mtu: Option<u32>) -> Result<(), LinkError> {
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new().name(other.to_owned());
        let mut link = LinkVeth::new(name, other);
        if let Some(mtu) = mtu {
            (peer, link) = (peer.mtu(mtu), link.mtu(mtu));
        }
        let link = link.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        let made = self.handle.link().add(link.build()).execute().await;
        made.map_err(|e| refused("make veth", name, &e))
    }

    /// Makes a veth pair, one end here, the other in another namespace.
    pub async fn add_veth(&self, end: PodEnd<'_>) -> Result<(), LinkError> {
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(end.peer.to_owned())
            .address(end.peer_address.to_vec())
            .setns_by_fd(end.peer_namespace.as_raw_fd());
        let mut link = LinkVeth::new(end.name, end.peer).address(end.address.to_vec());
        if let Some(mtu) = end.mtu {
            (peer, link) = (peer.mtu(mtu), link.mtu(mtu));
        }
        let link = link.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        let made = self.handle.link().add(link.build()).execute().await;
        made.map_err(|e| refused("make veth", end.peer, &e))
    }

    pub async fn up(&self, link: &Link) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        let done = self.handle.link().set(message).execute().await;
        done.map_err(|e| refused("bring up", &link.name, &e))
    }

    /// Brings up a link whose other end is somebody else's, with what its own kernel settings must be for the host to
    /// forward between such links: in one message, which as many writes below /proc/sys would not be.
    pub async fn forward(&self, link: &Link, address: [u8; 6]) -> Result<(), LinkError> {
        let mut settings = InetDevConf::default();
        settings.forwarding = 1;
        // Answers of Pods to what this host sent from its loopback arrive for it (NodePorts on 127.0.0.1).
        settings.route_localnet = 1;
        // ARP requests under others' addresses would make the kernel remember neighbours that are not there. At packets the
        // rules look, too: what a host sets for all links, or its udev for new ones, may make this one looser.
        settings.rp_filter = 1;
        let settings = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(settings)]);
        let mut message = LinkUnspec::new_with_index(link.index)
            .up()
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![settings]));
        if link.address != address {
            message = message.address(address.to_vec());
        }
        let done = self.handle.link().set(message.build()).execute().await;
        done.map_err(|e| refused("bring up", &link.name, &e))
    }

    /// Says for good which hardware address a neighbour on a link has: nobody asks for it, nobody can answer for another, and
    /// the kernel does not count it among the neighbours whose number it limits (`gc_thresh3`).
    pub async fn introduce(&self, link: &Link, ip: Ipv4Addr, address: [u8; 6]) -> Result<(), LinkError> {
        let neighbour = self.handle.neighbours().add(link.index, ip.into());
        let added = neighbour.link_layer_address(&address).replace().execute().await;
        added.map_err(|e| refused("name the neighbour of", &link.name, &e))
    }

    /// Removes a link; one that is gone already is no error.
    pub async fn remove(&self, link: &Link) -> Result<(), LinkError> {
        match self
            .handle
            .link()
            .del(link.index)
            .execute()
            .await
            .map_err(|e| refused("remove", &link.name, &e))
        {
            Err(LinkError::Request { code, .. }) if code == -libc::ENODEV => Ok(()),
            other => other,
        }
    }

    /// Gives a link an address; one it has already is no error.
    pub async fn add_address(&self, link: &Link, ip: Ipv4Addr, prefix: u8) -> Result<(), LinkError> {
        let added = self
            .handle
            .address()
            .add(link.index, ip.into(), prefix)
            .replace()
            .execute()
            .await;
        added.map_err(|e| refused("give an address to", &link.name, &e))
    }

    /// Routes everything through a gateway that is on the link though no prefix says so.
    pub async fn route_through(&self, link: &Link, gateway: Ipv4Addr) -> Result<(), LinkError> {
        let to = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(gateway, 32)
            .scope(RouteScope::Link)
            .output_interface(link.index)
            .build();
        let through = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .output_interface(link.index)
            .build();
        for route in [to, through] {
            let added = self.handle.route().add(route).execute().await;
            added.map_err(|e| refused("add a route to", &link.name, &e))?;
        }
        Ok(())
    }

    /// Routes one address out of a link; this host calls itself `source` there. Another route to it gives way.
    pub async fn route_to(&self, link: &Link, ip: Ipv4Addr, source: Ipv4Addr) -> Result<(), LinkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(ip, 32)
            .scope(RouteScope::Link)
            .output_interface(link.index)
            .pref_source(source)
            .build();
        let added = self.handle.route().add(route).replace().execute().await;
        added.map_err(|e| refused("add a route to", &link.name, &e))
    }

    /// Routes a network out of a link.
    pub async fn route_network(&self, link: &Link, network: Ipv4Net) -> Result<(), LinkError> {
        let added = self
            .handle
            .route()
            .add(network_route(link, network))
            .execute()
            .await;
        added.map_err(|e| refused("add a route to", &link.name, &e))
    }

    /// Takes the route of a network out of a link away; one that is gone already is no error.
    pub async fn unroute_network(&self, link: &Link, network: Ipv4Net) -> Result<(), LinkError> {
        let removed = self
            .handle
            .route()
            .del(network_route(link, network))
            .execute()
            .await;
        match removed.map_err(|e| refused("remove a route to", &link.name, &e)) {
            Err(LinkError::Request { code, .. }) if code == -libc::ESRCH => Ok(()),
            other => other,
        }
    }

    /// All networks that this host routes.
    pub async fn networks(&self) -> Result<Vec<Routed>, LinkError> {
        Ok(self.routes().await?.iter().filter_map(routed).collect())
    }

    /// The MTU of the link the default route leaves by; None without such a route.
    pub async fn uplink_mtu(&self) -> Result<Option<u32>, LinkError> {
        let routes = self.routes().await?;
        let uplink = routes
            .iter()
            .filter(|r| r.header.destination_prefix_length == 0)
            .find_map(output);
        let Some(uplink) = uplink else { return Ok(None) };
        Ok(self
            .all()
            .await?
            .into_iter()
            .find(|link| link.index == uplink)
            .and_then(|link| link.mtu))
    }

    async fn routes(&self) -> Result<Vec<RouteMessage>, LinkError> {
        let routes = self
            .handle
            .route()
            .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
            .execute();
        routes
            .try_collect()
            .await
            .map_err(|e| refused("list", "routes", &e))
    }
}

impl Links {
    /// The name of a link other than the given one whose addresses and a range cannot both be used.
    pub async fn overlapping(&self, range: Ipv4Net, except: u32) -> Result<Option<String>, LinkError> {
        let addresses = self.addresses().await?;
        let mut others = addresses.iter().filter(|(index, _)| *index != except);
        match others.find(|(_, net)| overlap(range, *net)) {
            Some((index, _)) => self.name_of(*index).await,
            None => Ok(None),
        }
    }

    /// The addresses of all links by their index, each with its link's network.
    pub async fn addresses(&self) -> Result<Vec<(u32, Ipv4Net)>, LinkError> {
        let addresses = self.handle.address().get().execute();
        let addresses: Vec<_> = addresses
            .try_collect()
            .await
            .map_err(|e| refused("list", "addresses", &e))?;
        let of = |message: &AddressMessage| Some((message.header.index, network_of(message)?));
        Ok(addresses.iter().filter_map(of).collect())
    }

    /// The name of the link with this index.
    pub async fn name_of(&self, index: u32) -> Result<Option<String>, LinkError> {
        let owner = self.all().await?.into_iter().find(|link| link.index == index);
        Ok(owner.map(|link| link.name))
    }
}

/// Networks at least this wide (10.0.0.0/8, 172.16.0.0/12) are routed, not used to the last address: a range
/// cut out of one is common, and the route to it more specific.
const WIDE: u8 = 12;

/// Whether a range and an address with its network get in each other's way.
fn overlap(range: Ipv4Net, other: Ipv4Net) -> bool {
    range.contains(&other.addr()) || (other.prefix_len() > WIDE && other.contains(&range.network()))
}

fn network_route(link: &Link, network: Ipv4Net) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(network.network(), network.prefix_len())
        .scope(RouteScope::Link)
        .output_interface(link.index)
        .build()
}

fn routed(route: &RouteMessage) -> Option<Routed> {
    let to = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })?;
    Some(Routed {
        network: Ipv4Net::new(to, route.header.destination_prefix_length).ok()?,
        link: output(route),
        is_kernels: route.header.protocol == RouteProtocol::Kernel,
    })
}

fn output(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn network_of(message: &AddressMessage) -> Option<Ipv4Net> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(IpAddr::V4(ip)) => Some(*ip),
        _ => None,
    })?;
    Ipv4Net::new(address, message.header.prefix_len).ok()
}

impl Drop for Links {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn describe(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        address: Vec::new(),
        mtu: None,
        up: message.header.flags.contains(LinkFlags::Up),
        is_bridge: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(address) => link.address.clone_from(address),
            LinkAttribute::Mtu(mtu) => link.mtu = Some(*mtu),
            LinkAttribute::LinkInfo(infos) => {
                link.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
            }
            _ => {}
        }
    }
    link
}

fn refused(step: &'static str, link: &str, error: &rtnetlink::Error) -> LinkError {
    let (reason, code) = match error {
        rtnetlink::Error::NetlinkError(message) => (message.to_io().to_string(), message.raw_code()),
        other => (other.to_string(), 0),
    };
    LinkError::Request {
        step,
        link: link.to_owned(),
        reason,
        code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_use_overlap_and_ranges_of_wide_networks_do_not() {
        for (other, expected) in [
            ("10.244.0.9/32", true),
            ("10.244.7.1/24", true),
            ("10.240.0.1/12", false),
            ("10.0.0.1/8", false),
            ("10.244.1.1/8", true),
            ("10.245.0.1/15", true),
            ("192.168.0.2/24", false),
            ("127.0.0.1/8", false),
        ] {
            let range = "10.244.0.0/16".parse().unwrap();
            assert_eq!(overlap(range, other.parse().unwrap()), expected, "{other}");
        }
    }
}
