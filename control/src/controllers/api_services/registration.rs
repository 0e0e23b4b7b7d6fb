//! Which APIServices there should be for what this server serves itself. Pure.
use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use crate::kinds::api_service::{MANAGED, is_managed};
use crate::kinds::{RESOURCE_METRICS, Registry, api_service};

/// An APIService that should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// `onstart` for built-in groups, `true` for those of definitions.
    managed: &'static str,
    /// Whether another server may take its place.
    yields: bool,
    spec: Value,
}

/// What is to be done about one that is there.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Keep,
    /// Nobody serves it here any more.
    Remove,
    /// With this specification.
    Correct(Value),
}

impl Wanted {
    /// `name` is `VERSION.GROUP`.
    pub fn of(name: &str, definitions: &[Arc<CustomResourceDefinition>]) -> Option<Wanted> {
        let (version, group) = name.split_once('.')?;
        let built_in =
            group != api_service::GROUP && Registry::builtin().group_versions().contains(&(group, version));
        let defined = || {
            definitions.iter().any(|d| {
                d.spec.group == group && d.spec.versions.iter().any(|v| v.served && v.name == version)
            })
        };
        if !built_in && !defined() {
            return None;
        }
        let (of_group, of_version) = api_service::priority(group, version);
        let mut spec =
            json!({"version": version, "groupPriorityMinimum": of_group, "versionPriority": of_version});
        if !group.is_empty() {
            spec["group"] = group.into();
        }
        Some(Wanted {
            managed: if built_in { "onstart" } else { "true" },
            yields: group == RESOURCE_METRICS,
            spec,
        })
    }

    pub fn object(&self, name: &str) -> Value {
        json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": name, "labels": {MANAGED: self.managed}},
            "spec": self.spec,
        })
    }
}

pub(super) fn decide(wanted: Option<&Wanted>, current: &Value) -> Step {
    let managed = is_managed(current);
    match wanted {
        _ if !managed => Step::Keep,
        None => Step::Remove,
        Some(wanted) if wanted.spec == current["spec"] => Step::Keep,
        // Who installs metrics-server wants its answers, and applies over what is registered here.
        Some(wanted) if wanted.yields && !api_service::is_local(current) => Step::Keep,
        Some(wanted) => {
            let mut spec = wanted.spec.clone();
            // A merge patch takes away what it names as null.
            for key in current["spec"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, _)| key)
            {
                if wanted.spec.get(key).is_none() {
                    spec[key] = Value::Null;
                }
            }
            Step::Correct(spec)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_here_is_registered() {
        let core = Wanted::of("v1.", &[]).expect("built in");
        assert_eq!(
            core.spec,
            json!({"version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1})
        );
        assert_eq!(core.managed, "onstart");
        assert!(Wanted::of("v1.apps", &[]).is_some());
        assert!(Wanted::of("v1.apiregistration.k8s.io", &[]).is_none());
        assert!(Wanted::of("v1.e.com", &[]).is_none());
        let definition: CustomResourceDefinition = serde_json::from_value(json!({
            "metadata": {"name": "foos.e.com"}, "spec": {"group": "e.com", "scope": "Cluster",
                "names": {"kind": "Foo", "plural": "foos"},
                "versions": [{"name": "v1", "served": true, "storage": true}, {"name": "v2", "served": false, "storage": false}]}}))
        .expect("a definition");
        let definitions = [Arc::new(definition)];
        let wanted = Wanted::of("v1.e.com", &definitions).expect("defined");
        assert_eq!(
            (wanted.managed, &wanted.spec["versionPriority"]),
            ("true", &json!(100))
        );
        assert!(Wanted::of("v2.e.com", &definitions).is_none());
    }

    #[test]
    fn others_are_left_alone() {
        let wanted = Wanted::of("v1.apps", &[]);
        let mut current = wanted.as_ref().expect("wanted").object("v1.apps");
        assert_eq!(decide(wanted.as_ref(), &current), Step::Keep);
        current["spec"]["insecureSkipTLSVerify"] = true.into();
        let Step::Correct(spec) = decide(wanted.as_ref(), &current) else {
            panic!("it differs")
        };
        assert_eq!(spec["insecureSkipTLSVerify"], Value::Null);
        assert_eq!(decide(None, &current), Step::Remove);
        current["metadata"]["labels"] = json!({});
        assert_eq!(decide(wanted.as_ref(), &current), Step::Keep);
        assert_eq!(decide(None, &current), Step::Keep);
    }

    #[test]
    fn metrics_may_be_anothers() {
        let wanted = Wanted::of("v1beta1.metrics.k8s.io", &[]);
        let mut current = wanted
            .as_ref()
            .expect("built in")
            .object("v1beta1.metrics.k8s.io");
        current["spec"]["groupPriorityMinimum"] = 7.into();
        assert!(matches!(decide(wanted.as_ref(), &current), Step::Correct(_)));
        current["spec"]["service"] = json!({"namespace": "kube-system", "name": "metrics-server"});
        assert_eq!(decide(wanted.as_ref(), &current), Step::Keep);
    }
}
