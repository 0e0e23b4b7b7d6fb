//! Secrets that keep a token of a service account: filled, taken by the server, and ended with their account.
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewStatus};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

use crate::cluster::{Cluster, create, merge, until_gone, until_one};

const INVALID: &str = "kubernetes.io/legacy-token-invalid-since";

async fn review(cluster: &Cluster, token: &str) -> TokenReviewStatus {
    let reviews: Api<TokenReview> = cluster.all();
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let answer = create(&reviews, review).await;
    answer.status.expect("a review is answered")
}

/// Asks until the answer is this: the cache that tokens are judged by follows a moment after a write.
async fn until_judged(
    cluster: &Cluster,
    token: &str,
    wanted: impl Fn(&TokenReviewStatus) -> bool,
) -> TokenReviewStatus {
    let judged = async {
        let mut every = tokio::time::interval(Duration::from_millis(10));
        loop {
            every.tick().await;
            let status = review(cluster, token).await;
            if wanted(&status) {
                return status;
            }
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), judged).await;
    waited.expect("the token is judged as it should be")
}

async fn until_refused(cluster: &Cluster, token: &str, why: &str) {
    let refused = |status: &TokenReviewStatus| status.error.as_deref().unwrap_or_default().contains(why);
    until_judged(cluster, token, refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_keeps_a_token_until_its_account_is_gone() {
    let cluster = Cluster::start().await;
    let accounts: Api<ServiceAccount> = cluster.api();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"},
        "secrets": [{"name": "named"}, {"name": "other"}]});
    let account = create(&accounts, account).await;
    let secrets: Api<Secret> = cluster.api();
    for name in ["kept", "named"] {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": "robot"}}});
        create(&secrets, secret).await;
    }
    let has_token = |secret: &Secret| {
        secret
            .data
            .as_ref()
            .is_some_and(|data| data.contains_key("token"))
    };
    let secret = until_one(&secrets, "kept", "to hold a token", has_token).await;
    let data = secret.data.expect("it has data");
    assert_eq!(data["namespace"].0, b"default");
    assert!(data["ca.crt"].0.starts_with(b"-----BEGIN CERTIFICATE"));
    let annotations = secret.metadata.annotations.expect("it has annotations");
    assert_eq!(
        Some(&annotations["kubernetes.io/service-account.uid"]),
        account.metadata.uid.as_ref()
    );

    let token = String::from_utf8(data["token"].0.clone()).expect("a token is text");
    let judged = until_judged(&cluster, &token, |status| status.authenticated == Some(true)).await;
    let user = judged
        .user
        .unwrap_or_else(|| panic!("refused: {:?}", judged.error));
    assert_eq!(
        user.username.as_deref(),
        Some("system:serviceaccount:default:robot")
    );
    assert_eq!(user.extra.unwrap_or_default().len(), 0);

    merge(
        &secrets,
        "kept",
        json!({"metadata": {"labels": {INVALID: "2026-01-01"}}}),
    )
    .await;
    until_refused(&cluster, &token, "has been marked invalid").await;
    secrets
        .delete("named", &DeleteParams::default())
        .await
        .expect("it is deleted");
    until_one(&accounts, "robot", "to forget the Secret", |account| {
        let names: Vec<_> = account
            .secrets
            .iter()
            .flatten()
            .filter_map(|one| one.name.as_deref())
            .collect();
        names == ["other"]
    })
    .await;
    accounts
        .delete("robot", &DeleteParams::default())
        .await
        .expect("it is deleted");
    until_gone(&secrets, "kept").await;
    until_refused(&cluster, &token, "invalidated").await;
}
