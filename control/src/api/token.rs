//! Continue tokens: where a list in pages goes on, sealed so that a client cannot make one up.
//!
//! A token is base64url of `tag payload`, the tag being HMAC-SHA-256 (RFC 2104) of the payload under a key kept in
//! the store, so that every API server over that store takes it.
use super::status::{ApiError, Result};
use crate::store::{ReadError, Revision, Store, Txn};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const KEY: &str = "/amphipod/api/continue-key";
const BLOCK: usize = 64;
const TAG: usize = 32;

/// Where to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The revision of the first page; 0 goes on with whatever is there now.
    pub revision: Revision,
    /// The last key that was shown.
    pub after: String,
    /// The prefix that was listed: a token is for its own list only.
    pub prefix: String,
}

/// Makes and opens tokens.
pub struct Tokens {
    key: [u8; BLOCK],
}

impl Tokens {
    /// Takes the key from the store, or puts a new one there.
    pub async fn open(store: &dyn Store) -> std::result::Result<Self, ReadError> {
        let fresh = bytes::Bytes::copy_from_slice(&rand::random::<[u8; TAG]>());
        let unwritten = |e: crate::store::WriteError| ReadError::Backend(e.to_string());
        store
            .txn(Txn::create(KEY, fresh.clone()))
            .await
            .map_err(unwritten)?;
        let kept = store.get(KEY).await?.map_or(fresh, |kv| kv.value);
        let mut key = [0; BLOCK];
        let length = kept.len().min(BLOCK);
        key[..length].copy_from_slice(&kept[..length]);
        Ok(Tokens { key })
    }

    pub fn seal(&self, position: &Position) -> Result<String> {
        let payload = serde_json::to_vec(position).map_err(ApiError::internal)?;
        let mut out = self.tag(&payload).to_vec();
        out.extend_from_slice(&payload);
        Ok(URL_SAFE_NO_PAD.encode(out))
    }

    /// Opens a token that this cluster made for a list of `prefix`.
    pub fn open_token(&self, token: &str, prefix: &str) -> Result<Position> {
        let bad = || {
            ApiError::bad_request(
                "invalid continue token: continue key is not valid: the token was not made by this server",
            )
        };
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
        let (tag, payload) = bytes.split_at_checked(TAG).ok_or_else(bad)?;
        if !same(tag, &self.tag(payload)) {
            return Err(bad());
        }
        let position: Position = serde_json::from_slice(payload).map_err(|_| bad())?;
        if position.prefix == prefix {
            Ok(position)
        } else {
            Err(bad())
        }
    }

    fn tag(&self, payload: &[u8]) -> [u8; TAG] {
        let pad = |with: u8| self.key.map(|byte| byte ^ with);
        let inner = Sha256::new()
            .chain_update(pad(0x36))
            .chain_update(payload)
            .finalize();
        Sha256::new()
            .chain_update(pad(0x5c))
            .chain_update(inner)
            .finalize()
            .into()
    }
}

/// Compares in constant time.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(byte: u8) -> Tokens {
        Tokens { key: [byte; BLOCK] }
    }

    fn position() -> Position {
        Position {
            revision: 7,
            after: "/registry/pods/a/b".into(),
            prefix: "/registry/pods/".into(),
        }
    }

    #[test]
    fn a_token_opens_for_its_own_list_only() {
        let token = tokens(1).seal(&position()).unwrap();
        assert_eq!(
            tokens(1).open_token(&token, "/registry/pods/").unwrap(),
            position()
        );
        assert!(tokens(1).open_token(&token, "/registry/secrets/").is_err());
    }

    #[test]
    fn forged_tokens_are_refused() {
        let token = tokens(2).seal(&position()).unwrap();
        for forged in [token.as_str(), "", "AAAA", "not base64 !", &"A".repeat(200)] {
            assert_eq!(
                tokens(1).open_token(forged, "/registry/pods/").unwrap_err().code,
                400
            );
        }
    }

    #[test]
    fn the_tag_is_hmac_sha256() {
        // RFC 4231, test case 2.
        let mut key = [0; BLOCK];
        key[..4].copy_from_slice(b"Jefe");
        let tag = Tokens { key }.tag(b"what do ya want for nothing?");
        assert_eq!(
            hex::encode(tag),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
