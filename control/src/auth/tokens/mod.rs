//! Bearer tokens: those of service accounts, made and judged here, and bootstrap tokens.
//!
//! A service account's token is a JWT (RFC 7519) bound to its account and maybe to a Pod, Secret or Node: it ends
//! with the first of them, or, in a Secret of its own, with that Secret. Refuses to know HTTP.
mod bootstrap;
mod claims;
mod issuer;
mod legacy;

pub use claims::{Bound, Claims, Reference};
pub use issuer::{IssuerError, TokenIssuer};
pub use legacy::LegacyClaims;

use super::rbac::{aggregate, quoted_list};
use super::{Identity, Reader};
use jiff::Timestamp;
use serde_json::Value;
use std::sync::Arc;

/// Who issues the tokens, and whom they are for when nothing else is asked (kubeadm's default).
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// A longer token is not even looked at.
const LONGEST: usize = 16 << 10;

/// Tells who a bearer is.
pub struct TokenAuthenticator {
    issuer: Arc<TokenIssuer>,
    reader: Arc<dyn Reader>,
}

/// A token that nobody takes; upstream's words for clients that may hear them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadToken(String);

/// Whom a good token names, and for which of the audiences asked about.
#[derive(Clone, Debug)]
pub struct Bearer {
    pub who: Identity,
    pub audiences: Vec<String>,
}

impl TokenAuthenticator {
    pub fn new(issuer: Arc<TokenIssuer>, reader: Arc<dyn Reader>) -> Self {
        TokenAuthenticator { issuer, reader }
    }

    pub fn issuer(&self) -> &TokenIssuer {
        &self.issuer
    }

    /// Judges a token for these audiences; for none of them, for the API server.
    pub fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Bearer, BadToken> {
        let own = [ISSUER.to_owned()];
        let audiences = if audiences.is_empty() { &own[..] } else { audiences };
        let judged = match bootstrap::parse(token) {
            Some((id, secret)) if audiences.contains(&own[0]) => {
                bootstrap::identify(self.reader.as_ref(), id, secret, now).map(|who| Bearer {
                    who,
                    audiences: own.to_vec(),
                })
            }
            _ if token.len() > LONGEST => Err(String::new()),
            _ => self.service_account(token, audiences, now),
        };
        judged.map_err(|why| {
            let told = ["invalid bearer token".to_owned(), why];
            BadToken(aggregate(
                told.into_iter().filter(|text| !text.is_empty()).collect(),
            ))
        })
    }

    /// The error is empty when the token is none of ours.
    fn service_account(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Bearer, String> {
        let payload = self.issuer.verify(token).ok_or_else(String::new)?;
        if payload["iss"] == legacy::ISSUER {
            return self.legacy(&payload, token, audiences);
        }
        let claims = Claims::read(&payload).ok_or_else(String::new)?;
        if claims.issuer != ISSUER {
            return Err(String::new());
        }
        let meant = meant(&claims.audiences, audiences)?;
        claims.check_time(now)?;
        claims.check_references(self.reader.as_ref(), now)?;
        Ok(Bearer {
            who: claims.identity(),
            audiences: meant,
        })
    }

    /// A token of a Secret: it names no audience, so it is for the API server.
    fn legacy(&self, payload: &Value, token: &str, audiences: &[String]) -> Result<Bearer, String> {
        let meant = meant(&[ISSUER.to_owned()], audiences)?;
        let claims = LegacyClaims::read(payload)?;
        claims.check(self.reader.as_ref(), token)?;
        Ok(Bearer {
            who: claims.identity(),
            audiences: meant,
        })
    }
}

/// Those of the audiences asked about that a token is for; at least one.
fn meant(claimed: &[String], asked: &[String]) -> Result<Vec<String>, String> {
    let both: Vec<String> = asked.iter().filter(|a| claimed.contains(a)).cloned().collect();
    match both.is_empty() {
        false => Ok(both),
        true => Err(format!(
            "token audiences {} is invalid for the target audiences {}",
            quoted_list(claimed),
            quoted_list(asked)
        )),
    }
}

/// Compares in constant time.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::reader::{GroupResource, Stored};
    use crate::auth::{References, VolumeSecrets};
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    /// An account `robot`, and a Pod with this uid.
    struct World(&'static str);

    impl Reader for World {
        fn changed(&self, _: GroupResource) -> u64 {
            0
        }

        fn list(&self, _: GroupResource) -> Vec<Stored> {
            Vec::new()
        }

        fn get(&self, resource: GroupResource, _: Option<&str>, name: &str) -> Option<Value> {
            match (resource.1, name) {
                ("serviceaccounts", "robot") => Some(json!({"metadata": {"uid": "sa-uid"}})),
                ("pods", "p") => Some(json!({"metadata": {"uid": self.0}})),
                _ => None,
            }
        }

        fn references_on(&self, _: &str, _: &str) -> Vec<Arc<References>> {
            Vec::new()
        }

        fn volume_secrets(&self) -> Vec<Arc<VolumeSecrets>> {
            Vec::new()
        }
    }

    struct Desk {
        issuer: Arc<TokenIssuer>,
        _dir: tempfile::TempDir,
    }

    fn desk() -> Desk {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Arc::new(TokenIssuer::open_or_create(dir.path()).unwrap());
        Desk { issuer, _dir: dir }
    }

    fn claims(audience: &str, lifetime: i64) -> Claims {
        Claims {
            issuer: ISSUER.to_owned(),
            audiences: vec![audience.to_owned()],
            namespace: "n".to_owned(),
            account: Reference::new("robot", "sa-uid"),
            bound: Bound::Pod {
                pod: Reference::new("p", "pod-uid"),
                node: Some(Reference::new("node", "node-uid")),
            },
            id: "an-id".to_owned(),
            issued: Timestamp::UNIX_EPOCH,
            expires: Timestamp::from_second(lifetime).unwrap(),
            warn_after: None,
        }
    }

    fn judge(desk: &Desk, token: &str, world: World, at: i64) -> Result<Bearer, String> {
        let authenticator = TokenAuthenticator::new(desk.issuer.clone(), Arc::new(world));
        let now = Timestamp::from_second(at).unwrap();
        authenticator
            .authenticate(token, &[], now)
            .map_err(|bad| bad.to_string())
    }

    #[test]
    fn a_good_token_names_its_account_and_pod() {
        let desk = desk();
        let token = desk.issuer.sign(&claims(ISSUER, 600).show()).unwrap();
        let bearer = judge(&desk, &token, World("pod-uid"), 10).unwrap();
        assert_eq!(&*bearer.who.user, "system:serviceaccount:n:robot");
        assert_eq!(bearer.who.uid, "sa-uid");
        let groups = [
            "system:serviceaccounts",
            "system:serviceaccounts:n",
            "system:authenticated",
        ];
        assert_eq!(&*bearer.who.groups, groups.map(str::to_owned));
        assert_eq!(bearer.who.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert_eq!(
            bearer.who.extra["authentication.kubernetes.io/credential-id"],
            ["JTI=an-id"]
        );
    }

    #[test]
    fn bad_tokens_are_refused_with_a_reason() {
        let desk = desk();
        let good = desk.issuer.sign(&claims(ISSUER, 600).show()).unwrap();
        let foreign = desk.issuer.sign(&claims("x", 600).show()).unwrap();
        let why = |token: &str, world: World, at: i64| judge(&desk, token, world, at).unwrap_err();
        assert_eq!(
            why(&good, World("pod-uid"), 601),
            "[invalid bearer token, service account token has expired]"
        );
        assert_eq!(
            why(&foreign, World("pod-uid"), 1),
            "[invalid bearer token, token audiences [\"x\"] is invalid for the target audiences [\"https://kubernetes.default.svc.cluster.local\"]]"
        );
        assert!(why(&good, World("another"), 1).contains("does not match service account pod ref claim"));
        assert_eq!(why("garbage", World(""), 1), "invalid bearer token");
    }

    #[test]
    fn an_unsigned_or_altered_token_is_nobodys() {
        let desk = desk();
        let payload = claims(ISSUER, 600).show();
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let none = format!("{}.{}.", encode(&json!({"alg": "none"})), encode(&payload));
        let token = desk.issuer.sign(&payload).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let header = signed.split('.').next().unwrap();
        let mut grown = payload.clone();
        grown["sub"] = "system:serviceaccount:kube-system:admin".into();
        let altered = format!("{header}.{}.{signature}", encode(&grown));
        let relabelled = format!(
            "{}.{}.{signature}",
            encode(&json!({"alg": "HS256"})),
            encode(&payload)
        );
        let other = self::desk().issuer.sign(&payload).unwrap();
        for token in [
            none,
            altered,
            relabelled,
            other,
            format!("{signed}."),
            format!("{token}.x"),
        ] {
            assert_eq!(
                judge(&desk, &token, World("pod-uid"), 1).unwrap_err(),
                "invalid bearer token",
                "{token}"
            );
        }
    }
}
