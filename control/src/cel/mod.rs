//! The Common Expression Language as Kubernetes uses it: parse, check types, estimate the cost, evaluate within a budget.
//!
//! Language: <https://github.com/google/cel-spec>; Kubernetes' libraries and limits: "Common Expression Language in
//! Kubernetes". Pure and bounded: no expression can take more memory or time than its budget. Refuses to know what
//! expressions are for.
pub mod authority;
mod check;
mod constants;
mod eval;
mod extent;
mod formats;
mod functions;
mod gathered;
mod hexadecimal;
mod json;
mod lex;
mod moment;
mod operators;
mod parse;
pub mod patches;
mod patterns;
mod signatures;
mod syntax;
#[cfg(test)]
mod tests;
mod text;
mod types;
mod value;

pub use eval::{EvalError, Scope, paid};
pub use extent::Extent;
pub use text::{boolean, double};
pub use types::{Structure, Type, escape};
pub use value::Value;

use std::sync::Arc;

use check::Offered;
use patterns::Patterns;
use syntax::Expr;

/// What one evaluation may cost (upstream's `PerCallLimit`).
pub const CALL_LIMIT: u64 = 1_000_000;
/// Bytes of one expression; its parse takes a small multiple of that.
const SOURCE_LIMIT: usize = 64 << 10;
/// How many mistakes of one expression are told.
const MISTAKES: usize = 100;

/// An expression that parsed and has a type.
#[derive(Debug)]
pub struct Program {
    pub source: String,
    expr: Expr,
    patterns: Patterns,
    /// What it evaluates to.
    pub ty: Type,
    /// An upper bound of what an evaluation costs, where the extent of the variables was given.
    pub cost: u64,
    variables: std::collections::BTreeSet<String>,
}

/// Why an expression cannot be used; the text is upstream's form, `ERROR: <input>:1:3: why` and the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(pub String);

impl Program {
    /// Compiles `source` against the types of its variables.
    pub fn compile(source: &str, variables: &[(&str, Type)]) -> Result<Program, CompileError> {
        Program::compiled(source, variables, None, Offered::default())
    }

    /// As [`Program::compile`], with an estimate of the cost: each variable is as large as `extent` says.
    pub fn compile_within(
        source: &str,
        variables: &[(&str, Type)],
        extent: &Arc<Extent>,
    ) -> Result<Program, CompileError> {
        Program::compiled(source, variables, Some(extent), Offered::default())
    }

    /// As [`Program::compile`], for expressions that may make patches, see [`patches`].
    pub fn compile_patch(source: &str, variables: &[(&str, Type)]) -> Result<Program, CompileError> {
        let offered = Offered {
            patches: true,
            ..Offered::default()
        };
        Program::compiled(source, variables, None, offered)
    }

    /// As [`Program::compile_within`], for expressions that may give names to their parts by `cel.bind`.
    pub fn compile_binding(
        source: &str,
        variables: &[(&str, Type)],
        extent: &Arc<Extent>,
    ) -> Result<Program, CompileError> {
        let offered = Offered {
            bindings: true,
            ..Offered::default()
        };
        Program::compiled(source, variables, Some(extent), offered)
    }

    fn compiled(
        source: &str,
        variables: &[(&str, Type)],
        extent: Option<&Arc<Extent>>,
        offered: Offered,
    ) -> Result<Program, CompileError> {
        if source.len() > SOURCE_LIMIT {
            return Err(CompileError(format!(
                "expression code point size exceeds limit: size: {}, limit {SOURCE_LIMIT}",
                source.len()
            )));
        }
        let expr = parse::parse(source).map_err(|mistake| shown(vec![mistake], source))?;
        let check::Checked { ty, cost, .. } =
            check::check(&expr, variables, extent, offered).map_err(|mistakes| shown(mistakes, source))?;
        let mut names = std::collections::BTreeSet::new();
        expr.names(&mut names);
        Ok(Program {
            source: source.to_owned(),
            patterns: Patterns::of(&expr),
            expr,
            ty,
            cost,
            variables: names,
        })
    }

    /// Fails for what is constant in it and has no value: a conversion that cannot be, a pattern that is none. Upstream finds
    /// that after it has judged the type.
    pub fn constants(&self) -> Result<(), String> {
        constants::check(&self.expr)
    }

    /// Whether a variable is mentioned.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// Evaluates; `budget` is lowered by what it cost.
    pub fn evaluate<'a>(&'a self, scope: &Scope<'a>, budget: &mut u64) -> Result<Value<'a>, EvalError> {
        eval::evaluate((&self.expr, &self.patterns), scope, budget)
    }
}

/// A mistake and where it is.
#[derive(Debug)]
struct Mistake {
    at: usize,
    why: String,
}

impl Mistake {
    fn new(at: usize, why: impl Into<String>) -> Self {
        Mistake { at, why: why.into() }
    }

    fn shown(&self, source: &str) -> String {
        let at = self.at.min(source.len());
        let before = source.get(..at).unwrap_or(source);
        let line = before.matches('\n').count();
        let column = before.chars().rev().take_while(|c| *c != '\n').count();
        let text = source.lines().nth(line).unwrap_or_default();
        let marks: String = text
            .chars()
            .take(column)
            .map(|c| if c.is_ascii() { '.' } else { '．' })
            .collect();
        let mark = match text.chars().nth(column) {
            Some(c) if !c.is_ascii() => '＾',
            _ => '^',
        };
        // There is no first column of nothing.
        let column = column + usize::from(!source.is_empty());
        let (why, text) = (&self.why, text.replace('\t', " "));
        format!(
            "ERROR: <input>:{}:{column}: {why}\n | {text}\n | {marks}{mark}",
            line + 1
        )
    }
}

/// All that is wrong, in the order of the text.
fn shown(mut mistakes: Vec<Mistake>, source: &str) -> CompileError {
    mistakes.sort_by_key(|mistake| mistake.at);
    let told = mistakes
        .iter()
        .take(MISTAKES)
        .map(|mistake| mistake.shown(source));
    let mut lines: Vec<String> = told.collect();
    if mistakes.len() > MISTAKES {
        lines.push(format!(
            "{} more errors were truncated",
            mistakes.len() - MISTAKES
        ));
    }
    CompileError(lines.join("\n"))
}
