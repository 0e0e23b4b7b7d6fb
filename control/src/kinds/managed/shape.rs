//! What a schema says about ownership: which values are leaves, and how the items of a list are told apart.
//!
//! Follows the OpenAPI extensions `x-kubernetes-list-type`, `-list-map-keys`, `-map-type` and, where a list has no
//! type, the strategic merge annotations (`-patch-strategy`, `-patch-merge-key`).
use super::element::{Element, Scalar};
use crate::kinds::Kind;
use crate::kinds::schema::{Definition, Field, Schemas, Type};
use serde_json::Value;

/// The type of a value for ownership.
#[derive(Clone, Copy)]
pub struct Shape<'a> {
    schemas: &'a Schemas,
    pub form: Form<'a>,
    /// Owned as a whole.
    pub atomic: bool,
}

#[derive(Clone, Copy)]
pub enum Form<'a> {
    Scalar(&'a Type),
    Struct(&'a Definition),
    Map(&'a Type),
    List(&'a Type, Items<'a>),
    /// Without a schema: maps are granular, lists atomic.
    Any,
}

/// How the items of a list are told apart.
#[derive(Clone, Copy)]
pub enum Items<'a> {
    Atomic,
    ByValue,
    ByKeys(&'a [String]),
}

impl<'a> Shape<'a> {
    /// The shape of a whole object.
    pub fn of(kind: &'a Kind) -> Shape<'a> {
        Shape {
            schemas: &kind.schemas,
            form: Form::Struct(&kind.definition),
            atomic: kind.definition.map_type.as_deref() == Some("atomic"),
        }
    }

    fn ty(schemas: &'a Schemas, ty: &'a Type) -> Shape<'a> {
        let plain = |form| Shape {
            schemas,
            form,
            atomic: false,
        };
        match ty {
            Type::Any => plain(Form::Any),
            Type::List(item) => plain(Form::List(item, Items::Atomic)).whole(),
            Type::Map(item) => plain(Form::Map(item)),
            Type::Ref(name) => match schemas.get(name) {
                Some(definition) => Shape::definition(schemas, definition),
                None => plain(Form::Any),
            },
            scalar => plain(Form::Scalar(scalar)),
        }
    }

    fn definition(schemas: &'a Schemas, definition: &'a Definition) -> Shape<'a> {
        let shape = match &definition.alias {
            Some(alias) => Shape::ty(schemas, alias),
            None => Shape {
                schemas,
                form: Form::Struct(definition),
                atomic: false,
            },
        };
        match definition.map_type.as_deref() {
            Some("atomic") => shape.whole(),
            _ => shape,
        }
    }

    fn field(schemas: &'a Schemas, field: &'a Field) -> Shape<'a> {
        let shape = Shape::ty(schemas, &field.ty);
        match (shape.form, field.map_type.as_deref()) {
            (Form::List(item, _), _) => {
                let items = items(field);
                Shape {
                    form: Form::List(item, items),
                    atomic: matches!(items, Items::Atomic),
                    ..shape
                }
            }
            (_, Some("atomic")) => shape.whole(),
            _ => shape,
        }
    }

    fn whole(self) -> Shape<'a> {
        Shape { atomic: true, ..self }
    }

    /// The shape of a member of an object. None when the schema has no such field.
    pub fn member(&self, name: &str) -> Option<Shape<'a>> {
        match self.form {
            Form::Struct(definition) => match definition.field(name) {
                Some(field) => Some(Shape::field(self.schemas, field)),
                None => definition.open.then(|| Shape::ty(self.schemas, &Type::Any)),
            },
            Form::Map(item) => Some(Shape::ty(self.schemas, item)),
            Form::Any => Some(*self),
            Form::Scalar(_) | Form::List(..) => None,
        }
    }

    /// The shape of a list's items.
    pub fn item(&self) -> Shape<'a> {
        match self.form {
            Form::List(item, _) => Shape::ty(self.schemas, item),
            _ => Shape {
                form: Form::Any,
                ..*self
            },
        }
    }

    /// Whether the schema names this member, so that the struct above owns nothing by its being there.
    pub fn names(&self, name: &str) -> bool {
        matches!(self.form, Form::Struct(definition) if definition.field(name).is_some())
    }

    /// Whether this value is owned as a whole.
    pub fn is_leaf(&self, value: &Value) -> bool {
        match self.form {
            Form::Scalar(_) => true,
            Form::Any => !(value.is_object() || value.is_null()),
            _ => self.atomic,
        }
    }

    /// The element of an item of this list.
    pub fn element(&self, item: &Value) -> Result<Element, String> {
        match self.form {
            Form::List(_, Items::ByKeys(keys)) => self.by_keys(keys, item),
            Form::List(_, Items::ByValue) => by_value(item),
            _ => Err("invalid indexing of non-associative list".to_owned()),
        }
    }

    fn by_keys(&self, keys: &[String], item: &Value) -> Result<Element, String> {
        let map = match item {
            Value::Object(map) => map,
            Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
            _ => return Err("associative list with keys may not have non-map elements".to_owned()),
        };
        let shape = self.item();
        let value = |key: &String| map.get(key).or_else(|| shape.default_of(key)).cloned();
        let mut found: Vec<(String, Scalar)> = keys
            .iter()
            .filter_map(|key| Some((key.clone(), Scalar(value(key)?))))
            .collect();
        if found.is_empty() {
            let keys: Vec<String> = keys.iter().map(|k| format!("{k:?}")).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default \
                 values for any key fields)",
                keys.join(" ")
            ));
        }
        found.sort();
        Ok(Element::Key(found))
    }

    /// What a key is where it is left out.
    pub fn default_of(&self, key: &str) -> Option<&'a Value> {
        match self.form {
            Form::Struct(definition) => definition.field(key)?.default.as_ref(),
            _ => None,
        }
    }
}

fn by_value(item: &Value) -> Result<Element, String> {
    let why = match item {
        Value::Object(_) => "associative list without keys has an element that's a map type",
        Value::Array(_) => "not supported: associative list with lists as elements",
        Value::Null => "associative list without keys has an element that's an explicit null",
        scalar => return Ok(Element::Value(Scalar(scalar.clone()))),
    };
    Err(why.to_owned())
}

fn items(field: &Field) -> Items<'_> {
    match field.list_type.as_deref() {
        Some("map") => Items::ByKeys(&field.list_map_keys),
        Some("set") => Items::ByValue,
        Some(_) => Items::Atomic,
        None if field.merges() => match &field.merge_key {
            Some(key) => Items::ByKeys(std::slice::from_ref(key)),
            None => Items::ByValue,
        },
        None => Items::Atomic,
    }
}
