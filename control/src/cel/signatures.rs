//! The functions there are, with the types they take and give.
//!
//! CEL's standard library, its `optional` and `sets` extensions as far as Kubernetes offers them, and Kubernetes'
//! own libraries: strings, lists, regex, urls, quantities, semantic versions, addresses, formats.
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::authority::Asking;
use super::types::Type;

/// One overload a line: `target.name(arguments): result`. Single capitals stand for any one type: `C` for one whose values
/// have an order, `N` for one that can be summed up.
const TABLE: &str = "
size(string): int
size(bytes): int
size(list(T)): int
size(map(K,V)): int
string.size(): int
bytes.size(): int
list(T).size(): int
map(K,V).size(): int
string.contains(string): bool
string.startsWith(string): bool
string.endsWith(string): bool
string.matches(string): bool
matches(string,string): bool
string.charAt(int): string
string.indexOf(string): int
string.indexOf(string,int): int
string.lastIndexOf(string): int
string.lastIndexOf(string,int): int
string.lowerAscii(): string
string.upperAscii(): string
string.replace(string,string): string
string.replace(string,string,int): string
string.split(string): list(string)
string.split(string,int): list(string)
string.substring(int): string
string.substring(int,int): string
string.trim(): string
string.format(list(dyn)): string
strings.quote(string): string
list(string).join(): string
list(string).join(string): string
string.find(string): string
string.findAll(string): list(string)
string.findAll(string,int): list(string)
list(C).isSorted(): bool
list(N).sum(): N
list(C).min(): C
list(C).max(): C
list(T).indexOf(T): int
list(T).lastIndexOf(T): int
list(T).distinct(): list(T)
list(list(T)).flatten(): list(T)
list(T).flatten(int): list(dyn)
list(T).reverse(): list(T)
list(C).sort(): list(C)
list(T).slice(int,int): list(T)
list(T).first(): optional(T)
list(T).last(): optional(T)
lists.range(int): list(int)
int(int): int
int(uint): int
int(double): int
int(string): int
int(timestamp): int
int(duration): int
uint(uint): uint
uint(int): uint
uint(double): uint
uint(string): uint
double(double): double
double(int): double
double(uint): double
double(string): double
bool(bool): bool
bool(string): bool
string(string): string
string(bool): string
string(int): string
string(uint): string
string(double): string
string(bytes): string
string(timestamp): string
string(duration): string
string(ip): string
string(cidr): string
bytes(bytes): bytes
bytes(string): bytes
dyn(T): dyn
type(T): type(T)
timestamp(timestamp): timestamp
timestamp(string): timestamp
timestamp(int): timestamp
duration(duration): duration
duration(string): duration
timestamp.getFullYear(): int
timestamp.getMonth(): int
timestamp.getDayOfYear(): int
timestamp.getDayOfMonth(): int
timestamp.getDate(): int
timestamp.getDayOfWeek(): int
timestamp.getHours(): int
timestamp.getMinutes(): int
timestamp.getSeconds(): int
timestamp.getMilliseconds(): int
timestamp.getFullYear(string): int
timestamp.getMonth(string): int
timestamp.getDayOfYear(string): int
timestamp.getDayOfMonth(string): int
timestamp.getDate(string): int
timestamp.getDayOfWeek(string): int
timestamp.getHours(string): int
timestamp.getMinutes(string): int
timestamp.getSeconds(string): int
timestamp.getMilliseconds(string): int
duration.getHours(): int
duration.getMinutes(): int
duration.getSeconds(): int
duration.getMilliseconds(): int
optional.of(T): optional(T)
optional.ofNonZeroValue(T): optional(T)
optional.none(): optional(T)
optional(T).hasValue(): bool
jsonpatch.escapeKey(string): string
authorizer.path(string): pathcheck
authorizer.group(string): groupcheck
authorizer.serviceAccount(string,string): authorizer
groupcheck.resource(string): resourcecheck
resourcecheck.subresource(string): resourcecheck
resourcecheck.namespace(string): resourcecheck
resourcecheck.name(string): resourcecheck
resourcecheck.fieldSelector(string): resourcecheck
resourcecheck.labelSelector(string): resourcecheck
resourcecheck.check(string): decision
pathcheck.check(string): decision
decision.allowed(): bool
decision.reason(): string
decision.errored(): bool
decision.error(): string
optional(T).value(): T
optional(T).orValue(T): T
optional(T).or(optional(T)): optional(T)
sets.contains(list(T),list(T)): bool
sets.equivalent(list(T),list(T)): bool
sets.intersects(list(T),list(T)): bool
url(string): url
isURL(string): bool
url.getScheme(): string
url.getHost(): string
url.getHostname(): string
url.getPort(): string
url.getEscapedPath(): string
url.getQuery(): map(string,list(string))
quantity(string): quantity
isQuantity(string): bool
sign(quantity): int
quantity.isInteger(): bool
quantity.asInteger(): int
quantity.asApproximateFloat(): double
quantity.isGreaterThan(quantity): bool
quantity.isLessThan(quantity): bool
quantity.compareTo(quantity): int
quantity.add(quantity): quantity
quantity.add(int): quantity
quantity.sub(quantity): quantity
quantity.sub(int): quantity
semver(string): semver
semver(string,bool): semver
isSemver(string): bool
isSemver(string,bool): bool
semver.isGreaterThan(semver): bool
semver.isLessThan(semver): bool
semver.compareTo(semver): int
semver.major(): int
semver.minor(): int
semver.patch(): int
ip(string): ip
isIP(string): bool
ip.isCanonical(string): bool
ip.family(): int
ip.isUnspecified(): bool
ip.isLoopback(): bool
ip.isLinkLocalMulticast(): bool
ip.isLinkLocalUnicast(): bool
ip.isGlobalUnicast(): bool
cidr(string): cidr
isCIDR(string): bool
cidr.containsIP(ip): bool
cidr.containsIP(string): bool
cidr.containsCIDR(cidr): bool
cidr.containsCIDR(string): bool
cidr.ip(): ip
cidr.masked(): cidr
cidr.prefixLength(): int
format.named(string): optional(format)
format.dns1123Label(): format
format.dns1123Subdomain(): format
format.dns1123LabelPrefix(): format
format.dns1123SubdomainPrefix(): format
format.dns1035LabelPrefix(): format
format.dns1035Label(): format
format.qualifiedName(): format
format.labelValue(): format
format.uri(): format
format.uuid(): format
format.byte(): format
format.date(): format
format.datetime(): format
format.validate(string): optional(list(string))
";

/// A type with holes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Pattern {
    Any(char),
    Exact(Type),
    List(Box<Pattern>),
    Map(Box<Pattern>, Box<Pattern>),
    Optional(Box<Pattern>),
    Type(Box<Pattern>),
}

#[derive(Debug)]
pub(super) struct Signature {
    pub target: Option<Pattern>,
    pub args: Vec<Pattern>,
    pub result: Pattern,
}

/// Names before a dot that are no values. `ip` is one for `ip.isCanonical` only, and `format` is a type too.
pub(super) const NAMESPACES: [&str; 7] = [
    "sets",
    "optional",
    "strings",
    "lists",
    "ip",
    "format",
    "jsonpatch",
];

/// The overloads of a function, by its name, `sets.contains` when it is in a namespace.
pub(super) fn of(name: &str) -> &'static [Signature] {
    static SIGNATURES: OnceLock<HashMap<String, Vec<Signature>>> = OnceLock::new();
    let all = SIGNATURES.get_or_init(read);
    all.get(name).map_or(&[], Vec::as_slice)
}

/// The type that a name means.
pub(super) fn type_named(name: &str) -> Type {
    match name {
        "null_type" => Type::Null,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "type" => Type::Type(Arc::new(Type::Dyn)),
        "optional_type" => Type::optional(Type::Dyn),
        name => match pattern(name) {
            Pattern::Exact(ty) => ty,
            _ => Type::Dyn,
        },
    }
}

fn read() -> HashMap<String, Vec<Signature>> {
    let mut all: HashMap<String, Vec<Signature>> = HashMap::new();
    for line in TABLE.lines().filter(|line| !line.is_empty()) {
        if let Some((name, signature)) = signature(line) {
            all.entry(name).or_default().push(signature);
        }
    }
    all
}

fn signature(line: &str) -> Option<(String, Signature)> {
    let (head, result) = line.rsplit_once("): ")?;
    let open = open_bracket(head)?;
    let (path, args) = (&head[..open], &head[open + 1..]);
    let (target, name) = match path.rsplit_once('.') {
        None => (None, path.to_owned()),
        Some((space, name)) if is_function_of(space, name) => (None, format!("{space}.{name}")),
        Some((target, name)) => (Some(pattern(target)), name.to_owned()),
    };
    let args = split(args).into_iter().map(pattern).collect();
    let result = pattern(result);
    Some((name, Signature { target, args, result }))
}

/// Whether `space.name` is a function in a namespace and not a method of the type of that name.
fn is_function_of(space: &str, name: &str) -> bool {
    match space {
        "ip" => name == "isCanonical",
        "format" => name != "validate",
        "optional" => matches!(name, "of" | "ofNonZeroValue" | "none"),
        space => NAMESPACES.contains(&space),
    }
}

/// The bracket that opens the arguments: the last at the outer level.
fn open_bracket(head: &str) -> Option<usize> {
    let (mut depth, mut found) = (0, None);
    for (at, c) in head.char_indices() {
        match c {
            '(' if depth == 0 => {
                found = Some(at);
                depth = 1;
            }
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
    }
    found
}

fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text.is_empty() {
        parts.push(&text[start..]);
    }
    parts
}

fn pattern(text: &str) -> Pattern {
    let (head, inner) = match text.split_once('(') {
        Some((head, rest)) => (head, rest.strip_suffix(')').unwrap_or(rest)),
        None => (text, ""),
    };
    let boxed = |text: &str| Box::new(pattern(text));
    Pattern::Exact(match head {
        "list" => return Pattern::List(boxed(inner)),
        "optional" => return Pattern::Optional(boxed(inner)),
        "map" => {
            let parts = split(inner);
            let part = |i: usize| boxed(parts.get(i).copied().unwrap_or("dyn"));
            return Pattern::Map(part(0), part(1));
        }
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => return Pattern::Type(boxed(inner)),
        "url" => Type::Url,
        "quantity" => Type::Quantity,
        "semver" => Type::Semver,
        "ip" => Type::Ip,
        "cidr" => Type::Cidr,
        "format" => Type::Format,
        "authorizer" => Type::Asking(Asking::Authorizer),
        "pathcheck" => Type::Asking(Asking::PathCheck),
        "groupcheck" => Type::Asking(Asking::GroupCheck),
        "resourcecheck" => Type::Asking(Asking::ResourceCheck),
        "decision" => Type::Asking(Asking::Decision),
        "T" | "K" | "V" | "C" | "N" => return Pattern::Any(head.chars().next().unwrap_or('T')),
        _ => Type::Dyn,
    })
}

/// Holes that have been filled.
pub(super) type Filled = HashMap<char, Type>;

fn is_open(ty: Option<&Type>) -> bool {
    ty.is_none_or(|ty| matches!(ty, Type::Dyn | Type::Open))
}

/// Whether a type has what its hole wants.
fn may_fill(hole: char, ty: &Type) -> bool {
    match hole {
        'C' => ty.is_ordered(),
        'N' => matches!(
            ty,
            Type::Int | Type::Uint | Type::Double | Type::Duration | Type::Dyn | Type::Open
        ),
        _ => true,
    }
}

impl Pattern {
    /// Whether a type fits, filling holes.
    pub fn takes(&self, ty: &Type, filled: &mut Filled) -> bool {
        match (self, ty) {
            (Pattern::Any(hole), ty) => match filled.get(hole) {
                _ if !may_fill(*hole, ty) => false,
                Some(before) if !before.fits(ty) => false,
                Some(before) => {
                    let joined = before.clone().join(ty.clone());
                    filled.insert(*hole, joined);
                    true
                }
                None => {
                    filled.insert(*hole, ty.clone());
                    true
                }
            },
            (_, Type::Dyn | Type::Open) => true,
            (Pattern::Exact(wanted), ty) => ty.fits(wanted),
            (Pattern::List(item), Type::List(ty)) => item.takes(ty, filled),
            (Pattern::Map(key, value), Type::Map(k, v)) => key.takes(k, filled) && value.takes(v, filled),
            (Pattern::Optional(inner), Type::Optional(ty)) | (Pattern::Type(inner), Type::Type(ty)) => {
                inner.takes(ty, filled)
            }
            _ => false,
        }
    }

    pub fn fill(&self, filled: &Filled) -> Type {
        match self {
            Pattern::Any(hole) => filled.get(hole).cloned().unwrap_or(Type::Open),
            // An overload for each type that has an order: they differ.
            Pattern::List(item) if **item == Pattern::Any('C') && is_open(filled.get(&'C')) => Type::Dyn,
            Pattern::Exact(ty) => ty.clone(),
            Pattern::List(item) => Type::list(item.fill(filled)),
            Pattern::Map(key, value) => Type::map(key.fill(filled), value.fill(filled)),
            Pattern::Optional(inner) => Type::optional(inner.fill(filled)),
            Pattern::Type(inner) => Type::Type(Arc::new(inner.fill(filled).settled())),
        }
    }
}
