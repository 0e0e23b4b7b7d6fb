//! One transaction on one table: what the kernel takes as a whole or not at all.

use super::expr::{Expression, LIST_ELEMENT, Verdict, data, verdict_data};
use super::socket::Existing;
use super::wire::{Attributes, Header, message};

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// `NFNL_SUBSYS_NFTABLES`, the high byte of every message's kind.
pub const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// `NFPROTO_IPV4`: all tables here are of family ip.
pub const FAMILY: u8 = 2;

/// Elements sent in one message: an attribute holds less than 64 KiB and an element less than 400 bytes
/// (a chain's name has at most 255).
const ELEMENTS_AT_ONCE: usize = 150;

/// Where a base chain hangs, and which kind it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Output = 3,
    Postrouting = 4,
}

/// The kind of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    Nat,
}

impl ChainKind {
    fn name(self) -> &'static str {
        match self {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        }
    }
}

/// What cannot be changed of a base chain that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    pub kind: String,
    pub hook: u32,
    pub priority: i32,
}

/// What a named set or map holds. The numbers for the `nft` program's eyes are its own type numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// Keys of so many bytes.
    Set { key: u32, shown: u32 },
    /// Keys to verdicts.
    Verdicts { key: u32, shown: u32 },
    /// Keys to fixed bytes.
    Map {
        key: u32,
        shown: u32,
        value: u32,
        value_shown: u32,
    },
    /// Keys that rules put in, each for a time.
    Memory { key: u32, shown: u32, size: u32 },
}

/// What an element of a map maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Nothing,
    Bytes(Vec<u8>),
    Verdict(Verdict),
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<u8>,
    pub value: Value,
}

/// The messages of a transaction, and what each was for.
pub struct Batch {
    table: String,
    bytes: Vec<u8>,
    steps: Vec<String>,
    anonymous: u32,
}

/// Starts a transaction on a table, which is made where there is none.
pub fn add_table(table: &str) -> Batch {
    let mut batch = Batch {
        table: table.to_owned(),
        bytes: Vec::new(),
        steps: Vec::new(),
        anonymous: 0,
    };
    let edge = batch.header("begin", BATCH_BEGIN, REQUEST);
    message(
        &mut batch.bytes,
        Header {
            family: 0,
            resource: SUBSYSTEM,
            ..edge
        },
        Attributes::default(),
    );
    let name = Attributes::default().text(1, table);
    batch.push("make the table", kind::NEW_TABLE, CREATE | ACK, name);
    batch
}

mod kind {
    pub const NEW_TABLE: u16 = 0;
    pub const DELETE_TABLE: u16 = 2;
    pub const NEW_CHAIN: u16 = 3;
    pub const DELETE_CHAIN: u16 = 5;
    pub const NEW_RULE: u16 = 6;
    pub const DELETE_RULE: u16 = 8;
    pub const NEW_SET: u16 = 9;
    pub const DELETE_SET: u16 = 11;
    pub const NEW_ELEMENTS: u16 = 12;
    pub const DELETE_ELEMENTS: u16 = 14;
}

impl Batch {
    pub fn delete_table(&mut self) {
        let name = Attributes::default().text(1, &self.table);
        self.push("delete the table", kind::DELETE_TABLE, 0, name);
    }

    /// Makes a chain that others jump to, or empties the one there is.
    pub fn chain(&mut self, name: &str) {
        let chain = self.of_table().text(3, name);
        self.push(format!("make chain {name}"), kind::NEW_CHAIN, CREATE, chain);
        self.empty_chain(name);
    }

    /// Makes a chain packets pass at a hook, or empties the one there is. One that hangs elsewhere (an older version's)
    /// cannot be moved: another takes its place.
    pub fn base_chain(
        &mut self,
        existing: &Existing,
        name: &str,
        kind: ChainKind,
        hook: Hook,
        priority: i32,
    ) {
        let wanted = Base {
            kind: kind.name().to_owned(),
            hook: hook as u32,
            priority,
        };
        if existing.chains.contains(name) && existing.bases.get(name) != Some(&wanted) {
            self.empty_chain(name);
            self.delete_chain(name);
        }
        let place = Attributes::default()
            .u32(1, wanted.hook)
            .bytes(2, &priority.to_be_bytes());
        let chain = self.of_table().text(3, name).nest(4, place).text(7, kind.name());
        self.push(format!("make chain {name}"), kind::NEW_CHAIN, CREATE, chain);
        self.empty_chain(name);
    }

    pub fn empty_chain(&mut self, name: &str) {
        let chain = self.of_table().text(2, name);
        self.push(format!("empty chain {name}"), kind::DELETE_RULE, 0, chain);
    }

    /// Deletes a chain; nothing may jump to it any more.
    pub fn delete_chain(&mut self, name: &str) {
        let chain = self.of_table().text(3, name);
        self.push(format!("delete chain {name}"), kind::DELETE_CHAIN, 0, chain);
    }

    /// Appends a rule to a chain.
    pub fn rule(&mut self, chain: &str, expressions: impl IntoIterator<Item = Expression>) {
        let list = expressions
            .into_iter()
            .fold(Attributes::default(), |list, expression| {
                list.nest(LIST_ELEMENT, expression.encode())
            });
        let rule = self.of_table().text(2, chain).nest(4, list);
        self.push(
            format!("add a rule to chain {chain}"),
            kind::NEW_RULE,
            CREATE | APPEND,
            rule,
        );
    }

    /// Makes a set, or leaves the one there is.
    pub fn set(&mut self, name: &str, kind: SetKind) {
        let set = self.describe_set(name, kind, 0);
        self.push(format!("make set {name}"), kind::NEW_SET, CREATE, set);
    }

    pub fn empty_set(&mut self, name: &str) {
        let set = self.of_table().text(2, name);
        self.push(format!("empty set {name}"), kind::DELETE_ELEMENTS, 0, set);
    }

    /// Deletes a set; no rule may use it any more.
    pub fn delete_set(&mut self, name: &str) {
        let set = self.of_table().text(2, name);
        self.push(format!("delete set {name}"), kind::DELETE_SET, 0, set);
    }

    pub fn elements(&mut self, set: &str, elements: &[Element]) {
        self.add_elements(set, None, elements);
    }

    /// Makes a set without a name for the next rule, and says the name and number to use it by.
    pub fn anonymous(&mut self, kind: SetKind, elements: &[Element]) -> (String, u32) {
        self.anonymous += 1;
        let (name, id) = ("__set%d".to_owned(), self.anonymous);
        let constant = flag::ANONYMOUS | flag::CONSTANT;
        let set = self.describe_set(&name, kind, constant);
        let size = Attributes::default().u32(1, elements.len() as u32);
        self.push(
            "make an anonymous set",
            kind::NEW_SET,
            CREATE,
            set.nest(9, size).u32(10, id),
        );
        self.add_elements(&name, Some(id), elements);
        (name, id)
    }

    /// The bytes to send, and the purpose of each message by its sequence number.
    pub fn finish(mut self) -> (Vec<u8>, Vec<String>) {
        let edge = self.header("commit", BATCH_END, REQUEST);
        message(
            &mut self.bytes,
            Header {
                family: 0,
                resource: SUBSYSTEM,
                ..edge
            },
            Attributes::default(),
        );
        (self.bytes, self.steps)
    }

    fn add_elements(&mut self, set: &str, id: Option<u32>, elements: &[Element]) {
        for portion in elements.chunks(ELEMENTS_AT_ONCE) {
            let list = portion
                .iter()
                .fold(Attributes::default(), |l, e| l.nest(LIST_ELEMENT, encode(e)));
            let message = self.of_table().text(2, set).nest(3, list);
            let message = message.maybe(id.map(|id| move |a: Attributes| a.u32(4, id)));
            self.push(
                format!("add elements to set {set}"),
                kind::NEW_ELEMENTS,
                CREATE,
                message,
            );
        }
    }

    fn describe_set(&self, name: &str, kind: SetKind, flags: u32) -> Attributes {
        let set = self.of_table().text(2, name);
        match kind {
            SetKind::Set { key, shown } => set.u32(3, flags).u32(4, shown).u32(5, key),
            SetKind::Verdicts { key, shown } => set
                .u32(3, flags | flag::MAP)
                .u32(4, shown)
                .u32(5, key)
                .u32(6, VERDICT)
                .u32(7, 0),
            SetKind::Map {
                key,
                shown,
                value,
                value_shown,
            } => set
                .u32(3, flags | flag::MAP)
                .u32(4, shown)
                .u32(5, key)
                .u32(6, value_shown)
                .u32(7, value),
            SetKind::Memory { key, shown, size } => {
                let set = set
                    .u32(3, flags | flag::TIMEOUT | flag::FILLED_BY_RULES)
                    .u32(4, shown)
                    .u32(5, key);
                set.nest(9, Attributes::default().u32(1, size))
            }
        }
        // The number that names a set within its transaction is asked for even where nothing uses it.
        .maybe((flags & flag::ANONYMOUS == 0).then_some(|a: Attributes| a.u32(10, 0)))
    }

    fn of_table(&self) -> Attributes {
        Attributes::default().text(1, &self.table)
    }

    fn push(&mut self, step: impl Into<String>, kind: u16, flags: u16, attributes: Attributes) {
        let header = self.header(step, (SUBSYSTEM << 8) | kind, REQUEST | flags);
        message(&mut self.bytes, header, attributes);
    }

    fn header(&mut self, step: impl Into<String>, kind: u16, flags: u16) -> Header {
        let sequence = self.steps.len() as u32;
        self.steps.push(step.into());
        Header {
            kind,
            flags,
            sequence,
            family: FAMILY,
            resource: 0,
        }
    }
}

/// `NFT_DATA_VERDICT`
const VERDICT: u32 = 0xffff_ff00;

mod flag {
    pub const ANONYMOUS: u32 = 1;
    pub const CONSTANT: u32 = 2;
    pub const MAP: u32 = 8;
    pub const TIMEOUT: u32 = 0x10;
    pub const FILLED_BY_RULES: u32 = 0x20;
}

fn encode(element: &Element) -> Attributes {
    let key = Attributes::default().nest(1, data(&element.key));
    match &element.value {
        Value::Nothing => key,
        Value::Bytes(bytes) => key.nest(2, data(bytes)),
        Value::Verdict(verdict) => key.nest(2, verdict_data(verdict)),
    }
}
