//! The options of a request, as webhooks and expressions are shown them. Pure.
use super::{Action, Review};
use serde_json::{Value, json};

/// What a request says beside its object, as it says it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    pub manager: Option<&'a str>,
    pub validation: Option<&'a str>,
    /// What a deletion is asked to be.
    pub deletion: Option<&'a Value>,
}

impl Options<'_> {
    /// `CreateOptions` and its kin; a connection has none.
    pub(super) fn object(self, review: &Review<'_>) -> Value {
        let kind = match review.action {
            Action::Create | Action::Post { .. } => "CreateOptions",
            Action::Update { .. } => "UpdateOptions",
            Action::Delete { .. } => "DeleteOptions",
            Action::Connect { .. } => return Value::Null,
        };
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if let Some(Value::Object(said)) = self.deletion {
            let own = said.iter().filter(|(key, _)| options.get(key.as_str()).is_none());
            let own: Vec<_> = own.map(|(key, value)| (key.clone(), value.clone())).collect();
            own.into_iter().for_each(|(key, value)| options[key] = value);
        }
        if review.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        for (key, said) in [
            ("fieldManager", self.manager),
            ("fieldValidation", self.validation),
        ] {
            if let Some(said) = said.filter(|_| self.deletion.is_none()) {
                options[key] = said.into();
            }
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::review;
    use super::*;

    #[test]
    fn options_are_what_the_request_says() {
        let said = Options {
            manager: Some("me"),
            validation: Some("Strict"),
            deletion: None,
        };
        let create = Review {
            dry_run: true,
            ..review("pods", Action::Create)
        };
        assert_eq!(
            said.object(&create),
            json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "dryRun": ["All"], "fieldManager": "me",
                "fieldValidation": "Strict"})
        );
        let asked = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
        let delete = review("pods", Action::Delete { old: &Value::Null });
        let said = Options {
            deletion: Some(&asked),
            ..said
        };
        assert_eq!(
            said.object(&delete),
            json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "gracePeriodSeconds": 0})
        );
        let pods = review("pods", Action::Create);
        let connect = review("pods", Action::Connect { kind: pods.kind });
        assert_eq!(said.object(&connect), Value::Null);
    }
}
