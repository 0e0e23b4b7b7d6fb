//! Operators: arithmetic that never wraps, equality across kinds of numbers, membership.
use std::cmp::Ordering;
use std::rc::Rc;

use jiff::SignedDuration;

use super::eval::{EvalError, Evaluated, Run};
use super::syntax::Operator;
use super::value::{List, Map, Value};

pub(super) fn apply<'a>(
    run: &mut Run<'a, '_>,
    operator: Operator,
    a: Value<'a>,
    b: Value<'a>,
) -> Evaluated<'a> {
    match operator {
        Operator::Equal => equal(run, &a, &b).map(Value::Bool),
        Operator::Unequal => equal(run, &a, &b).map(|same| Value::Bool(!same)),
        Operator::In => member(run, &a, &b).map(Value::Bool),
        Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
            compare(run, operator, &a, &b)
        }
        Operator::Add => add(run, a, b),
        _ => arithmetic(operator, &a, &b),
    }
}

/// Deep equality; values of unlike kinds are unequal, numbers are compared by value.
pub(super) fn equal<'a>(run: &mut Run<'a, '_>, a: &Value<'a>, b: &Value<'a>) -> Result<bool, EvalError> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => {
            run.charge_text(a.len().min(b.len()) as u64)?;
            Ok(**a == **b)
        }
        (Value::List(a), Value::List(b)) => lists_equal(run, a, b),
        (Value::Map(a), Value::Map(b)) => maps_equal(run, a, b),
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equal(run, a, b),
            (a, b) => Ok(a.is_none() && b.is_none()),
        },
        (Value::Null, Value::Null) => Ok(true),
        (Value::Type(a), Value::Type(b))
        | (Value::Url(a), Value::Url(b))
        | (Value::Format(a), Value::Format(b)) => Ok(a == b),
        (Value::Quantity(a), Value::Quantity(b)) => Ok(a.partial_cmp(b) == Some(Ordering::Equal)),
        (Value::Semver(a), Value::Semver(b)) => Ok(a == b),
        (Value::Ip(a), Value::Ip(b)) => Ok(a == b),
        (Value::Cidr(a), Value::Cidr(b)) => Ok(a == b),
        (a, b) => Ok(a.order(b) == Some(Ordering::Equal)),
    }
}

fn lists_equal<'a>(run: &mut Run<'a, '_>, a: &List<'a>, b: &List<'a>) -> Result<bool, EvalError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for i in 0..a.len() {
        run.charge(1)?;
        if let (Some(a), Some(b)) = (a.get(i), b.get(i))
            && !equal(run, &a, &b)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

fn maps_equal<'a>(run: &mut Run<'a, '_>, a: &Map<'a>, b: &Map<'a>) -> Result<bool, EvalError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for key in a.keys().iter().filter_map(Value::key) {
        run.charge(1)?;
        match (a.get(&key), b.get(&key)) {
            (Some(a), Some(b)) if equal(run, &a, &b)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn member<'a>(run: &mut Run<'a, '_>, item: &Value<'a>, of: &Value<'a>) -> Result<bool, EvalError> {
    match of {
        Value::List(list) => {
            for other in list.iter() {
                run.charge(1)?;
                if equal(run, item, &other)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Map(map) => Ok(item.key().is_some_and(|key| map.get(&key).is_some())),
        _ => Err(EvalError::no_overload()),
    }
}

fn compare<'a>(run: &mut Run<'a, '_>, operator: Operator, a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    run.charge_text(a.size().min(b.size()))?;
    let nan = |v: &Value<'_>| matches!(v, Value::Double(n) if n.is_nan());
    if nan(a) || nan(b) {
        return Ok(Value::Bool(false));
    }
    let order = a.order(b).ok_or_else(EvalError::no_overload)?;
    Ok(Value::Bool(match operator {
        Operator::Less => order.is_lt(),
        Operator::LessOrEqual => order.is_le(),
        Operator::Greater => order.is_gt(),
        _ => order.is_ge(),
    }))
}

fn add<'a>(run: &mut Run<'a, '_>, a: Value<'a>, b: Value<'a>) -> Evaluated<'a> {
    match (&a, &b) {
        (Value::String(x), Value::String(y)) => {
            run.charge_text((x.len() + y.len()) as u64)?;
            Ok(Value::text(format!("{}{}", &**x, &**y)))
        }
        (Value::Bytes(x), Value::Bytes(y)) => {
            run.charge_text((x.len() + y.len()) as u64)?;
            Ok(Value::Bytes(Rc::from([&**x, &**y].concat())))
        }
        (Value::List(x), Value::List(y)) => {
            run.charge_text((x.len() + y.len()) as u64)?;
            Ok(Value::list(x.iter().chain(y.iter()).collect()))
        }
        _ => arithmetic(Operator::Add, &a, &b),
    }
}

pub(super) fn negate(value: Value<'_>) -> Evaluated<'_> {
    match value {
        Value::Int(n) => n
            .checked_neg()
            .map(Value::Int)
            .ok_or_else(|| EvalError::new("integer overflow")),
        Value::Double(n) => Ok(Value::Double(-n)),
        _ => Err(EvalError::no_overload()),
    }
}

fn arithmetic<'a>(operator: Operator, a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => integers(operator, *a, *b),
        (Value::Uint(a), Value::Uint(b)) => unsigned(operator, *a, *b),
        (Value::Double(a), Value::Double(b)) => doubles(operator, *a, *b),
        _ => times(operator, a, b),
    }
}

fn by_zero(operator: Operator) -> EvalError {
    EvalError::new(if operator == Operator::Divide {
        "division by zero"
    } else {
        "modulus by zero"
    })
}

fn integers<'a>(operator: Operator, a: i64, b: i64) -> Evaluated<'a> {
    let result = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::Divide | Operator::Modulo if b == 0 => return Err(by_zero(operator)),
        Operator::Divide => a.checked_div(b),
        Operator::Modulo => a.checked_rem(b),
        _ => return Err(EvalError::no_overload()),
    };
    result
        .map(Value::Int)
        .ok_or_else(|| EvalError::new("integer overflow"))
}

fn unsigned<'a>(operator: Operator, a: u64, b: u64) -> Evaluated<'a> {
    let result = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::Divide | Operator::Modulo if b == 0 => return Err(by_zero(operator)),
        Operator::Divide => a.checked_div(b),
        Operator::Modulo => a.checked_rem(b),
        _ => return Err(EvalError::no_overload()),
    };
    result
        .map(Value::Uint)
        .ok_or_else(|| EvalError::new("unsigned integer overflow"))
}

fn doubles<'a>(operator: Operator, a: f64, b: f64) -> Evaluated<'a> {
    Ok(Value::Double(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        _ => return Err(EvalError::no_overload()),
    }))
}

/// Arithmetic of times and durations.
fn times<'a>(operator: Operator, a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    let out_of_range = || EvalError::new("timestamp overflow");
    let duration = |d: Option<SignedDuration>| {
        d.map(Value::Duration)
            .ok_or_else(|| EvalError::new("duration overflow"))
    };
    match (operator, a, b) {
        (Operator::Add, Value::Timestamp(t), Value::Duration(d))
        | (Operator::Add, Value::Duration(d), Value::Timestamp(t)) => {
            t.moved(*d).map(Value::Timestamp).ok_or_else(out_of_range)
        }
        (Operator::Subtract, Value::Timestamp(t), Value::Duration(d)) => {
            t.moved(-*d).map(Value::Timestamp).ok_or_else(out_of_range)
        }
        (Operator::Subtract, Value::Timestamp(a), Value::Timestamp(b)) => {
            Ok(Value::Duration(a.time().duration_since(b.time())))
        }
        (Operator::Add, Value::Duration(a), Value::Duration(b)) => duration(a.checked_add(*b)),
        (Operator::Subtract, Value::Duration(a), Value::Duration(b)) => duration(a.checked_sub(*b)),
        _ => Err(EvalError::no_overload()),
    }
}
