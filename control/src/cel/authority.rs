//! The variable `authorizer` of Kubernetes' expressions: may somebody do something? Its types, and how a question is put
//! together. Who answers is the caller's, through [`Authority`].
use std::fmt;
use std::rc::Rc;

use super::eval::{EvalError, Evaluated, Run};
use super::value::Value;

/// What one question costs (upstream's).
const COST: u64 = 350_000;

/// Answers questions.
pub trait Authority {
    fn decide(&self, question: &Question) -> Decision;
}

/// The types of what leads to an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    Authorizer,
    PathCheck,
    GroupCheck,
    ResourceCheck,
    Decision,
}

impl Asking {
    pub fn name(self) -> &'static str {
        match self {
            Asking::Authorizer => "kubernetes.authorization.Authorizer",
            Asking::PathCheck => "kubernetes.authorization.PathCheck",
            Asking::GroupCheck => "kubernetes.authorization.GroupCheck",
            Asking::ResourceCheck => "kubernetes.authorization.ResourceCheck",
            Asking::Decision => "kubernetes.authorization.Decision",
        }
    }
}

/// What is asked. Whose right it is, is the authority's to know, unless a service account is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// Namespace and name.
    pub account: Option<(String, String)>,
    /// Of what is no resource.
    pub path: Option<String>,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub verb: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    /// Why it could not be decided.
    pub error: Option<String>,
}

/// A question that is not finished.
#[derive(Clone)]
pub struct Draft<'a> {
    authority: &'a dyn Authority,
    stage: Asking,
    question: Rc<Question>,
}

impl fmt::Debug for Draft<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:?})", self.stage.name(), self.question)
    }
}

impl<'a> Draft<'a> {
    /// The variable `authorizer`.
    pub fn new(authority: &'a dyn Authority) -> Self {
        Draft {
            authority,
            stage: Asking::Authorizer,
            question: Rc::default(),
        }
    }

    /// The variable `authorizer.requestResource`.
    pub fn on(authority: &'a dyn Authority, question: Question) -> Self {
        Draft {
            authority,
            stage: Asking::ResourceCheck,
            question: Rc::new(question),
        }
    }

    pub(super) fn stage(&self) -> Asking {
        self.stage
    }

    fn with(&self, stage: Asking, change: impl FnOnce(&mut Question)) -> Value<'a> {
        let mut question = self.question.as_ref().clone();
        change(&mut question);
        Value::Asking(Draft {
            authority: self.authority,
            stage,
            question: Rc::new(question),
        })
    }
}

/// A method of a question on its way.
pub(super) fn ask<'a>(
    run: &mut Run<'a, '_>,
    name: &str,
    draft: &Draft<'a>,
    args: &[Value<'a>],
) -> Evaluated<'a> {
    let mut texts = Vec::new();
    for arg in args {
        match arg {
            Value::String(text) => texts.push(text.to_string()),
            _ => return Err(EvalError::no_overload()),
        }
    }
    match (draft.stage, name, texts.as_slice()) {
        (Asking::Authorizer, "serviceAccount", [namespace, name]) => {
            let account = Some((namespace.clone(), name.clone()));
            Ok(draft.with(Asking::Authorizer, |q| q.account = account))
        }
        (Asking::Authorizer, "path", [path]) => {
            Ok(draft.with(Asking::PathCheck, |q| q.path = Some(path.clone())))
        }
        (Asking::Authorizer, "group", [group]) => {
            Ok(draft.with(Asking::GroupCheck, |q| q.group = group.clone()))
        }
        (Asking::GroupCheck, "resource", [resource]) => {
            Ok(draft.with(Asking::ResourceCheck, |q| q.resource = resource.clone()))
        }
        (Asking::ResourceCheck, "subresource", [text]) => {
            Ok(draft.with(Asking::ResourceCheck, |q| q.subresource = text.clone()))
        }
        (Asking::ResourceCheck, "namespace", [text]) => {
            Ok(draft.with(Asking::ResourceCheck, |q| q.namespace = text.clone()))
        }
        (Asking::ResourceCheck, "name", [text]) => {
            Ok(draft.with(Asking::ResourceCheck, |q| q.name = text.clone()))
        }
        // Rights do not depend on what is selected: without it the question is about more.
        (Asking::ResourceCheck, "fieldSelector" | "labelSelector", [_]) => Ok(Value::Asking(draft.clone())),
        (Asking::PathCheck | Asking::ResourceCheck, "check", [verb]) => {
            run.charge(COST)?;
            let mut question = draft.question.as_ref().clone();
            question.verb = verb.clone();
            Ok(Value::Decision(Rc::new(draft.authority.decide(&question))))
        }
        _ => Err(EvalError::no_overload()),
    }
}

/// What a decision says.
pub(super) fn told<'a>(name: &str, decision: &Decision) -> Evaluated<'a> {
    Ok(match name {
        "allowed" => Value::Bool(decision.allowed),
        "reason" => Value::text(&decision.reason),
        "errored" => Value::Bool(decision.error.is_some()),
        "error" => Value::text(decision.error.as_deref().unwrap_or_default()),
        _ => return Err(EvalError::no_overload()),
    })
}
