//! Evaluation within a budget. Every step and every element that is looked at costs.
use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::functions;
use super::gathered::Gathered;
use super::operators;
use super::patterns::Patterns;
use super::syntax::{Binding, Each, EachKind, Expr, Node, Operator};
use super::value::{Key, Value, constant};
use super::{CALL_LIMIT, Program};
use crate::kinds::numbers::is_whole;

/// How deep values may nest beyond what they are made of: comparing or ending one recurses.
const NESTING: u16 = 64;

/// Why an evaluation has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    #[error("operation cancelled: actual cost limit exceeded")]
    Cost,
    #[error("{0}")]
    Failed(String),
}

impl EvalError {
    pub(super) fn new(why: impl Into<String>) -> Self {
        EvalError::Failed(why.into())
    }

    pub(super) fn no_overload() -> Self {
        EvalError::new("no such overload")
    }
}

pub(super) type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// The variables of an evaluation, by name (`self`, `variables.x`); one may stand for the error of its own expression, or be
/// evaluated when it is first asked for.
#[derive(Debug, Default)]
pub struct Scope<'a> {
    variables: Vec<(String, Variable<'a>)>,
    /// What variables may still cost that are evaluated late; none when they cost more.
    purse: Cell<Option<u64>>,
}

#[derive(Debug)]
enum Variable<'a> {
    Known(Evaluated<'a>),
    Late(&'a Program, OnceCell<Evaluated<'a>>),
}

impl<'a> Scope<'a> {
    pub fn set(&mut self, name: impl Into<String>, value: Value<'a>) {
        self.set_outcome(name, Ok(value));
    }

    /// A variable whose value is the outcome of another evaluation.
    pub fn set_outcome(&mut self, name: impl Into<String>, outcome: Result<Value<'a>, EvalError>) {
        self.variables.push((name.into(), Variable::Known(outcome)));
    }

    /// A variable that is evaluated when it is first asked for, within [`CALL_LIMIT`] and what was granted. It sees those
    /// that were set before it.
    pub fn set_late(&mut self, name: impl Into<String>, program: &'a Program) {
        self.variables
            .push((name.into(), Variable::Late(program, OnceCell::new())));
    }

    /// What variables that are evaluated late may cost together from now on.
    pub fn grant(&self, budget: u64) {
        self.purse.set(Some(budget));
    }

    /// What is left of that; none when it was not enough.
    pub fn left(&self) -> Option<u64> {
        self.purse.get()
    }

    /// A variable among the first so many.
    fn get(&self, name: &str, among: usize) -> Option<Evaluated<'a>> {
        let variables = self.variables[..among].iter().enumerate().rev();
        let (index, (_, variable)) = variables.into_iter().find(|(_, (known, _))| known == name)?;
        Some(match variable {
            Variable::Known(value) => value.clone(),
            Variable::Late(program, value) => {
                value.get_or_init(|| self.evaluated(name, program, index)).clone()
            }
        })
    }

    fn evaluated(&self, name: &str, program: &'a Program, among: usize) -> Evaluated<'a> {
        let granted = CALL_LIMIT.min(self.left().unwrap_or(0));
        let mut budget = granted;
        let expr = (&program.expr, &program.patterns);
        let result = evaluate_among(expr, (self, among), &mut budget);
        // Those that this one was the first to use have been paid for meanwhile.
        let left = self.left().and_then(|left| paid(left, granted - budget, &result));
        self.purse.set(left);
        result.map_err(|error| {
            let name = name.strip_prefix("variables.").unwrap_or(name);
            EvalError::new(format!("composited variable {name:?} fails to evaluate: {error}"))
        })
    }
}

/// What is left when an evaluation was paid for: one that was stopped would have cost more than it did.
pub fn paid(purse: u64, cost: u64, result: &Result<Value<'_>, EvalError>) -> Option<u64> {
    let more = u64::from(matches!(result, Err(EvalError::Cost)));
    purse.checked_sub(cost + more)
}

/// The value of an expression, of which these are the patterns.
pub(super) fn evaluate<'a>(
    expr: (&'a Expr, &'a Patterns),
    scope: &Scope<'a>,
    budget: &mut u64,
) -> Evaluated<'a> {
    evaluate_among(expr, (scope, scope.variables.len()), budget)
}

/// The same, which sees so many of the variables.
fn evaluate_among<'a>(
    (expr, patterns): (&'a Expr, &'a Patterns),
    (scope, among): (&Scope<'a>, usize),
    budget: &mut u64,
) -> Evaluated<'a> {
    let mut run = Run {
        patterns,
        scope,
        among,
        locals: Vec::new(),
        left: *budget,
    };
    let result = run.eval(expr);
    *budget = run.left;
    result
}

/// One evaluation under way.
pub(super) struct Run<'a, 's> {
    pub patterns: &'a Patterns,
    scope: &'s Scope<'a>,
    among: usize,
    locals: Vec<(&'a str, Value<'a>)>,
    left: u64,
}

impl<'a> Run<'a, '_> {
    /// Takes a cost off the budget.
    pub fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(EvalError::Cost)
            }
        }
    }

    /// A cost of a tenth for each part, rounded up: what going through text costs.
    pub fn charge_text(&mut self, bytes: u64) -> Result<(), EvalError> {
        self.charge(bytes.div_ceil(10))
    }

    fn eval(&mut self, expr: &'a Expr) -> Evaluated<'a> {
        let value = self.value(expr)?;
        match value.depth() > NESTING {
            true => Err(EvalError::new("expression recursion limit exceeded")),
            false => Ok(value),
        }
    }

    fn value(&mut self, expr: &'a Expr) -> Evaluated<'a> {
        match &expr.node {
            Node::Literal(literal) => Ok(constant(literal)),
            Node::Name(name) => self.name(name),
            Node::Select { of, field, optional } => self.select(expr, of, field, *optional),
            Node::Has { of, field } => self.has(of, field),
            Node::Index { of, index, optional } => self.index(of, index, *optional),
            Node::Call {
                target,
                function,
                args,
            } => self.call(target.as_deref(), function, args),
            Node::And(a, b) => self.logic(a, b, false),
            Node::Or(a, b) => self.logic(a, b, true),
            Node::Not(of) => {
                self.charge(1)?;
                match self.eval(of)? {
                    Value::Bool(b) => Ok(Value::Bool(!b)),
                    _ => Err(EvalError::no_overload()),
                }
            }
            Node::Negate(of) => {
                self.charge(1)?;
                let value = self.eval(of)?;
                operators::negate(value)
            }
            Node::Choose(condition, yes, no) => match self.eval(condition)? {
                Value::Bool(true) => self.eval(yes),
                Value::Bool(false) => self.eval(no),
                _ => Err(EvalError::no_overload()),
            },
            Node::Binary(operator, a, b) => self.binary(*operator, a, b),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Message { name, fields } => self.message(name, fields),
            Node::Each(each) => self.each(each),
            Node::Bind {
                how,
                name,
                value,
                body,
            } => self.bind(*how, name, value, body),
        }
    }

    fn variable(&self, name: &str) -> Option<Evaluated<'a>> {
        let local = self.locals.iter().rev().find(|(n, _)| *n == name);
        local
            .map(|(_, v)| Ok(v.clone()))
            .or_else(|| self.scope.get(name, self.among))
    }

    fn name(&mut self, name: &'a str) -> Evaluated<'a> {
        self.charge(1)?;
        if let Some(value) = self.variable(name) {
            return value;
        }
        match functions::type_named(name) {
            Some(name) => Ok(Value::Type(Rc::from(name))),
            None => Err(EvalError::new(format!("no such attribute(s): {name}"))),
        }
    }

    fn select(&mut self, expr: &'a Expr, of: &'a Expr, field: &'a str, optional: bool) -> Evaluated<'a> {
        self.charge(1)?;
        if let Some(value) = expr.dotted().and_then(|name| self.scope.get(&name, self.among)) {
            return value;
        }
        let of = self.eval(of)?;
        match (of, optional) {
            (Value::Optional(None), _) => Ok(Value::Optional(None)),
            (Value::Optional(Some(inner)), _) => Ok(maybe(field_of(&inner, field)?)),
            (of, true) => Ok(maybe(field_of(&of, field)?)),
            (of, false) => {
                field_of(&of, field)?.ok_or_else(|| EvalError::new(format!("no such key: {field}")))
            }
        }
    }

    fn has(&mut self, of: &'a Expr, field: &'a str) -> Evaluated<'a> {
        self.charge(1)?;
        let of = match self.eval(of)? {
            Value::Optional(None) => return Ok(Value::Bool(false)),
            Value::Optional(Some(inner)) => inner.as_ref().clone(),
            other => other,
        };
        Ok(Value::Bool(field_of(&of, field)?.is_some()))
    }

    fn index(&mut self, of: &'a Expr, index: &'a Expr, optional: bool) -> Evaluated<'a> {
        self.charge(1)?;
        let (of, index) = (self.eval(of)?, self.eval(index)?);
        let (of, optional) = match of {
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => (inner.as_ref().clone(), true),
            other => (other, optional),
        };
        index.qualifier().map_err(EvalError::new)?;
        let found = match &of {
            Value::List(list) => {
                let at = position(&index)?;
                let found = usize::try_from(at).ok().and_then(|at| list.get(at));
                found.ok_or_else(|| EvalError::new(format!("index out of bounds: {at}")))
            }
            Value::Map(map) => {
                let key = index.key().ok_or_else(EvalError::no_overload)?;
                map.get(&key)
                    .ok_or_else(|| EvalError::new(format!("no such key: {}", functions::shown(&index))))
            }
            _ => return Err(EvalError::no_overload()),
        };
        match optional {
            true => Ok(maybe(found.ok())),
            false => found,
        }
    }

    fn call(&mut self, target: Option<&'a Expr>, function: &'a str, args: &'a [Expr]) -> Evaluated<'a> {
        self.charge(1)?;
        // `sets.contains(…)`, `optional.of(…)`: a namespace is no value.
        let namespace = target
            .and_then(Expr::dotted)
            .filter(|n| functions::is_namespace(n) && self.variable(n).is_none());
        let (name, target) = match &namespace {
            Some(namespace) => (format!("{namespace}.{function}"), None),
            None => (function.to_owned(), target),
        };
        if let ("orValue" | "or", Some(target), [other]) = (name.as_str(), target, args) {
            return self.or_value(name == "orValue", target, other);
        }
        let mut values = Vec::with_capacity(args.len() + 1);
        if let Some(target) = target {
            values.push(self.eval(target)?);
        }
        for arg in args {
            values.push(self.eval(arg)?);
        }
        functions::call(self, &name, target.is_some(), values)
    }

    fn or_value(&mut self, unwrap: bool, target: &'a Expr, other: &'a Expr) -> Evaluated<'a> {
        match self.eval(target)? {
            Value::Optional(Some(inner)) if unwrap => Ok(inner.as_ref().clone()),
            Value::Optional(Some(inner)) => Ok(Value::Optional(Some(inner))),
            Value::Optional(None) => self.eval(other),
            _ => Err(EvalError::no_overload()),
        }
    }

    /// `&&` and `||`: one side decides, whatever the other is.
    fn logic(&mut self, a: &'a Expr, b: &'a Expr, decides: bool) -> Evaluated<'a> {
        let truth = |value: Evaluated<'a>| match value {
            Ok(Value::Bool(b)) => Ok(b),
            Ok(_) => Err(EvalError::no_overload()),
            Err(error) => Err(error),
        };
        let first = truth(self.eval(a));
        if first == Ok(decides) || first == Err(EvalError::Cost) {
            return first.map(Value::Bool);
        }
        let second = truth(self.eval(b));
        match (first, second) {
            (_, Ok(b)) if b == decides => Ok(Value::Bool(decides)),
            (Err(error), _) | (_, Err(error)) => Err(error),
            _ => Ok(Value::Bool(!decides)),
        }
    }

    fn binary(&mut self, operator: Operator, a: &'a Expr, b: &'a Expr) -> Evaluated<'a> {
        self.charge(1)?;
        let (a, b) = (self.eval(a)?, self.eval(b)?);
        operators::apply(self, operator, a, b)
    }

    fn list(&mut self, items: &'a [(Expr, bool)]) -> Evaluated<'a> {
        self.charge(10)?;
        let mut out = Vec::with_capacity(items.len());
        for (item, optional) in items {
            match (self.eval(item)?, optional) {
                (Value::Optional(None), true) => {}
                (Value::Optional(Some(inner)), true) => out.push(inner.as_ref().clone()),
                (_, true) => return Err(EvalError::no_overload()),
                (value, false) => out.push(value),
            }
        }
        Ok(Value::list(out))
    }

    fn map(&mut self, entries: &'a [(Expr, Expr, bool)]) -> Evaluated<'a> {
        self.charge(30)?;
        let mut out = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self
                .eval(key)?
                .key()
                .ok_or_else(|| EvalError::new("unsupported key type"))?;
            let value = match (self.eval(value)?, optional) {
                (Value::Optional(None), true) => {
                    out.remove(&key);
                    continue;
                }
                (Value::Optional(Some(inner)), true) => inner.as_ref().clone(),
                (_, true) => return Err(EvalError::no_overload()),
                (value, false) => value,
            };
            // Of a key that is there twice the last counts.
            out.insert(key, value);
        }
        Ok(Value::map(out))
    }

    /// An object is the map of its fields.
    fn message(&mut self, of: &str, fields: &'a [(String, Expr, bool)]) -> Evaluated<'a> {
        self.charge(super::patches::COST)?;
        let mut out = BTreeMap::new();
        for (field, value, optional) in fields {
            let value = match (self.eval(value)?, optional) {
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(inner)), true) => inner.as_ref().clone(),
                (_, true) => return Err(EvalError::no_overload()),
                // What an optional does not have is null in an object, which sets nothing.
                (Value::Optional(None), false) if of != super::patches::PATCH => Value::Null,
                (value, false) => value,
            };
            let name = super::types::unescape(field);
            out.insert(Key::String(Rc::from(name.as_str())), value);
        }
        Ok(Value::map(out))
    }

    fn bind(&mut self, how: Binding, name: &'a str, value: &'a Expr, body: &'a Expr) -> Evaluated<'a> {
        self.charge(1)?;
        let value = match (how, self.eval(value)?) {
            (Binding::Always, value) => value,
            (_, Value::Optional(None)) => return Ok(Value::Optional(None)),
            (_, Value::Optional(Some(inner))) => inner.as_ref().clone(),
            _ => return Err(EvalError::no_overload()),
        };
        self.locals.push((name, value));
        let result = self.eval(body);
        self.locals.pop();
        match how {
            Binding::Map => result.map(Value::some),
            Binding::Always | Binding::FlatMap => result,
        }
    }

    fn each(&mut self, each: &'a Each) -> Evaluated<'a> {
        self.charge(1)?;
        let over = self.eval(&each.over)?;
        let pairs = each.second.is_some();
        let elements: Vec<(Value<'a>, Option<Value<'a>>)> = match &over {
            Value::List(list) => {
                self.charge(list.len() as u64)?;
                let index = |i: usize| Value::Int(i64::try_from(i).unwrap_or(i64::MAX));
                let items = list.iter().enumerate();
                items
                    .map(|(i, item)| {
                        if pairs {
                            (index(i), Some(item))
                        } else {
                            (item, None)
                        }
                    })
                    .collect()
            }
            // Only a list has an order to be changed.
            Value::Map(_) if each.kind == EachKind::SortBy => return Err(EvalError::no_overload()),
            Value::Map(map) => {
                self.charge(map.len() as u64)?;
                let value = |key: &Value<'a>| key.key().and_then(|k| map.get(&k)).filter(|_| pairs);
                map.keys()
                    .into_iter()
                    .map(|key| (key.clone(), value(&key)))
                    .collect()
            }
            _ => return Err(EvalError::no_overload()),
        };
        let mut gathered = Gathered::default();
        for (first, second) in elements {
            self.charge(2)?;
            let locals = self.locals.len();
            self.locals.push((&each.name, first.clone()));
            if let (Some(name), Some(value)) = (&each.second, second) {
                self.locals.push((name, value));
            }
            let step = self.step(each, first, &mut gathered);
            self.locals.truncate(locals);
            if let Some(decided) = step? {
                return Ok(Value::Bool(decided));
            }
        }
        gathered.finish(self, each.kind)
    }

    /// One element; a decision ends the loop.
    fn step(
        &mut self,
        each: &'a Each,
        first: Value<'a>,
        out: &mut Gathered<'a>,
    ) -> Result<Option<bool>, EvalError> {
        if let Some(condition) = &each.condition
            && !truth(self.eval(condition)?)?
        {
            return Ok(None);
        }
        match each.kind {
            EachKind::All | EachKind::Exists => {
                let decides = each.kind == EachKind::Exists;
                match self.eval(&each.body).and_then(truth) {
                    Ok(b) if b == decides => return Ok(Some(decides)),
                    Ok(_) => {}
                    Err(EvalError::Cost) => return Err(EvalError::Cost),
                    Err(error) => out.error = Some(error),
                }
            }
            EachKind::ExistsOne => out.count += usize::from(truth(self.eval(&each.body)?)?),
            EachKind::Filter => {
                if truth(self.eval(&each.body)?)? {
                    out.items.push(first);
                }
            }
            EachKind::Map | EachKind::TransformList => {
                let value = self.eval(&each.body)?;
                out.items.push(value);
            }
            EachKind::SortBy => {
                let key = self.eval(&each.body)?;
                out.keys.push(key);
                out.items.push(first);
            }
            EachKind::TransformMap => {
                let key = first.key().ok_or_else(EvalError::no_overload)?;
                let value = self.eval(&each.body)?;
                out.entries.insert(key, value);
            }
            EachKind::TransformMapEntry => {
                let made = self.eval(&each.body)?;
                out.enter(made)?;
            }
        }
        Ok(None)
    }
}

fn truth(value: Value<'_>) -> Result<bool, EvalError> {
    match value {
        Value::Bool(b) => Ok(b),
        _ => Err(EvalError::no_overload()),
    }
}

fn maybe(value: Option<Value<'_>>) -> Value<'_> {
    Value::Optional(value.map(Rc::new))
}

fn field_of<'a>(of: &Value<'a>, field: &str) -> Result<Option<Value<'a>>, EvalError> {
    match of {
        Value::Map(map) => Ok(map.field(field)),
        Value::Null => Err(EvalError::new(format!("no such key: {field}"))),
        _ => Err(EvalError::no_overload()),
    }
}

fn position(index: &Value<'_>) -> Result<i64, EvalError> {
    match index {
        Value::Int(n) => Ok(*n),
        Value::Uint(n) => Ok(i64::try_from(*n).unwrap_or(i64::MAX)),
        Value::Double(n) if is_whole(*n) => Ok(*n as i64),
        _ => Err(EvalError::no_overload()),
    }
}
