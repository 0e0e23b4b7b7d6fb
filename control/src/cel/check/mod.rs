//! Type checking, and an upper bound of the cost on the way: both are known of every part before it runs.
//!
//! Costs are those of cel-go's estimate: sizes come from declared limits, loops multiply.
mod calls;
mod cost;
mod formats;
mod literals;
mod loops;
mod made;
mod operators;
mod sizes;

use std::sync::Arc;

use super::Mistake;
use super::extent::Extent;
use super::signatures;
use super::syntax::{Expr, Literal, Node, Operator};
use super::types::Type;
use cost::sum;
use operators::{counted, expected, no_overload, operated};
use sizes::{Known, Place, Size, Step};

/// How deep a type may nest: deeper than any schema can. What is made of types that have names nests by them too.
const NESTING: usize = 256;

#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub ty: Type,
    pub cost: u64,
    known: Known,
    /// The elements of a list, or keys and values of a map, that is written out to fill a format.
    parts: Vec<Checked>,
}

/// What not every expression is offered.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Offered {
    /// Objects of the types of patches can be made: `Object…` and `JSONPatch`.
    pub patches: bool,
    /// `cel.bind`.
    pub bindings: bool,
}

/// The type of an expression, or what is wrong: the first part that has no type, or all of what has one and cannot be meant.
/// Each variable is as large as `extent` says.
pub(super) fn check(
    expr: &Expr,
    variables: &[(&str, Type)],
    extent: Option<&Arc<Extent>>,
    offered: Offered,
) -> Result<Checked, Vec<Mistake>> {
    let root = extent.map_or(Place::Lost, |extent| Place::Declared(extent.clone()));
    let local = |ty: &Type| Local {
        ty: ty.clone(),
        known: Known::at(root.clone(), ty),
    };
    let variables = variables
        .iter()
        .map(|(name, ty)| ((*name).to_owned(), local(ty)))
        .collect();
    // Of a device, only what begins with its name is looked for.
    let stray = match offered.bindings {
        true => Place::Lost,
        false => root,
    };
    let mut checker = Checker {
        variables,
        stray,
        offered,
        mixed: false,
        mistakes: Vec::new(),
    };
    let checked = checker.expr(expr).map_err(|mistake| vec![mistake])?;
    match checker.mistakes.is_empty() {
        true => Ok(checked),
        false => Err(checker.mistakes),
    }
}

/// What a name stands for.
#[derive(Debug, Clone)]
struct Local {
    ty: Type,
    known: Known,
}

struct Checker {
    variables: Vec<(String, Local)>,
    /// Where the parts of what an expression made are looked for: upstream's rules of definitions take the name of a
    /// part for that of the object.
    stray: Place,
    offered: Offered,
    /// Elements of lists may be of many types: they are there to fill a format.
    mixed: bool,
    /// What has a type, and is wrong all the same.
    mistakes: Vec<Mistake>,
}

type Outcome = Result<Checked, Mistake>;

fn undeclared(name: &str, at: usize) -> Mistake {
    Mistake::new(at, format!("undeclared reference to '{name}' (in container '')"))
}

fn known(ty: Type, cost: u64) -> Outcome {
    let known = Known::made(&ty);
    Ok(Checked::of(ty, cost, known))
}

impl Checked {
    fn of(ty: Type, cost: u64, known: Known) -> Checked {
        Checked {
            ty,
            cost,
            known,
            parts: Vec::new(),
        }
    }

    /// Of a size that follows from how it was made, if it does.
    fn sized(mut self, size: Option<Size>) -> Checked {
        self.known.size = size.or(self.known.size);
        self
    }
}

/// Whether all overloads of a function take it.
fn is_any(ty: &Type) -> bool {
    matches!(ty, Type::Dyn | Type::Open)
}

impl Checker {
    fn find(&self, name: &str) -> Option<&Local> {
        self.variables
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, local)| local)
    }

    fn expr(&mut self, expr: &Expr) -> Outcome {
        let checked = self.checked(expr)?;
        match checked.ty.depth() > NESTING {
            true => Err(Mistake::new(expr.at, "expression recursion limit exceeded")),
            false => Ok(checked),
        }
    }

    fn checked(&mut self, expr: &Expr) -> Outcome {
        match &expr.node {
            Node::Literal(literal) => Ok(known(literal_type(literal), 0)?.sized(Some(literal_size(literal)))),
            Node::Name(name) => self.name(expr, name),
            Node::Select { of, field, optional } => self.select(expr, of, field, *optional),
            Node::Has { of, field } => {
                let of = self.expr(of)?;
                member(&of.ty, field, expr.at)?;
                known(Type::Bool, of.cost)
            }
            Node::Index { of, index, optional } => self.index(expr, of, index, *optional),
            Node::Call {
                target,
                function,
                args,
            } => self.call(expr, target.as_deref(), function, args),
            Node::And(a, b) | Node::Or(a, b) => self.logic(a, b),
            Node::Not(of) => {
                let of = self.expr(of)?;
                want(&of.ty, &Type::Bool, "!_", expr.at)?;
                known(Type::Bool, sum(&[of.cost, 1]))
            }
            Node::Negate(of) => {
                let of = self.expr(of)?;
                match of.ty {
                    Type::Int | Type::Double | Type::Dyn => known(of.ty, sum(&[of.cost, 1])),
                    other => Err(no_overload("-_", &[other], expr.at)),
                }
            }
            Node::Choose(condition, yes, no) => self.choose(expr, condition, yes, no),
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

    fn choose(&mut self, expr: &Expr, condition: &Expr, yes: &Expr, no: &Expr) -> Outcome {
        let condition = self.expr(condition)?;
        let (yes, no) = (self.expr(yes)?, self.expr(no)?);
        if !condition.ty.fits(&Type::Bool) || !yes.ty.fits(&no.ty) {
            return Err(no_overload("_?_:_", &[condition.ty, yes.ty, no.ty], expr.at));
        }
        let cost = sum(&[condition.cost, yes.cost.max(no.cost)]);
        let mut chosen = known(yes.ty.join(no.ty), cost)?;
        // What one says of the type holds for the other.
        let size = |of: &Known| of.size.unwrap_or(chosen.known.size());
        let size = size(&yes.known).or(size(&no.known));
        let entries = yes.known.entries.zip(no.known.entries);
        chosen.known.entries = entries.map(|(yes, no)| yes.or(no));
        Ok(chosen.sized(Some(size)))
    }

    fn name(&self, expr: &Expr, name: &str) -> Outcome {
        match self.find(name) {
            Some(local) => Ok(Checked::of(local.ty.clone(), 1, local.known.clone())),
            None if super::functions::type_named(name).is_some() => {
                let ty = Type::Type(signatures::type_named(name).into());
                let known = Known::at(self.stray.clone(), &ty);
                Ok(Checked::of(ty, 1, known))
            }
            None => Err(undeclared(name, expr.at)),
        }
    }

    fn select(&mut self, expr: &Expr, of: &Expr, field: &str, optional: bool) -> Outcome {
        if let Some(local) = expr.dotted().and_then(|name| self.find(&name).cloned()) {
            return Ok(Checked::of(local.ty, 1, local.known));
        }
        let of = self.expr(of)?;
        let (inner, was_optional) = unwrapped(&of.ty);
        let ty = member(&inner, field, expr.at)?;
        let ty = match optional || was_optional {
            true => Type::optional(ty),
            false => ty,
        };
        if optional {
            return known(ty, sum(&[of.cost, 1]));
        }
        let own = u64::from(matches!(of.ty, Type::Map(..) | Type::Object(_)));
        let place = of.known.place.step(Step::Field(field), &self.stray);
        let known = Known::at(place, &ty);
        Ok(Checked::of(ty, sum(&[of.cost, own]), known))
    }

    fn index(&mut self, expr: &Expr, of: &Expr, index: &Expr, optional: bool) -> Outcome {
        let (of, index) = (self.expr(of)?, self.expr(index)?);
        let (inner, was_optional) = unwrapped(&of.ty);
        let ty = match (&inner, &index.ty) {
            // Of a list or of a map: overloads of different results.
            (Type::Dyn | Type::Open, _) => Type::Dyn,
            (Type::List(item), Type::Int | Type::Uint | Type::Dyn) => item.as_ref().clone().settled(),
            (Type::Map(key, value), index) if index.fits(key) => value.as_ref().clone().settled(),
            (of, index) => return Err(no_overload("_[_]", &[of.clone(), index.clone()], expr.at)),
        };
        let cost = sum(&[of.cost, index.cost, 1]);
        if optional || was_optional {
            return known(
                match is_any(&inner) {
                    true => ty,
                    false => Type::optional(ty),
                },
                cost,
            );
        }
        let place = of.known.place.step(Step::Item, &self.stray);
        let known = Known::at(place, &ty);
        let values = of.known.entries.map(|entries| entries.values);
        Ok(Checked::of(ty, cost, known).sized(values))
    }

    fn logic(&mut self, a: &Expr, b: &Expr) -> Outcome {
        let (left, right) = (self.expr(a)?, self.expr(b)?);
        for (side, found) in [(a, &left), (b, &right)] {
            judge(&found.ty, side.at)?;
        }
        known(Type::Bool, sum(&[left.cost, right.cost]))
    }

    fn binary(&mut self, expr: &Expr, operator: Operator, a: &Expr, b: &Expr) -> Outcome {
        let (a, b) = (self.expr(a)?, self.expr(b)?);
        let ty = operated(operator, &a.ty, &b.ty)
            .ok_or_else(|| no_overload(operator.word(), &[a.ty.clone(), b.ty.clone()], expr.at))?;
        Ok(counted(operator, ty, &a, &b))
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

fn literal_size(literal: &Literal) -> Size {
    match literal {
        Literal::String(text) => Size::fixed(text.chars().count() as u64),
        Literal::Bytes(bytes) => Size::fixed(bytes.len() as u64),
        _ => Size::ONE,
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
        Type::Dyn | Type::Open => Ok(Type::Dyn),
        Type::Map(_, value) => Ok(value.as_ref().clone().settled()),
        Type::Object(structure) => structure
            .fields
            .get(field)
            .cloned()
            .ok_or_else(|| Mistake::new(at, format!("undefined field '{field}'"))),
        Type::Asking(_) | Type::Quantity | Type::Url => Err(Mistake::new(
            at,
            format!("unexpected failed resolution of '{of}'"),
        )),
        other => Err(Mistake::new(
            at,
            format!("type '{other}' does not support field selection"),
        )),
    }
}

/// Fails unless it can be true or false.
fn judge(ty: &Type, at: usize) -> Result<(), Mistake> {
    match ty.fits(&Type::Bool) {
        true => Ok(()),
        false => Err(expected(&Type::Bool, ty, at)),
    }
}

fn want(ty: &Type, wanted: &Type, word: &str, at: usize) -> Result<(), Mistake> {
    match ty.fits(wanted) {
        true => Ok(()),
        false => Err(no_overload(word, std::slice::from_ref(ty), at)),
    }
}
