//! The sockets: UDP and TCP at the gateway's address.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Resolver;

/// Where the Service's endpoints listen. Not 53: a resolver of the host's that listens on all addresses would be in the
/// way.
const PORT: u16 = 10053;
/// Queries over UDP being answered at once; more are dropped, and asked again by who sent them.
const QUERIES: usize = 512;
/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 128;
/// How long a connection may say nothing (RFC 7766 suggests a few seconds).
const IDLE: Duration = Duration::from_secs(10);
/// The largest query over UDP that is read: far more than a question and its options take.
const QUERY_BYTES: usize = 4096;
/// How long until a port that was taken is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Answers until told to stop.
pub async fn run(resolver: Arc<Resolver>, shutdown: CancellationToken) {
    let address = SocketAddr::from((resolver.address, PORT));
    let serving = async {
        tokio::join!(
            keep("UDP", address, || serve_udp(&resolver, address)),
            keep("TCP", address, || serve_tcp(&resolver, address)),
        )
    };
    shutdown.run_until_cancelled(serving).await;
}

/// Starts a server anew whenever it cannot listen, or no longer.
async fn keep<F: Future<Output = io::Error>>(protocol: &str, address: SocketAddr, serve: impl Fn() -> F) {
    loop {
        let error = serve().await;
        tracing::error!(%error, protocol, %address, "cluster DNS does not answer; trying again");
        sleep(RETRY).await;
    }
}

async fn serve_udp(resolver: &Arc<Resolver>, address: SocketAddr) -> io::Error {
    let socket = match UdpSocket::bind(address).await {
        Ok(socket) => Arc::new(socket),
        Err(error) => return error,
    };
    let seats = Arc::new(Semaphore::new(QUERIES));
    let mut buffer = vec![0; QUERY_BYTES];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => return error,
        };
        let Ok(seat) = seats.clone().try_acquire_owned() else {
            continue;
        };
        let query = buffer[..length].to_vec();
        let (socket, resolver) = (socket.clone(), resolver.clone());
        tokio::spawn(async move {
            if let Some(answer) = resolver.answer(&query, true).await
                && let Err(error) = socket.send_to(&answer, client).await
            {
                tracing::debug!(%error, %client, "an answer was not sent");
            }
            drop(seat);
        });
    }
}

async fn serve_tcp(resolver: &Arc<Resolver>, address: SocketAddr) -> io::Error {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let seat = match seats.clone().acquire_owned().await {
            Ok(seat) => seat,
            Err(closed) => return io::Error::other(closed),
        };
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => return error,
        };
        let resolver = resolver.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(&resolver, stream).await {
                tracing::debug!(%error, %client, "a DNS connection ended");
            }
            drop(seat);
        });
    }
}

/// One query after the other, until the client has no more.
async fn converse(resolver: &Resolver, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let query = match timeout(IDLE, read_message(&mut stream)).await?? {
            Some(query) => query,
            None => return Ok(()),
        };
        let Some(answer) = resolver.answer(&query, false).await else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let message = [&length.to_be_bytes(), answer.as_slice()].concat();
        timeout(IDLE, stream.write_all(&message)).await??;
    }
}

/// A message after its length; `None` when the client hung up.
async fn read_message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}
