//! Kubernetes' JSONPath, as far as printer columns and Scale paths use it.
//!
//! Grammar: kubernetes.io/docs/reference/kubectl/jsonpath: members, quoted members, indices, slices, wildcards, unions of
//! names, filters that compare a path of the element with a literal, and recursive descent.
use serde_json::Value;

/// Steps of one path; more is no path a person wrote.
const STEPS: usize = 64;
/// Values that one path may select in an object.
const SELECTED: usize = 10_000;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Member(String),
    Members(Vec<String>),
    Index(i64),
    Slice(Option<i64>, Option<i64>, i64),
    Every,
    Descend,
    Filter(Filter),
}

#[derive(Debug, Clone, PartialEq)]
struct Filter {
    left: JsonPath,
    test: Option<(Operator, Value)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Reads a path without its braces. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<JsonPath, String> {
        let mut rest = text.strip_prefix(['$', '@']).unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if steps.len() == STEPS {
                return Err(format!("more than {STEPS} steps"));
            }
            rest = step(rest, &mut steps)?;
        }
        Ok(JsonPath(steps))
    }

    /// Every value selected in `root`, in order.
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        self.0.iter().fold(vec![root], |selected, step| {
            let mut next = Vec::new();
            for value in selected {
                step.select(value, &mut next);
                next.truncate(SELECTED);
            }
            next
        })
    }

    /// The member names of a path of nothing else.
    pub fn members(&self) -> Option<Vec<String>> {
        let name = |step: &Step| match step {
            Step::Member(name) => Some(name.clone()),
            _ => None,
        };
        self.0.iter().map(name).collect()
    }
}

fn step<'a>(text: &'a str, steps: &mut Vec<Step>) -> Result<&'a str, String> {
    if let Some(rest) = text.strip_prefix("..") {
        steps.push(Step::Descend);
        return match rest.starts_with('[') {
            true => Ok(rest),
            false => member(rest, steps),
        };
    }
    if let Some(rest) = text.strip_prefix('.') {
        return match rest.starts_with('[') || rest.is_empty() {
            true => Ok(rest),
            false => member(rest, steps),
        };
    }
    match text.strip_prefix('[') {
        Some(rest) => brackets(rest, steps),
        None => member(text, steps),
    }
}

fn member<'a>(text: &'a str, steps: &mut Vec<Step>) -> Result<&'a str, String> {
    let (mut name, mut escaped, mut end) = (String::new(), false, text.len());
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => {
                name.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '.' | '[' | ']' | ' ' => {
                end = at;
                break;
            }
            c => name.push(c),
        }
    }
    let rest = &text[end..];
    if name.is_empty() || rest.starts_with([']', ' ']) {
        return Err(format!("unexpected text {text:?}"));
    }
    steps.push(if name == "*" {
        Step::Every
    } else {
        Step::Member(name)
    });
    Ok(rest)
}

fn brackets<'a>(text: &'a str, steps: &mut Vec<Step>) -> Result<&'a str, String> {
    let end = closing(text).ok_or("unterminated array")?;
    let (inside, rest) = (text[..end].trim(), &text[end + 1..]);
    let found = if let Some(filter) = inside.strip_prefix("?(") {
        Step::Filter(self::filter(
            filter.strip_suffix(')').ok_or("unterminated filter")?,
        )?)
    } else if inside == "*" {
        Step::Every
    } else if inside.starts_with(['\'', '"']) {
        names(inside)?
    } else {
        numbers(inside)?
    };
    steps.push(found);
    Ok(rest)
}

/// Where the bracket closes, quotes and nested brackets passed over.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

fn names(inside: &str) -> Result<Step, String> {
    let parts: Option<Vec<String>> = inside.split(',').map(|part| quoted(part.trim())).collect();
    let mut parts = parts.ok_or_else(|| format!("invalid array index {inside}"))?;
    Ok(match parts.len() {
        1 => Step::Member(parts.remove(0)),
        _ => Step::Members(parts),
    })
}

fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(
        inner
            .replace("\\.", ".")
            .replace(&format!("\\{quote}"), &quote.to_string()),
    )
}

fn numbers(inside: &str) -> Result<Step, String> {
    let bad = || format!("invalid array index {inside}");
    let number = |text: &str| match text.trim() {
        "" => Ok(None),
        digits => digits.parse::<i64>().map(Some).map_err(|_| bad()),
    };
    let parts: Vec<&str> = inside.split(':').collect();
    match parts.as_slice() {
        [index] => Ok(Step::Index(number(index)?.ok_or_else(bad)?)),
        [from, to] => Ok(Step::Slice(number(from)?, number(to)?, 1)),
        [from, to, by] => match number(by)?.unwrap_or(1) {
            by if by > 0 => Ok(Step::Slice(number(from)?, number(to)?, by)),
            _ => Err(bad()),
        },
        _ => Err(bad()),
    }
}

const OPERATORS: [(&str, Operator); 6] = [
    ("==", Operator::Equal),
    ("!=", Operator::Unequal),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

fn filter(text: &str) -> Result<Filter, String> {
    for (symbol, operator) in OPERATORS {
        if let Some((left, right)) = text.split_once(symbol) {
            let right =
                literal(right.trim()).ok_or_else(|| format!("cannot parse filter value {right:?}"))?;
            let left = JsonPath::parse(left.trim())?;
            return Ok(Filter {
                left,
                test: Some((operator, right)),
            });
        }
    }
    Ok(Filter {
        left: JsonPath::parse(text.trim())?,
        test: None,
    })
}

fn literal(text: &str) -> Option<Value> {
    quoted(text)
        .map(Value::from)
        .or_else(|| serde_json::from_str(text).ok())
}

impl Step {
    fn select<'a>(&self, value: &'a Value, out: &mut Vec<&'a Value>) {
        match self {
            Step::Member(name) => out.extend(value.get(name)),
            Step::Members(names) => out.extend(names.iter().filter_map(|n| value.get(n))),
            Step::Index(index) => out.extend(at(value, *index)),
            Step::Slice(from, to, by) => slice(value, (*from, *to, *by), out),
            Step::Every => every(value, out),
            Step::Descend => descend(value, out),
            Step::Filter(filter) => {
                let items = value.as_array().into_iter().flatten();
                out.extend(items.filter(|item| filter.passes(item)));
            }
        }
    }
}

fn at(value: &Value, index: i64) -> Option<&Value> {
    let list = value.as_array()?;
    list.get(position(index, list.len())?)
}

fn position(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    usize::try_from(if index < 0 { length + index } else { index }).ok()
}

fn slice<'a>(value: &'a Value, (from, to, by): (Option<i64>, Option<i64>, i64), out: &mut Vec<&'a Value>) {
    let Some(list) = value.as_array() else { return };
    let from = position(from.unwrap_or(0), list.len()).unwrap_or(0);
    let to = to
        .map_or(list.len(), |to| position(to, list.len()).unwrap_or(0))
        .min(list.len());
    let by = usize::try_from(by).unwrap_or(1).max(1);
    out.extend(list.iter().take(to).skip(from).step_by(by));
}

fn every<'a>(value: &'a Value, out: &mut Vec<&'a Value>) {
    match value {
        Value::Array(list) => out.extend(list),
        Value::Object(map) => out.extend(map.values()),
        _ => {}
    }
}

fn descend<'a>(value: &'a Value, out: &mut Vec<&'a Value>) {
    if out.len() >= SELECTED {
        return;
    }
    out.push(value);
    let mut inner = Vec::new();
    every(value, &mut inner);
    inner.into_iter().for_each(|v| descend(v, out));
}

impl Filter {
    fn passes(&self, item: &Value) -> bool {
        let found = self.left.find(item);
        match (&self.test, found.first()) {
            (None, found) => found.is_some(),
            (Some(_), None) => false,
            (Some((operator, wanted)), Some(found)) => operator.holds(found, wanted),
        }
    }
}

impl Operator {
    fn holds(self, left: &Value, right: &Value) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let order = match (left, right) {
            (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (a, b) if a == b => Some(Equal),
            _ => None,
        };
        match self {
            Operator::Equal => order == Some(Equal),
            Operator::Unequal => order != Some(Equal),
            Operator::Less => order == Some(Less),
            Operator::LessOrEqual => matches!(order, Some(Less | Equal)),
            Operator::Greater => order == Some(Greater),
            Operator::GreaterOrEqual => matches!(order, Some(Greater | Equal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn paths_select() {
        let root = json!({
            "spec": {"a.b": 1, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
        });
        for (path, want) in [
            (".spec.list[0].n", json!(["x"])),
            (".spec.list[-1].v", json!([2])),
            (".spec.list[*].v", json!([1, 2])),
            (".spec['a.b']", json!([1])),
            (".spec.a\\.b", json!([1])),
            (".spec.list[0:1].v", json!([1])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type=='Nope')].status", json!([])),
            (".spec.list[?(@.v>1)].n", json!(["y"])),
            ("..v", json!([1, 2])),
            (".nothing.here", json!([])),
        ] {
            let parsed = JsonPath::parse(path).expect(path);
            assert_eq!(json!(parsed.find(&root)), want, "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for bad in [".spec[", ".spec[x]", ".a b", ".spec[?(@.x==)]", "[::0]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in r#"[.\[\]@?()'"a-c0-9:*=<\\, é-]{0,32}"#) {
            if let Ok(path) = JsonPath::parse(&text) {
                path.find(&json!({"a": [{"b": 1}]}));
            }
        }
    }
}
