//! Decoding by a kind's schema, and what becomes of what strict decoding finds: refused, told as warnings, or passed over.
use super::negotiate::{self, Encoding, PatchType};
use super::query::FieldValidation;
use super::status::ApiError;
use super::write::Options;
use super::{Call, decode, places};
use crate::kinds::printed::printed;
use crate::kinds::{DecodeError, FieldIssue, Kind};
use serde_json::Value;

/// Why a body is not taken.
pub enum Misfit {
    /// A value does not go into its field.
    Undecodable(DecodeError),
    /// What is found, where nothing may be.
    Strict(Vec<FieldIssue>),
}

/// Decodes by the schema. Answers with what to warn of.
pub fn prune(
    call: &Call,
    options: Options,
    value: &mut Value,
    mut issues: Vec<FieldIssue>,
) -> Result<Vec<String>, Misfit> {
    let kind = &call.target.kind;
    let mut found = kind.prune(value).map_err(Misfit::Undecodable)?;
    // Types see what is unknown while they decode, schemas of definitions after it; a patch is read before either.
    match kind.custom.is_some() || options.patched {
        true => issues.extend(found),
        false => {
            found.extend(issues);
            issues = found;
        }
    }
    let issues = match kind.custom {
        Some(_) => sorted(issues),
        None => in_order(call, issues),
    };
    judged(options.validation, issues).map_err(Misfit::Strict)
}

/// What is wrong with a body of a built-in kind in the order in which it is told.
pub fn in_order(call: &Call, issues: Vec<FieldIssue>) -> Vec<FieldIssue> {
    // Only a body that is the object itself has an order of its own.
    let whole = matches!(negotiate::body(&call.headers), Ok(Encoding::Json));
    let issues = match issues.len() > 1 && whole {
        true => places::in_document_order(&call.body, issues),
        false => issues,
    };
    first(sorted(issues))
}

/// As many fields as upstream's decoder tells of; what is wrong with the text is not among them.
fn first(mut issues: Vec<FieldIssue>) -> Vec<FieldIssue> {
    let of_text = issues.iter().take_while(|issue| is_of_text(issue)).count();
    issues.truncate(of_text + decode::TOLD);
    issues
}

fn is_of_text(issue: &FieldIssue) -> bool {
    matches!(issue, FieldIssue::Repeated { .. })
}

/// What is wrong with the text comes before what is wrong with its fields.
fn sorted(mut issues: Vec<FieldIssue>) -> Vec<FieldIssue> {
    issues.sort_by_key(|issue| !is_of_text(issue));
    issues
}

/// What to warn of; fails with what is refused.
pub fn judged(validation: FieldValidation, issues: Vec<FieldIssue>) -> Result<Vec<String>, Vec<FieldIssue>> {
    match validation {
        FieldValidation::Strict if !issues.is_empty() => Err(issues),
        FieldValidation::Warn => Ok(issues.iter().map(ToString::to_string).collect()),
        FieldValidation::Strict | FieldValidation::Ignore => Ok(Vec::new()),
    }
}

impl Misfit {
    /// The refusal of a body.
    pub fn refusal(self, kind: &Kind, options: Options) -> ApiError {
        if options.applied {
            return self.refusal_of_applied(kind);
        }
        ApiError::bad_request(kind.decode_message(&match self {
            Misfit::Undecodable(error) => error.to_string(),
            Misfit::Strict(issues) => told(&issues),
        }))
    }

    /// The refusal of an applied configuration, which is a text of YAML.
    pub fn refusal_of_applied(self, kind: &Kind) -> ApiError {
        ApiError::bad_request(match self {
            Misfit::Undecodable(error) => kind.decode_message(&error.to_string()),
            Misfit::Strict(issues) => match repeated(&issues) {
                Some(text) => format!("error strict decoding YAML: error converting YAML to JSON: {text}"),
                None => kind.decode_message(&told(&issues)),
            },
        })
    }

    /// The refusal of a patch that made this. A strategic one is blamed itself, as its converter sees it.
    pub fn blame(self, call: &Call, made: &Value) -> ApiError {
        let strategic = matches!(negotiate::patch(&call.headers), Ok(PatchType::Strategic));
        let why = match self {
            Misfit::Undecodable(error) if strategic => error.of_converter().to_owned(),
            Misfit::Undecodable(error) => error.to_string(),
            Misfit::Strict(issues) => strict_error(issues.iter().map(ToString::to_string).collect()),
        };
        match decode::json(&call.body) {
            Ok(patch) if strategic => ApiError::unfit_patch(printed(&patch.value), &why),
            _ => ApiError::unfit_patch(made.to_string(), &why),
        }
    }
}

/// Keys that come twice in a YAML text, told as one in the words of its decoder.
fn repeated(issues: &[FieldIssue]) -> Option<String> {
    let repeated = issues.iter().filter(|issue| is_of_text(issue));
    let lines: String = repeated.map(|issue| format!("\n  {issue}")).collect();
    (!lines.is_empty()).then(|| format!("yaml: unmarshal errors:{lines}"))
}

/// All that strict decoding found.
pub fn told(issues: &[FieldIssue]) -> String {
    let others = issues.iter().filter(|issue| !is_of_text(issue));
    let all = repeated(issues)
        .into_iter()
        .chain(others.map(ToString::to_string));
    strict_error(all.collect())
}

fn strict_error(told: Vec<String>) -> String {
    format!("strict decoding error: {}", told.join(", "))
}
