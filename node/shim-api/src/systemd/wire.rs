//! Messages of D-Bus (D-Bus specification 0.43), as far as systemd is spoken to: calls go out, answers and signals come
//! in. Pure; little-endian only, as every host is that this runs on.

/// A value within a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    Int(i32),
    Uint(u32),
    Long(i64),
    Ulong(u64),
    Text(String),
    /// `au`
    Numbers(Vec<u32>),
    /// `ay`
    Bytes(Vec<u8>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Self::Bool(_) => "b",
            Self::Int(_) => "i",
            Self::Uint(_) => "u",
            Self::Long(_) => "x",
            Self::Ulong(_) => "t",
            Self::Text(_) => "s",
            Self::Numbers(_) => "au",
            Self::Bytes(_) => "ay",
        }
    }
}

/// Name and value.
pub type Property = (String, Value);

/// Kinds of messages, the first of them what is sent here.
const CALL: u8 = 1;
pub const ANSWER: u8 = 2;
pub const ERROR: u8 = 3;
pub const SIGNAL: u8 = 4;
/// Fields of a header.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;
const LITTLE: u8 = b'l';
const VERSION: u8 = 1;
/// What every message begins with: the fixed part of its header, and the length of its fields.
pub const START: usize = 16;

/// Bytes being put together; alignment counts from the first.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.align(8);
        self.0.extend(number.to_le_bytes());
    }

    pub fn text(&mut self, text: &str) {
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    pub fn bool(&mut self, value: bool) {
        self.u32(value.into());
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// An array whose elements begin at multiples of `align`.
    fn array(&mut self, align: usize, elements: impl FnOnce(&mut Self)) {
        self.u32(0);
        let length_at = self.0.len() - 4;
        self.align(align);
        let begin = self.0.len();
        elements(self);
        let length = u32::try_from(self.0.len() - begin).unwrap_or(u32::MAX);
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn variant(&mut self, value: &Value) {
        self.signature(value.signature());
        match value {
            Value::Bool(value) => self.bool(*value),
            Value::Int(number) => self.u32(number.cast_unsigned()),
            Value::Uint(number) => self.u32(*number),
            Value::Long(number) => self.u64(number.cast_unsigned()),
            Value::Ulong(number) => self.u64(*number),
            Value::Text(text) => self.text(text),
            Value::Numbers(all) => self.array(4, |w| all.iter().for_each(|n| w.u32(*n))),
            Value::Bytes(all) => self.array(1, |w| w.0.extend(all)),
        }
    }

    /// `a(sv)`
    pub fn properties(&mut self, properties: &[Property]) {
        self.array(8, |w| {
            for (name, value) in properties {
                w.align(8);
                w.text(name);
                w.variant(value);
            }
        });
    }

    /// `a(sa(sv))`, without any.
    pub fn no_units(&mut self) {
        self.array(8, |_| {});
    }
}

/// A method to be called.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    pub destination: &'static str,
    pub path: &'static str,
    pub interface: &'static str,
    pub member: &'static str,
    pub signature: &'static str,
}

/// The whole message.
pub fn call(serial: u32, method: Method, body: Writer) -> Vec<u8> {
    let mut w = Writer(vec![LITTLE, CALL, 0, VERSION]);
    w.u32(u32::try_from(body.0.len()).unwrap_or(u32::MAX));
    w.u32(serial);
    w.array(8, |w| {
        let texts = [
            (PATH, "o", method.path),
            (INTERFACE, "s", method.interface),
            (MEMBER, "s", method.member),
            (DESTINATION, "s", method.destination),
        ];
        for (field, signature, text) in texts {
            w.align(8);
            w.0.push(field);
            w.signature(signature);
            w.text(text);
        }
        w.align(8);
        w.0.push(SIGNATURE);
        w.signature("g");
        w.signature(method.signature);
    });
    w.align(8);
    w.0.extend(body.0);
    w.0
}

/// How long the rest of a message is, by its [`START`]; `None` for one in another order of bytes.
pub fn rest(start: &[u8; START]) -> Option<usize> {
    let number = |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
    let (body, fields) = (
        usize::try_from(number(4)).ok()?,
        usize::try_from(number(12)).ok()?,
    );
    (start[0] == LITTLE).then(|| fields.next_multiple_of(8).saturating_add(body))
}

/// A message that has come, as far as it matters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub kind: u8,
    /// Which call it answers.
    pub answers: u32,
    pub member: String,
    pub error: String,
    /// The texts of its body, in order, up to the first value of a kind not read here.
    pub texts: Vec<String>,
}

/// Reads a whole message; `None` when it is none.
pub fn read(bytes: &[u8]) -> Option<Message> {
    let mut r = Reader { bytes, at: 1 };
    let mut message = Message {
        kind: r.u8()?,
        ..Message::default()
    };
    r.at = START - 4;
    let end = r.u32()? as usize + START;
    let mut signature = String::new();
    while r.at < end {
        r.align(8);
        let field = r.u8()?;
        let kind = r.signature()?;
        match (field, kind.as_str()) {
            (REPLY_SERIAL, "u") => message.answers = r.u32()?,
            (MEMBER, "s") => message.member = r.text()?,
            (ERROR_NAME, "s") => message.error = r.text()?,
            (SIGNATURE, "g") => signature = r.signature()?,
            (_, "s" | "o") => drop(r.text()?),
            (_, "g") => drop(r.signature()?),
            (_, "u") => drop(r.u32()?),
            _ => return None,
        }
    }
    r.align(8);
    for kind in signature.chars() {
        match kind {
            's' | 'o' => message.texts.push(r.text()?),
            'u' => drop(r.u32()?),
            _ => break,
        }
    }
    Some(message)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4);
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn string(&mut self, length: usize) -> Option<String> {
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.take(1)?;
        Some(text)
    }

    fn text(&mut self) -> Option<String> {
        let length = self.u32()?;
        self.string(length as usize)
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.u8()?;
        self.string(length.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const METHOD: Method = Method {
        destination: "d.e",
        path: "/p",
        interface: "i.f",
        member: "Do",
        signature: "s",
    };

    #[test]
    fn a_call_is_written_as_the_specification_has_it() {
        let mut body = Writer::default();
        body.text("hi");
        let bytes = call(7, METHOD, body);
        assert_eq!(&bytes[..16], [b'l', 1, 0, 1, 7, 0, 0, 0, 7, 0, 0, 0, 71, 0, 0, 0]);
        assert_eq!(&bytes[16..27], b"\x01\x01o\0\x02\0\0\0/p\0");
        assert_eq!(&bytes[bytes.len() - 7..], b"\x02\0\0\0hi\0");
        let start: [u8; START] = bytes[..START].try_into().unwrap();
        assert_eq!(rest(&start), Some(bytes.len() - START));
    }

    #[test]
    fn properties_are_aligned_structures() {
        let mut body = Writer::default();
        body.properties(&[("A".into(), Value::Bool(true)), ("B".into(), Value::Ulong(5))]);
        let expected =
            b"\x28\0\0\0\0\0\0\0\x01\0\0\0A\0\x01b\0\0\0\0\x01\0\0\0\x01\0\0\0B\0\x01t\0\0\0\0\0\0\0\0";
        assert_eq!(&body.0[..expected.len() - 4], &expected[..expected.len() - 4]);
        assert_eq!(body.0[body.0.len() - 8..], 5_u64.to_le_bytes());
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut body = Writer::default();
        body.text("one");
        let message = read(&call(1, METHOD, body)).unwrap();
        assert_eq!((message.kind, message.member.as_str()), (CALL, "Do"));
        assert_eq!(message.texts, ["one"]);
    }

    proptest! {
        #[test]
        fn nothing_that_comes_makes_it_fall(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
