//! What upstream 1.36.2 estimates rules to cost, by `data/costs.jsonl`: a schema, and then rules on all of it with what each
//! costs. How they were recorded: `data/judge/costs/`.
use serde_json::Value;

use super::super::declare::{declare, extent};
use super::super::schema::Structural;
use crate::cel::Program;

const COSTS: &str = include_str!("../../data/costs.jsonl");

#[test]
fn rules_cost_what_upstream_estimates() {
    let mut schema = Structural::parse(&Value::Null);
    let mut wrong = Vec::new();
    for line in COSTS.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let (Some(rule), Some(want)) = (line[0].as_str(), line[1].as_u64()) else {
            schema = Structural::parse(&line);
            continue;
        };
        let root = schema.ty == "object";
        let ty = declare(&schema, root);
        let variables = [("self", ty.clone()), ("oldSelf", ty)];
        let compiled = Program::compile_within(rule, &variables, &extent(&schema, root));
        match compiled {
            Ok(program) if program.cost == want => {}
            Ok(program) => wrong.push(format!("{rule}: {}, not {want}", program.cost)),
            Err(why) => wrong.push(format!("{rule}: {why}")),
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
