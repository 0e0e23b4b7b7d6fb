//! Names looked up as the C library of a native neighbour would: the Pod's hosts file, then the resolvers and search
//! domains of the Pod's `resolv.conf` (hosts(5), resolv.conf(5)).
//!
//! Owns the order of questions. Refuses to know guests and interfaces. Sockets are made on the calling thread, so in
//! the network of its Pod.

mod hosts;
mod query;
mod settings;

use crate::guest::narrowing::Narrowing;
use amphipod_shim_api::network::Protocol;
use hosts::Hosts;
use query::{Answer, Kind, QueryError, ask};
use settings::Settings;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// What is read where the container's bundle mounts no file of its own.
pub const HOSTS: &str = "/etc/hosts";
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Bytes read of either file.
const MAX_FILE: u64 = 256 << 10;

/// Names one container may have looked up at once; more wait.
const MAX_AT_ONCE: usize = 32;

/// Longest name (RFC 1035, 2.3.4), without the final dot.
const MAX_NAME: usize = 253;

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("not a name")]
    Invalid,
    #[error("no such name")]
    NotFound,
    #[error("no resolver answered in time")]
    Timeout,
    #[error("the network policies of the Pod allow none of its resolvers")]
    Denied,
    #[error("no resolver could answer: {0}")]
    Failed(String),
}

/// Where the names of one container come from.
#[derive(Debug)]
pub struct Names {
    settings: Settings,
    hosts: Hosts,
    turns: Semaphore,
    /// Whom it may ask.
    narrowing: Arc<Narrowing>,
}

impl Names {
    /// Reads the files' texts; what is not understood is left out.
    pub fn parse(resolv_conf: &str, hosts: &str) -> Self {
        Self {
            settings: Settings::parse(resolv_conf),
            hosts: Hosts::parse(hosts),
            turns: Semaphore::new(MAX_AT_ONCE),
            narrowing: Arc::default(),
        }
    }

    /// The same, asking only whom these rules allow.
    pub fn within(self, narrowing: Arc<Narrowing>) -> Self {
        Self { narrowing, ..self }
    }

    /// The addresses of a name or of an address written out.
    ///
    /// # Errors
    /// When it has none, or nobody knows.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NameError> {
        let name = match url::Host::parse(name) {
            Ok(url::Host::Ipv4(address)) => return Ok(vec![address.into()]),
            Ok(url::Host::Ipv6(address)) => return Ok(vec![address.into()]),
            Ok(url::Host::Domain(name)) => name,
            Err(_) => return name.parse().map(|ip| vec![ip]).map_err(|_| NameError::Invalid),
        };
        if name.trim_end_matches('.').len() > MAX_NAME {
            return Err(NameError::Invalid);
        }
        let known = self.hosts.addresses(&name);
        if !known.is_empty() {
            return Ok(known);
        }
        // It is never closed.
        let _turn = self.turns.acquire().await.map_err(|_| NameError::NotFound)?;
        for full in self.settings.candidates(&name) {
            let found = self.look_up(&full).await?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Err(NameError::NotFound)
    }

    /// Asks the resolvers in turn until one answers; nothing is an answer.
    async fn look_up(&self, full: &str) -> Result<Vec<IpAddr>, NameError> {
        let may_ask = |server: &SocketAddr| self.narrowing.lets_out(Protocol::Udp, *server);
        let servers: Vec<_> = self.settings.servers.iter().copied().filter(may_ask).collect();
        let mut last = match servers.is_empty() {
            true => NameError::Denied,
            false => NameError::Timeout,
        };
        for _ in 0..self.settings.attempts {
            for server in &servers {
                let more = self.narrowing.lets_out(Protocol::Tcp, *server);
                let ask = |kind| ask(*server, full, kind, more);
                let both = async { tokio::join!(ask(Kind::V4), ask(Kind::V6)) };
                match timeout(self.settings.patience, both).await {
                    Err(_) => last = NameError::Timeout,
                    Ok(answers) => match merged(answers) {
                        Ok(addresses) => return Ok(addresses),
                        Err(error) => last = NameError::Failed(error.to_string()),
                    },
                }
            }
        }
        Err(last)
    }
}

/// IPv4 first: Pods have no other addresses of their own. Half an answer counts if it has an address.
fn merged(
    (v4, v6): (Result<Answer, QueryError>, Result<Answer, QueryError>),
) -> Result<Vec<IpAddr>, QueryError> {
    let found: Vec<IpAddr> = [&v4, &v6].into_iter().flatten().flatten().copied().collect();
    if found.is_empty() {
        v4?;
        v6?;
    }
    Ok(found)
}

/// The text of one of the files; one that is missing says nothing (resolv.conf(5)). A FIFO that a volume has put there is not
/// waited for.
///
/// # Errors
/// When it is there and cannot be read.
pub fn text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    match opened {
        Ok(file) => drop(file.take(MAX_FILE).read_to_end(&mut bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::rdata::{A, RData};
    use simple_dns::{CLASS, Name, Packet, RCODE, ResourceRecord};
    use std::net::Ipv4Addr;
    use std::sync::{Arc, Mutex};
    use tokio::net::UdpSocket;

    const KNOWN: &str = "web.shop.svc.cluster.local";

    #[test]
    fn a_fifo_is_not_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let fifo = home.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(text(&fifo).unwrap(), "");
    }

    /// A resolver that knows one name; answers where it listens and what it was asked.
    async fn resolver() -> (std::net::SocketAddr, Arc<Mutex<Vec<String>>>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut bytes = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
                let query = Packet::parse(&bytes[..length]).unwrap();
                let mut reply = Packet::new_reply(query.id());
                let question = query.questions[0].clone();
                let name = question.qname.to_string();
                seen.lock().unwrap().push(name.clone());
                if name != KNOWN {
                    *reply.rcode_mut() = RCODE::NameError;
                } else if question.qtype == simple_dns::TYPE::A.into() {
                    let record = RData::A(A {
                        address: Ipv4Addr::new(10, 43, 0, 7).into(),
                    });
                    reply.answers.push(ResourceRecord::new(
                        Name::new_unchecked(KNOWN),
                        CLASS::IN,
                        5,
                        record,
                    ));
                }
                reply.questions.push(question);
                socket
                    .send_to(&reply.build_bytes_vec().unwrap(), from)
                    .await
                    .unwrap();
            }
        });
        (address, asked)
    }

    #[tokio::test]
    async fn short_names_are_looked_for_in_the_search_domains() {
        let (address, asked) = resolver().await;
        let mut names = Names::parse(
            "search shop.svc.cluster.local svc.cluster.local\nnameserver 192.0.2.1\noptions ndots:5\n",
            "10.42.0.9 me\n",
        );
        names.settings.servers = vec![address];
        let web: IpAddr = [10, 43, 0, 7].into();
        for name in ["web", "web.shop", "web.shop.svc.cluster.local."] {
            assert_eq!(names.resolve(name).await, Ok(vec![web]), "{name}");
        }
        assert_eq!(names.resolve("nobody").await, Err(NameError::NotFound));
        let heard = asked.lock().unwrap().clone();
        assert!(heard.contains(&"web.shop.shop.svc.cluster.local".to_owned()));
        asked.lock().unwrap().clear();
        assert_eq!(names.resolve("ME").await, Ok(vec![[10, 42, 0, 9].into()]));
        assert_eq!(names.resolve("192.0.2.7").await, Ok(vec![[192, 0, 2, 7].into()]));
        assert_eq!(
            names.resolve("::1").await,
            Ok(vec![IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)])
        );
        assert!(
            asked.lock().unwrap().is_empty(),
            "none of these is anybody else's"
        );
    }

    #[tokio::test]
    async fn what_is_no_name_is_not_asked_for() {
        let names = Names::parse("nameserver 192.0.2.1\n", "");
        for bad in ["", "a b", "a/b", &format!("{}.x", "a.".repeat(150))] {
            assert_eq!(names.resolve(bad).await, Err(NameError::Invalid), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_resolver_that_is_silent_is_a_timeout() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut names = Names::parse("options timeout:1 attempts:1\n", "");
        names.settings.servers = vec![silent.local_addr().unwrap()];
        assert_eq!(names.resolve("web").await, Err(NameError::Timeout));
    }

    #[test]
    fn files_that_are_missing_say_nothing() {
        assert_eq!(text(Path::new("/nonexistent")).unwrap(), "");
        assert!(text(Path::new("/")).is_err());
    }
}
