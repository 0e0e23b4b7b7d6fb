//! The cluster's names, answered on every node for its own Pods.
//!
//! The Service `kube-dns` leads to the gateway's address, where this listens: no Pod, no cache that could be behind,
//! and no way to another node. Refuses to know nftables and Pods. `zone` knows names, `message` bytes, `forward` whom to
//! ask for names that are not the cluster's, `server` sockets.

mod forward;
mod message;
mod server;
mod zone;

use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use simple_dns::{RCODE, ResourceRecord};

use forward::Forwarder;
use message::{Query, Refusal, Reply};
pub use server::run;
pub use zone::DOMAIN;
use zone::{Data, Knowledge, Record, Zone};

/// Answers queries from what the cluster and the host's resolvers know.
pub struct Resolver {
    address: Ipv4Addr,
    /// None until Services and endpoints are known: better no answer than that there is nobody.
    zone: RwLock<Option<Arc<Zone>>>,
    forwarder: Forwarder,
}

impl Resolver {
    /// One that is to listen at `address`.
    pub fn new(address: Ipv4Addr) -> Self {
        Self {
            address,
            zone: RwLock::new(None),
            forwarder: Forwarder::new(address.into()),
        }
    }

    /// Takes over what Services and EndpointSlices are now.
    pub fn learn(&self, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) {
        let zone = Zone::new(
            services.iter().map(AsRef::as_ref),
            slices.iter().map(AsRef::as_ref),
        );
        *self.zone.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(zone));
    }

    fn zone(&self) -> Option<Arc<Zone>> {
        self.zone.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The answer to a message; nothing to what is not a query.
    async fn answer(&self, bytes: &[u8], udp: bool) -> Option<Vec<u8>> {
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(Refusal::Noise) => return None,
            Err(Refusal::Code(code)) => return message::refuse(bytes, code),
        };
        let Some(zone) = self.zone() else {
            return message::refuse(bytes, RCODE::ServerFailure);
        };
        match zone.look_up(&query.name) {
            Knowledge::Known(records) => {
                let reply = self.known(&zone, &query, &records, udp).await;
                query.answer(reply, udp)
            }
            Knowledge::Nobody => query.answer(nobody(), udp),
            Knowledge::Elsewhere => match self.forwarder.ask(bytes, udp).await {
                Ok(answer) => Some(answer),
                Err(error) => {
                    tracing::debug!(%error, name = query.name, "a name was not resolved");
                    message::refuse(bytes, RCODE::ServerFailure)
                }
            },
        }
    }

    async fn known(&self, zone: &Zone, query: &Query, records: &[Record], udp: bool) -> Reply {
        let wanted = records.iter().filter(|record| query.wants(&record.data));
        let mut reply = Reply {
            answers: wanted.clone().filter_map(message::record).collect(),
            additional: wanted.flat_map(|record| addresses(zone, record)).collect(),
            authoritative: true,
            ..Reply::default()
        };
        spread(&mut reply.answers);
        if let Some(target) = alias(records).filter(|_| !query.is_about_aliases()) {
            self.follow(zone, query, target, &mut reply, udp).await;
        }
        reply
    }

    /// What an alias leads to, since few clients ask again by themselves.
    async fn follow(&self, zone: &Zone, query: &Query, target: &str, reply: &mut Reply, udp: bool) {
        match zone.look_up(target) {
            Knowledge::Known(records) => {
                let wanted = records.iter().filter(|record| query.wants(&record.data));
                reply.answers.extend(wanted.filter_map(message::record));
            }
            Knowledge::Nobody => reply.code = Some(RCODE::NameError),
            Knowledge::Elsewhere => {
                let Some(question) = query.about(target) else {
                    return;
                };
                let asked = self.forwarder.ask(&question, udp).await.ok();
                match asked.as_deref().and_then(message::answers) {
                    Some((code, records)) => {
                        reply.answers.extend(records);
                        reply.code = Some(code);
                    }
                    None => reply.code = Some(RCODE::ServerFailure),
                }
            }
        }
    }
}

fn nobody() -> Reply {
    Reply {
        code: Some(RCODE::NameError),
        authoritative: true,
        ..Reply::default()
    }
}

fn alias(records: &[Record]) -> Option<&str> {
    records.iter().find_map(|record| match &record.data {
        Data::Alias(target) => Some(target.as_str()),
        _ => None,
    })
}

/// The addresses of the host that a port is at.
fn addresses(zone: &Zone, record: &Record) -> Vec<ResourceRecord<'static>> {
    let Data::Location { target, .. } = &record.data else {
        return Vec::new();
    };
    match zone.look_up(target) {
        Knowledge::Known(records) => records.iter().filter_map(message::record).collect(),
        Knowledge::Nobody | Knowledge::Elsewhere => Vec::new(),
    }
}

/// Clients take the first: each time it is another.
fn spread(answers: &mut [ResourceRecord<'static>]) {
    if answers.len() > 1 {
        answers.rotate_left(rand::random_range(0..answers.len()));
    }
}

#[cfg(test)]
mod tests;
