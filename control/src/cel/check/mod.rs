//! Type checking, and an upper bound of the cost on the way: both are known of every part before it runs.
//!
//! Costs follow cel-go's cost model in kind: sizes come from declared limits, loops multiply.
mod cost;
mod formats;
mod literals;
mod loops;
mod operators;

use super::Mistake;
use super::patches;
use super::signatures::{self, Filled, NAMESPACES};
use super::syntax::{Binding, Expr, Literal, Node, Operator};
use super::types::Type;
use cost::{Given, own_cost, size, sized, sum, tenth};
use literals::valid;
use operators::{expected, joined, no_overload, operated};

/// The size of what has no declared limit: as much as a request can hold.
const UNBOUNDED: u64 = 3 << 20;
/// How deep a type may nest: deeper than any schema can. What is made of types that have names nests by them too.
const NESTING: usize = 256;

#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub ty: Type,
    pub cost: u64,
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
pub(super) fn check(
    expr: &Expr,
    variables: &[(&str, Type)],
    offered: Offered,
) -> Result<Checked, Vec<Mistake>> {
    let variables = variables
        .iter()
        .map(|(name, ty)| ((*name).to_owned(), ty.clone()))
        .collect();
    let mut checker = Checker {
        variables,
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

struct Checker {
    variables: Vec<(String, Type)>,
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
    Ok(Checked {
        ty,
        cost,
        parts: Vec::new(),
    })
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
        let checked = self.checked(expr)?;
        match checked.ty.depth() > NESTING {
            true => Err(Mistake::new(expr.at, "expression recursion limit exceeded")),
            false => Ok(checked),
        }
    }

    fn checked(&mut self, expr: &Expr) -> Outcome {
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
            Node::And(a, b) | Node::Or(a, b) => self.logic(a, b),
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
                let (yes, no) = (self.expr(yes)?, self.expr(no)?);
                if !condition.ty.fits(&Type::Bool) || !yes.ty.fits(&no.ty) {
                    return Err(no_overload("_?_:_", &[condition.ty, yes.ty, no.ty], expr.at));
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
            None if super::functions::type_named(name).is_some() => {
                known(Type::Type(signatures::type_named(name).into()), 1)
            }
            None => Err(undeclared(name, expr.at)),
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
            // Of a list or of a map: overloads of different results.
            (Type::Dyn | Type::Open, _) => return known(Type::Dyn, sum(&[of.cost, index.cost, 1])),
            (Type::List(item, _), Type::Int | Type::Uint | Type::Dyn) => item.as_ref().clone().settled(),
            (Type::Map(key, value, _), index) if index.fits(key) => value.as_ref().clone().settled(),
            (of, index) => return Err(no_overload("_[_]", &[of.clone(), index.clone()], expr.at)),
        };
        let ty = if optional || was_optional {
            Type::optional(ty)
        } else {
            ty
        };
        known(ty, sum(&[of.cost, index.cost, 1]))
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
        let own = match (operator, &ty) {
            (Operator::Add, Type::String(_) | Type::Bytes) => tenth(size(&a.ty).saturating_add(size(&b.ty))),
            (Operator::In, _) => size(&b.ty),
            // Comparisons.
            (_, Type::Bool) => tenth(size(&a.ty).min(size(&b.ty))),
            _ => 1,
        };
        known(ty, sum(&[a.cost, b.cost, own]))
    }

    fn list(&mut self, items: &[(Expr, bool)]) -> Outcome {
        let (mut ty, mut cost, mut parts) = (Type::Open, 10, Vec::new());
        let mut row = Row::default();
        for (expr, optional) in items {
            let item = self.expr(expr)?;
            let found = given(item.ty.clone(), *optional, expr.at)?;
            if !row.told {
                self.beside(&mut row, &found, expr.at);
            }
            ty = ty.join(found);
            cost = sum(&[cost, item.cost]);
            if self.mixed {
                parts.push(item);
            }
        }
        let count = Some(items.len() as u64);
        let list = known(Type::List(ty.into(), count), cost)?;
        Ok(Checked { parts, ..list })
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

    fn map(&mut self, entries: &[(Expr, Expr, bool)]) -> Outcome {
        let (mut key_ty, mut value_ty, mut cost) = (Type::Open, Type::Open, 30);
        let (mut keys, mut values, mut parts) = (Row::default(), Row::default(), Vec::new());
        for (key_expr, value_expr, optional) in entries {
            let (key, value) = (self.expr(key_expr)?, self.expr(value_expr)?);
            let found = given(value.ty.clone(), *optional, value_expr.at)?;
            self.beside(&mut keys, &key.ty, key_expr.at);
            self.beside(&mut values, &found, value_expr.at);
            key_ty = key_ty.join(key.ty.clone());
            value_ty = value_ty.join(found);
            cost = sum(&[cost, key.cost, value.cost]);
            if self.mixed {
                parts.extend([key, value]);
            }
        }
        // What nests can never be a key, and has no part in the type: a name in both places would double it at every level.
        if key_ty.depth() > 1 {
            key_ty = Type::Dyn;
        }
        let count = Some(entries.len() as u64);
        let map = known(Type::Map(key_ty.into(), value_ty.into(), count), cost)?;
        Ok(Checked { parts, ..map })
    }

    fn message(&mut self, expr: &Expr, name: &str, fields: &[(String, Expr, bool)]) -> Outcome {
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

    fn bind(&mut self, expr: &Expr, how: Binding, name: &str, value: &Expr, body: &Expr) -> Outcome {
        if how == Binding::Always && !self.offered.bindings {
            return Err(undeclared("cel", expr.at));
        }
        let value = self.expr(value)?;
        let ty = match (how, &value.ty) {
            (Binding::Always, ty) => ty.clone().settled(),
            (_, Type::Optional(inner)) => inner.as_ref().clone().settled(),
            (_, Type::Dyn | Type::Open) => Type::Dyn,
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

    fn call(&mut self, expr: &Expr, target: Option<&Expr>, function: &str, args: &[Expr]) -> Outcome {
        let dotted = target.and_then(Expr::dotted);
        let dotted = dotted.filter(|n| NAMESPACES.contains(&n.as_str()) && self.find(n).is_none());
        let namespace = dotted.as_ref().and(target).map(|target| target.at);
        let (name, target) = match dotted {
            Some(namespace) => (format!("{namespace}.{function}"), None),
            None => (function.to_owned(), target),
        };
        let overloads = signatures::of(&name);
        let is_known = !overloads.is_empty() && (self.offered.patches || !name.starts_with("jsonpatch."));
        let declared = target.is_some_and(Expr::is_declared);
        let on = target;
        let target = target.map(|t| self.expr(t)).transpose()?;
        if !is_known {
            // A namespace without the function is no name at all.
            let (at, word) = match namespace {
                Some(at) => (at, name.split('.').next().unwrap_or_default()),
                None => (expr.at, name.as_str()),
            };
            return Err(undeclared(word, at));
        }
        let given_args = args;
        let args = self.args(&name, args)?;
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
            true => first.clone().settled(),
            false => Type::Dyn,
        };
        self.mistakes.extend(valid(&name, given_args));
        if let (Some(on), "format") = (on, name.as_str()) {
            self.mistakes
                .extend(formats::mistake(expr, on, given_args, &args));
        }
        let inputs: Vec<&Checked> = target.iter().chain(&args).collect();
        let costs = inputs.iter().fold(0_u64, |total, c| total.saturating_add(c.cost));
        let types: Vec<&Type> = inputs.iter().map(|c| &c.ty).collect();
        let given = Given {
            types: &types,
            declared,
        };
        let cost = costs.saturating_add(own_cost(&name, &given));
        known(sized(ty, &name, &given), cost)
    }
}

impl Checker {
    fn args(&mut self, function: &str, args: &[Expr]) -> Result<Vec<Checked>, Mistake> {
        let before = self.mixed;
        self.mixed |= function == "format";
        let checked = args.iter().map(|arg| self.expr(arg)).collect();
        self.mixed = before;
        checked
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
        Type::Dyn | Type::Open => Ok(Type::Dyn),
        Type::Map(_, value, _) => Ok(value.as_ref().clone().settled()),
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
