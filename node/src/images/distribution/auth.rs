//! Answering a registry's challenge, and remembering the answer (distribution spec, token authentication). The
//! password is shown only to the registry itself or a token server that belongs to it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, Url};
use serde::Deserialize;

use super::challenge::Challenge;
use super::{
    Access, Distribution, MAX_DOCUMENT_BYTES, RegistryAuth, RegistryError, Session, bare, bounded, endpoint,
    error_message, transport,
};

/// How long a token is used when its server does not say; the token specification's own default.
const DEFAULT_TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Tokens kept at most; the oldest knowledge is dropped first, which costs one more round trip.
const MAX_TOKENS: usize = 1024;

/// What proves our right for one repository.
#[derive(Clone)]
enum Proof {
    Basic(String, String),
    Bearer(String),
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    registry: String,
    repository: String,
    access: Access,
    /// Whose rights these are: without it one Pod's pull secret would serve another's pull.
    user: String,
}

/// Proofs by registry, repository, access and user.
#[derive(Default)]
pub(super) struct Tokens {
    known: Mutex<HashMap<Key, (Proof, Instant)>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// Adds what is known for `session` to a request to its registry.
    pub(super) fn apply(&self, session: &Session<'_>, builder: RequestBuilder) -> RequestBuilder {
        match self.get(session) {
            Some(Proof::Basic(user, password)) => builder.basic_auth(user, Some(password)),
            Some(Proof::Bearer(token)) => builder.bearer_auth(token),
            None => builder,
        }
    }

    fn get(&self, session: &Session<'_>) -> Option<Proof> {
        if let RegistryAuth::Bearer(token) = session.auth {
            return Some(Proof::Bearer(token.clone()));
        }
        let known = self
            .known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        known
            .get(&key(session))
            .filter(|(_, until)| *until > Instant::now())
            .map(|(proof, _)| proof.clone())
    }

    fn put(&self, session: &Session<'_>, proof: Proof, life: Duration) {
        let mut known = self
            .known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        if known.len() >= MAX_TOKENS {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() >= MAX_TOKENS {
            known.clear();
        }
        known.insert(key(session), (proof, now + life));
    }
}

fn key(session: &Session<'_>) -> Key {
    let user = match session.auth {
        RegistryAuth::Anonymous => String::new(),
        RegistryAuth::Basic(user, password) => {
            super::Digest::of(format!("{user}\0{password}").as_bytes()).to_string()
        }
        RegistryAuth::Bearer(token) => super::Digest::of(token.as_bytes()).to_string(),
    };
    Key {
        registry: session.registry.to_owned(),
        repository: session.repository.to_owned(),
        access: session.access,
        user,
    }
}

#[derive(Deserialize)]
struct TokenDocument {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

impl Distribution {
    /// Answers `challenge`; false when there is nothing to answer it with.
    pub(super) async fn authenticate(
        &self,
        session: &Session<'_>,
        challenge: Challenge,
    ) -> Result<bool, RegistryError> {
        match challenge {
            Challenge::Basic => Ok(self.answer_basic(session)),
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let url = token_url(session, &realm, service, scope)?;
                let (token, life) = self.fetch_token(session, url).await?;
                self.inner.tokens.put(session, Proof::Bearer(token), life);
                Ok(true)
            }
        }
    }

    fn answer_basic(&self, session: &Session<'_>) -> bool {
        let RegistryAuth::Basic(user, password) = session.auth else {
            return false;
        };
        let proof = Proof::Basic(user.clone(), password.clone());
        self.inner.tokens.put(session, proof, Duration::from_secs(3600));
        true
    }

    async fn fetch_token(
        &self,
        session: &Session<'_>,
        url: Url,
    ) -> Result<(String, Duration), RegistryError> {
        let mut request = self.client_for(&url).get(url.clone());
        if let RegistryAuth::Basic(user, password) = session.auth {
            request = request.basic_auth(user, Some(password));
        }
        let mut response = request.send().await.map_err(|error| transport(&url, &error))?;
        let realm = bare(&url);
        if !response.status().is_success() {
            let message = format!("{} {}", response.status(), error_message(&mut response).await);
            return match response.status().as_u16() {
                401 | 403 => Err(RegistryError::Denied {
                    repository: format!("{}/{}", session.registry, session.repository),
                    message,
                }),
                _ => Err(RegistryError::Token { realm, message }),
            };
        }
        let body = bounded(&mut response, "token", MAX_DOCUMENT_BYTES).await?;
        let document: TokenDocument =
            serde_json::from_slice(&body).map_err(|error| RegistryError::Token {
                realm: realm.clone(),
                message: error.to_string(),
            })?;
        let token = if document.token.is_empty() {
            document.access_token
        } else {
            document.token
        };
        if token.is_empty() {
            return Err(RegistryError::Token {
                realm,
                message: "the answer holds none".to_owned(),
            });
        }
        let life = DEFAULT_TOKEN_LIFE.max(Duration::from_secs(document.expires_in.min(24 * 3600)));
        Ok((token, life.mul_f32(0.9)))
    }
}

/// The token server's URL for what `session` wants, refused when it would see a password it must not.
fn token_url(
    session: &Session<'_>,
    realm: &str,
    service: Option<String>,
    scope: Option<String>,
) -> Result<Url, RegistryError> {
    let foreign = || RegistryError::ForeignRealm {
        registry: session.registry.to_owned(),
        realm: realm.to_owned(),
    };
    let mut url = Url::parse(realm).map_err(|_| foreign())?;
    let plain_http = url.scheme() == "http" && session.base.scheme() == "http";
    if url.scheme() != "https" && !plain_http {
        return Err(foreign());
    }
    let secret = !matches!(session.auth, RegistryAuth::Anonymous);
    if secret && !endpoint::may_authenticate(&session.base, &url) {
        return Err(foreign());
    }
    let actions = match session.access {
        Access::Pull => "pull",
        Access::Push => "pull,push",
    };
    let wanted = match session.repository {
        "" => scope.unwrap_or_default(),
        repository => format!("repository:{repository}:{actions}"),
    };
    let mut pairs = url.query_pairs_mut();
    pairs.append_pair("scope", &wanted);
    if let Some(service) = service {
        pairs.append_pair("service", &service);
    }
    drop(pairs);
    Ok(url)
}
