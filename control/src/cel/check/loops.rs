//! Loops over lists and maps: what their names are within, and what all turns cost.
//!
//! Each is counted as cel-go's expansion of it into a comprehension: what it begins with, each turn's condition and step,
//! and how the result is taken from what was gathered.
use super::cost::{sorted, sum};
use super::operators::no_overload;
use super::sizes::{Entries, Known, Place, Size};
use super::{Checked, Checker, Local, Outcome, judge};
use crate::cel::Mistake;
use crate::cel::syntax::{Each, EachKind, Expr};
use crate::cel::types::Type;

/// Making a list, or a map.
const LIST: u64 = 10;
const MAP: u64 = 30;
/// What was gathered with one more in it: naming it, a list of the one, adding both.
const ADDED: u64 = LIST + 2;
/// What comes before and after all turns of `sortBy`: a name for the list, and naming it for the keys and to sort it.
const NAMED: u64 = LIST + 2;

/// The body and the condition of a loop, checked.
struct Inside {
    body: Checked,
    /// What the condition costs, if there is one.
    condition: Option<u64>,
}

impl Checker {
    pub(super) fn each(&mut self, expr: &Expr, each: &Each) -> Outcome {
        let over = self.expr(&each.over)?;
        let (first, second) = self.named(&over, each)?;
        let before = self.variables.len();
        self.variables.push((each.name.clone(), first.clone()));
        if let (Some(name), Some(second)) = (&each.second, second) {
            self.variables.push((name.clone(), second));
        }
        let inside = self.inside(expr, each, &first.ty);
        self.variables.truncate(before);
        let inside = inside?;
        let ty = made(expr, each.kind, &over.ty, &first.ty, &inside.body.ty)?;
        Ok(counted(each.kind, ty, &over, &first, &inside))
    }

    /// What the names of a loop stand for.
    fn named(&self, over: &Checked, each: &Each) -> Result<(Local, Option<Local>), Mistake> {
        let settled = |ty: &Type| ty.clone().settled();
        let (first, second) = match (&over.ty, each.second.is_some()) {
            (Type::List(item), false) => (settled(item), None),
            (Type::List(item), true) => (Type::Int, Some(settled(item))),
            (Type::Map(key, value), _) => (settled(key), Some(settled(value))),
            (Type::Dyn | Type::Open, _) => (Type::Dyn, Some(Type::Dyn)),
            (other, _) => {
                let why = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return Err(Mistake::new(each.over.at, why));
            }
        };
        let known = match each.second {
            None => over.known.single(&over.ty, &first, &self.stray),
            Some(_) => over.known.part(&over.ty, false, &first, &self.stray),
        };
        let second = second.map(|ty| Local {
            known: over.known.part(&over.ty, true, &ty, &self.stray),
            ty,
        });
        Ok((Local { ty: first, known }, second))
    }

    fn inside(&mut self, expr: &Expr, each: &Each, element: &Type) -> Result<Inside, Mistake> {
        let condition = match &each.condition {
            Some(condition) => Some(self.expr(condition)?),
            None => None,
        };
        let body = self.expr(&each.body)?;
        let chosen = |by: &Type, made: Type| match by.fits(&Type::Bool) {
            true => Ok(()),
            false => Err(no_overload("_?_:_", &[by.clone(), made.clone(), made], expr.at)),
        };
        match each.kind {
            EachKind::All | EachKind::Exists => judge(&body.ty, each.body.at)?,
            EachKind::ExistsOne => chosen(&body.ty, Type::Int)?,
            EachKind::Filter => chosen(&body.ty, Type::list(element.clone()))?,
            EachKind::TransformMapEntry if !body.ty.fits(&Type::map(Type::Dyn, Type::Dyn)) => {
                let types = [Type::map(Type::Dyn, Type::Dyn), body.ty];
                return Err(no_overload("cel.@mapInsert", &types, expr.at));
            }
            EachKind::Map
            | EachKind::SortBy
            | EachKind::TransformList
            | EachKind::TransformMap
            | EachKind::TransformMapEntry => {}
        }
        if let Some(condition) = &condition {
            let made = match each.kind {
                EachKind::TransformMap => Type::map(element.clone(), body.ty.clone()),
                EachKind::TransformMapEntry => body.ty.clone(),
                _ => Type::list(body.ty.clone()),
            };
            chosen(&condition.ty, made)?;
        }
        Ok(Inside {
            condition: condition.map(|condition| condition.cost),
            body,
        })
    }
}

/// The type of what a loop makes.
fn made(expr: &Expr, kind: EachKind, over: &Type, element: &Type, body: &Type) -> Result<Type, Mistake> {
    Ok(match kind {
        EachKind::All | EachKind::Exists | EachKind::ExistsOne => Type::Bool,
        EachKind::Filter => Type::list(element.clone()),
        EachKind::Map | EachKind::TransformList => Type::list(body.clone()),
        EachKind::SortBy if body.is_ordered() && over.fits(&Type::list(Type::Dyn)) => over.clone(),
        EachKind::SortBy => {
            let why = format!(
                "found no matching overload for '@sortByAssociatedKeys' applied to '{over}.(list({body}))'"
            );
            return Err(Mistake::new(expr.at, why));
        }
        EachKind::TransformMap => Type::map(element.clone(), body.clone()),
        EachKind::TransformMapEntry => match body {
            Type::Map(..) => body.clone(),
            _ => Type::map(Type::Dyn, Type::Dyn),
        },
    })
}

/// What a loop costs, and how large what it makes is.
fn counted(kind: EachKind, ty: Type, over: &Checked, element: &Local, inside: &Inside) -> Checked {
    let count = over.known.size();
    let body = inside.body.cost;
    // What a turn leaves as it was is named all the same.
    let chosen = |step: u64| inside.condition.map_or(step, |cost| sum(&[cost, step.max(1)]));
    let (begun, turn, taken) = match kind {
        EachKind::All => (0, sum(&[body, 3]), 1),
        EachKind::Exists => (0, sum(&[body, 4]), 1),
        EachKind::ExistsOne => (0, sum(&[body, 2]), 2),
        EachKind::Filter => (LIST, sum(&[body, ADDED, 1]), 1),
        EachKind::Map | EachKind::TransformList => (LIST, chosen(sum(&[body, ADDED])), 1),
        EachKind::SortBy => (NAMED, sum(&[body, ADDED]), LIST + 1),
        EachKind::TransformMap => (MAP, chosen(sum(&[body, 3])), 1),
        EachKind::TransformMapEntry => (MAP, chosen(sum(&[body, 2])), 1),
    };
    let (order, size) = match kind {
        EachKind::All | EachKind::Exists | EachKind::ExistsOne => (0, Size::ONE),
        EachKind::SortBy => sorted(&inside.body.ty, count),
        _ => (0, count),
    };
    let values = match kind {
        EachKind::Filter => Some(element.known.size()),
        EachKind::Map | EachKind::TransformList => Some(inside.body.known.size()),
        _ => None,
    };
    let entries = values.map(|size| Entries {
        is_list: true,
        keys: Size::ONE,
        values: size.or(Size::fixed(0)),
    });
    Checked {
        ty,
        cost: sum(&[over.cost, begun, count.most.saturating_mul(turn), taken, order]),
        known: Known {
            size: Some(size),
            entries,
            place: Place::Made,
        },
        parts: Vec::new(),
    }
}
