//! Pods: every one has a service account that exists, and uses what that one lets it.
use super::{Action, Denial, Objects, ResourceName, Review, mountable};
use crate::kinds::view::View;
use serde_json::{Map, Value};
use std::sync::Arc;

const ACCOUNTS: ResourceName<'_> = ("", "v1", "serviceaccounts");

/// Every namespace gets this account from a controller.
const DEFAULT_ACCOUNT: &str = "default";

/// The annotation of a Pod that shows a static one of a node.
const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) fn admit(objects: &dyn Objects, review: &Review<'_>, pod: &mut Value) -> Result<(), Denial> {
    if !matches!(review.action, Action::Create) {
        return Ok(());
    }
    if pod["metadata"]["annotations"].get(MIRROR).is_some() {
        return mirror(&pod["spec"]);
    }
    let namespace = review.namespace.unwrap_or_default();
    match pod.get_mut("spec").and_then(Value::as_object_mut) {
        Some(spec) => {
            let account = service_account(objects, namespace, spec)?;
            mountable::pod(&account, &pod["spec"])
        }
        None => Ok(()),
    }
}

/// Judges a Pod that is given further containers to look into it.
pub(super) fn ephemeral(objects: &dyn Objects, review: &Review<'_>, pod: &Value) -> Result<(), Denial> {
    let namespace = review.namespace.unwrap_or_default();
    match pod.text("spec.serviceAccountName") {
        "" => Err(Denial::Forbidden(format!(
            "no service account specified for pod {namespace}/{}",
            review.name
        ))),
        name => {
            let account = account(objects, namespace, name)?;
            mountable::ephemeral(&account, &pod["spec"])
        }
    }
}

/// A mirror stays as its node made it, and needs nothing of the API.
fn mirror(spec: &Value) -> Result<(), Denial> {
    let refused = |what: &str| Err(Denial::Forbidden(format!("a mirror pod may not {what}")));
    if spec["serviceAccountName"]
        .as_str()
        .is_some_and(|name| !name.is_empty())
    {
        return refused("reference service accounts");
    }
    let volumes = || spec["volumes"].as_array().into_iter().flatten();
    let sources = || volumes().flat_map(|v| v["projected"]["sources"].as_array().into_iter().flatten());
    if volumes().any(|v| v.get("secret").is_some()) || sources().any(|s| s.get("secret").is_some()) {
        return refused("reference secrets");
    }
    if sources().any(|s| s.get("serviceAccountToken").is_some()) {
        return refused("use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// The ServiceAccount admission plugin.
fn service_account(
    objects: &dyn Objects,
    namespace: &str,
    spec: &mut Map<String, Value>,
) -> Result<Arc<Value>, Denial> {
    let said = |spec: &Map<String, Value>, key: &str| {
        spec.get(key)
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
    };
    let name = said(spec, "serviceAccountName").or_else(|| said(spec, "serviceAccount"));
    let name = name.unwrap_or_else(|| DEFAULT_ACCOUNT.to_owned());
    let account = account(objects, namespace, &name)?;
    super::api_access::furnish(&account, spec);
    spec.insert("serviceAccountName".into(), name.clone().into());
    spec.insert("serviceAccount".into(), name.into());
    Ok(account)
}

fn account(objects: &dyn Objects, namespace: &str, name: &str) -> Result<Arc<Value>, Denial> {
    objects.get(ACCOUNTS, Some(namespace), name).ok_or_else(|| {
        let why =
            format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        match name {
            DEFAULT_ACCOUNT => Denial::NotYet(why),
            _ => Denial::Forbidden(why),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Fixed, review};
    use super::*;
    use serde_json::json;

    fn admitted(spec: Value) -> Result<Value, Denial> {
        let account = json!({"metadata": {"name": "default", "namespace": "n"}});
        let mut pod = json!({"spec": spec});
        admit(
            &Fixed(vec![("serviceaccounts", account)]),
            &review("pods", Action::Create),
            &mut pod,
        )
        .map(|()| pod["spec"].take())
    }

    #[test]
    fn a_pod_gets_the_default_account() {
        let spec = admitted(json!({})).unwrap();
        assert_eq!(
            (&spec["serviceAccountName"], &spec["serviceAccount"]),
            (&json!("default"), &json!("default"))
        );
    }

    #[test]
    fn a_mirror_stays_as_it_is() {
        let of = |spec: Value| {
            let mut pod = json!({"metadata": {"annotations": {MIRROR: "h"}}, "spec": spec});
            admit(&Fixed(Vec::new()), &review("pods", Action::Create), &mut pod).map(|()| pod["spec"].take())
        };
        let plain = json!({"containers": []});
        assert_eq!(of(plain.clone()).unwrap(), plain);
        for spec in [
            json!({"serviceAccountName": "x"}),
            json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}),
            json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
        ] {
            assert!(matches!(of(spec.clone()), Err(Denial::Forbidden(_))), "{spec}");
        }
    }

    #[test]
    fn an_account_may_keep_its_pods_to_its_own_secrets() {
        let account = json!({"metadata": {"name": "default", "namespace": "n",
            "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}, "imagePullSecrets": [{"name": "pull"}]});
        let objects = Fixed(vec![("serviceaccounts", account)]);
        let env = json!([{"name": "c", "envFrom": [{"secretRef": {"name": "bad"}}]}]);
        let mut pod = json!({"spec": {"containers": env}});
        let review = review("pods", Action::Create);
        assert!(matches!(
            admit(&objects, &review, &mut pod),
            Err(Denial::Forbidden(_))
        ));
        let mut pod = json!({"spec": {"containers": [{"name": "c"}]}});
        admit(&objects, &review, &mut pod).expect("its own pull secrets");
        pod["spec"]["ephemeralContainers"] = env;
        assert!(matches!(
            ephemeral(&objects, &review, &pod),
            Err(Denial::Forbidden(_))
        ));
    }

    #[test]
    fn an_account_must_exist() {
        let Err(Denial::Forbidden(why)) = admitted(json!({"serviceAccountName": "missing"})) else {
            panic!()
        };
        assert_eq!(
            why,
            "error looking up service account n/missing: serviceaccount \"missing\" not found"
        );
    }
}
