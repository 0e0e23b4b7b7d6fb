//! How a Pod gets at the API: a volume with a token of its service account, the cluster's CA and its namespace,
//! mounted where every client library looks (the ServiceAccount admission plugin).
use serde_json::{Map, Value, json};

const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const PREFIX: &str = "kube-api-access-";
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// Seconds after which the node asks for another token.
const RENEWED: i64 = 3607;

/// Gives the Pod what its account brings: access to the API unless one of them declines, and names of pull secrets.
pub(super) fn furnish(account: &Value, spec: &mut Map<String, Value>) {
    let wanted = |value: Option<&Value>| value.and_then(Value::as_bool);
    let own = wanted(spec.get("automountServiceAccountToken"));
    if own
        .or(wanted(account.get("automountServiceAccountToken")))
        .unwrap_or(true)
    {
        mount(spec);
    }
    let has_secrets = spec
        .get("imagePullSecrets")
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty());
    if let (false, Some(secrets)) = (has_secrets, account["imagePullSecrets"].as_array()) {
        let names = secrets.iter().map(|secret| json!({ "name": secret["name"] }));
        spec.insert("imagePullSecrets".into(), names.collect());
    }
}

fn mount(spec: &mut Map<String, Value>) {
    let volumes = spec
        .get("volumes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let mut names = volumes.filter_map(|volume| volume["name"].as_str());
    let known = names.find(|name| name.starts_with(PREFIX)).map(str::to_owned);
    let name = known.clone().unwrap_or_else(|| format!("{PREFIX}{}", suffix()));
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        let containers = spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten();
        for container in containers.filter_map(Value::as_object_mut) {
            mounted |= mount_in(container, &name);
        }
    }
    if known.is_none() && mounted {
        let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
        match volumes.as_array_mut() {
            Some(volumes) => volumes.push(volume(&name)),
            None => *volumes = json!([volume(&name)]),
        }
    }
}

/// Whether the container did not have something there already.
fn mount_in(container: &mut Map<String, Value>, name: &str) -> bool {
    let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
    if mounts.is_null() {
        *mounts = json!([]);
    }
    let Some(mounts) = mounts.as_array_mut() else {
        return false;
    };
    if mounts.iter().any(|mount| mount["mountPath"] == MOUNT) {
        return false;
    }
    mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT}));
    true
}

fn volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": RENEWED, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

fn suffix() -> String {
    (0..SUFFIX_LENGTH)
        .map(|_| char::from(SUFFIX[rand::random_range(0..SUFFIX.len())]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn furnished(account: Value, mut spec: Value) -> Value {
        furnish(&account, spec.as_object_mut().unwrap());
        spec
    }

    #[test]
    fn every_container_gets_the_mount_unless_it_has_its_own() {
        let spec = furnished(
            json!({"imagePullSecrets": [{"name": "pull"}]}),
            json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT}]}],
                "initContainers": [{"name": "i"}]}),
        );
        let name = &spec["volumes"][0]["name"];
        assert!(name.as_str().unwrap().starts_with(PREFIX));
        assert_eq!(&spec["containers"][0]["volumeMounts"][0]["name"], name);
        assert_eq!(&spec["initContainers"][0]["volumeMounts"][0]["name"], name);
        assert_eq!(spec["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        assert_eq!(spec["imagePullSecrets"][0]["name"], "pull");
    }

    #[test]
    fn pod_before_account_decides() {
        let containers = json!([{"name": "a"}]);
        for (account, pod, want) in [
            (json!(null), json!(null), true),
            (json!(false), json!(null), false),
            (json!(false), json!(true), true),
            (json!(true), json!(false), false),
        ] {
            let spec = furnished(
                json!({"automountServiceAccountToken": account}),
                json!({"automountServiceAccountToken": pod, "containers": containers}),
            );
            assert_eq!(spec["volumes"].is_array(), want);
        }
    }
}
