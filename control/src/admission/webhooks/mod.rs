//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: others' say about an object, by HTTPS.
//!
//! Configurations are taken by name, their webhooks in order. Mutating ones are called one after the other, each on what
//! the one before left; one that asks for it is called again when a later one changed the object. Validating ones are
//! called at once. Refuses to know how an answer is read (`review`) and how it is fetched (`call`).
mod call;
mod review;
mod rules;

use super::{Action, Denial, Notes, Objects, ResourceName, Review};
use crate::kinds::view::View;
use call::Caller;
use futures::future::join_all;
use review::{Answer, Refused};
use rules::Match;
use serde_json::Value;

const MUTATING: ResourceName<'_> = (
    "admissionregistration.k8s.io",
    "v1",
    "mutatingwebhookconfigurations",
);
const VALIDATING: ResourceName<'_> = (
    "admissionregistration.k8s.io",
    "v1",
    "validatingwebhookconfigurations",
);

/// One webhook of a configuration, and how it matches.
struct Hook {
    /// `CONFIGURATION/WEBHOOK`, for the log.
    origin: String,
    body: Value,
    matched: Match,
}

impl Hook {
    fn name(&self) -> &str {
        self.body.text("name")
    }

    fn ignores_failure(&self) -> bool {
        self.body.text("failurePolicy") == "Ignore"
    }
}

/// Calls webhooks.
#[derive(Default)]
pub(super) struct Webhooks {
    caller: Caller,
}

impl Webhooks {
    /// The webhooks whose rules and selectors take in this change.
    fn matching(
        objects: &dyn Objects,
        configurations: ResourceName<'_>,
        review: &Review<'_>,
        object: &Value,
    ) -> Vec<Hook> {
        if review.kind.group == MUTATING.0 {
            // A webhook that judged webhooks could lock everybody out.
            return Vec::new();
        }
        let mut all = objects.list(configurations, None);
        all.sort_by(|a, b| a.text("metadata.name").cmp(b.text("metadata.name")));
        let mut hooks = Vec::new();
        for configuration in &all {
            for body in configuration.list("webhooks") {
                if let Some(matched) = rules::matching(objects, review, object, body) {
                    hooks.push(Hook {
                        origin: format!("{}/{}", configuration.text("metadata.name"), body.text("name")),
                        body: body.clone(),
                        matched,
                    });
                }
            }
        }
        hooks
    }

    /// Whether any was asked, so that the object may have changed.
    pub async fn mutate(
        &self,
        objects: &dyn Objects,
        review: &Review<'_>,
        object: &mut Value,
        notes: &mut Notes,
    ) -> Result<bool, Denial> {
        if review.subresource == Some("scale") {
            return Ok(false);
        }
        let hooks = Self::matching(objects, MUTATING, review, object);
        let mut changed_after = vec![false; hooks.len()];
        for (i, hook) in hooks.iter().enumerate() {
            if self.apply(objects, review, hook, object, notes).await? {
                changed_after[..i].fill(true);
            }
        }
        for (hook, changed) in hooks.iter().zip(changed_after) {
            if changed && hook.body.text("reinvocationPolicy") == "IfNeeded" {
                self.apply(objects, review, hook, object, notes).await?;
            }
        }
        Ok(!hooks.is_empty())
    }

    /// Calls one mutating webhook; whether it changed the object.
    async fn apply(
        &self,
        objects: &dyn Objects,
        review: &Review<'_>,
        hook: &Hook,
        object: &mut Value,
        notes: &mut Notes,
    ) -> Result<bool, Denial> {
        let answer = match self.ask(objects, review, hook, object).await {
            Ok(answer) => answer,
            Err(why) => return failed(hook, &why).map(|()| false),
        };
        let answer = heard(hook, answer, notes)?;
        let patched = match review::patched(review, hook.matched.kind(review), &answer, object) {
            Ok(patched) => patched,
            Err(why) => return failed(hook, &why).map(|()| false),
        };
        match patched {
            Some(patched) if patched != *object => {
                *object = patched;
                review.kind.default(object);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    pub async fn validate(
        &self,
        objects: &dyn Objects,
        review: &Review<'_>,
        object: &Value,
        notes: &mut Notes,
    ) -> Result<(), Denial> {
        let hooks = Self::matching(objects, VALIDATING, review, object);
        let asked = hooks
            .iter()
            .map(|hook| async move { (hook, self.ask(objects, review, hook, object).await) });
        let mut verdict = Ok(());
        for (hook, answer) in join_all(asked).await {
            let heard = match answer {
                Ok(answer) => heard(hook, answer, notes).map(drop),
                Err(why) => failed(hook, &why),
            };
            verdict = verdict.and(heard);
        }
        verdict
    }

    async fn ask(
        &self,
        objects: &dyn Objects,
        review: &Review<'_>,
        hook: &Hook,
        object: &Value,
    ) -> Result<Answer, String> {
        let version = review::version(&hook.body);
        let (uid, body) = review::request(review, hook.matched.kind(review), object, version);
        let answer = self.caller.call(objects, &hook.body, body).await?;
        review::read(&answer, &uid, version)
    }
}

/// A webhook that could not be asked, or did not make sense: its failure policy says what that means.
fn failed(hook: &Hook, why: &str) -> Result<(), Denial> {
    if hook.ignores_failure() {
        tracing::warn!(
            webhook = hook.origin,
            why,
            "an admission webhook failed and is passed over"
        );
        return Ok(());
    }
    Err(Denial::Failed(format!(
        "failed calling webhook {:?}: {why}",
        hook.name()
    )))
}

/// Takes notes of an answer, and its no for a no.
fn heard(hook: &Hook, answer: Answer, notes: &mut Notes) -> Result<Answer, Denial> {
    notes.warnings.extend(answer.warnings.iter().cloned());
    let audit = answer.audit.iter();
    notes
        .audit
        .extend(audit.map(|(key, value)| (format!("{}/{key}", hook.name()), value.clone())));
    match &answer.refused {
        None => Ok(answer),
        Some(Refused {
            code,
            reason,
            message,
        }) => Err(Denial::Refused {
            code: *code,
            reason: reason.clone(),
            message: refusal(hook.name(), reason, message),
        }),
    }
}

fn refusal(name: &str, reason: &str, message: &str) -> String {
    let denied = format!("admission webhook {name:?} denied the request");
    match (message, reason) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    }
}

/// What is being done, as webhooks are told.
fn operation(action: Action<'_>) -> &'static str {
    match action {
        Action::Create => "CREATE",
        Action::Update { .. } => "UPDATE",
        Action::Delete { .. } => "DELETE",
    }
}
