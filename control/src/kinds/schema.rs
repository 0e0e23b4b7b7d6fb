//! Schemas of API objects: fields, types, list semantics and wire habits, read once from the embedded table.
//!
//! Owns the in-memory form of `data/builtin.jsonl`. Refuses to know any one kind, and what is done with a schema.

use std::sync::{Arc, OnceLock};

use super::quick::Names;
use serde_json::Value;

/// The embedded table; `data/extract.py` documents its format. The kinds of metrics-server are written by hand after
/// `k8s.io/metrics`.
pub(super) const BUILTIN: &str = concat!(
    include_str!("data/builtin.jsonl"),
    include_str!("data/metrics.jsonl")
);

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";

/// The type of a field, a list element or a map value.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    String,
    Bool,
    Int32,
    Int64,
    Float,
    Bytes,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    Any,
    Ref(String),
    List(Box<Type>),
    Map(Box<Type>),
}

/// What the API server writes for a field that holds its zero value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// A pointer: written whenever it was set, even to zero.
    Keep,
    /// A pointer that is written as null when it was not set.
    Null,
    /// Left out when zero or empty.
    OmitZero,
    /// Always written, with a zero value when nothing was set.
    Always,
}

/// One property of a [`Definition`].
#[derive(Debug, Clone)]
pub struct Field {
    pub name: String,
    pub ty: Type,
    pub required: bool,
    pub wire: Wire,
    pub default: Option<Value>,
    pub enum_values: Vec<Value>,
    pub item_enum: Vec<Value>,
    pub list_type: Option<String>,
    pub list_map_keys: Vec<String>,
    pub map_type: Option<String>,
    pub merge_key: Option<String>,
    pub patch_strategy: Option<String>,
    go_type: Option<String>,
}

impl Field {
    /// A field that is optional and keeps whatever it was set to.
    pub fn plain(name: &str, ty: Type) -> Field {
        Field {
            name: name.to_owned(),
            ty,
            required: false,
            wire: Wire::Keep,
            default: None,
            enum_values: Vec::new(),
            item_enum: Vec::new(),
            list_type: None,
            list_map_keys: Vec::new(),
            map_type: None,
            merge_key: None,
            patch_strategy: None,
            go_type: None,
        }
    }

    /// Whether a strategic merge patch joins this field's list instead of replacing it.
    pub fn merges(&self) -> bool {
        self.has_strategy("merge")
    }

    /// Whether a strategic merge patch may say `$retainKeys` here.
    pub fn retains_keys(&self) -> bool {
        self.has_strategy("retainKeys")
    }

    /// Whether the field is replaced whole by a strategic merge patch.
    pub fn replaces(&self) -> bool {
        self.has_strategy("replace")
    }

    fn has_strategy(&self, strategy: &str) -> bool {
        self.patch_strategy
            .as_deref()
            .is_some_and(|s| s.split(',').any(|x| x == strategy))
    }

    /// The type as upstream's decoder names it in an error.
    pub fn go_type(&self) -> String {
        self.go_type.clone().unwrap_or_else(|| self.ty.go_name())
    }
}

/// A named object type, or an alias when it has no fields of its own.
#[derive(Debug)]
pub struct Definition {
    pub name: String,
    pub group_version_kinds: Vec<(String, String, String)>,
    pub map_type: Option<String>,
    pub unions: Option<Value>,
    pub alias: Option<Type>,
    /// Whether members beyond `fields` are kept (`x-kubernetes-preserve-unknown-fields`).
    pub open: bool,
    /// In wire order.
    pub fields: Vec<Field>,
    index: Names<usize>,
    /// The fields that are always written, if only as null.
    always: Vec<usize>,
}

impl Definition {
    /// An object type of these fields.
    pub fn object(name: &str, fields: Vec<Field>) -> Definition {
        Definition {
            index: index(&fields),
            always: always(&fields),
            name: name.to_owned(),
            group_version_kinds: Vec::new(),
            map_type: None,
            unions: None,
            alias: None,
            open: false,
            fields,
        }
    }

    /// The fields that are written whether they are set or not.
    pub fn always(&self) -> impl Iterator<Item = &Field> {
        self.always.iter().map(|i| &self.fields[*i])
    }

    pub fn field(&self, name: &str) -> Option<&Field> {
        self.index.get(name).map(|i| &self.fields[*i])
    }

    /// The last part of the name: `PodSpec`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

/// All definitions by full name.
#[derive(Debug, Default)]
pub struct Schemas {
    definitions: Names<Arc<Definition>>,
    /// Where a name is looked up that is not among these.
    base: Option<Arc<Schemas>>,
}

impl Schemas {
    /// The definitions of the built-in API, parsed at first use.
    pub fn builtin() -> &'static Arc<Schemas> {
        static BUILTIN_SCHEMAS: OnceLock<Arc<Schemas>> = OnceLock::new();
        BUILTIN_SCHEMAS.get_or_init(|| Arc::new(Schemas::parse(BUILTIN)))
    }

    /// Reads definition lines; resource lines and lines it cannot read are passed over.
    pub(super) fn parse(text: &str) -> Schemas {
        let lines = text.lines().filter(|l| l.starts_with("{\"n\":"));
        let parsed = lines.filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let definitions = parsed
            .filter_map(|v| definition(&v))
            .map(|d| (d.name.clone(), Arc::new(d)));
        Schemas {
            definitions: definitions.collect(),
            base: None,
        }
    }

    /// These definitions on top of others.
    pub fn extending(base: &Arc<Schemas>, own: Vec<Arc<Definition>>) -> Schemas {
        Schemas {
            definitions: own.into_iter().map(|d| (d.name.clone(), d)).collect(),
            base: Some(base.clone()),
        }
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Definition>> {
        let base = || self.base.as_ref()?.get(name);
        self.definitions.get(name).or_else(base)
    }

    /// The definition behind a reference type.
    pub fn resolve(&self, ty: &Type) -> Option<&Arc<Definition>> {
        match ty {
            Type::Ref(name) => self.get(name),
            _ => None,
        }
    }

    /// Every definition, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Definition>> {
        let base = self.base.iter().flat_map(|base| base.definitions.values());
        self.definitions.values().chain(base)
    }
}

impl Type {
    fn parse(code: &str) -> Type {
        let (head, rest) = code.split_at(code.len().min(1));
        match head {
            "s" => Type::String,
            "b" => Type::Bool,
            "i" => Type::Int32,
            "l" => Type::Int64,
            "f" => Type::Float,
            "y" => Type::Bytes,
            "d" => Type::Time,
            "[" => Type::List(Box::new(Type::parse(rest))),
            "{" => Type::Map(Box::new(Type::parse(rest))),
            "#" => Type::named(rest),
            _ => Type::Any,
        }
    }

    fn named(name: &str) -> Type {
        match name {
            QUANTITY => Type::Quantity,
            INT_OR_STRING => Type::IntOrString,
            TIME => Type::Time,
            MICRO_TIME => Type::MicroTime,
            _ => Type::Ref(name.to_owned()),
        }
    }

    /// The definition name of a type that has one.
    pub fn definition_name(&self) -> Option<&str> {
        match self {
            Type::Quantity => Some(QUANTITY),
            Type::IntOrString => Some(INT_OR_STRING),
            Type::Time => Some(TIME),
            Type::MicroTime => Some(MICRO_TIME),
            Type::Ref(name) => Some(name),
            _ => None,
        }
    }

    /// The type as upstream's decoder prints it.
    pub fn go_name(&self) -> String {
        match self {
            Type::String => "string".into(),
            Type::Bool => "bool".into(),
            Type::Int32 => "int32".into(),
            Type::Int64 => "int64".into(),
            Type::Float => "float64".into(),
            Type::Bytes => "[]uint8".into(),
            Type::Any => "interface {}".into(),
            Type::List(item) => format!("[]{}", item.go_name()),
            Type::Map(item) => format!("map[string]{}", item.go_name()),
            Type::Quantity => "resource.Quantity".into(),
            Type::IntOrString => "intstr.IntOrString".into(),
            Type::Time => "v1.Time".into(),
            Type::MicroTime => "v1.MicroTime".into(),
            Type::Ref(name) => last_two(name),
        }
    }
}

fn last_two(name: &str) -> String {
    let mut parts = name.rsplitn(3, '.');
    let last = parts.next().unwrap_or_default();
    parts
        .next()
        .map_or_else(|| last.to_owned(), |package| format!("{package}.{last}"))
}

fn definition(line: &Value) -> Option<Definition> {
    let name = line.get("n")?.as_str()?.to_owned();
    let fields: Vec<Field> = array(line, "p").iter().filter_map(field).collect();
    let kinds = array(line, "x")
        .iter()
        .map(|x| (text(x, 0), text(x, 1), text(x, 2)))
        .collect();
    Some(Definition {
        name,
        group_version_kinds: kinds,
        map_type: string(line, "m"),
        unions: line.get("u").cloned(),
        alias: line.get("t").and_then(Value::as_str).map(Type::parse),
        open: false,
        index: index(&fields),
        always: always(&fields),
        fields,
    })
}

fn index(fields: &[Field]) -> Names<usize> {
    let fields = fields.iter().enumerate();
    fields.map(|(i, field)| (field.name.clone(), i)).collect()
}

fn always(fields: &[Field]) -> Vec<usize> {
    let fields = fields.iter().enumerate();
    let always = fields.filter(|(_, field)| matches!(field.wire, Wire::Always | Wire::Null));
    always.map(|(i, _)| i).collect()
}

fn field(row: &Value) -> Option<Field> {
    let flags = row.get(2)?.as_str()?;
    let empty = Value::Null;
    let rest = row.get(3).unwrap_or(&empty);
    Some(Field {
        name: text(row, 0),
        ty: Type::parse(row.get(1)?.as_str()?),
        required: flags.contains('r'),
        wire: wire(flags),
        default: rest.get("d").cloned(),
        enum_values: array(rest, "e").to_vec(),
        item_enum: array(rest, "q").to_vec(),
        list_type: string(rest, "l"),
        list_map_keys: array(rest, "k")
            .iter()
            .filter_map(|k| k.as_str().map(str::to_owned))
            .collect(),
        map_type: string(rest, "o"),
        merge_key: string(rest, "m"),
        patch_strategy: string(rest, "s"),
        go_type: string(rest, "g"),
    })
}

fn wire(flags: &str) -> Wire {
    match flags.chars().last() {
        Some('a') => Wire::Always,
        Some('n') => Wire::Null,
        Some('z') => Wire::OmitZero,
        _ => Wire::Keep,
    }
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn string(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn text(row: &Value, i: usize) -> String {
    row.get(i).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_read() {
        let lines = BUILTIN.lines().filter(|l| l.starts_with("{\"n\":")).count();
        assert_eq!(Schemas::builtin().iter().count(), lines);
        assert!(lines > 500);
    }

    #[test]
    fn references_lead_somewhere() {
        fn check(schemas: &Schemas, ty: &Type) {
            match ty {
                Type::Ref(name) => assert!(schemas.get(name).is_some(), "{name}"),
                Type::List(t) | Type::Map(t) => check(schemas, t),
                _ => {}
            }
        }
        let schemas = Schemas::builtin();
        for field in schemas.iter().flat_map(|d| &d.fields) {
            check(schemas, &field.ty);
        }
    }

    #[test]
    fn facts_of_a_container() {
        let schemas = Schemas::builtin();
        let container = schemas.get("io.k8s.api.core.v1.Container").expect("definition");
        let ports = container.field("ports").expect("field");
        assert_eq!(ports.merge_key.as_deref(), Some("containerPort"));
        assert_eq!(ports.list_map_keys, ["containerPort", "protocol"]);
        assert!(ports.merges() && !ports.retains_keys());
        assert_eq!(container.field("resources").map(|f| f.wire), Some(Wire::Always));
        assert_eq!(container.fields[0].name, "name");
    }
}
