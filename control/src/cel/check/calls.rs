//! Calls of functions, and names that an expression binds.
use super::cost::{Given, charge, sum};
use super::literals::valid;
use super::operators::{joined, no_overload};
use super::sizes::{Known, Place};
use super::{Checked, Checker, Local, Outcome, formats, known, undeclared};
use crate::cel::Mistake;
use crate::cel::signatures::{self, Filled, NAMESPACES};
use crate::cel::syntax::{Binding, Expr};
use crate::cel::types::Type;

/// Making a list.
const LIST: u64 = 10;

impl Checker {
    pub(super) fn bind(
        &mut self,
        expr: &Expr,
        how: Binding,
        name: &str,
        value: &Expr,
        body: &Expr,
    ) -> Outcome {
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
        let local = match how {
            Binding::Always => value.known.clone(),
            Binding::Map | Binding::FlatMap => Known::made(&ty),
        };
        self.variables.push((name.to_owned(), Local { ty, known: local }));
        let body = self.expr(body);
        self.variables.pop();
        let body = body?;
        // The name is given by a loop over an empty list. What is optional is asked whether it is there, and for its value.
        let named = sum(&[LIST, value.cost, body.cost]);
        let cost = match how {
            Binding::Always => named,
            Binding::Map => sum(&[value.cost, 1, named, 2]),
            Binding::FlatMap => sum(&[value.cost, 1, named, 1]),
        };
        match how {
            Binding::Always => Ok(Checked::of(
                body.ty,
                cost,
                Known {
                    place: Place::Made,
                    ..body.known
                },
            )),
            Binding::Map => known(Type::optional(body.ty), cost),
            Binding::FlatMap => known(body.ty, cost),
        }
    }

    pub(super) fn call(
        &mut self,
        expr: &Expr,
        target: Option<&Expr>,
        function: &str,
        args: &[Expr],
    ) -> Outcome {
        let dotted = target.and_then(Expr::dotted);
        let dotted = dotted.filter(|n| NAMESPACES.contains(&n.as_str()) && self.find(n).is_none());
        let namespace = dotted.as_ref().and(target).map(|target| target.at);
        let (name, target) = match dotted {
            Some(namespace) => (format!("{namespace}.{function}"), None),
            None => (function.to_owned(), target),
        };
        let overloads = signatures::of(&name);
        let is_known = !overloads.is_empty() && (self.offered.patches || !name.starts_with("jsonpatch."));
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
            return Err(unfit(&name, target.as_ref(), &args, expr.at));
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
        let given = Given {
            target: target.as_ref(),
            args: &args,
            written: given_args,
        };
        Ok(charged(&name, ty, &given))
    }

    fn args(&mut self, function: &str, args: &[Expr]) -> Result<Vec<Checked>, Mistake> {
        let before = self.mixed;
        self.mixed |= function == "format";
        let checked = args.iter().map(|arg| self.expr(arg)).collect();
        self.mixed = before;
        checked
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

/// That no overload takes what is given.
fn unfit(name: &str, target: Option<&Checked>, args: &[Checked], at: usize) -> Mistake {
    let types: Vec<Type> = args.iter().map(|a| a.ty.clone()).collect();
    let types = joined(&types);
    let shown = match target {
        Some(of) => format!("'{}.({types})'", of.ty),
        None => format!("'({types})'"),
    };
    Mistake::new(
        at,
        format!("found no matching overload for '{name}' applied to {shown}"),
    )
}

/// A call that gives this type, with its cost and size.
fn charged(name: &str, ty: Type, given: &Given<'_>) -> Checked {
    let inputs = given.target.into_iter().chain(given.args);
    let costs = inputs.fold(0_u64, |total, c| total.saturating_add(c.cost));
    let charge = charge(name, given);
    let known = match (name, given.args.first()) {
        // What can be anything is as large as it was.
        ("dyn", Some(arg)) => Known {
            place: Place::Made,
            ..arg.known.clone()
        },
        _ => Known::made(&ty),
    };
    Checked::of(ty, sum(&[costs, charge.cost]), known).sized(charge.size)
}
