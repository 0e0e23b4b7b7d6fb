//! Lists, maps and objects that an expression makes.
use super::cost::sum;
use super::operators::expected;
use super::sizes::{Entries, Known, Place, Size};
use super::{Checked, Checker, Outcome, known, undeclared};
use crate::cel::syntax::Expr;
use crate::cel::types::Type;
use crate::cel::{Mistake, patches};

/// The elements of a list, keys or values, that are to be of one type.
struct Row {
    of: Type,
    /// One is of another type, which was noted.
    told: bool,
}

impl Default for Row {
    fn default() -> Self {
        Row {
            of: Type::Open,
            told: false,
        }
    }
}

impl Checker {
    pub(super) fn list(&mut self, items: &[(Expr, bool)]) -> Outcome {
        let (mut ty, mut cost, mut parts) = (Type::Open, 10, Vec::new());
        let (mut row, mut sizes) = (Row::default(), Vec::new());
        for (expr, optional) in items {
            let item = self.expr(expr)?;
            let found = given(item.ty.clone(), *optional, expr.at)?;
            if !row.told {
                self.beside(&mut row, &found, expr.at);
            }
            ty = ty.join(found);
            cost = sum(&[cost, item.cost]);
            sizes.push(item.known.size());
            if self.mixed {
                parts.push(item);
            }
        }
        let entries = Entries {
            is_list: true,
            keys: Size::ONE,
            values: Size::any(sizes),
        };
        Ok(Checked {
            ty: Type::list(ty),
            cost,
            known: written(items.len(), entries),
            parts,
        })
    }

    /// Notes an element that is of another type than those before it.
    fn beside(&mut self, row: &mut Row, found: &Type, at: usize) {
        if !self.mixed && !row.of.agrees(found) {
            self.mistakes.push(expected(&row.of, found, at));
            row.told = true;
            return;
        }
        row.of = std::mem::replace(&mut row.of, Type::Open).join(found.clone());
    }

    pub(super) fn map(&mut self, entries: &[(Expr, Expr, bool)]) -> Outcome {
        let (mut key_ty, mut value_ty, mut cost) = (Type::Open, Type::Open, 30);
        let (mut keys, mut values, mut parts) = (Row::default(), Row::default(), Vec::new());
        let mut sizes = Vec::new();
        for (key_expr, value_expr, optional) in entries {
            let (key, value) = (self.expr(key_expr)?, self.expr(value_expr)?);
            let found = given(value.ty.clone(), *optional, value_expr.at)?;
            self.beside(&mut keys, &key.ty, key_expr.at);
            self.beside(&mut values, &found, value_expr.at);
            key_ty = key_ty.join(key.ty.clone());
            value_ty = value_ty.join(found);
            cost = sum(&[cost, key.cost, value.cost]);
            sizes.push((key.known.size(), value.known.size()));
            if self.mixed {
                parts.extend([key, value]);
            }
        }
        // What nests can never be a key, and has no part in the type: a name in both places would double it at every level.
        if key_ty.depth() > 1 {
            key_ty = Type::Dyn;
        }
        let of_parts = Entries {
            is_list: false,
            keys: Size::any(sizes.iter().map(|(key, _)| *key)),
            values: Size::any(sizes.iter().map(|(_, value)| *value)),
        };
        Ok(Checked {
            ty: Type::map(key_ty, value_ty),
            cost,
            known: written(entries.len(), of_parts),
            parts,
        })
    }

    pub(super) fn message(&mut self, expr: &Expr, name: &str, fields: &[(String, Expr, bool)]) -> Outcome {
        if !self.offered.patches || !patches::is_type(name) {
            return Err(undeclared(name, expr.at));
        }
        let mut cost = patches::COST;
        for (field, value, optional) in fields {
            let found = self.expr(value)?;
            let ty = given(found.ty, *optional, value.at)?;
            patches::check(name, field, &ty).map_err(|why| Mistake::new(value.at, why))?;
            cost = sum(&[cost, found.cost]);
        }
        known(patches::of(name), cost)
    }
}

/// The type of an element; what may be missing is wrapped.
fn given(ty: Type, optional: bool, at: usize) -> Result<Type, Mistake> {
    match (optional, ty) {
        (false, ty) => Ok(ty),
        (true, Type::Optional(inner)) => Ok(inner.as_ref().clone()),
        (true, Type::Dyn | Type::Open) => Ok(Type::Dyn),
        (true, other) => Err(expected(&Type::optional(other.clone()), &other, at)),
    }
}

/// Of a list or map that is written out.
fn written(count: usize, entries: Entries) -> Known {
    Known {
        size: Some(Size::fixed(count as u64)),
        entries: Some(entries),
        place: Place::Made,
    }
}
