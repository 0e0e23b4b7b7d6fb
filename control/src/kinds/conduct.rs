//! How a kind behaves under the verbs, where kinds differ: facts, not code.
use super::kind::Kind;
use super::validate::cluster::SYSTEM_CLASSES;
use serde_json::Value;

/// How an object of a kind goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// At once, unless finalizers hold it.
    Immediate,
    /// After its node let it go: stays, marked, for its grace period.
    Pod,
    /// After its contents: stays, marked and `Terminating`, until its `spec.finalizers` are done.
    Namespace,
    /// After its instances: gets a finalizer that the definitions controller takes away.
    Definition,
}

impl Kind {
    pub fn departure(&self) -> Departure {
        match (self.group.as_str(), self.plural.as_str()) {
            ("", "pods") => Departure::Pod,
            ("", "namespaces") => Departure::Namespace,
            ("apiextensions.k8s.io", "customresourcedefinitions") => Departure::Definition,
            _ => Departure::Immediate,
        }
    }

    /// Whether a deletion that does not say what becomes of dependents leaves them alone (upstream's
    /// `DefaultGarbageCollectionPolicy`): two kinds that were there before the garbage collector.
    pub fn orphans_by_default(&self) -> bool {
        matches!(
            (self.group.as_str(), self.plural.as_str()),
            ("", "replicationcontrollers") | ("batch", "jobs")
        )
    }

    /// Where objects of this kind have the template of their Pods.
    pub fn template_path(&self) -> Option<&'static str> {
        match (self.group.as_str(), self.plural.as_str()) {
            ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
            | ("", "replicationcontrollers")
            | ("batch", "jobs") => Some("spec.template"),
            ("batch", "cronjobs") => Some("spec.jobTemplate.spec.template"),
            ("", "podtemplates") => Some("template"),
            _ => None,
        }
    }

    /// What a client is told whose deletion does not say what becomes of dependents.
    pub fn orphaning_warning(&self) -> Option<&'static str> {
        (self.group == "batch" && self.plural == "jobs").then_some(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them \
             or set propagationPolicy=Orphan to suppress this warning",
        )
    }

    /// Why the object of this name cannot be deleted; a collection that it is of can (upstream's storage of priority classes
    /// minds the one verb only).
    pub fn undeletable(&self, name: &str) -> Option<&'static str> {
        let class = self.group == "scheduling.k8s.io" && self.plural == "priorityclasses";
        let systems = || SYSTEM_CLASSES.iter().any(|(system, _)| *system == name);
        (class && systems()).then_some("this is a system priority class and cannot be deleted")
    }

    /// Whether a deletion answers with the object instead of a `Status` (upstream's `ReturnDeletedObject`).
    pub fn returns_deleted(&self) -> bool {
        match self.group.as_str() {
            "" => matches!(
                self.plural.as_str(),
                "pods"
                    | "persistentvolumeclaims"
                    | "persistentvolumes"
                    | "podtemplates"
                    | "resourcequotas"
                    | "serviceaccounts"
                    | "services"
            ),
            "storage.k8s.io" => self.plural != "csistoragecapacities",
            "resource.k8s.io" => true,
            _ => false,
        }
    }

    /// Whether an update of an object that is not there creates it (upstream's `AllowCreateOnUpdate`).
    pub fn creates_on_update(&self) -> bool {
        match self.group.as_str() {
            "" => matches!(
                self.plural.as_str(),
                "endpoints" | "events" | "limitranges" | "services"
            ),
            "coordination.k8s.io" | "events.k8s.io" | "node.k8s.io" | "rbac.authorization.k8s.io" => true,
            _ => false,
        }
    }

    /// Whether upstream's watch cache has objects of this kind (`DefaultWatchCacheSizes`).
    pub fn is_cached_upstream(&self) -> bool {
        !self.is_event()
    }

    /// Whether its objects are Events, of either version.
    fn is_event(&self) -> bool {
        self.plural == "events" && ["", "events.k8s.io"].contains(&self.group.as_str())
    }

    /// Whether the kind judges the metadata of its objects itself, as far as it cares; the rest is looked at when nothing
    /// else is wrong.
    pub fn judges_metadata_last(&self) -> bool {
        self.is_event()
    }

    /// Whether an object may come without a name, and is given a UUID for one (upstream's strategy of LimitRanges).
    pub fn names_itself(&self) -> bool {
        self.group.is_empty() && self.plural == "limitranges"
    }

    /// Whether an update may leave the resource version out (upstream's `AllowUnconditionalUpdate`).
    pub fn updates_unconditionally(&self) -> bool {
        self.custom.is_none()
            && !matches!(
                self.group.as_str(),
                "coordination.k8s.io"
                    | "apiextensions.k8s.io"
                    | "apiregistration.k8s.io"
                    | "admissionregistration.k8s.io"
                    | "policy"
                    | "node.k8s.io"
            )
            && !matches!(
                self.plural.as_str(),
                "csidrivers" | "csinodes" | "csistoragecapacities" | "volumeattachments"
            )
    }
}

/// Whether a Pod says that it is ready.
pub fn is_ready_pod(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut ready = conditions.filter(|c| c["type"] == "Ready");
    ready.any(|c| c["status"] == "True")
}

/// Seconds that a deletion of this Pod gives it, when the deletion does not say: none when no node holds it or it has
/// ended.
pub fn pod_grace(pod: &Value, asked: Option<i64>) -> i64 {
    let held = pod["spec"]["nodeName"]
        .as_str()
        .is_some_and(|node| !node.is_empty());
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !held || ended {
        return 0;
    }
    let own = pod["spec"]["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(30);
    // A negative value means one second, as the API documents.
    match asked.unwrap_or(own) {
        seconds if seconds < 0 => 1,
        seconds => seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn grace_periods() {
        let on_node = json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 20}});
        let pending = json!({"spec": {"terminationGracePeriodSeconds": 20}});
        let ended = json!({"spec": {"nodeName": "n"}, "status": {"phase": "Failed"}});
        for (pod, asked, want) in [
            (&on_node, None, 20),
            (&on_node, Some(5), 5),
            (&on_node, Some(0), 0),
            (&on_node, Some(-1), 1),
            (&pending, None, 0),
            (&ended, None, 0),
        ] {
            assert_eq!(pod_grace(pod, asked), want);
        }
    }
}
