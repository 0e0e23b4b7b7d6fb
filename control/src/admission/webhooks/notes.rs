//! What the audit log is told of webhooks: what they say themselves, who changed the object and how, and who failed and was
//! passed over.
use super::super::Notes;
use crate::kinds::names;
use serde::Serialize;
use serde_json::Value;
use std::collections::HashSet;

const MUTATION: &str = "mutation.webhook.admission.k8s.io";
const PATCH: &str = "patch.webhook.admission.k8s.io";
const VALIDATING: &str = "validating.webhook.admission.k8s.io";

/// One time that a webhook is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn<'h> {
    pub mutates: bool,
    /// 1 when it is asked again, 0 before.
    pub round: u8,
    /// Its place among all mutating ones, or among those validating ones that are asked.
    pub index: usize,
    pub configuration: &'h str,
    pub webhook: &'h str,
}

/// Values of annotations, in the order in which upstream has them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'t> {
    configuration: &'t str,
    webhook: &'t str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mutated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<&'t Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
}

impl Turn<'_> {
    fn key(&self, what: &str) -> String {
        format!("{what}/round_{}_index_{}", self.round, self.index)
    }

    fn told(&self, mutated: Option<bool>, patch: Option<&Value>) -> String {
        let told = Told {
            configuration: self.configuration,
            webhook: self.webhook,
            mutated,
            patch,
            patch_type: patch.map(|_| "JSONPatch"),
        };
        // Texts and JSON values always serialise.
        serde_json::to_string(&told).unwrap_or_default()
    }

    /// A mutating one was asked, whatever came of it.
    pub fn was_had(&self, mutated: bool, notes: &mut Notes) {
        let told = self.told(Some(mutated), None);
        notes.audit.push((self.key(MUTATION), told));
    }

    /// Its patch was applied.
    pub fn patched(&self, operations: &Value, notes: &mut Notes) {
        let told = self.told(None, Some(operations));
        notes.patches.push((self.key(PATCH), told));
    }

    /// It failed, and its policy is to be passed over then.
    pub fn failed_open(&self, notes: &mut Notes) {
        let what = if self.mutates { MUTATION } else { VALIDATING };
        let key = self.key(&format!("failed-open.{what}"));
        notes.audit.push((key, self.webhook.to_owned()));
    }

    /// What it says itself, under its name. Upstream passes over keys that are none, and values for what was said already.
    pub fn says(&self, said: &[(String, String)], notes: &mut Notes) {
        let mut known: HashSet<String> = notes.audit.iter().map(|(key, _)| key.clone()).collect();
        let mut passed_over = 0;
        for (key, value) in said {
            let key = format!("{}/{key}", self.webhook);
            match names::qualified(&key).is_empty() && known.insert(key.clone()) {
                true => notes.audit.push((key, value.clone())),
                false => passed_over += 1,
            }
        }
        if passed_over > 0 {
            let webhook = self.webhook;
            tracing::warn!(
                webhook,
                passed_over,
                "a webhook annotates twice, or under what is no key"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_turn_is_told_of_under_a_key_of_its_own() {
        let mut notes = Notes::default();
        let turn = Turn {
            mutates: true,
            round: 1,
            index: 3,
            configuration: "c",
            webhook: "w.example.com",
        };
        turn.patched(&json!([{"op": "add", "path": "/a", "value": 1}]), &mut notes);
        turn.was_had(true, &mut notes);
        turn.failed_open(&mut notes);
        Turn {
            mutates: false,
            ..turn
        }
        .failed_open(&mut notes);
        let owned = |all: &[(&str, &str)]| -> Vec<(String, String)> {
            all.iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        assert_eq!(
            notes.audit,
            owned(&[
                (
                    "mutation.webhook.admission.k8s.io/round_1_index_3",
                    r#"{"configuration":"c","webhook":"w.example.com","mutated":true}"#
                ),
                (
                    "failed-open.mutation.webhook.admission.k8s.io/round_1_index_3",
                    "w.example.com"
                ),
                (
                    "failed-open.validating.webhook.admission.k8s.io/round_1_index_3",
                    "w.example.com"
                ),
            ])
        );
        let patch = r#"{"configuration":"c","webhook":"w.example.com","patch":[{"op":"add","path":"/a","value":1}],"patchType":"JSONPatch"}"#;
        assert_eq!(
            notes.patches,
            owned(&[("patch.webhook.admission.k8s.io/round_1_index_3", patch)])
        );
        notes.audit.clear();
        turn.says(
            &owned(&[("a", "1"), ("a", "2"), ("b/c", "3"), ("", "4"), ("d e", "5")]),
            &mut notes,
        );
        assert_eq!(notes.audit, owned(&[("w.example.com/a", "1")]));
    }
}
