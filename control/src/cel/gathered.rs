//! What the turns of a macro leave behind, and what it comes to in the end.
use std::collections::BTreeMap;

use super::eval::{EvalError, Evaluated, Run};
use super::functions;
use super::functions::lists::sorted;
use super::syntax::EachKind;
use super::value::{Key, Value};

/// What a macro has gathered.
#[derive(Default)]
pub(super) struct Gathered<'a> {
    pub items: Vec<Value<'a>>,
    /// By which the items are sorted.
    pub keys: Vec<Value<'a>>,
    pub entries: BTreeMap<Key, Value<'a>>,
    pub count: usize,
    /// Of an element that might have decided, had it not failed.
    pub error: Option<EvalError>,
}

impl<'a> Gathered<'a> {
    /// Takes over the entries of a map, of which none may be there yet.
    pub fn enter(&mut self, made: Value<'a>) -> Result<(), EvalError> {
        let Value::Map(map) = made else {
            return Err(EvalError::no_overload());
        };
        for name in map.keys() {
            let key = name.key().ok_or_else(EvalError::no_overload)?;
            let value = map.get(&key).ok_or_else(EvalError::no_overload)?;
            if self.entries.insert(key, value).is_some() {
                let shown = functions::shown(&name);
                return Err(EvalError::new(format!(
                    "insert failed: key {shown} already exists"
                )));
            }
        }
        Ok(())
    }

    pub fn finish(self, run: &mut Run<'a, '_>, kind: EachKind) -> Evaluated<'a> {
        match (kind, self.error) {
            (_, Some(error)) => Err(error),
            (EachKind::All, None) => Ok(Value::Bool(true)),
            (EachKind::Exists, None) => Ok(Value::Bool(false)),
            (EachKind::ExistsOne, None) => Ok(Value::Bool(self.count == 1)),
            (EachKind::TransformMap | EachKind::TransformMapEntry, None) => Ok(Value::map(self.entries)),
            (EachKind::SortBy, None) => sorted(run, self.items, &self.keys),
            (_, None) => Ok(Value::list(self.items)),
        }
    }
}
