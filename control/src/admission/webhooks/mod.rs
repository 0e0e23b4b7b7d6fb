//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: others' say about an object, by HTTPS.
//!
//! Configurations are taken by name, their webhooks in order. Mutating ones are called one after the other, each on what
//! the one before left, in a second round those that are due. Validating ones are called at once. Refuses to know how an
//! answer is read (`answer`), what its patch does (`patch`), and how it is fetched (`callout`).
mod answer;
mod notes;
mod patch;
mod review;
mod rules;

use super::equivalent::Match;
use super::expressions::{self, Rights, Seen};
use super::measures::{self, Called, Said};
use super::rounds::Rounds;
use super::shown::{self, Shown, Versions};
use super::versions::PerVersion;
use super::{Denial, Notes, Objects, ResourceName, Review};
use crate::callout::{self, Exchange, Failed};
use crate::kinds::policy::{Compiled, compile_conditions};
use crate::kinds::view::View;
use answer::{Answer, Refused};
use futures::future::join_all;
use notes::Turn;
use patch::Fault;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// Whether there is any webhook.
pub(super) fn any(objects: &dyn Objects) -> bool {
    [MUTATING, VALIDATING].into_iter().any(|all| objects.any(all))
}

/// Bytes of an answer: an object and a patch of it fit twice over.
const ANSWER: usize = 6 << 20;

/// The compiled match conditions of a configuration's webhooks, in order.
type Conditions = Vec<Vec<(String, Compiled)>>;

/// One webhook of a configuration.
struct Hook {
    /// Whose it is.
    configuration: String,
    body: Value,
    conditions: Arc<Conditions>,
    /// Which of them are this webhook's.
    index: usize,
}

impl Hook {
    fn name(&self) -> &str {
        self.body.text("name")
    }

    /// Who it is among all.
    fn key(&self) -> String {
        format!("{}/{}", self.configuration, self.name())
    }

    fn turn(&self, mutates: bool, again: bool, index: usize) -> Turn<'_> {
        Turn {
            mutates,
            round: u8::from(again),
            index,
            configuration: &self.configuration,
            webhook: self.name(),
        }
    }

    fn called(&self, mutates: bool, review: &Review<'_>) -> Called<'_> {
        Called {
            name: self.name(),
            mutates,
            operation: review.action.word(),
        }
    }

    fn ignores_failure(&self) -> bool {
        self.body.text("failurePolicy") == "Ignore"
    }

    /// How the webhook wants to see this change, and the change so; none when it is not concerned.
    async fn concerned(
        &self,
        objects: &dyn Objects,
        review: &Review<'_>,
        object: &Value,
        versions: &mut Versions,
    ) -> Result<Option<Asked>, Denial> {
        let Some(matched) = rules::matching(objects, review, object, &self.body) else {
            return Ok(None);
        };
        let kind = matched.kind(review);
        // Whatever the failure policy: it is the definition that fails, not the webhook.
        let shown = versions.show(objects, review, kind, object).await;
        let shown = shown.map_err(Denial::Failed)?;
        let conditions = self.conditions.get(self.index).map_or(&[][..], Vec::as_slice);
        if conditions.is_empty() {
            return Ok(Some(Asked { matched, shown }));
        }
        let seen = Seen {
            request: &expressions::request(review, kind, &shown.object),
            object: &shown.object,
            old: &shown.old,
            namespace: &Value::Null,
            rights: &Rights(review),
        };
        match expressions::all_hold(conditions, &seen.scope()) {
            Ok(holds) => Ok(holds.then_some(Asked { matched, shown })),
            Err(_) if self.ignores_failure() => Ok(None),
            Err(why) => Err(Denial::Forbidden(why)),
        }
    }
}

/// What a webhook is asked about.
struct Asked {
    matched: Match,
    shown: Arc<Shown>,
}

/// Calls webhooks.
#[derive(Default)]
pub(super) struct Webhooks {
    conditions: PerVersion<Conditions>,
}

impl Webhooks {
    /// All webhooks, in the order in which they are asked.
    fn hooks(
        &self,
        objects: &dyn Objects,
        configurations: ResourceName<'_>,
        review: &Review<'_>,
    ) -> Vec<Hook> {
        if review.kind.group == MUTATING.0 {
            // A webhook that judged webhooks could lock everybody out.
            return Vec::new();
        }
        let mut all = objects.list(configurations, None);
        all.sort_by(|a, b| a.text("metadata.name").cmp(b.text("metadata.name")));
        let hooks = all.iter().flat_map(|configuration| {
            let webhooks = configuration.list("webhooks");
            let compile = || {
                let conditions = webhooks.iter().map(|w| w.list("matchConditions"));
                conditions.map(compile_conditions).collect()
            };
            let conditions = self.conditions.get(configuration, compile);
            webhooks.iter().enumerate().map(move |(index, body)| Hook {
                configuration: configuration.text("metadata.name").to_owned(),
                body: body.clone(),
                conditions: conditions.clone(),
                index,
            })
        });
        hooks.collect()
    }

    /// Changes the object as webhooks will.
    pub async fn mutate(
        &self,
        (objects, measures): (&dyn Objects, &measures::Webhooks),
        review: &Review<'_>,
        object: &mut Value,
        notes: &mut Notes,
        rounds: &mut Rounds,
    ) -> Result<(), Denial> {
        let hooks = self.hooks(objects, MUTATING, review);
        let mut versions = Versions::default();
        rounds.webhooks.begin(object);
        for (i, hook) in hooks.iter().enumerate() {
            let Some(question) = hook.concerned(objects, review, object, &mut versions).await? else {
                continue;
            };
            if rounds.second && !rounds.webhooks.is_due(&hook.key()) {
                continue;
            }
            let turn = hook.turn(true, rounds.second, i);
            let asked = (hook, &question, turn);
            if self
                .apply((objects, measures), review, asked, object, notes)
                .await?
            {
                versions.forget();
                rounds.webhooks.changed();
                rounds.wanted = true;
            }
            if hook.body.text("reinvocationPolicy") == "IfNeeded" {
                rounds.webhooks.add(hook.key());
            }
        }
        rounds.webhooks.end(object);
        Ok(())
    }

    /// Calls one mutating webhook; whether it changed the object.
    async fn apply(
        &self,
        (objects, measures): (&dyn Objects, &measures::Webhooks),
        review: &Review<'_>,
        (hook, question, turn): (&Hook, &Asked, Turn<'_>),
        object: &mut Value,
        notes: &mut Notes,
    ) -> Result<bool, Denial> {
        let begun = Instant::now();
        let changed = self
            .changed(objects, review, (hook, question, turn), object, notes)
            .await;
        let (said, took) = (said(hook, &changed), begun.elapsed());
        measures.observe(hook.called(true, review), said, took);
        notes.waited += took;
        turn.was_had(matches!(changed, Ok(true)), notes);
        match changed {
            Ok(changed) => Ok(changed),
            Err(Fault::Final(denial)) => Err(denial),
            Err(Fault::Webhook(failure)) => failed(hook, turn, &failure.why, notes).map(|()| false),
        }
    }

    async fn changed(
        &self,
        objects: &dyn Objects,
        review: &Review<'_>,
        (hook, question, turn): (&Hook, &Asked, Turn<'_>),
        object: &mut Value,
        notes: &mut Notes,
    ) -> Result<bool, Fault> {
        let answer = self.ask(objects, review, (hook, question), true).await;
        let answer = heard(hook, turn, answer.map_err(Fault::Webhook)?, notes)?;
        let (kind, before) = (question.matched.kind(review), &question.shown.object);
        let Some(patched) = patch::patched(review, (kind, hook.name()), &answer, before)? else {
            return Ok(false);
        };
        turn.patched(&patched.operations, notes);
        if patched.object == *before {
            return Ok(false);
        }
        let patched = shown::back(objects, review, kind, object, patched.object).await;
        let patched = patched.map_err(Denial::Failed)?;
        if patched == *object {
            return Ok(false);
        }
        *object = patched;
        if !review.action.asks() {
            review.kind.default(object);
        }
        Ok(true)
    }

    pub async fn validate(
        &self,
        (objects, measures): (&dyn Objects, &measures::Webhooks),
        review: &Review<'_>,
        object: &Value,
        notes: &mut Notes,
    ) -> Result<(), Denial> {
        let hooks = self.hooks(objects, VALIDATING, review);
        let (mut concerned, mut versions) = (Vec::new(), Versions::default());
        for hook in &hooks {
            if let Some(question) = hook.concerned(objects, review, object, &mut versions).await? {
                concerned.push((hook, question));
            }
        }
        let asked = concerned.iter().map(|(hook, question)| async move {
            let begun = Instant::now();
            let answer = self.ask(objects, review, (hook, question), false).await;
            (*hook, answer, begun.elapsed())
        });
        let mut verdict = Ok(());
        let mut longest = Duration::ZERO;
        for (i, (hook, answer, took)) in join_all(asked).await.into_iter().enumerate() {
            let turn = hook.turn(false, false, i);
            let heard = match answer {
                Ok(answer) => heard(hook, turn, answer, notes).map(drop).map_err(Fault::Final),
                Err(failure) => Err(Fault::Webhook(failure)),
            };
            measures.observe(hook.called(false, review), said(hook, &heard), took);
            longest = longest.max(took);
            verdict = verdict.and(match heard {
                Ok(()) => Ok(()),
                Err(Fault::Final(denial)) => Err(denial),
                Err(Fault::Webhook(failure)) => failed(hook, turn, &failure.why, notes),
            });
        }
        notes.waited += longest;
        verdict
    }

    async fn ask(
        &self,
        objects: &dyn Objects,
        review: &Review<'_>,
        (hook, question): (&Hook, &Asked),
        mutates: bool,
    ) -> Result<Answer, Failed> {
        let version = review::version(&hook.body);
        let kind = question.matched.kind(review);
        let (uid, body) = review::request(review, kind, &question.shown, version);
        let within = hook.body.int("timeoutSeconds").unwrap_or(10).clamp(1, 30);
        let exchange = Exchange {
            within: within.unsigned_abs(),
            answer: ANSWER,
        };
        let answer = callout::post(objects, hook.body.at("clientConfig"), exchange, &body).await;
        let answer = answer.map_err(|failed| Failed {
            why: format!("failed to call webhook: {}", failed.why),
            ..failed
        })?;
        Ok(answer::read(&answer, &uid, version, mutates)?)
    }
}

/// What came of a call, in a word.
fn said<T>(hook: &Hook, outcome: &Result<T, Fault>) -> Said {
    match outcome {
        Ok(_) => Said::Yes,
        Err(Fault::Final(denial)) => Said::refusing(denial),
        Err(Fault::Webhook(failure)) => Said::Nothing {
            code: failure.code,
            open: hook.ignores_failure(),
        },
    }
}

/// A webhook that could not be asked, or did not make sense: its failure policy says what that means.
fn failed(hook: &Hook, turn: Turn<'_>, why: &str, notes: &mut Notes) -> Result<(), Denial> {
    if hook.ignores_failure() {
        let (configuration, webhook) = (turn.configuration, turn.webhook);
        tracing::warn!(
            configuration,
            webhook,
            why,
            "an admission webhook failed and is passed over"
        );
        turn.failed_open(notes);
        return Ok(());
    }
    Err(Denial::Failed(format!(
        "failed calling webhook {:?}: {why}",
        hook.name()
    )))
}

/// Takes notes of an answer, and its no for a no.
fn heard(hook: &Hook, turn: Turn<'_>, answer: Answer, notes: &mut Notes) -> Result<Answer, Denial> {
    notes.warnings.extend(answer.warnings.iter().cloned());
    turn.says(&answer.audit, notes);
    match &answer.refused {
        None => Ok(answer),
        Some(Refused {
            code,
            reason,
            message,
            details,
        }) => Err(Denial::Refused {
            code: *code,
            reason: reason.clone(),
            message: refusal(hook.name(), reason, message),
            details: details.clone(),
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
