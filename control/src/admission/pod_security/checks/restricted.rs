//! What the level `restricted` asks beyond `baseline`.
use super::{Pod, Violation, containers, plural, quoted, setters, violation};
use crate::kinds::view::View;
use serde_json::Value;
use std::collections::BTreeSet;

const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

impl<'a> Pod<'a> {
    pub(super) fn escalation(&self) -> Option<Violation> {
        let path = "securityContext.allowPrivilegeEscalation";
        let names = self.those(|c| *c.at(path) != Value::Bool(false));
        (!names.is_empty() && self.at.since(8) && !self.is_windows()).then_some(())?;
        violation(
            "allowPrivilegeEscalation != false",
            format!("{} must set {path}=false", containers(&names)),
        )
    }

    pub(super) fn dropped_capabilities(&self) -> Option<Violation> {
        let add = |c: &Value| c.list("securityContext.capabilities.add").to_vec();
        let bad = |c: &Value| c != "NET_BIND_SERVICE";
        let keeping = self.those(|c| {
            !c.list("securityContext.capabilities.drop")
                .iter()
                .any(|d| d == "ALL")
        });
        let adding = self.those(|c| add(c).iter().any(bad));
        let mut details = Vec::new();
        if !keeping.is_empty() {
            details.push(format!(
                "{} must set securityContext.capabilities.drop=[\"ALL\"]",
                containers(&keeping)
            ));
        }
        if !adding.is_empty() {
            details.push(format!(
                "{} must not include {} in securityContext.capabilities.add",
                containers(&adding),
                quoted(self.texts(add, bad))
            ));
        }
        (!details.is_empty() && self.at.since(22) && !self.is_windows()).then_some(())?;
        violation("unrestricted capabilities", details.join("; "))
    }

    pub(super) fn volume_types(&self) -> Option<Violation> {
        let source = |v: &'a Value| {
            let members = v.as_object().into_iter().flatten();
            members.map(|(key, _)| key.as_str()).find(|key| *key != "name")
        };
        let bad: Vec<&Value> = self
            .spec
            .list("volumes")
            .iter()
            .filter(|v| source(v).is_some_and(|s| !VOLUMES.contains(&s)))
            .collect();
        (!bad.is_empty()).then_some(())?;
        let types: BTreeSet<&str> = bad.iter().filter_map(|v| source(v)).collect();
        violation(
            "restricted volume types",
            format!(
                "{} {} {} {} {}",
                plural("volume", "volumes", bad.len()),
                quoted(bad.iter().map(|v| v.text("name"))),
                plural("uses", "use", bad.len()),
                plural("restricted volume type", "restricted volume types", types.len()),
                quoted(types)
            ),
        )
    }

    pub(super) fn non_root(&self) -> Option<Violation> {
        let path = "securityContext.runAsNonRoot";
        let said = |h: &Value| h.at(path).as_bool();
        let explicit = self.those(|c| said(c) == Some(false));
        let implicit = self.those(|c| said(c).is_none() && said(self.spec) != Some(true));
        let reason = "runAsNonRoot != true";
        if self.has_own_users() {
            return None;
        }
        if let Some(who) = setters(said(self.spec) == Some(false), &explicit) {
            return violation(reason, format!("{who} must not set {path}=false"));
        }
        (!implicit.is_empty()).then_some(())?;
        violation(
            reason,
            format!("pod or {} must set {path}=true", containers(&implicit)),
        )
    }

    pub(super) fn root_user(&self) -> Option<Violation> {
        let bad = |h: &Value| h.int("securityContext.runAsUser") == Some(0);
        let who = setters(bad(self.spec), &self.those(bad))?;
        (self.at.since(23) && !self.has_own_users()).then_some(())?;
        violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
    }

    pub(super) fn strict_seccomp(&self) -> Option<Violation> {
        if self.is_windows() || !self.at.since(19) {
            return None;
        }
        if let Some(explicit) = self.seccomp_fields() {
            return Some(explicit);
        }
        let path = "securityContext.seccompProfile";
        let implicit = self.those(|c| !c.has(path) && !self.spec.has(path));
        (!implicit.is_empty()).then_some(())?;
        violation(
            "seccompProfile",
            format!(
                "pod or {} must set {path}.type to \"RuntimeDefault\" or \"Localhost\"",
                containers(&implicit)
            ),
        )
    }
}
