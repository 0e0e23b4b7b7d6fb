//! Connections to what listens on a Pod's loopback: made by a thread inside the Pod's network namespace.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// A connection to the loopback is made or refused at once, unless whoever listens accepts nothing.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Connects to `localhost:port` in a network namespace, or in the host's.
pub async fn connect(namespace: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    let (done, dialled) = oneshot::channel();
    std::thread::Builder::new()
        .name("pod-dial".into())
        .spawn(move || {
            // The receiver is gone when the client is.
            let _ = done.send(dial(namespace, port));
        })?;
    let stream = dialled.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn dial(namespace: Option<PathBuf>, port: u16) -> io::Result<std::net::TcpStream> {
    if let Some(namespace) = namespace {
        setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?;
    }
    let connect =
        |ip: IpAddr| std::net::TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT_LIMIT);
    let first = connect(Ipv4Addr::LOCALHOST.into());
    first.or_else(|error| connect(Ipv6Addr::LOCALHOST.into()).map_err(|_| error))
}
