//! Loops over lists and maps: what their names are within, and what all turns cost.
use super::cost::{size, sum};
use super::operators::no_overload;
use super::{Checker, Outcome, judge, known};
use crate::cel::Mistake;
use crate::cel::functions::lists::comparing;
use crate::cel::syntax::{Each, EachKind, Expr};
use crate::cel::types::Type;

/// What one turn of a loop costs beside its body.
const TURN: u64 = 3;

impl Checker {
    pub(super) fn each(&mut self, expr: &Expr, each: &Each) -> Outcome {
        let over = self.expr(&each.over)?;
        let (first, second) = match (&over.ty, each.second.is_some()) {
            (Type::List(item, _), false) => (item.as_ref().clone().settled(), None),
            (Type::List(item, _), true) => (Type::Int, Some(item.as_ref().clone().settled())),
            (Type::Map(key, value, _), _) => (
                key.as_ref().clone().settled(),
                Some(value.as_ref().clone().settled()),
            ),
            (Type::Dyn | Type::Open, _) => (Type::Dyn, Some(Type::Dyn)),
            (other, _) => {
                let why = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return Err(Mistake::new(each.over.at, why));
            }
        };
        let before = self.variables.len();
        self.variables.push((each.name.clone(), first.clone()));
        if let (Some(name), Some(ty)) = (&each.second, second) {
            self.variables.push((name.clone(), ty));
        }
        let inside = self.inside(expr, each, &first);
        self.variables.truncate(before);
        let (body, turn) = inside?;
        let count = size(&over.ty);
        let list = |item: Type| Type::List(item.into(), Some(count));
        let ty = match each.kind {
            EachKind::All | EachKind::Exists | EachKind::ExistsOne => Type::Bool,
            EachKind::Filter => list(first),
            EachKind::Map | EachKind::TransformList => list(body),
            EachKind::SortBy if body.is_ordered() && over.ty.fits(&Type::list(Type::Dyn)) => over.ty.clone(),
            EachKind::SortBy => {
                let why = format!(
                    "found no matching overload for '@sortByAssociatedKeys' applied to '{}.(list({body}))'",
                    over.ty
                );
                return Err(Mistake::new(expr.at, why));
            }
            EachKind::TransformMap => Type::Map(first.into(), body.into(), Some(count)),
        };
        let turns = count.saturating_mul(turn.saturating_add(TURN));
        let order = match each.kind {
            EachKind::SortBy => comparing(count),
            _ => 0,
        };
        known(ty, sum(&[over.cost, 1, turns, order]))
    }

    /// The type of the body, and what one turn costs.
    fn inside(&mut self, expr: &Expr, each: &Each, element: &Type) -> Result<(Type, u64), Mistake> {
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
            EachKind::Map | EachKind::SortBy | EachKind::TransformList | EachKind::TransformMap => {}
        }
        if let Some(condition) = &condition {
            chosen(&condition.ty, Type::list(body.ty.clone()))?;
        }
        let cost = condition.map_or(0, |condition| condition.cost);
        Ok((body.ty, sum(&[cost, body.cost])))
    }
}
