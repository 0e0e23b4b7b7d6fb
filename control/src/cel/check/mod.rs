//! Type checking, and an upper bound of the cost on the way: both are known of every part before it runs.
//!
//! Costs follow cel-go's cost model in kind: sizes come from declared limits, loops multiply.
mod cost;
mod operators;

use super::Mistake;
use super::patches;
use super::signatures::{self, Filled, NAMESPACES};
use super::syntax::{Binding, Each, EachKind, Expr, Literal, Node, Operator};
use super::types::Type;
use cost::{own_cost, size, sized, sum, tenth};
use operators::{joined, no_overload, operated};

/// The size of what has no declared limit: as much as a request can hold.
const UNBOUNDED: u64 = 3 << 20;
/// What one turn of a loop costs beside its body.
const TURN: u64 = 3;

#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub ty: Type,
    pub cost: u64,
}

/// With `patches` objects of the types of patches can be made: `Object…` and `JSONPatch`.
pub(super) fn check(expr: &Expr, variables: &[(&str, Type)], patches: bool) -> Result<Checked, Mistake> {
    let variables = variables
        .iter()
        .map(|(name, ty)| ((*name).to_owned(), ty.clone()))
        .collect();
    Checker { variables, patches }.expr(expr)
}

struct Checker {
    variables: Vec<(String, Type)>,
    patches: bool,
}

type Outcome = Result<Checked, Mistake>;

fn known(ty: Type, cost: u64) -> Outcome {
    Ok(Checked { ty, cost })
}

impl Checker {
    fn find(&self, name: &str) -> Option<&Type> {
        self.variables
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, ty)| ty)
    }

    fn expr(&mut self, expr: &Expr) -> Outcome {
        match &expr.node {
            Node::Literal(literal) => known(literal_type(literal), 0),
            Node::Name(name) => self.name(expr, name),
            Node::Select { of, field, optional } => self.select(expr, of, field, *optional),
            Node::Has { of, field } => {
                let of = self.expr(of)?;
                member(&of.ty, field, expr.at)?;
                known(Type::Bool, of.cost + 1)
            }
            Node::Index { of, index, optional } => self.index(expr, of, index, *optional),
            Node::Call {
                target,
                function,
                args,
            } => self.call(expr, target.as_deref(), function, args),
            Node::And(a, b) => self.logic("_&&_", expr, a, b),
            Node::Or(a, b) => self.logic("_||_", expr, a, b),
            Node::Not(of) => {
                let of = self.expr(of)?;
                want(&of.ty, &Type::Bool, "!_", expr.at)?;
                known(Type::Bool, of.cost + 1)
            }
            Node::Negate(of) => {
                let of = self.expr(of)?;
                match of.ty {
                    Type::Int | Type::Double | Type::Dyn => known(of.ty, of.cost + 1),
                    other => Err(no_overload("-_", &[other], expr.at)),
                }
            }
            Node::Choose(condition, yes, no) => {
                let condition = self.expr(condition)?;
                want(&condition.ty, &Type::Bool, "_?_:_", expr.at)?;
                let (yes, no) = (self.expr(yes)?, self.expr(no)?);
                if !yes.ty.fits(&no.ty) {
                    return Err(no_overload("_?_:_", &[Type::Bool, yes.ty, no.ty], expr.at));
                }
                known(yes.ty.join(no.ty), sum(&[condition.cost, yes.cost.max(no.cost)]))
            }
            Node::Binary(operator, a, b) => self.binary(expr, *operator, a, b),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Message { name, fields } => self.message(expr, name, fields),
            Node::Each(each) => self.each(expr, each),
            Node::Bind {
                how,
                name,
                value,
                body,
            } => self.bind(expr, *how, name, value, body),
        }
    }

    fn name(&self, expr: &Expr, name: &str) -> Outcome {
        match self.find(name) {
            Some(ty) => known(ty.clone(), 1),
            None if super::functions::type_named(name).is_some() => known(Type::Type, 1),
            None => Err(Mistake::new(
                expr.at,
                format!("undeclared reference to '{name}' (in container '')"),
            )),
        }
    }

    fn select(&mut self, expr: &Expr, of: &Expr, field: &str, optional: bool) -> Outcome {
        if let Some(ty) = expr.dotted().and_then(|name| self.find(&name).cloned()) {
            return known(ty, 1);
        }
        let of = self.expr(of)?;
        let (inner, was_optional) = unwrapped(&of.ty);
        let ty = member(&inner, field, expr.at)?;
        known(
            if optional || was_optional {
                Type::optional(ty)
            } else {
                ty
            },
            of.cost + 1,
        )
    }

    fn index(&mut self, expr: &Expr, of: &Expr, index: &Expr, optional: bool) -> Outcome {
        let (of, index) = (self.expr(of)?, self.expr(index)?);
        let (inner, was_optional) = unwrapped(&of.ty);
        let ty = match (&inner, &index.ty) {
            (Type::Dyn, _) => Type::Dyn,
            (Type::List(item, _), Type::Int | Type::Uint | Type::Dyn) => item.as_ref().clone(),
            (Type::Map(key, value, _), index) if index.fits(key) => value.as_ref().clone(),
            (of, index) => return Err(no_overload("_[_]", &[of.clone(), index.clone()], expr.at)),
        };
        let ty = if optional || was_optional {
            Type::optional(ty)
        } else {
            ty
        };
        known(ty, sum(&[of.cost, index.cost, 1]))
    }

    fn logic(&mut self, word: &str, expr: &Expr, a: &Expr, b: &Expr) -> Outcome {
        let (a, b) = (self.expr(a)?, self.expr(b)?);
        for side in [&a, &b] {
            want(&side.ty, &Type::Bool, word, expr.at)?;
        }
        known(Type::Bool, sum(&[a.cost, b.cost]))
    }

    fn binary(&mut self, expr: &Expr, operator: Operator, a: &Expr, b: &Expr) -> Outcome {
        let (a, b) = (self.expr(a)?, self.expr(b)?);
        let ty = operated(operator, &a.ty, &b.ty)
            .ok_or_else(|| no_overload(operator.word(), &[a.ty.clone(), b.ty.clone()], expr.at))?;
        let own = match operator {
            Operator::Add => tenth(size(&a.ty).saturating_add(size(&b.ty))),
            Operator::In => size(&b.ty),
            _ => tenth(size(&a.ty).min(size(&b.ty))),
        };
        known(ty, sum(&[a.cost, b.cost, 1, own]))
    }

    fn list(&mut self, items: &[(Expr, bool)]) -> Outcome {
        let (mut ty, mut cost) = (None, 10);
        for (item, optional) in items {
            let item = self.expr(item)?;
            let found = if *optional { unwrapped(&item.ty).0 } else { item.ty };
            ty = Some(match ty {
                None => found,
                Some(before) => Type::join(before, found),
            });
            cost = sum(&[cost, item.cost]);
        }
        let count = Some(items.len() as u64);
        known(Type::List(ty.unwrap_or(Type::Dyn).into(), count), cost)
    }

    fn map(&mut self, entries: &[(Expr, Expr, bool)]) -> Outcome {
        let (mut key_ty, mut value_ty, mut cost) = (None, None, 30);
        let join = |before: Option<Type>, found: Type| match before {
            None => Some(found),
            Some(before) => Some(before.join(found)),
        };
        for (key, value, optional) in entries {
            let (key, value) = (self.expr(key)?, self.expr(value)?);
            let found = if *optional {
                unwrapped(&value.ty).0
            } else {
                value.ty
            };
            key_ty = join(key_ty, key.ty);
            value_ty = join(value_ty, found);
            cost = sum(&[cost, key.cost, value.cost]);
        }
        let (key, value) = (key_ty.unwrap_or(Type::Dyn), value_ty.unwrap_or(Type::Dyn));
        known(
            Type::Map(key.into(), value.into(), Some(entries.len() as u64)),
            cost,
        )
    }

    fn message(&mut self, expr: &Expr, name: &str, fields: &[(String, Expr, bool)]) -> Outcome {
        if !self.patches || !patches::is_type(name) {
            let why = format!("undeclared reference to '{name}' (in container '')");
            return Err(Mistake::new(expr.at, why));
        }
        let mut cost = patches::COST;
        for (field, value, optional) in fields {
            let found = self.expr(value)?;
            let ty = match optional {
                true => unwrapped(&found.ty).0,
                false => found.ty,
            };
            patches::check(name, field, &ty).map_err(|why| Mistake::new(value.at, why))?;
            cost = sum(&[cost, found.cost]);
        }
        known(patches::of(name), cost)
    }

    fn bind(&mut self, expr: &Expr, how: Binding, name: &str, value: &Expr, body: &Expr) -> Outcome {
        let value = self.expr(value)?;
        let ty = match (how, &value.ty) {
            (Binding::Always, ty) => ty.clone(),
            (_, Type::Optional(inner)) => inner.as_ref().clone(),
            (_, Type::Dyn) => Type::Dyn,
            (_, other) => return Err(no_overload("optMap", std::slice::from_ref(other), expr.at)),
        };
        self.variables.push((name.to_owned(), ty));
        let body = self.expr(body);
        self.variables.pop();
        let body = body?;
        let ty = if how == Binding::Map {
            Type::optional(body.ty)
        } else {
            body.ty
        };
        known(ty, sum(&[value.cost, body.cost, 1]))
    }

    fn each(&mut self, expr: &Expr, each: &Each) -> Outcome {
        let over = self.expr(&each.over)?;
        let (first, second) = match (&over.ty, each.second.is_some()) {
            (Type::List(item, _), false) => (item.as_ref().clone(), None),
            (Type::List(item, _), true) => (Type::Int, Some(item.as_ref().clone())),
            (Type::Map(key, value, _), _) => (key.as_ref().clone(), Some(value.as_ref().clone())),
            (Type::Dyn, _) => (Type::Dyn, Some(Type::Dyn)),
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
        let inside = self.inside(expr, each);
        self.variables.truncate(before);
        let (body, turn) = inside?;
        let count = size(&over.ty);
        let list = |item: Type| Type::List(item.into(), Some(count));
        let ty = match each.kind {
            EachKind::All | EachKind::Exists | EachKind::ExistsOne => Type::Bool,
            EachKind::Filter => list(first),
            EachKind::Map | EachKind::TransformList => list(body),
            EachKind::TransformMap => Type::Map(first.into(), body.into(), Some(count)),
        };
        known(
            ty,
            sum(&[over.cost, 1, count.saturating_mul(turn.saturating_add(TURN))]),
        )
    }

    /// The type of the body, and what one turn costs.
    fn inside(&mut self, expr: &Expr, each: &Each) -> Result<(Type, u64), Mistake> {
        let mut cost = 0;
        if let Some(condition) = &each.condition {
            let condition = self.expr(condition)?;
            want(&condition.ty, &Type::Bool, "_?_:_", expr.at)?;
            cost = condition.cost;
        }
        let body = self.expr(&each.body)?;
        if !matches!(
            each.kind,
            EachKind::Map | EachKind::TransformList | EachKind::TransformMap
        ) {
            let word = if each.kind == EachKind::Exists {
                "_||_"
            } else {
                "_&&_"
            };
            want(&body.ty, &Type::Bool, word, each.body.at)?;
        }
        Ok((body.ty, sum(&[cost, body.cost])))
    }

    fn call(&mut self, expr: &Expr, target: Option<&Expr>, function: &str, args: &[Expr]) -> Outcome {
        let namespace = target.and_then(Expr::dotted);
        let namespace = namespace.filter(|n| NAMESPACES.contains(&n.as_str()) && self.find(n).is_none());
        let (name, target) = match namespace {
            Some(namespace) => (format!("{namespace}.{function}"), None),
            None => (function.to_owned(), target),
        };
        let target = target.map(|t| self.expr(t)).transpose()?;
        let args = args.iter().map(|a| self.expr(a)).collect::<Result<Vec<_>, _>>()?;
        let overloads = signatures::of(&name);
        if overloads.is_empty() {
            return Err(Mistake::new(
                expr.at,
                format!("undeclared reference to '{name}' (in container '')"),
            ));
        }
        let results: Vec<Type> = overloads
            .iter()
            .filter_map(|s| result(s, target.as_ref(), &args))
            .collect();
        let Some(first) = results.first() else {
            let mut types: Vec<Type> = args.iter().map(|a| a.ty.clone()).collect();
            let of = target.map(|t| t.ty);
            let shown = match &of {
                Some(of) => format!("'{of}.({})'", joined(&types)),
                None => format!("'({})'", joined(&std::mem::take(&mut types))),
            };
            let why = format!("found no matching overload for '{name}' applied to {shown}");
            return Err(Mistake::new(expr.at, why));
        };
        let ty = match results.iter().all(|r| r == first) {
            true => first.clone(),
            false => Type::Dyn,
        };
        let inputs: Vec<&Checked> = target.iter().chain(&args).collect();
        let costs = inputs.iter().fold(1_u64, |total, c| total.saturating_add(c.cost));
        let sizes: Vec<u64> = inputs.iter().map(|c| size(&c.ty)).collect();
        known(
            sized(ty, &name, &sizes),
            costs.saturating_add(own_cost(&name, &sizes)),
        )
    }
}

fn result(signature: &signatures::Signature, target: Option<&Checked>, args: &[Checked]) -> Option<Type> {
    let mut filled = Filled::new();
    let on = match (&signature.target, target) {
        (None, None) => true,
        (Some(pattern), Some(target)) => pattern.takes(&target.ty, &mut filled),
        _ => false,
    };
    let same = on && signature.args.len() == args.len();
    let takes = same
        && signature
            .args
            .iter()
            .zip(args)
            .all(|(p, a)| p.takes(&a.ty, &mut filled));
    takes.then(|| signature.result.fill(&filled))
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(text) => Type::String(Some(text.len() as u64)),
        Literal::Bytes(_) => Type::Bytes,
    }
}

fn unwrapped(ty: &Type) -> (Type, bool) {
    match ty {
        Type::Optional(inner) => (inner.as_ref().clone(), true),
        other => (other.clone(), false),
    }
}

fn member(of: &Type, field: &str, at: usize) -> Result<Type, Mistake> {
    let (of, _) = unwrapped(of);
    match &of {
        Type::Dyn => Ok(Type::Dyn),
        Type::Map(_, value, _) => Ok(value.as_ref().clone()),
        Type::Object(structure) => structure
            .fields
            .get(field)
            .cloned()
            .ok_or_else(|| Mistake::new(at, format!("undefined field '{field}'"))),
        other => Err(Mistake::new(
            at,
            format!("type '{other}' does not support field selection"),
        )),
    }
}

fn want(ty: &Type, wanted: &Type, word: &str, at: usize) -> Result<(), Mistake> {
    match ty.fits(wanted) {
        true => Ok(()),
        false => Err(no_overload(word, std::slice::from_ref(ty), at)),
    }
}
