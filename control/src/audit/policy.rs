//! What is written of which request: upstream's policy file (`audit.k8s.io/v1.Policy`). Pure.
mod valid;

use super::trail::Subject;
use crate::kinds::join;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// How much of a request is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub fn word(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// When in the life of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub fn word(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("cannot read the audit policy {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the audit policy {path} is not one: {why}")]
    Parse { path: PathBuf, why: String },
}

/// Rules in order; the first that fits a request decides, and without one nothing is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What the policy says of one request.
#[derive(Clone, Debug)]
pub struct Ruling {
    pub level: Level,
    pub omitted: Vec<Stage>,
    pub omit_managed_fields: bool,
}

/// Everything at Metadata level when it is over, but whether the server is well, which is asked all the time.
const DEFAULT: &str = r#"{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[
    {"level":"None","nonResourceURLs":["/healthz","/livez","/readyz"]},{"level":"Metadata"}]}"#;

impl Policy {
    /// What holds without a file.
    pub fn metadata() -> Result<Self, PolicyError> {
        Self::parse(Path::new("(built in)"), DEFAULT)
    }

    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        let text = std::fs::read_to_string(path).map_err(|source| PolicyError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, PolicyError> {
        let bad = |why: String| PolicyError::Parse {
            path: path.to_owned(),
            why,
        };
        let policy: Policy = serde_yaml::from_str(text).map_err(|e| bad(e.to_string()))?;
        match (policy.api_version.as_str(), policy.kind.as_str()) {
            ("audit.k8s.io/v1", "Policy") => {}
            (version, kind) => {
                return Err(bad(format!("it is {version} {kind}, not audit.k8s.io/v1 Policy")));
            }
        }
        let errors = valid::errors(&policy);
        match (errors.is_empty(), policy.rules.is_empty()) {
            (false, _) => Err(bad(join(&errors))),
            (true, true) => Err(bad("loaded illegal policy with 0 rules".to_owned())),
            (true, false) => Ok(policy),
        }
    }

    pub fn rule(&self, subject: &Subject) -> Ruling {
        let found = self.rules.iter().find(|rule| rule.fits(subject));
        let own = found.map_or(&[][..], |rule| &rule.omit_stages);
        Ruling {
            level: found.map_or(Level::None, |rule| rule.level),
            omitted: self.omit_stages.iter().chain(own).copied().collect(),
            omit_managed_fields: found
                .and_then(|rule| rule.omit_managed_fields)
                .unwrap_or(self.omit_managed_fields),
        }
    }
}

/// Whether a list says nothing, or this.
fn allows(list: &[String], wanted: &str) -> bool {
    list.is_empty() || list.iter().any(|each| each == wanted)
}

impl Rule {
    fn fits(&self, subject: &Subject) -> bool {
        let groups = &subject.user.groups;
        allows(&self.users, &subject.user.user)
            && (self.user_groups.is_empty() || self.user_groups.iter().any(|group| groups.contains(group)))
            && allows(&self.verbs, subject.verb)
            && self.fits_object(subject)
    }

    fn fits_object(&self, subject: &Subject) -> bool {
        let about_resources = !self.namespaces.is_empty() || !self.resources.is_empty();
        match &subject.object {
            Some(_) if !self.urls.is_empty() && !about_resources => false,
            Some(object) => {
                allows(&self.namespaces, object.namespace.as_deref().unwrap_or_default())
                    && (self.resources.is_empty() || self.resources.iter().any(|each| each.fit(object)))
            }
            None if about_resources && self.urls.is_empty() => false,
            None => self.urls.is_empty() || self.urls.iter().any(|url| fits_url(url, subject.path())),
        }
    }
}

fn fits_url(pattern: &str, path: &str) -> bool {
    pattern == path
        || pattern
            .strip_suffix('*')
            .is_some_and(|start| path.starts_with(start))
}

impl Resources {
    fn fit(&self, object: &super::trail::ObjectRef) -> bool {
        let (resource, sub) = (object.resource.as_str(), object.subresource.as_deref());
        let named = |pattern: &String| match (pattern.split_once('/'), sub) {
            _ if pattern == "*" => true,
            (None, None) => pattern == resource,
            (Some((resource_pattern, sub_pattern)), Some(sub)) => {
                (resource_pattern == "*" || resource_pattern == resource)
                    && (sub_pattern == "*" || sub_pattern == sub)
            }
            (Some((resource_pattern, "*")), None) => resource_pattern == resource,
            _ => false,
        };
        (self.group == "*" || self.group == object.group)
            && (self.resources.is_empty() || self.resources.iter().any(named))
            && allows(&self.resource_names, object.name.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::super::trail::ObjectRef;
    use super::*;
    use crate::auth::Identity;

    const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: [system:kube-scheduler]
- level: RequestResponse
  resources: [{group: '', resources: [pods]}]
- level: Request
  resources: [{group: '', resources: [pods/*], resourceNames: [p]}]
  namespaces: [n]
  omitStages: [ResponseStarted]
- level: None
  nonResourceURLs: ['/api*']
- level: Metadata
  verbs: [get]
";

    fn level(user: &str, verb: &'static str, resource: &str, namespace: &str, uri: &str) -> Level {
        let object = (!resource.is_empty()).then(|| ObjectRef {
            resource: resource.split('/').next().unwrap().to_owned(),
            subresource: resource.split_once('/').map(|(_, sub)| sub.to_owned()),
            namespace: Some(namespace.to_owned()),
            name: Some("p".to_owned()),
            ..ObjectRef::default()
        });
        let subject = Subject {
            user: Identity::new(user, []),
            acting_as: None,
            constraint: None,
            verb,
            uri: uri.to_owned(),
            object,
        };
        Policy::parse(Path::new("x"), POLICY)
            .unwrap()
            .rule(&subject)
            .level
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        assert_eq!(
            level("system:kube-scheduler", "get", "pods", "n", "/"),
            Level::None
        );
        assert_eq!(level("bob", "get", "pods", "n", "/"), Level::RequestResponse);
        assert_eq!(level("bob", "get", "pods/log", "n", "/"), Level::Request);
        assert_eq!(level("bob", "get", "pods/log", "m", "/"), Level::Metadata);
        assert_eq!(level("bob", "create", "secrets", "n", "/"), Level::None);
        assert_eq!(level("bob", "get", "", "", "/apis/x"), Level::None);
        assert_eq!(level("bob", "get", "", "", "/version?a=b"), Level::Metadata);
    }

    #[test]
    fn what_is_no_policy_is_told() {
        assert!(Policy::metadata().is_ok());
        let error = Policy::parse(Path::new("p.yaml"), "apiVersion: v1\nkind: Pod\nrules: []").unwrap_err();
        assert!(error.to_string().contains("it is v1 Pod"), "{error}");
        assert!(
            Policy::parse(
                Path::new("p"),
                "kind: Policy\napiVersion: audit.k8s.io/v1\nrule: []"
            )
            .is_err()
        );
    }
}
