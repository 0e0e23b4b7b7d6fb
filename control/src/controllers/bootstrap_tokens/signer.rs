//! Signs what `kube-public/cluster-info` says of the cluster with every bootstrap token that is for that, so that who has
//! one can tell the true cluster from another (upstream's bootstrap signer; a detached JWS, RFC 7515, appendix F).
use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use ring::hmac;
use serde_json::{Map, Value, json};

use super::super::context::Context;
use super::{NAMESPACE, end, text};
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, StepError, Steps, patch, work};

pub const CLUSTER_INFO: &str = "cluster-info";
pub const PUBLIC: &str = "kube-public";
const SIGNED: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";
const TOKEN: &str = "bootstrap-token-";
/// There is one thing to sign.
const WORKERS: usize = 1;

pub(super) fn start(context: &Context) -> BoxFuture<'static, ()> {
    let queue: Arc<Queue<ObjectKey>> = Arc::new(Queue::new());
    let (tokens, info) = (queue.clone(), queue.clone());
    let watches = &context.watches;
    watches
        .bootstrap_tokens
        .on_change(move |_| tokens.add(ObjectKey::new(PUBLIC, CLUSTER_INFO)));
    watches
        .cluster_info
        .on_change(move |change| info.add(ObjectKey::of(change.object().as_ref())));
    let (context, shutdown) = (context.clone(), context.shutdown.clone());
    work(
        "bootstrap-signer",
        queue,
        WORKERS,
        shutdown,
        context,
        |context, key| reconcile(context, key).boxed(),
    )
}

async fn reconcile(context: &Context, key: ObjectKey) -> Result<Outcome, StepError> {
    let Some(info) = context.watches.cluster_info.get(&key) else {
        return Ok(Outcome::Done);
    };
    let tokens = context.watches.bootstrap_tokens.in_namespace(NAMESPACE);
    let Some(change) = change(&info, &tokens, Timestamp::now()) else {
        return Ok(Outcome::Done);
    };
    let api: Objects<ConfigMap> = Objects::in_namespace(&context.client, &key.namespace);
    let body = patch::guarded(&info.metadata, json!({"data": change}));
    let written = api.merge(&key.name, body).await;
    match written.step_opt(|| format!("sign {key}")) {
        // Who changed it made another event of it.
        Err(error) if error.is_conflict() => Ok(Outcome::Done),
        written => written.map(|_| Outcome::Done),
    }
}

/// The signatures that are missing, and null for those that nobody made; none when all is as it should be. Pure.
fn change(info: &ConfigMap, tokens: &[Arc<Secret>], now: Timestamp) -> Option<Value> {
    let data = info.data.as_ref()?;
    let content = data.get(SIGNED)?;
    let wanted: BTreeMap<String, String> = tokens
        .iter()
        .filter_map(|secret| signing(secret, now))
        .map(|(id, secret)| (format!("{SIGNATURE}{id}"), signature(content, id, secret)))
        .collect();
    let mut change = Map::new();
    let old = data.keys().filter(|key| key.starts_with(SIGNATURE));
    for key in old.filter(|key| !wanted.contains_key(*key)) {
        change.insert(key.clone(), Value::Null);
    }
    let new = wanted
        .into_iter()
        .filter(|(key, made)| data.get(key) != Some(made));
    change.extend(new.map(|(key, made)| (key, made.into())));
    (!change.is_empty()).then(|| change.into())
}

/// A token's id and secret, if it is one to sign with.
fn signing(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let (id, key) = (text(secret, "token-id"), text(secret, "token-secret"));
    let named = secret.metadata.name.as_deref()?.strip_prefix(TOKEN)?;
    let over = end(secret).is_some_and(|end| end <= now);
    let usable = text(secret, "usage-bootstrap-signing") == "true";
    (named == id && !id.is_empty() && !key.is_empty() && usable && !over).then_some((id, key))
}

/// The JWS by HS256 without the content in the middle.
fn signature(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let content = URL_SAFE_NO_PAD.encode(content);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{header}.{content}").as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
}

#[cfg(test)]
mod tests {
    use super::super::tests::secret;
    use super::*;

    /// Made by another program.
    #[test]
    fn a_signature_is_a_jws_without_its_content() {
        let made = signature("apiVersion: v1\n", "abcdef", "0123456789abcdef");
        let (header, tag) = made.split_once("..").expect("two parts");
        let header = URL_SAFE_NO_PAD.decode(header).expect("base64");
        assert_eq!(header, br#"{"alg":"HS256","kid":"abcdef"}"#);
        assert_eq!(tag, "K1chermAQEq0rdqy-ehj0VDfmA_ytv8Wzh9g26FldrE");
    }

    #[test]
    fn every_token_that_may_signs_and_no_other() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let good = json!({"token-id": "abcdef", "token-secret": "s", "usage-bootstrap-signing": "true"});
        let token = |change: Value| {
            let mut members = good.clone();
            json_patch::merge(&mut members, &change);
            Arc::new(secret("bootstrap-token-abcdef", members))
        };
        let made = signature("c", "abcdef", "s");
        let info = |data: Value| -> ConfigMap {
            serde_json::from_value(json!({ "data": data })).expect("a ConfigMap")
        };
        let bare = info(json!({"kubeconfig": "c"}));
        let signs = json!({"jws-kubeconfig-abcdef": made});
        for (tokens, want) in [
            (vec![], None),
            (vec![token(json!({}))], Some(signs.clone())),
            (vec![token(json!({"expiration": "2026-01-01T00:00:00Z"}))], None),
            (
                vec![token(json!({"expiration": "2026-01-01T00:00:01Z"}))],
                Some(signs.clone()),
            ),
            (vec![token(json!({"usage-bootstrap-signing": "yes"}))], None),
            (vec![token(json!({"token-id": "other1"}))], None),
            (vec![token(json!({"token-secret": ""}))], None),
        ] {
            assert_eq!(change(&bare, &tokens, now), want, "{tokens:?}");
        }
        let signed =
            info(json!({"kubeconfig": "c", "jws-kubeconfig-abcdef": made, "jws-kubeconfig-gone12": "x"}));
        let gone = Some(json!({"jws-kubeconfig-gone12": null}));
        assert_eq!(change(&signed, &[token(json!({}))], now), gone);
        assert_eq!(change(&info(json!({"a": "b"})), &[token(json!({}))], now), None);
    }
}
