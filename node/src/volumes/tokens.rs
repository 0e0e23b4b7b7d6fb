//! ServiceAccount tokens for projected volumes and for drivers: asked of the API for one Pod (TokenRequest, KEP-1205), kept, and
//! renewed before they expire. Owns when; refuses to know where they are written.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ServiceAccount, ServiceAccountTokenProjection, Volume};
use k8s_openapi::api::storage;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::pods::view::PodView;
use crate::steady;

/// Seconds a token lives when nobody says (core/v1 ServiceAccountTokenProjection, authentication/v1 TokenRequestSpec).
const DEFAULT_SECONDS: i64 = 3600;
/// A token is renewed when this share of its life is left, or at this age, whichever is first (upstream's kubelet).
const RENEW_LEFT_PERCENT: i32 = 20;
const OLDEST: SignedDuration = SignedDuration::from_hours(24);

/// What a projection or a driver asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wish {
    pub audience: String,
    pub seconds: i64,
}

impl Wish {
    pub fn of(source: &ServiceAccountTokenProjection) -> Wish {
        Wish {
            audience: source.audience.clone().unwrap_or_default(),
            seconds: source.expiration_seconds.unwrap_or(DEFAULT_SECONDS),
        }
    }

    /// Everything a driver asks for (`CSIDriver.spec.tokenRequests`).
    pub fn of_driver(requests: &[storage::v1::TokenRequest]) -> Vec<Wish> {
        let asked = requests.iter().map(|request| Wish {
            audience: request.audience.clone(),
            seconds: request.expiration_seconds.unwrap_or(DEFAULT_SECONDS),
        });
        asked.collect()
    }

    /// Everything a volume asks for.
    pub fn of_volume(volume: &Volume) -> Vec<Wish> {
        let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        sources
            .filter_map(|s| s.service_account_token.as_ref())
            .map(Wish::of)
            .collect()
    }
}

/// A token that the API gave.
#[derive(Clone)]
pub struct Held {
    pub token: String,
    issued: Timestamp,
    pub expires: Timestamp,
    /// When it was issued, in steady time: a clock that is put back makes no token younger.
    since: Timestamp,
}

impl Held {
    fn is_due(&self, now: Moment) -> bool {
        let life = self.expires.duration_since(self.issued);
        let left = life * RENEW_LEFT_PERCENT / 100;
        let age = now.steady.duration_since(self.since);
        now.wall > self.expires - left || age > (life - left).min(OLDEST)
    }
}

/// Now, by the clock that says when a token expires and by the one that says how long it was held.
#[derive(Clone, Copy, Debug)]
struct Moment {
    wall: Timestamp,
    steady: Timestamp,
}

impl Moment {
    fn now() -> Self {
        Moment {
            wall: Timestamp::now(),
            steady: steady::now(),
        }
    }
}

/// The API gave no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("failed to fetch token: {0}")]
    Refused(#[from] Box<kube::Error>),
    #[error("failed to fetch token: the API server's answer holds none")]
    Missing,
}

/// The tokens of this node's Pods, by uid and wish.
#[derive(Default)]
pub struct Tokens {
    held: Mutex<HashMap<String, HashMap<Wish, Held>>>,
}

impl Tokens {
    /// A token that is good for a while: the one held, or a new one. One that cannot be renewed is used until it expires.
    pub async fn get(&self, client: &Client, pod: PodView<'_>, wish: &Wish) -> Result<Held, TokenError> {
        let now = Moment::now();
        let held = self.find(pod.uid(), wish);
        if let Some(held) = held.as_ref().filter(|held| !held.is_due(now)) {
            return Ok(held.clone());
        }
        match ask(client, pod, wish, now).await {
            Ok(fresh) => {
                let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                all.entry(pod.uid().to_owned())
                    .or_default()
                    .insert(wish.clone(), fresh.clone());
                Ok(fresh)
            }
            Err(error) => match held.filter(|held| now.wall < held.expires) {
                Some(held) => {
                    tracing::warn!(pod = %pod.full_name(), %error, "a token could not be renewed; the old one is still good");
                    Ok(held)
                }
                None => Err(error),
            },
        }
    }

    /// Whether one of these tokens of the Pod wants to be renewed.
    pub fn is_due(&self, uid: &str, wishes: &[Wish]) -> bool {
        let now = Moment::now();
        let mut held = wishes.iter().filter_map(|wish| self.find(uid, wish));
        held.any(|held| held.is_due(now))
    }

    pub fn forget(&self, uid: &str) {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(uid);
    }

    fn find(&self, uid: &str, wish: &Wish) -> Option<Held> {
        let all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(uid)?.get(wish).cloned()
    }
}

/// Asks for a token that is good only while the Pod exists.
async fn ask(client: &Client, pod: PodView<'_>, wish: &Wish, now: Moment) -> Result<Held, TokenError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), pod.namespace());
    let account = pod
        .spec
        .service_account_name
        .as_deref()
        .filter(|name| !name.is_empty());
    let audiences = Some(&wish.audience).filter(|audience| !audience.is_empty());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(audiences.into_iter().cloned().collect()),
            expiration_seconds: Some(wish.seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name().to_owned()),
                uid: Some(pod.uid().to_owned()),
            }),
        }),
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(account.unwrap_or("default"), &PostParams::default(), &request)
        .await
        .map_err(Box::new)?;
    let status = answer.status.ok_or(TokenError::Missing)?;
    match (status.token, status.expiration_timestamp) {
        (Some(token), Some(expires)) => Ok(Held {
            token,
            issued: now.wall,
            expires: expires.0,
            since: now.steady,
        }),
        _ => Err(TokenError::Missing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_in_the_last_fifth_of_its_life_or_after_a_day() {
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let living = |seconds: i64| Held {
            token: "t".into(),
            issued: at(0),
            expires: at(seconds),
            since: at(0),
        };
        let now = |wall, steady| Moment {
            wall: at(wall),
            steady: at(steady),
        };
        for (life, second, due) in [
            (3600, 100, false),
            (3600, 2880, false),
            (3600, 2881, true),
            (3600, 4000, true),
            (365 * 24 * 3600, 24 * 3600, false),
            (365 * 24 * 3600, 24 * 3600 + 1, true),
        ] {
            assert_eq!(
                living(life).is_due(now(second, second)),
                due,
                "{second} of {life}"
            );
        }
        assert!(
            living(3600).is_due(now(7200, 60)),
            "the clock was put forward: it counts as expired"
        );
        assert!(!living(3600).is_due(now(-7200, 60)));
        assert!(
            living(3600).is_due(now(-4000, 2900)),
            "the clock was put back: others' may not have been"
        );
    }

    #[test]
    fn wishes_of_a_volume() {
        let volume: Volume =
            serde_json::from_value(serde_json::json!({"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}},
            {"serviceAccountToken": {"path": "vault", "audience": "vault", "expirationSeconds": 7200}},
            {"configMap": {"name": "m"}}]}}))
            .unwrap();
        let wish = |audience: &str, seconds| Wish {
            audience: audience.into(),
            seconds,
        };
        assert_eq!(Wish::of_volume(&volume), [wish("", 3600), wish("vault", 7200)]);
    }
}
