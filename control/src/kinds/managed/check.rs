//! Whether a configuration can be applied: every field is in the schema, has its type, and no item comes twice.
use super::element::Element;
use super::shape::{Form, Shape};
use crate::kinds::bounded::ROOM;
use crate::kinds::schema::Type;
use serde_json::Value;
use std::collections::BTreeSet;

/// What is wrong with a configuration; upstream's words.
pub fn check(shape: Shape<'_>, config: &Value) -> Result<(), String> {
    let mut checking = Checking::default();
    checking.value(shape, config);
    match checking.complaints.as_slice() {
        [] => Ok(()),
        [only] => Err(only.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

#[derive(Default)]
struct Checking {
    path: Vec<String>,
    complaints: Vec<String>,
    /// Of the complaints, in bytes: further ones are not told.
    size: usize,
}

impl Checking {
    fn complain(&mut self, why: impl std::fmt::Display) {
        if self.size > ROOM {
            return;
        }
        let path = self.path.concat();
        self.complaints.push(match path.as_str() {
            "" => why.to_string(),
            path => format!("{path}: {why}"),
        });
        self.size += self.complaints.last().map_or(0, String::len);
    }

    fn below(&mut self, element: String, look: impl FnOnce(&mut Self)) {
        self.path.push(element);
        look(self);
        self.path.pop();
    }

    fn value(&mut self, shape: Shape<'_>, value: &Value) {
        match (shape.form, value) {
            (_, Value::Null) | (Form::Any, _) => {}
            (Form::Scalar(ty), value) => self.scalar(ty, value),
            (Form::Struct(_) | Form::Map(_), Value::Object(map)) => {
                for (name, value) in map {
                    self.below(format!(".{name}"), |at| match shape.member(name) {
                        Some(inner) => at.value(inner, value),
                        None => at.complain("field not declared in schema"),
                    });
                }
            }
            (Form::Struct(_) | Form::Map(_), other) => {
                self.complain(format!("expected map, got &{{{other}}}"))
            }
            (Form::List(..), Value::Array(list)) => self.items(shape, list),
            (Form::List(..), other) => self.complain(format!("expected list, got &{{{other}}}")),
        }
    }

    fn items(&mut self, shape: Shape<'_>, list: &[Value]) {
        let mut seen = BTreeSet::new();
        for (i, item) in list.iter().enumerate() {
            let element = match shape.atomic {
                true => Element::Index(i64::try_from(i).unwrap_or(i64::MAX)),
                false => match shape.element(item) {
                    Ok(element) => element,
                    Err(why) => return self.complain(format!("element {i}: {why}")),
                },
            };
            let shown = element.to_string();
            if !seen.insert(element) {
                self.complain(format!("duplicate entries for key {shown}"));
            }
            self.below(shown, |at| at.value(shape.item(), item));
        }
    }

    fn scalar(&mut self, ty: &Type, value: &Value) {
        let fits = match ty {
            Type::Bool => value.is_boolean(),
            Type::Int32 | Type::Int64 | Type::Float => value.is_number(),
            Type::Quantity | Type::IntOrString => !value.is_object() && !value.is_array(),
            _ => value.is_string(),
        };
        let wanted = match ty {
            _ if fits => return,
            Type::Bool => "boolean",
            Type::Int32 | Type::Int64 | Type::Float => "numeric (int or float)",
            Type::Quantity | Type::IntOrString => "any scalar",
            _ => "string",
        };
        self.complain(format!("expected {wanted}, got &{{{value}}}"));
    }
}
