//! Names that are not the cluster's: asked of the host's own resolvers, as `/etc/resolv.conf` lists them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use amphipod_shim_api::resolver::{over_tcp, over_udp};
use tokio::time::timeout;

/// How long a resolver may take before the next is asked; a client's own patience is 5 s (resolv.conf(5)).
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the list of resolvers is believed.
const KEPT: Duration = Duration::from_secs(10);
/// Resolvers that are asked, as the C library has it (MAXNS).
const MOST: usize = 3;
const RESOLV_CONF: &str = "/etc/resolv.conf";

#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("{RESOLV_CONF} names no resolver but this one")]
    Nobody,
    #[error("no resolver of the host answered; the last said: {0}")]
    Silent(io::Error),
}

/// The host's resolvers, without ourselves: a query must not go in circles.
pub struct Forwarder {
    own: IpAddr,
    known: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

impl Forwarder {
    /// `own` is the address we answer at.
    pub fn new(own: IpAddr) -> Self {
        Self {
            own,
            known: Mutex::new(None),
        }
    }

    /// Somebody's answer to a query, byte for byte but for its id.
    pub async fn ask(&self, query: &[u8], udp: bool) -> Result<Vec<u8>, ForwardError> {
        let mut last = None;
        for server in self.servers().await {
            let asked = async {
                match udp {
                    true => by_datagram(server, query).await,
                    false => over_tcp(server, query).await,
                }
            };
            match timeout(PATIENCE, asked).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = Some(error),
                Err(late) => last = Some(late.into()),
            }
        }
        Err(last.map_or(ForwardError::Nobody, ForwardError::Silent))
    }

    async fn servers(&self) -> Vec<SocketAddr> {
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, servers)) = lock().as_ref()
            && read.elapsed() < KEPT
        {
            return servers.clone();
        }
        let text = tokio::fs::read_to_string(RESOLV_CONF).await.unwrap_or_default();
        let servers = servers(&text, self.own);
        *lock() = Some((Instant::now(), servers.clone()));
        servers
    }
}

/// The resolvers that a resolv.conf names; the host itself where it names none (resolv.conf(5)).
fn servers(text: &str, own: IpAddr) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok())?
    });
    let mut named: Vec<IpAddr> = named.take(MOST).collect();
    if named.is_empty() {
        named.push(Ipv4Addr::LOCALHOST.into());
    }
    named.retain(|ip| *ip != own);
    named.into_iter().map(|ip| SocketAddr::new(ip, 53)).collect()
}

/// With an id of our own, which whoever wants to answer for the resolver has to guess.
async fn by_datagram(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let Some((id, rest)) = query.split_first_chunk::<2>() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let asked = [&rand::random::<[u8; 2]>(), rest].concat();
    let mut answer = over_udp(server, &asked, usize::from(u16::MAX)).await?;
    answer[..id.len()].copy_from_slice(id);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UdpSocket;

    #[test]
    fn resolvers_of_the_host() {
        let own: IpAddr = "10.42.0.1".parse().unwrap();
        for (text, want) in [
            (
                "# x\nnameserver 192.0.2.1\nsearch a\n  nameserver fd00::1\n",
                "192.0.2.1:53 [fd00::1]:53",
            ),
            ("nameserver 10.42.0.1\nnameserver 192.0.2.1", "192.0.2.1:53"),
            ("nameserver 10.42.0.1", ""),
            ("nameserver x\nnameserver\n", "127.0.0.1:53"),
            ("", "127.0.0.1:53"),
        ] {
            let found: Vec<String> = servers(text, own).iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), want, "{text}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_the_resolvers_with_the_clients_id() {
        let resolver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = resolver.local_addr().unwrap();
        let answering = async {
            let mut buffer = [0; 512];
            let (length, client) = resolver.recv_from(&mut buffer).await.unwrap();
            assert_eq!(&buffer[2..length], b"rest of it");
            resolver.send_to(b"\0\0forged one", client).await.unwrap();
            buffer[length..length + 2].copy_from_slice(b"ok");
            resolver.send_to(&buffer[..length + 2], client).await.unwrap();
        };
        let (answer, ()) = tokio::join!(by_datagram(server, b"idrest of it"), answering);
        let answer = answer.unwrap();
        assert!(
            answer == b"idrest of itok" || answer == b"idforged one",
            "one in 65536 ids is what was forged"
        );
    }
}
