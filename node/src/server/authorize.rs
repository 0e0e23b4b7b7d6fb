//! Who else may ask this node: the API server is asked who a bearer token belongs to (TokenReview) and what he may
//! (SubjectAccessReview), by the attributes of upstream's kubelet (pkg/kubelet/server/auth.go). Answers are kept for a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::Method;
use axum::http::header::AUTHORIZATION;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use sha2::{Digest, Sha256};

use super::auth::Caller;

/// How long answers hold; upstream's defaults of webhook authentication and authorization.
pub(super) const KNOWN_FOR: Duration = Duration::from_secs(120);
pub(super) const ALLOWED_FOR: Duration = Duration::from_secs(300);
pub(super) const REFUSED_FOR: Duration = Duration::from_secs(30);
/// Answers kept at once; who asks with ever new tokens does not fill the memory.
const KEPT: usize = 1024;
/// Tokens longer than this are nobody's: a service account's has about 1,200 characters.
const TOKEN_LIMIT: usize = 16 << 10;

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    Allowed,
    /// Nobody known asks.
    Unknown,
    Forbidden(String),
}

/// What of a request is judged.
pub struct Asked {
    token: Option<String>,
    verb: &'static str,
    subresources: &'static [&'static str],
}

impl Asked {
    pub fn of(request: &Request) -> Self {
        Asked {
            token: bearer(request).map(str::to_owned),
            verb: verb(request.method()),
            subresources: subresources(request.uri().path()),
        }
    }
}

/// Asks the API server, and remembers.
pub struct Reviews {
    client: Option<Client>,
    node: String,
    tokens: Kept<[u8; 32], Caller>,
    rights: Kept<(Caller, &'static str, &'static str), bool>,
}

impl Reviews {
    pub fn new(client: Option<Client>, node: String) -> Self {
        Reviews {
            client,
            node,
            tokens: Kept::default(),
            rights: Kept::default(),
        }
    }

    /// Whether something may be done; `caller` is who the connection says.
    pub async fn judge(&self, caller: Caller, asked: Asked) -> Decision {
        let caller = match (caller, &asked.token) {
            (Caller::Unknown, Some(token)) => self.who(token).await,
            (caller, _) => caller,
        };
        let name = match &caller {
            Caller::Unknown => return Decision::Unknown,
            _ if caller.is_allowed() => return Decision::Allowed,
            Caller::Known { name, .. } => name.clone(),
        };
        let Asked {
            verb, subresources, ..
        } = asked;
        for subresource in subresources {
            if self.may(&caller, verb, subresource).await {
                return Decision::Allowed;
            }
        }
        let list = subresources.join(" ");
        Decision::Forbidden(format!(
            "Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[{list}])"
        ))
    }

    async fn who(&self, token: &str) -> Caller {
        let Some(client) = &self.client else {
            return Caller::Unknown;
        };
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.tokens.get(&key) {
            return known;
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(client.clone());
        let status = match api.create(&PostParams::default(), &review).await {
            Ok(review) => review.status,
            Err(error) => {
                tracing::warn!(%error, "whose token it is could not be asked");
                return Caller::Unknown;
            }
        };
        let user = status
            .filter(|status| status.authenticated == Some(true))
            .and_then(|status| status.user);
        let caller = user.map_or(Caller::Unknown, |user| Caller::Known {
            name: user.username.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
        });
        self.tokens.keep(key, caller.clone(), KNOWN_FOR);
        caller
    }

    async fn may(&self, caller: &Caller, verb: &'static str, subresource: &'static str) -> bool {
        let (Some(client), Caller::Known { name, groups }) = (&self.client, caller) else {
            return false;
        };
        let key = (caller.clone(), verb, subresource);
        if let Some(known) = self.rights.get(&key) {
            return known;
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(name.clone()),
                groups: Some(groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(self.node.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(client.clone());
        match api.create(&PostParams::default(), &review).await {
            Ok(review) => {
                let allowed = review.status.is_some_and(|status| status.allowed);
                let holds = if allowed { ALLOWED_FOR } else { REFUSED_FOR };
                self.rights.keep(key, allowed, holds);
                allowed
            }
            Err(error) => {
                tracing::warn!(%error, user = name, "what a user may could not be asked");
                false
            }
        }
    }
}

fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ")?.trim();
    (!token.is_empty() && token.len() <= TOKEN_LIMIT).then_some(token)
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// What a path is when rights are asked for; any of them is enough.
fn subresources(path: &str) -> &'static [&'static str] {
    let below = |prefix: &str| {
        path == prefix
            || path
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with('/'))
    };
    match () {
        () if below("/stats") => &["stats"],
        () if below("/logs") => &["log"],
        () if below("/metrics") => &["metrics"],
        () if below("/pods") => &["pods", "proxy"],
        () if below("/healthz") => &["healthz", "proxy"],
        () if below("/configz") => &["configz", "proxy"],
        () if below("/runningpods") => &["pods", "proxy"],
        () => &["proxy"],
    }
}

/// Answers, each until its time is over.
struct Kept<K, V> {
    answers: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Kept {
            answers: Mutex::default(),
        }
    }
}

impl<K: Eq + Hash, V: Clone> Kept<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, answer) = answers.get(key)?;
        (Instant::now() < *until).then(|| answer.clone())
    }

    fn keep(&self, key: K, answer: V, holds: Duration) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if answers.len() >= KEPT {
            answers.retain(|_, (until, _)| now < *until);
        }
        if answers.len() < KEPT {
            answers.insert(key, (now + holds, answer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_upstreams_subresources() {
        for (path, expected) in [
            ("/stats/summary", &["stats"][..]),
            ("/metrics", &["metrics"]),
            ("/metrics/cadvisor", &["metrics"]),
            ("/metricsx", &["proxy"]),
            ("/logs/pods/", &["log"]),
            ("/pods", &["pods", "proxy"]),
            ("/healthz", &["healthz", "proxy"]),
            ("/configz", &["configz", "proxy"]),
            ("/runningpods/", &["pods", "proxy"]),
            ("/exec/n/p/c", &["proxy"]),
            ("/containerLogs/n/p/c", &["proxy"]),
        ] {
            assert_eq!(subresources(path), expected, "{path}");
        }
    }

    #[test]
    fn answers_are_kept_within_a_limit_and_for_a_while() {
        let kept: Kept<usize, bool> = Kept::default();
        for n in 0..KEPT + 5 {
            kept.keep(n, true, KNOWN_FOR);
        }
        assert_eq!(kept.get(&0), Some(true));
        assert_eq!(kept.get(&(KEPT + 1)), None);
        let short: Kept<u8, bool> = Kept::default();
        short.keep(0, true, Duration::ZERO);
        assert_eq!(short.get(&0), None);
    }
}
