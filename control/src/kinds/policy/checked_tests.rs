//! What upstream 1.36.2 says of expressions as validations of a policy, by `data/expressions.jsonl`: nothing, or the first
//! line of its refusal. `data/judge/` has how they were asked.
use super::program::{base, compile};
use crate::cel::Type;

const EXPRESSIONS: &str = include_str!("../data/expressions.jsonl");

#[test]
fn expressions_have_the_types_that_upstream_finds() {
    let known = base(true, &Type::Dyn);
    let mut wrong = Vec::new();
    for line in EXPRESSIONS.lines() {
        let (expression, want): (String, String) = serde_json::from_str(line).expect("a pair");
        let compiled = compile(&expression, &known, &[Type::Bool]);
        let found = compiled.err().map(|why| why.to_string()).unwrap_or_default();
        let found = found.lines().next().unwrap_or_default();
        if found != want {
            wrong.push(format!("{expression}\n  - {want}\n  + {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
}

/// By cel-go's planner, which makes a constant of a type's name.
#[test]
fn a_type_is_no_key() {
    let known = base(true, &Type::Dyn);
    for (expression, is_type) in [
        ("object[int] == 1", true),
        ("object[?int].hasValue()", true),
        ("[1].all(x, object.a[string] == x)", true),
        ("['a'].all(list, object[list] == 1)", false),
        ("object[object.type] == 1", false),
        ("object['int'] == 1", false),
    ] {
        let why = compile(expression, &known, &[Type::Bool])
            .err()
            .map(|why| why.to_string());
        let want =
            is_type.then(|| "program instantiation failed: invalid qualifier type: *types.Type".to_owned());
        assert_eq!(why, want, "{expression}");
    }
}
