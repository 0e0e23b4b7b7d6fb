//! The second round of what changes objects: who changed an object may make those before say something else.
//!
//! Flow, as upstream's: plugins, policies, webhooks → when a policy or a webhook changed the object, all of it once more, in
//! which of policies and webhooks only those are called that asked for it (`reinvocationPolicy: IfNeeded`), were called
//! before, and of whose object something was changed since.
use serde_json::Value;
use std::collections::BTreeSet;

/// What is known of a request's rounds.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// This is the second.
    pub second: bool,
    /// There is something to have a second for.
    pub wanted: bool,
    pub policies: Called,
    pub webhooks: Called,
}

/// Those of one plugin that asked to be called again, by name.
#[derive(Debug, Default)]
pub(super) struct Called {
    /// Nothing was changed since they were called.
    content: BTreeSet<String>,
    /// Something was.
    due: BTreeSet<String>,
    /// What the plugin made of the object, as long as somebody is content with it.
    left: Option<Value>,
}

impl Called {
    /// It is the plugin's turn. What others changed since its last turn concerns everybody that it called.
    pub fn begin(&mut self, object: &Value) {
        if self.left.take().is_some_and(|left| left != *object) {
            self.changed();
        }
    }

    /// Its turn is over. Nothing is copied unless somebody asked to be called again.
    pub fn end(&mut self, object: &Value) {
        self.left = (!self.content.is_empty()).then(|| object.clone());
    }

    /// Something changed the object.
    pub fn changed(&mut self) {
        self.due.append(&mut self.content);
    }

    /// One was called who asked to be called again.
    pub fn add(&mut self, name: String) {
        self.content.insert(name);
    }

    pub fn is_due(&self, name: &str) -> bool {
        self.due.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_was_called_before_a_change_is_due() {
        let mut called = Called::default();
        let (first, second) = (json!({"a": 1}), json!({"a": 2}));
        called.begin(&first);
        called.add("early".into());
        called.changed();
        called.add("late".into());
        called.end(&first);
        assert!(called.is_due("early") && !called.is_due("late"));
        called.begin(&first);
        assert!(!called.is_due("late"), "nobody changed anything");
        called.end(&first);
        called.begin(&second);
        assert!(called.is_due("late"));
        called.end(&second);
        assert!(called.left.is_none(), "nobody is content any more");
    }
}
