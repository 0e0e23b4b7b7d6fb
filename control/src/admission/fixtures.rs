//! Objects and reviews for the tests of the rules.
use super::{Action, Objects, Options, ResourceName, Review};
use crate::auth::Identity;
use crate::kinds::Registry;
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// These objects, by plural.
#[derive(Default)]
pub struct Fixed(pub Vec<(&'static str, Value)>);

impl Objects for Fixed {
    fn get(&self, resource: ResourceName<'_>, namespace: Option<&str>, name: &str) -> Option<Arc<Value>> {
        let mut all = self.list(resource, namespace).into_iter();
        all.find(|object| object["metadata"]["name"] == name)
    }

    fn list(&self, (_, _, plural): ResourceName<'_>, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let wanted = |object: &Value| namespace.is_none_or(|n| object["metadata"]["namespace"] == n);
        let mine = self.0.iter().filter(|(p, object)| *p == plural && wanted(object));
        mine.map(|(_, object)| Arc::new(object.clone())).collect()
    }
}

pub fn who() -> &'static Identity {
    static WHO: OnceLock<Identity> = OnceLock::new();
    WHO.get_or_init(|| Identity::new("tester", []))
}

/// A review of an object named `o` in namespace `n`; `resource` is `plural` or `plural.group`, version v1.
pub fn review<'a>(resource: &str, action: Action<'a>) -> Review<'a> {
    let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
    let kind = Registry::builtin()
        .resource(group, "v1", plural)
        .expect("a served resource");
    Review {
        verb: action.word(),
        kind,
        namespace: kind.namespaced.then_some("n"),
        name: "o",
        subresource: None,
        action,
        dry_run: false,
        options: Options::default(),
        who: who(),
        authorizer: None,
    }
}
