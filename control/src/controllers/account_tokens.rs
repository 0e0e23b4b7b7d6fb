//! Secrets of type `kubernetes.io/service-account-token`: each is given a token of the account that its annotation
//! names, and ends with that account (upstream's `pkg/controller/serviceaccount/tokens_controller.go`).
//!
//! It refuses to judge tokens: that is `auth::tokens`.
use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use serde_json::json;

use super::context::Context;
use crate::auth::tokens::{LegacyClaims, Reference, TokenIssuer};
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, StepError, Steps, patch, work};

pub const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
/// Secrets filled at once.
const WORKERS: usize = 2;

/// A Secret, and the account it was for when something happened to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Kept {
    secret: ObjectKey,
    account: String,
}

impl Kept {
    fn of(secret: &Secret) -> Self {
        Kept {
            secret: ObjectKey::of(secret),
            account: annotation(secret, NAME).to_owned(),
        }
    }
}

/// Registers for changes and returns the future that does the work; without a key to sign with there is none.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let Some(issuer) = context.options.issuer.clone() else {
        return Box::pin(async {});
    };
    let context = context.clone();
    let queue: Arc<Queue<Kept>> = Arc::new(Queue::new());
    let changed = queue.clone();
    context
        .watches
        .account_tokens
        .on_change(move |change| changed.add(Kept::of(change.object())));
    let (ended, secrets) = (queue.clone(), Arc::downgrade(&context.watches.account_tokens));
    context.watches.service_accounts.on_change(move |change| {
        let account = change.object();
        let secrets = secrets
            .upgrade()
            .map(|all| all.in_namespace(&account.namespace().unwrap_or_default()));
        let own = secrets
            .into_iter()
            .flatten()
            .filter(|secret| annotation(secret, NAME) == account.name_any());
        own.for_each(|secret| ended.add(Kept::of(&secret)));
    });
    let shutdown = context.shutdown.clone();
    work(
        "serviceaccount-token",
        queue,
        WORKERS,
        shutdown,
        (context, issuer),
        |(context, issuer), kept| reconcile(context, issuer, kept).boxed(),
    )
}

fn annotation<'a>(secret: &'a Secret, key: &str) -> &'a str {
    secret
        .annotations()
        .get(key)
        .map(String::as_str)
        .unwrap_or_default()
}

async fn reconcile(context: &Context, issuer: &TokenIssuer, kept: Kept) -> Result<Outcome, StepError> {
    // A cache that lags must not end a token: the account itself is asked for.
    let accounts: Objects<ServiceAccount> = Objects::in_namespace(&context.client, &kept.secret.namespace);
    let account = accounts
        .get_opt(&kept.account)
        .await
        .step(|| format!("read ServiceAccount {}/{}", kept.secret.namespace, kept.account))?;
    let written = match (context.watches.account_tokens.get(&kept.secret), account) {
        (Some(secret), Some(account)) if is_of(&secret, &account) => {
            fill(context, issuer, &secret, &account).await
        }
        (Some(secret), _) => remove(context, &secret).await,
        (None, Some(account)) => {
            let written = forget(&accounts, &account, &kept.secret).await;
            return judged(written, false);
        }
        (None, None) => Ok(()),
    };
    judged(written, true)
}

/// What a write came to. Who changed the Secret, or removed it, made another `event` of it; who changed the account of a
/// Secret that is gone made none. Pure.
fn judged(written: Result<(), StepError>, event: bool) -> Result<Outcome, StepError> {
    match written {
        Err(error) if error.is_not_found() || event && error.is_conflict() => Ok(Outcome::Done),
        written => written.map(|()| Outcome::Done),
    }
}

/// Whether the Secret is for this very account; one that was never filled says only its name.
fn is_of(secret: &Secret, account: &ServiceAccount) -> bool {
    let uid = annotation(secret, UID);
    uid.is_empty() || account.metadata.uid.as_deref() == Some(uid)
}

/// Writes what is missing: the token, the namespace, and the cluster's CA as it is now.
async fn fill(
    context: &Context,
    issuer: &TokenIssuer,
    secret: &Secret,
    account: &ServiceAccount,
) -> Result<(), StepError> {
    let key = ObjectKey::of(secret);
    let missing = missing(secret, context.options.root_ca.as_deref(), || {
        let account = Reference::new(&account.name_any(), &account.uid().unwrap_or_default());
        let claims = LegacyClaims {
            namespace: key.namespace.clone(),
            account,
            secret: key.name.clone(),
        };
        issuer.sign(&claims.show())
    });
    let data = match missing {
        Ok(data) if data.is_empty() => return Ok(()),
        Ok(data) => data,
        Err(error) => {
            tracing::error!(secret = %key, %error, "a service account's Secret stays without its token");
            return Ok(());
        }
    };
    let annotations = json!({NAME: account.name_any(), UID: account.uid()});
    let body = json!({"metadata": {"annotations": annotations}, "data": data});
    let secrets: Objects<Secret> = Objects::in_namespace(&context.client, &key.namespace);
    let written = secrets
        .merge(&key.name, patch::guarded(&secret.metadata, body))
        .await;
    written.step(|| format!("fill Secret {key}")).map(drop)
}

/// The entries that a Secret lacks; a token is made only where there is none.
fn missing(
    secret: &Secret,
    ca: Option<&str>,
    token: impl FnOnce() -> Result<String, String>,
) -> Result<BTreeMap<&'static str, ByteString>, String> {
    let kept = |key: &str| {
        secret
            .data
            .as_ref()
            .and_then(|data| data.get(key))
            .map(|bytes| &bytes.0[..])
    };
    let lacks = |key: &str| kept(key).is_none_or(<[u8]>::is_empty);
    let mut data = BTreeMap::new();
    if let Some(ca) = ca.filter(|ca| kept("ca.crt") != Some(ca.as_bytes())) {
        data.insert("ca.crt", ByteString(ca.into()));
    }
    if lacks("namespace") {
        data.insert(
            "namespace",
            ByteString(secret.namespace().unwrap_or_default().into()),
        );
    }
    if lacks("token") {
        data.insert("token", ByteString(token()?.into()));
    }
    Ok(data)
}

/// Its account is gone: so is the Secret.
async fn remove(context: &Context, secret: &Secret) -> Result<(), StepError> {
    let key = ObjectKey::of(secret);
    let secrets: Objects<Secret> = Objects::in_namespace(&context.client, &key.namespace);
    let same = Preconditions {
        uid: secret.uid(),
        resource_version: None,
    };
    let removed = secrets
        .delete(&key.name, &DeleteParams::default().preconditions(same))
        .await;
    removed.step(|| format!("delete Secret {key}, whose ServiceAccount is gone"))
}

/// The account no longer names a Secret that is gone.
async fn forget(
    accounts: &Objects<ServiceAccount>,
    account: &ServiceAccount,
    secret: &ObjectKey,
) -> Result<(), StepError> {
    let named = account.secrets.as_deref().unwrap_or_default();
    let is_it = |name: &Option<String>| name.as_deref() == Some(secret.name.as_str());
    if !named.iter().any(|reference| is_it(&reference.name)) {
        return Ok(());
    }
    let left: Vec<_> = named.iter().filter(|reference| !is_it(&reference.name)).collect();
    let body = patch::guarded(&account.metadata, json!({ "secrets": left }));
    let written = accounts.merge(&account.name_any(), body).await;
    written
        .step(|| format!("take Secret {secret} from its ServiceAccount"))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(data: &[(&str, &str)]) -> Secret {
        let entry = |(key, value): &(&str, &str)| ((*key).to_owned(), ByteString((*value).into()));
        Secret {
            metadata: kube::core::ObjectMeta {
                namespace: Some("n".to_owned()),
                ..Default::default()
            },
            data: Some(data.iter().map(entry).collect()),
            ..Default::default()
        }
    }

    #[test]
    fn only_what_is_missing_is_written() {
        let cases: [(&[(&str, &str)], &[&str]); 5] = [
            (&[], &["ca.crt", "namespace", "token"]),
            (
                &[("token", ""), ("ca.crt", "old"), ("namespace", "n")],
                &["ca.crt", "token"],
            ),
            (&[("token", "t"), ("ca.crt", "ca")], &["namespace"]),
            (&[("token", "t"), ("ca.crt", "ca"), ("namespace", "own")], &[]),
            (&[("ca.crt", "ca"), ("namespace", "n")], &["token"]),
        ];
        for (kept, wanted) in cases {
            let missing = missing(&secret(kept), Some("ca"), || Ok("signed".to_owned())).unwrap();
            assert_eq!(missing.keys().copied().collect::<Vec<_>>(), wanted, "{kept:?}");
        }
    }

    #[test]
    fn a_lost_race_for_the_account_is_run_again() {
        let refused = |code: u16, reason: &str| {
            let status = kube::core::Status::failure("refused", reason).with_code(code);
            Err(StepError::new("write", kube::Error::Api(Box::new(status))))
        };
        for (code, reason, event, done) in [
            (409, "Conflict", true, true),
            (409, "Conflict", false, false),
            (404, "NotFound", false, true),
            (500, "InternalError", true, false),
        ] {
            assert_eq!(
                judged(refused(code, reason), event).is_ok(),
                done,
                "{reason} {event}"
            );
        }
        assert!(judged(Ok(()), false).is_ok());
    }

    #[test]
    fn without_randomness_nothing_is_written() {
        let missing = missing(&secret(&[]), Some("ca"), || Err("no randomness".to_owned()));
        assert_eq!(missing.unwrap_err(), "no randomness");
    }
}
