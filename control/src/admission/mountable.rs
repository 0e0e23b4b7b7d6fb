//! ServiceAccounts whose Pods may refer to their own secrets only (annotation `kubernetes.io/enforce-mountable-secrets`):
//! those that `secrets` names, and for images those of `imagePullSecrets`. Part of the ServiceAccount admission plugin.
use super::Denial;
use crate::kinds::view::View;
use serde_json::Value;

const ENFORCED: &str = "kubernetes.io/enforce-mountable-secrets";
/// What Go's `strconv.ParseBool` takes for true.
const TRUE: [&str; 6] = ["1", "t", "T", "true", "TRUE", "True"];

/// Judges a new Pod of this account.
pub(super) fn pod(account: &Value, spec: &Value) -> Result<(), Denial> {
    if !is_enforced(account) {
        return Ok(());
    }
    volumes(account, spec)?;
    containers(account, spec, "initContainers", "init container")?;
    containers(account, spec, "containers", "container")?;
    pull_secrets(account, spec)
}

/// Judges a Pod of this account that is given further containers.
pub(super) fn ephemeral(account: &Value, spec: &Value) -> Result<(), Denial> {
    match is_enforced(account) {
        true => containers(account, spec, "ephemeralContainers", "ephemeral container"),
        false => Ok(()),
    }
}

fn is_enforced(account: &Value) -> bool {
    let said = account.at("metadata.annotations").get(ENFORCED);
    said.and_then(Value::as_str)
        .is_some_and(|said| TRUE.contains(&said))
}

fn volumes(account: &Value, spec: &Value) -> Result<(), Denial> {
    let secrets = spec.list("volumes").iter().filter(|v| v.has("secret"));
    for name in secrets.map(|v| v.text("secret.secretName")) {
        let what = format!("volume with secret.secretName=\"{name}\"");
        named(account, "secrets", name, &what, "secret")?;
    }
    Ok(())
}

fn containers(account: &Value, spec: &Value, list: &str, word: &str) -> Result<(), Denial> {
    for container in spec.list(list) {
        let word = format!("{word} {}", container.text("name"));
        let judge = |with: &str, name: &str| {
            let what = format!("{word} with {with} referencing secret.secretName=\"{name}\"");
            named(account, "secrets", name, &what, "secret")
        };
        let of_secrets = |path: &'static str| move |source: &&Value| source.has(path);
        for env in container
            .list("env")
            .iter()
            .filter(of_secrets("valueFrom.secretKeyRef"))
        {
            let with = format!("envVar {}", env.text("name"));
            judge(&with, env.text("valueFrom.secretKeyRef.name"))?;
        }
        for from in container.list("envFrom").iter().filter(of_secrets("secretRef")) {
            judge("envFrom", from.text("secretRef.name"))?;
        }
    }
    Ok(())
}

fn pull_secrets(account: &Value, spec: &Value) -> Result<(), Denial> {
    for (index, secret) in spec.list("imagePullSecrets").iter().enumerate() {
        let name = secret.text("name");
        let what = format!("imagePullSecrets[{index}].name=\"{name}\"");
        named(account, "imagePullSecrets", name, &what, "imagePullSecret")?;
    }
    Ok(())
}

/// Refuses `what` unless the account's list has the name.
fn named(account: &Value, list: &str, name: &str, what: &str, kind: &str) -> Result<(), Denial> {
    if account.list(list).iter().any(|known| known.text("name") == name) {
        return Ok(());
    }
    let account = account.text("metadata.name");
    Err(Denial::Forbidden(format!(
        "{what} is not allowed because service account {account} does not reference that {kind}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn account(enforced: &str) -> Value {
        json!({"metadata": {"name": "mnt", "annotations": {ENFORCED: enforced}},
            "secrets": [{"name": "okk"}], "imagePullSecrets": [{"name": "pull"}]})
    }

    fn told(judged: Result<(), Denial>) -> String {
        match judged {
            Ok(()) => String::new(),
            Err(Denial::Forbidden(why)) => why,
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_the_accounts_own_secrets_are_mounted() {
        let env = |secret: &str| json!([{"name": "E", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}]);
        let because = |kind: &str| {
            format!(" is not allowed because service account mnt does not reference that {kind}")
        };
        for (spec, want) in [
            (
                json!({"volumes": [{"name": "v", "secret": {"secretName": "bad"}}]}),
                "volume with secret.secretName=\"bad\"",
            ),
            (
                json!({"volumes": [{"name": "v", "secret": {"secretName": "okk"}}, {"name": "e", "emptyDir": {}}]}),
                "",
            ),
            (
                json!({"initContainers": [{"name": "i", "env": env("bad")}]}),
                "init container i with envVar E referencing secret.secretName=\"bad\"",
            ),
            (
                json!({"containers": [{"name": "c", "env": env("okk")}, {"name": "d", "env": env("bad")}]}),
                "container d with envVar E referencing secret.secretName=\"bad\"",
            ),
            (
                json!({"containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "m"}}, {"secretRef": {"name": "bad"}}]}]}),
                "container c with envFrom referencing secret.secretName=\"bad\"",
            ),
            (json!({"imagePullSecrets": [{"name": "pull"}]}), ""),
        ] {
            let want = match want {
                "" => String::new(),
                what => what.to_owned() + &because("secret"),
            };
            assert_eq!(told(pod(&account("true"), &spec)), want, "{spec}");
            assert_eq!(told(pod(&account("yes"), &spec)), "", "{spec}");
        }
        let pull = json!({"imagePullSecrets": [{"name": "pull"}, {"name": "okk"}]});
        let want = "imagePullSecrets[1].name=\"okk\"".to_owned() + &because("imagePullSecret");
        assert_eq!(told(pod(&account("1"), &pull)), want);
    }

    #[test]
    fn further_containers_are_judged_by_themselves() {
        let spec = json!({"volumes": [{"name": "v", "secret": {"secretName": "bad"}}],
            "ephemeralContainers": [{"name": "x", "envFrom": [{"secretRef": {"name": "okk"}}]}]});
        assert_eq!(told(ephemeral(&account("true"), &spec)), "");
        let spec =
            json!({"ephemeralContainers": [{"name": "x", "envFrom": [{"secretRef": {"name": "bad"}}]}]});
        assert_eq!(
            told(ephemeral(&account("True"), &spec)),
            "ephemeral container x with envFrom referencing secret.secretName=\"bad\" is not allowed because service \
             account mnt does not reference that secret"
        );
        assert_eq!(told(ephemeral(&account("false"), &spec)), "");
    }
}
