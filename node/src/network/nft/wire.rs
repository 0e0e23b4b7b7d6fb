//! Netlink messages and attributes as bytes (netlink(7)): native-endian headers, big-endian nf_tables numbers.

/// Attributes that hold attributes say so.
const NESTED: u16 = 1 << 15;

/// What is left of an attribute's kind without that and the flag for byte order.
const KIND: u16 = 0x3fff;

/// Everything in a message starts at a multiple of this.
const ALIGNMENT: usize = 4;

/// A growing list of attributes.
#[derive(Clone, Debug, Default)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    /// A string as the kernel wants it: with its zero byte.
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn u64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn nest(self, kind: u16, inner: Attributes) -> Self {
        self.nest_bytes(kind, &inner.0)
    }

    /// Attributes as received.
    pub fn nest_bytes(self, kind: u16, inner: &[u8]) -> Self {
        self.bytes(kind | NESTED, inner)
    }

    pub fn maybe(self, add: Option<impl FnOnce(Self) -> Self>) -> Self {
        match add {
            Some(add) => add(self),
            None => self,
        }
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        // Callers keep what they nest under 64 KiB: names are short, elements are sent in portions.
        let length = (value.len() + ALIGNMENT) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// The head of a netlink message and of the netfilter message in it.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub family: u8,
    /// Big-endian on the wire: the subsystem of a batch, 0 otherwise.
    pub resource: u16,
}

/// Length of both heads together.
pub const HEAD: usize = 20;

/// Writes one whole message.
pub fn message(out: &mut Vec<u8>, header: Header, attributes: Attributes) {
    let length = (HEAD + attributes.len()) as u32;
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&header.kind.to_ne_bytes());
    out.extend_from_slice(&header.flags.to_ne_bytes());
    out.extend_from_slice(&header.sequence.to_ne_bytes());
    out.extend_from_slice(&0u32.to_ne_bytes());
    out.extend_from_slice(&[header.family, 0]);
    out.extend_from_slice(&header.resource.to_be_bytes());
    out.extend_from_slice(&attributes.into_bytes());
}

/// A message as received: its kind, sequence number, and what follows the netlink head.
#[derive(Debug, PartialEq, Eq)]
pub struct Received<'a> {
    pub kind: u16,
    pub sequence: u32,
    pub body: &'a [u8],
}

/// The messages in a datagram; stops at the first that is cut off.
pub fn messages(mut datagram: &[u8]) -> Vec<Received<'_>> {
    let mut found = Vec::new();
    while let Some(head) = datagram.get(..16) {
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(body) = datagram.get(16..length) else {
            break;
        };
        found.push(Received {
            kind: u16::from_ne_bytes([head[4], head[5]]),
            sequence: u32::from_ne_bytes([head[8], head[9], head[10], head[11]]),
            body,
        });
        datagram = datagram
            .get(length.next_multiple_of(ALIGNMENT)..)
            .unwrap_or_default();
    }
    found
}

/// The value of the first attribute of a kind.
pub fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    while let Some(head) = rest.get(..4) {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes([head[2], head[3]]) & KIND == kind {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    }
    None
}

/// The string in the first attribute of a kind; None where there is none or it is no text.
pub fn find_text(attributes: &[u8], kind: u16) -> Option<&str> {
    let text = std::str::from_utf8(find(attributes, kind)?).ok()?;
    Some(text.trim_end_matches('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let attributes = Attributes::default()
            .u32(2, 7)
            .text(1, "table")
            .nest(3, Attributes::default().u64(1, 9));
        let mut out = Vec::new();
        let header = Header {
            kind: 0xa00,
            flags: 1,
            sequence: 42,
            family: 2,
            resource: 0,
        };
        message(&mut out, header, attributes.clone());
        message(
            &mut out,
            Header {
                sequence: 43,
                ..header
            },
            Attributes::default(),
        );
        let read = messages(&out);
        assert_eq!(
            read.iter().map(|m| (m.kind, m.sequence)).collect::<Vec<_>>(),
            [(0xa00, 42), (0xa00, 43)]
        );
        assert_eq!(&read[0].body[4..], attributes.into_bytes());
        assert_eq!(find_text(&read[0].body[4..], 1), Some("table"));
        assert_eq!(find_text(&read[0].body[4..], 9), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>, kind: u16) {
            messages(&bytes);
            find_text(&bytes, kind);
        }
    }
}
