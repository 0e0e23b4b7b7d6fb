//! One question to one resolver (RFC 1035; over TCP when the answer does not fit a datagram, RFC 7766).
//!
//! Owns what is asked and answered. Refuses to know search domains.

use amphipod_shim_api::resolver::{over_tcp, over_udp};
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of an answer: the question offers no more (RFC 1035, 2.3.4), but some send more all the same.
const MAX_DATAGRAM: usize = 4 << 10;

/// Addresses taken of one answer.
const MAX_ADDRESSES: usize = 64;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    V4,
    V6,
}

/// The addresses of a name; none when there is no such name, or it has none of this kind.
pub type Answer = Vec<IpAddr>;

/// Why a resolver gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("malformed: {0}")]
    Malformed(#[from] simple_dns::SimpleDnsError),
    #[error("{0:?}")]
    Refused(RCODE),
}

/// Asks; again over TCP when the answer was cut and `more` says that it may. No time limit of its own.
///
/// # Errors
/// When there is no answer, or one that is neither addresses nor the absence of the name.
pub async fn ask(server: SocketAddr, name: &str, kind: Kind, more: bool) -> Result<Answer, QueryError> {
    let id: u16 = rand::random();
    let query = query(id, name, kind)?;
    let mut answer = over_udp(server, &query, MAX_DATAGRAM).await?;
    if more && Packet::parse(&answer).is_ok_and(|packet| packet.has_flags(PacketFlag::TRUNCATION)) {
        answer = over_tcp(server, &query).await?;
    }
    read(&answer, id)
}

fn query(id: u16, name: &str, kind: Kind) -> Result<Vec<u8>, QueryError> {
    let wanted = match kind {
        Kind::V4 => TYPE::A,
        Kind::V6 => TYPE::AAAA,
    };
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let question = Question::new(Name::new(name)?, wanted.into(), CLASS::IN.into(), false);
    packet.questions.push(question);
    Ok(packet.build_bytes_vec()?)
}

fn read(bytes: &[u8], id: u16) -> Result<Answer, QueryError> {
    let packet = Packet::parse(bytes)?;
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) {
        return Err(io::Error::from(io::ErrorKind::InvalidData).into());
    }
    match packet.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Ok(Vec::new()),
        other => return Err(QueryError::Refused(other)),
    }
    let addresses = packet.answers.iter().filter_map(|record| match &record.rdata {
        RData::A(a) => Some(Ipv4Addr::from(a.address).into()),
        RData::AAAA(a) => Some(Ipv6Addr::from(a.address).into()),
        _ => None,
    });
    Ok(addresses.take(MAX_ADDRESSES).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, UdpSocket};

    #[test]
    fn answers() {
        let mut reply = Packet::new_reply(7);
        assert!(read(&reply.build_bytes_vec().unwrap(), 7).unwrap().is_empty());
        assert!(read(&reply.build_bytes_vec().unwrap(), 8).is_err());
        *reply.rcode_mut() = RCODE::NameError;
        assert!(read(&reply.build_bytes_vec().unwrap(), 7).unwrap().is_empty());
        *reply.rcode_mut() = RCODE::ServerFailure;
        assert!(matches!(
            read(&reply.build_bytes_vec().unwrap(), 7),
            Err(QueryError::Refused(RCODE::ServerFailure))
        ));
        assert!(read(b"\0\x07nonsense", 7).is_err());
    }

    #[tokio::test]
    async fn an_answer_that_was_cut_is_asked_for_again_over_tcp() {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let server = udp.local_addr().unwrap();
        let cut = async {
            let mut bytes = [0; 512];
            let (length, from) = udp.recv_from(&mut bytes).await.unwrap();
            let mut reply = Packet::new_reply(Packet::parse(&bytes[..length]).unwrap().id());
            reply.set_flags(PacketFlag::TRUNCATION);
            udp.send_to(&reply.build_bytes_vec().unwrap(), from)
                .await
                .unwrap();
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut query).await.unwrap();
            let reply = Packet::new_reply(Packet::parse(&query).unwrap().id());
            let bytes = reply.build_bytes_vec().unwrap();
            stream.write_u16(bytes.len() as u16).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        };
        let (answer, ()) = tokio::join!(ask(server, "web.example", Kind::V4, true), cut);
        assert!(answer.unwrap().is_empty());
    }
}
