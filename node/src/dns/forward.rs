//! Names that are not the cluster's: asked of the host's own resolvers, as `/etc/resolv.conf` lists them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
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
                    true => over_udp(server, query).await,
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

async fn over_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server.is_ipv4() {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A socket of its own, so that port and id both have to be guessed by who wants to answer for the resolver.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let (asked, id) = with_another_id(query);
    socket.send(&asked).await?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut answer).await?;
        if length > query_id(query).len() && answer[..2] == id {
            answer.truncate(length);
            answer[..2].copy_from_slice(query_id(query));
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn query_id(query: &[u8]) -> &[u8] {
    query.get(..2).unwrap_or_default()
}

fn with_another_id(query: &[u8]) -> (Vec<u8>, [u8; 2]) {
    let id: [u8; 2] = rand::random();
    let rest = query.get(2..).unwrap_or_default();
    ([&id, rest].concat(), id)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(&buffer[2..length], b"rest");
            resolver.send_to(b"\0\0forged", client).await.unwrap();
            buffer[length..length + 2].copy_from_slice(b"ok");
            resolver.send_to(&buffer[..length + 2], client).await.unwrap();
        };
        let (answer, ()) = tokio::join!(over_udp(server, b"idrest"), answering);
        let answer = answer.unwrap();
        assert!(
            answer == b"idrestok" || answer == b"idforged",
            "one in 65536 ids is what was forged"
        );
    }
}
