//! Types of expressions.
use super::authority::Asking;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The type of a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Anything; checked when it is evaluated.
    Dyn,
    /// Not said yet: what an empty list is a list of. Whatever it stands beside says it.
    Open,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Object(Arc<Structure>),
    Optional(Arc<Type>),
    /// The type of a type.
    Type(Arc<Type>),
    Quantity,
    /// A semantic version.
    Semver,
    Url,
    Ip,
    Cidr,
    /// A named format of Kubernetes' format library.
    Format,
    /// Of the variable `authorizer`.
    Asking(Asking),
}

/// An object with declared fields.
#[derive(Debug, Default, PartialEq)]
pub struct Structure {
    pub name: String,
    /// By the name that expressions use: escaped, see [`escape`].
    pub fields: BTreeMap<String, Type>,
}

impl Type {
    pub fn list(item: Type) -> Type {
        Type::List(Arc::new(item))
    }

    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value))
    }

    pub fn optional(inner: Type) -> Type {
        Type::Optional(Arc::new(inner))
    }

    /// Whether null is a value of it.
    fn is_nullable(&self) -> bool {
        !matches!(
            self,
            Type::Bool
                | Type::Int
                | Type::Uint
                | Type::Double
                | Type::String
                | Type::Bytes
                | Type::List(..)
                | Type::Map(..)
                | Type::Type(_)
        )
    }

    /// Whether its values come one after another.
    pub(super) fn is_ordered(&self) -> bool {
        matches!(
            self,
            Type::Dyn
                | Type::Open
                | Type::Bool
                | Type::Int
                | Type::Uint
                | Type::Double
                | Type::String
                | Type::Bytes
                | Type::Timestamp
                | Type::Duration
        )
    }

    /// How deep lists, maps and the like nest in it.
    pub(super) fn depth(&self) -> usize {
        match self {
            Type::List(inner) | Type::Optional(inner) | Type::Type(inner) => 1 + inner.depth(),
            Type::Map(key, value) => 1 + key.depth().max(value.depth()),
            _ => 0,
        }
    }

    /// Whether both are one type.
    pub fn is(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => a.is(b),
            (Type::Map(ak, av), Type::Map(bk, bv)) => ak.is(bk) && av.is(bv),
            (Type::Object(a), Type::Object(b)) => a.name == b.name,
            (a, b) => a == b,
        }
    }

    /// As [`Type::is`], once what is open has been said by the other.
    pub(super) fn agrees(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::Open, _) | (_, Type::Open) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => a.agrees(b),
            (Type::Map(ak, av), Type::Map(bk, bv)) => ak.agrees(bk) && av.agrees(bv),
            (a, b) => a.is(b),
        }
    }

    /// What is still open can be anything.
    pub(super) fn settled(self) -> Type {
        match self {
            Type::Open => Type::Dyn,
            other => other,
        }
    }

    /// Whether a value of this type may stand where `other` is wanted.
    pub fn fits(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::Dyn | Type::Open, _) | (_, Type::Dyn | Type::Open) => true,
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) => a.fits(b),
            (Type::Map(ak, av), Type::Map(bk, bv)) => ak.fits(bk) && av.fits(bv),
            (Type::Optional(a), Type::Optional(b)) => a.fits(b),
            (Type::Object(a), Type::Object(b)) => a.name == b.name,
            (Type::Null, other) | (other, Type::Null) => other.is_nullable(),
            (a, b) => a == b,
        }
    }

    /// A type that both fit, as elements of one list.
    pub fn join(self, other: Type) -> Type {
        match (self, other) {
            (Type::Open, other) | (other, Type::Open) => other,
            (Type::List(a), Type::List(b)) => Type::list(a.as_ref().clone().join(b.as_ref().clone())),
            (Type::Map(ak, av), Type::Map(bk, bv)) => {
                let (key, value) = (ak.as_ref().clone(), av.as_ref().clone());
                let key = key.join(bk.as_ref().clone());
                let value = value.join(bv.as_ref().clone());
                Type::map(key, value)
            }
            (Type::Optional(a), Type::Optional(b)) => {
                Type::optional(a.as_ref().clone().join(b.as_ref().clone()))
            }
            (a, b) if a == b => a,
            (a, b) if a.fits(&b) && a != Type::Dyn && b != Type::Dyn => a,
            _ => Type::Dyn,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn | Type::Open => f.write_str("dyn"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::List(item) => write!(f, "list({item})"),
            Type::Map(key, value) => write!(f, "map({key}, {value})"),
            Type::Object(structure) => f.write_str(&structure.name),
            Type::Optional(inner) => write!(f, "optional_type({inner})"),
            Type::Type(of) => write!(f, "type({of})"),
            Type::Quantity => f.write_str("kubernetes.Quantity"),
            Type::Semver => f.write_str("kubernetes.Semver"),
            Type::Url => f.write_str("kubernetes.URL"),
            Type::Ip => f.write_str("net.IP"),
            Type::Cidr => f.write_str("net.CIDR"),
            Type::Format => f.write_str("kubernetes.NamedFormat"),
            Type::Asking(asking) => f.write_str(asking.name()),
        }
    }
}

/// Words of the language that a field's name must be escaped for.
const WORDS: [&str; 22] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
    "self",
];

/// The name by which expressions reach a field (Kubernetes' escaping); none when they cannot.
pub fn escape(name: &str) -> Option<String> {
    if WORDS.contains(&name) && name != "self" {
        return Some(format!("__{name}__"));
    }
    let first = name.chars().next()?;
    let reachable = first.is_ascii_alphabetic() || first == '_';
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
    if !reachable || !name.chars().all(known) {
        return None;
    }
    let escaped = name.replace("__", "__underscores__");
    Some(
        escaped
            .replace('.', "__dot__")
            .replace('-', "__dash__")
            .replace('/', "__slash__"),
    )
}

/// The field that an escaped name means.
pub fn unescape(name: &str) -> String {
    if let Some(word) = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"))
        && WORDS.contains(&word)
    {
        return word.to_owned();
    }
    let plain = name
        .replace("__dot__", ".")
        .replace("__dash__", "-")
        .replace("__slash__", "/");
    plain.replace("__underscores__", "__")
}
