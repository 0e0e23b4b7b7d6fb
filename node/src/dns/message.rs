//! Messages on the wire (RFC 1035, RFC 6891): what a query asks, and an answer made of records.

use std::net::IpAddr;

use simple_dns::rdata::{A, AAAA, CNAME, OPT, PTR, RData, SOA, SRV, TXT};
use simple_dns::{
    CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, SimpleDnsError,
    TYPE,
};

use super::zone::{DOMAIN, Data, Record};

/// How long clients may keep what they were told, in seconds: as short as CoreDNS has it, since Pods come and go.
pub const TTL: u32 = 5;
/// What every client takes over UDP (RFC 1035).
const UDP_LEAST: u16 = 512;
/// The most that is sent over UDP, whatever a client takes: what crosses networks in one piece (DNS Flag Day 2020).
const UDP_MOST: u16 = 1232;
const HEADER: usize = 12;

/// Why a query is answered with a code and nothing else.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not a query: not answered at all.
    Noise,
    Code(RCODE),
}

/// A query with its one question.
#[derive(Debug)]
pub struct Query {
    packet: Packet<'static>,
    pub question: Question<'static>,
    /// Lower-case, without a dot at the end.
    pub name: String,
}

/// What is said to a query.
#[derive(Debug, Default)]
pub struct Reply {
    pub code: Option<RCODE>,
    pub answers: Vec<ResourceRecord<'static>>,
    pub additional: Vec<ResourceRecord<'static>>,
    /// Whether we are who knows.
    pub authoritative: bool,
}

impl Query {
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let is_query = bytes.len() >= HEADER && bytes[2] & 0x80 == 0;
        if !is_query {
            return Err(Refusal::Noise);
        }
        let packet = Packet::parse(bytes).map_err(|error| {
            Refusal::Code(match error {
                SimpleDnsError::InvalidQType(_) => RCODE::NotImplemented,
                _ => RCODE::FormatError,
            })
        })?;
        if packet.opcode() != OPCODE::StandardQuery {
            return Err(Refusal::Code(RCODE::NotImplemented));
        }
        let [question] = packet.questions.as_slice() else {
            return Err(Refusal::Code(RCODE::FormatError));
        };
        let question = question.clone().into_owned();
        let in_the_internet = matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY);
        if !in_the_internet || matches!(question.qtype, QTYPE::AXFR | QTYPE::IXFR) {
            return Err(Refusal::Code(RCODE::Refused));
        }
        let mut head = Packet::new_query(packet.id());
        head.set_flags(packet_flags(&packet));
        *head.opt_mut() = packet.opt().map(|opt| OPT {
            opt_codes: Vec::new(),
            udp_packet_size: opt.udp_packet_size,
            version: 0,
        });
        let name = question.qname.to_string().to_ascii_lowercase();
        Ok(Self {
            packet: head,
            question,
            name,
        })
    }

    /// The same question about another name, as a message of its own.
    pub fn about(&self, name: &str) -> Option<Vec<u8>> {
        let mut packet = Packet::new_query(0);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).ok()?.into_owned();
        packet.questions.push(Question::new(
            name,
            self.question.qtype,
            self.question.qclass,
            false,
        ));
        packet.build_bytes_vec().ok()
    }

    /// Whether records of this type answer the question; an alias answers every one.
    pub fn wants(&self, data: &Data) -> bool {
        let of = |wanted| match data {
            Data::Address(IpAddr::V4(_)) => wanted == TYPE::A,
            Data::Address(IpAddr::V6(_)) => wanted == TYPE::AAAA,
            Data::Alias(_) => true,
            Data::Location { .. } => wanted == TYPE::SRV,
            Data::Pointer(_) => wanted == TYPE::PTR,
            Data::Text(_) => wanted == TYPE::TXT,
        };
        match self.question.qtype {
            QTYPE::TYPE(wanted) => of(wanted),
            QTYPE::ANY => true,
            _ => false,
        }
    }

    /// Whether an alias is what was asked for, not a way to it.
    pub fn is_about_aliases(&self) -> bool {
        matches!(self.question.qtype, QTYPE::TYPE(TYPE::CNAME) | QTYPE::ANY)
    }

    /// The reply as bytes; over UDP what does not fit is left out, and that is said.
    pub fn answer(&self, reply: Reply, udp: bool) -> Option<Vec<u8>> {
        let mut packet = Packet::new_reply(self.packet.id());
        let mut flags = packet_flags(&self.packet) | PacketFlag::RECURSION_AVAILABLE;
        if reply.authoritative {
            flags |= PacketFlag::AUTHORITATIVE_ANSWER;
        }
        packet.set_flags(flags);
        *packet.rcode_mut() = reply.code.unwrap_or(RCODE::NoError);
        *packet.opt_mut() = self.packet.opt().map(|_| OPT {
            opt_codes: Vec::new(),
            udp_packet_size: UDP_MOST,
            version: 0,
        });
        packet.questions.push(self.question.clone());
        if reply.authoritative && reply.answers.is_empty() {
            packet.name_servers.extend(authority());
        }
        packet.answers = reply.answers;
        packet.additional_records = reply.additional;
        let limit = if udp {
            self.udp_limit()
        } else {
            usize::from(u16::MAX)
        };
        let whole = packet.build_bytes_vec_compressed().ok()?;
        if whole.len() <= limit {
            return Some(whole);
        }
        packet.additional_records.clear();
        let enough = packet.build_bytes_vec_compressed().ok()?;
        if enough.len() <= limit {
            return Some(enough);
        }
        packet.answers.clear();
        packet.set_flags(PacketFlag::TRUNCATION);
        packet.build_bytes_vec_compressed().ok()
    }

    fn udp_limit(&self) -> usize {
        let taken = self.packet.opt().map_or(UDP_LEAST, |opt| opt.udp_packet_size);
        usize::from(taken.clamp(UDP_LEAST, UDP_MOST))
    }
}

/// What a reply repeats of a query's flags.
fn packet_flags(packet: &Packet<'_>) -> PacketFlag {
    match packet.has_flags(PacketFlag::RECURSION_DESIRED) {
        true => PacketFlag::RECURSION_DESIRED,
        false => PacketFlag::empty(),
    }
}

/// A reply that is a code, to a query that could not be read: its header alone.
pub fn refuse(query: &[u8], code: RCODE) -> Option<Vec<u8>> {
    let id = u16::from_be_bytes([*query.first()?, *query.get(1)?]);
    let mut packet = Packet::new_reply(id);
    *packet.rcode_mut() = code;
    packet.build_bytes_vec().ok()
}

/// A record on the wire; none for a name that cannot be there.
pub fn record(record: &Record) -> Option<ResourceRecord<'static>> {
    let name = |text: &str| Some(Name::new(text).ok()?.into_owned());
    let data = match &record.data {
        Data::Address(IpAddr::V4(ip)) => RData::A(A::from(*ip)),
        Data::Address(IpAddr::V6(ip)) => RData::AAAA(AAAA::from(*ip)),
        Data::Alias(target) => RData::CNAME(CNAME(name(target)?)),
        Data::Pointer(target) => RData::PTR(PTR(name(target)?)),
        Data::Location { port, target } => RData::SRV(SRV {
            priority: 0,
            weight: 100,
            port: *port,
            target: name(target)?,
        }),
        Data::Text(text) => RData::TXT(TXT::new().with_string(text).ok()?.into_owned()),
    };
    Some(ResourceRecord::new(name(&record.name)?, CLASS::IN, TTL, data))
}

/// Who knows the zone, so that clients keep what is not there as briefly as what is (RFC 2308).
fn authority() -> Option<ResourceRecord<'static>> {
    let name = |text: String| Some(Name::new(&text).ok()?.into_owned());
    let soa = SOA {
        mname: name(format!("ns.dns.{DOMAIN}"))?,
        rname: name(format!("hostmaster.{DOMAIN}"))?,
        serial: 1,
        refresh: 7200,
        retry: 1800,
        expire: 86400,
        minimum: TTL,
    };
    Some(ResourceRecord::new(
        name(DOMAIN.to_owned())?,
        CLASS::IN,
        TTL,
        RData::SOA(soa),
    ))
}

/// The records of somebody's answer, if it is one.
pub fn answers(bytes: &[u8]) -> Option<(RCODE, Vec<ResourceRecord<'static>>)> {
    let packet = Packet::parse(bytes).ok()?;
    let records = packet.answers.iter().cloned().map(ResourceRecord::into_owned);
    Some((packet.rcode(), records.collect()))
}
