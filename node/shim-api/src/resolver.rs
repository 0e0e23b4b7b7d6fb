//! One query to one resolver, as bytes (RFC 1035; over TCP, RFC 7766).
//!
//! Owns the two transports. Refuses to know what is in a query but its id, and puts no limit on time.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

/// As much as every message begins with (RFC 1035, section 4.1.1).
const HEADER: usize = 12;

/// Asks by a datagram, and takes the first message that comes back with the query's id. `most` bytes of it are read.
///
/// The socket is one of its own, so that port and id both have to be guessed by who wants to answer for the resolver.
///
/// # Errors
/// When the query is too short to have an id, or the resolver cannot be reached.
pub async fn over_udp(server: SocketAddr, query: &[u8], most: usize) -> io::Result<Vec<u8>> {
    let id: [u8; 2] = *query
        .first_chunk()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let any: IpAddr = match server.is_ipv4() {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut answer = vec![0; most];
    loop {
        let length = socket.recv(&mut answer).await?;
        if length >= HEADER && answer.starts_with(&id) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

/// Asks on a connection.
///
/// # Errors
/// When the query is too long for one, or the resolver cannot be reached or ends the connection.
pub async fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_to_another_query_is_not_taken() {
        let resolver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = resolver.local_addr().unwrap();
        let answering = async {
            let mut buffer = [0; 16];
            let (length, client) = resolver.recv_from(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], b"id and more");
            for answer in [&b"ix forged answer"[..], b"i", b"id", b"id as an answer"] {
                resolver.send_to(answer, client).await.unwrap();
            }
        };
        let (answer, ()) = tokio::join!(over_udp(server, b"id and more", HEADER), answering);
        assert_eq!(answer.unwrap(), b"id as an ans", "no more than was asked for");
        let short = over_udp(server, b"i", HEADER).await.unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::InvalidInput);
    }
}
