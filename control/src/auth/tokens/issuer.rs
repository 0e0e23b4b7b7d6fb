//! The key that signs service account tokens, and what lets others verify them (OpenID Connect Discovery 1.0).
//!
//! ES256 (RFC 7518): one P-256 key in `sa.key`, PKCS #8, readable by its owner only. A token is verified by this
//! algorithm and key whatever its header says.
use crate::auth::pki;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

const FILE: &str = "sa.key";
const ALGORITHM: &str = "ES256";
/// A coordinate of a P-256 point.
const COORDINATE: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    #[error(transparent)]
    File(#[from] pki::PkiError),
    #[error(
        "{path} is not a usable P-256 key ({message}); restore it, or remove it to make a new one (all service account tokens then end)"
    )]
    Damaged { path: PathBuf, message: String },
}

/// Signs and verifies.
pub struct TokenIssuer {
    key: EcdsaKeyPair,
    id: String,
    random: SystemRandom,
}

impl std::fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenIssuer")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl TokenIssuer {
    /// Opens the key in `dir`, or makes one.
    pub fn open_or_create(dir: &Path) -> Result<Self, IssuerError> {
        let path = dir.join(FILE);
        let pem = pki::key_file(&path)?;
        let damaged = |message: String| IssuerError::Damaged {
            path: path.clone(),
            message,
        };
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| damaged(e.to_string()))?;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random)
            .map_err(|e| damaged(e.to_string()))?;
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(key.public_key().as_ref()));
        Ok(TokenIssuer { key, id, random })
    }

    /// A JWT with this payload.
    pub fn sign(&self, payload: &Value) -> Result<String, String> {
        let header = json!({"alg": ALGORITHM, "kid": self.id});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(payload));
        let signature = self
            .key
            .sign(&self.random, signed.as_bytes())
            .map_err(|_| "no randomness to sign a token with".to_owned())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The payload of a JWT that this key signed.
    pub fn verify(&self, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
        if header["alg"] != ALGORITHM || header["kid"] != self.id.as_str() {
            return None;
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key());
        key.verify(signed.as_bytes(), &decode(signature)?).ok()?;
        serde_json::from_slice(&decode(payload)?).ok()
    }

    /// The JSON Web Key Set (RFC 7517).
    pub fn keys(&self) -> Value {
        // An uncompressed point: a byte that says so, then both coordinates.
        let point = self.key.public_key().as_ref();
        let (x, y) = point[1..].split_at(COORDINATE);
        let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": ALGORITHM,
            "x": encode(x), "y": encode(y)}]})
    }

    /// The provider's metadata. Its keys are where it is: a name that holds for Pods, whatever this server listens at.
    pub fn configuration(&self) -> Value {
        json!({
            "issuer": super::ISSUER,
            "jwks_uri": format!("{}/openid/v1/jwks", super::ISSUER),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
        })
    }
}
