//! Encryption at rest: values under some prefixes are sealed before the store below sees them, and opened on the way
//! back. Everything above sees plain values; everything below, history included, sees sealed ones.
//!
//! A sealed value is `k8s:enc:aesgcm:v1:KEY:` followed by a nonce of 12 bytes and AES-256-GCM's ciphertext with its
//! tag; the store's key is authenticated with it, so that a value cannot be moved. What has no such beginning is a
//! plain value from before, and stays readable.
use super::{
    Batch, Event, KeyValue, Op, Range, RangeResult, ReadError, Revision, Store, Txn, TxnOutcome, WatchError,
    WatchStream, WriteError,
};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Upstream's form of an AES-GCM envelope.
const MARK: &[u8] = b"k8s:enc:aesgcm:v1:";
const KEY_BYTES: usize = 32;
/// What is sealed.
const SEALED: [&str; 1] = ["/registry/secrets/"];
/// Values sealed anew in one go at the start, after the key was changed.
const PAGE: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("cannot {step} {path}: {source}")]
    File {
        step: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "line {line} of {path} is not \"ID BASE64\" with {KEY_BYTES} bytes; restore the file: without it stored Secrets cannot be read"
    )]
    Damaged { path: PathBuf, line: usize },
    #[error("cannot seal what is stored anew: {0}")]
    Reseal(String),
}

/// The keys, newest first: the first one seals, all open.
pub struct Keyring(Vec<(String, LessSafeKey)>);

impl Keyring {
    /// Reads the file, or makes one with a new key. To change the key put a line with a new one in front and start
    /// again: what is stored is then sealed anew, and the old line can go.
    pub fn open_or_create(path: &Path) -> Result<Self, KeyringError> {
        let file = |step: &'static str| {
            move |source| KeyringError::File {
                step,
                path: path.to_owned(),
                source,
            }
        };
        if !path.exists() {
            let line = format!(
                "{} {}\n",
                hex::encode(rand::random::<[u8; 4]>()),
                STANDARD.encode(rand::random::<[u8; KEY_BYTES]>())
            );
            let beside = path.with_extension("new");
            let mut out = fs::OpenOptions::new();
            let out = out.write(true).create(true).truncate(true).mode(0o600);
            let mut out = out.open(&beside).map_err(file("create"))?;
            out.write_all(line.as_bytes())
                .and_then(|()| out.sync_all())
                .map_err(file("write"))?;
            fs::rename(&beside, path).map_err(file("replace"))?;
        }
        let text = fs::read_to_string(path).map_err(file("read"))?;
        let lines = text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty());
        let keys: Vec<_> = lines
            .map(|(at, line)| {
                key(line).ok_or(KeyringError::Damaged {
                    path: path.to_owned(),
                    line: at + 1,
                })
            })
            .collect::<Result<_, _>>()?;
        match keys.is_empty() {
            true => Err(KeyringError::Damaged {
                path: path.to_owned(),
                line: 1,
            }),
            false => Ok(Keyring(keys)),
        }
    }

    fn seal(&self, name: &str, plain: &[u8]) -> Result<Bytes, WriteError> {
        let (id, key) = &self.0[0];
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut body = plain.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name), &mut body)
            .map_err(|_| WriteError::Backend(format!("the value of {name} cannot be sealed")))?;
        let mut out = Vec::with_capacity(MARK.len() + id.len() + 1 + NONCE_LEN + body.len());
        out.extend_from_slice(MARK);
        out.extend_from_slice(id.as_bytes());
        out.push(b':');
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&body);
        Ok(out.into())
    }

    fn open(&self, name: &str, value: &Bytes) -> Result<Bytes, ReadError> {
        let Some((id, sealed)) = envelope(value) else {
            return Ok(value.clone());
        };
        let bad = |why: &str| ReadError::Backend(format!("the value of {name} {why}"));
        let (_, key) = self
            .0
            .iter()
            .find(|(own, _)| own.as_bytes() == id)
            .ok_or_else(|| {
                let id = String::from_utf8_lossy(id);
                bad(&format!(
                    "is sealed under the key {id}, which is not in the key file; put it back"
                ))
            })?;
        let (nonce, body) = sealed
            .split_at_checked(NONCE_LEN)
            .ok_or_else(|| bad("is cut off"))?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| bad("is cut off"))?;
        let mut body = body.to_vec();
        let plain = key
            .open_in_place(nonce, Aad::from(name), &mut body)
            .map_err(|_| bad("was changed, or belongs to another key of the store"))?;
        Ok(Bytes::copy_from_slice(plain))
    }

    /// Whether a stored value is sealed under the first key.
    fn is_current(&self, value: &[u8]) -> bool {
        envelope(value).is_some_and(|(id, _)| id == self.0[0].0.as_bytes())
    }
}

/// A line of the file: an id and a key.
fn key(line: &str) -> Option<(String, LessSafeKey)> {
    let (id, secret) = line.trim().split_once(' ')?;
    let secret = STANDARD.decode(secret.trim()).ok()?;
    let good = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let key = UnboundKey::new(&AES_256_GCM, &secret).ok()?;
    good.then(|| (id.to_owned(), LessSafeKey::new(key)))
}

/// The key's id and the rest of a sealed value.
fn envelope(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = value.strip_prefix(MARK)?;
    let end = rest.iter().position(|byte| *byte == b':')?;
    Some((&rest[..end], &rest[end + 1..]))
}

fn is_sealed(key: &str) -> bool {
    SEALED.iter().any(|prefix| key.starts_with(prefix))
}

/// A store whose secrets are sealed.
pub struct SealedStore {
    inner: Arc<dyn Store>,
    keys: Arc<Keyring>,
}

impl SealedStore {
    pub fn new(inner: Arc<dyn Store>, keys: Keyring) -> Self {
        SealedStore {
            inner,
            keys: Arc::new(keys),
        }
    }

    /// Seals what is plain, or under an older key. For the start, before anybody watches.
    pub async fn reseal(&self) -> Result<(), KeyringError> {
        let failed = |error: &dyn std::fmt::Display| KeyringError::Reseal(error.to_string());
        for prefix in SEALED {
            let mut range = Range {
                limit: Some(PAGE),
                ..Range::prefix(prefix)
            };
            loop {
                let page = self.inner.range(range.clone()).await.map_err(|e| failed(&e))?;
                for kv in page.items.iter().filter(|kv| !self.keys.is_current(&kv.value)) {
                    let plain = self.keys.open(&kv.key, &kv.value).map_err(|e| failed(&e))?;
                    let txn = Txn::swap(&*kv.key, kv.mod_revision, plain);
                    self.txn(txn).await.map_err(|e| failed(&e))?;
                }
                match page.items.last() {
                    Some(last) if page.more => range.after = Some(last.key.to_string()),
                    _ => break,
                }
            }
        }
        Ok(())
    }
}

fn opened(keys: &Keyring, kv: KeyValue) -> Result<KeyValue, ReadError> {
    match is_sealed(&kv.key) {
        true => Ok(KeyValue {
            value: keys.open(&kv.key, &kv.value)?,
            ..kv
        }),
        false => Ok(kv),
    }
}

fn opened_event(keys: &Keyring, event: &Event) -> Result<Event, ReadError> {
    let open = |kv: &Option<KeyValue>| kv.clone().map(|kv| opened(keys, kv)).transpose();
    Ok(Event {
        revision: event.revision,
        key: event.key.clone(),
        now: open(&event.now)?,
        before: open(&event.before)?,
    })
}

/// A batch without secrets is passed on as it is.
fn opened_batch(keys: &Keyring, batch: Batch) -> Result<Batch, WatchError> {
    if !batch.events.iter().any(|event| is_sealed(&event.key)) {
        return Ok(batch);
    }
    let events: Result<Vec<Event>, ReadError> = batch
        .events
        .iter()
        .map(|event| opened_event(keys, event))
        .collect();
    let events = events.map_err(|e| WatchError::Backend(e.to_string()))?;
    Ok(Batch {
        revision: batch.revision,
        events: events.into(),
    })
}

#[async_trait]
impl Store for SealedStore {
    async fn revision(&self) -> Result<Revision, ReadError> {
        self.inner.revision().await
    }

    async fn writable(&self) -> Result<(), WriteError> {
        self.inner.writable().await
    }

    async fn retains(&self, revision: Revision) -> Result<(), ReadError> {
        self.inner.retains(revision).await
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, ReadError> {
        let found = self.inner.get(key).await?;
        found.map(|kv| opened(&self.keys, kv)).transpose()
    }

    async fn range(&self, range: Range) -> Result<RangeResult, ReadError> {
        let found = self.inner.range(range).await?;
        let items = found.items.into_iter().map(|kv| opened(&self.keys, kv));
        Ok(RangeResult {
            items: items.collect::<Result<_, _>>()?,
            ..found
        })
    }

    async fn txn(&self, mut txn: Txn) -> Result<TxnOutcome, WriteError> {
        for op in &mut txn.ops {
            if let Op::Put { key, value } = op
                && is_sealed(key)
            {
                *value = self.keys.seal(key, value)?;
            }
        }
        match self.inner.txn(txn).await? {
            TxnOutcome::Conflict { key, current } => {
                let current = current.map(|kv| opened(&self.keys, kv)).transpose();
                let current = current.map_err(|e| WriteError::Backend(e.to_string()))?;
                Ok(TxnOutcome::Conflict { key, current })
            }
            committed => Ok(committed),
        }
    }

    async fn watch(&self, after: Revision) -> Result<WatchStream, WatchError> {
        let keys = self.keys.clone();
        let batches = self.inner.watch(after).await?;
        let opened = batches.map(move |batch| batch.and_then(|batch| opened_batch(&keys, batch)));
        Ok(opened.boxed())
    }

    async fn size(&self) -> Result<u64, ReadError> {
        self.inner.size().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), WriteError> {
        self.inner.compact(revision).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::RedbStore;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const SECRET: &str = "/registry/secrets/n/s";
    const PLAIN: &str = "/registry/configmaps/n/c";

    fn opened(dir: &Path, inner: &Arc<dyn Store>) -> SealedStore {
        SealedStore::new(inner.clone(), Keyring::open_or_create(&dir.join("keys")).unwrap())
    }

    fn store(dir: &Path) -> Arc<dyn Store> {
        Arc::new(RedbStore::open(&dir.join("s.redb")).unwrap())
    }

    async fn raw(inner: &Arc<dyn Store>, key: &str) -> Vec<u8> {
        inner.get(key).await.unwrap().unwrap().value.to_vec()
    }

    #[tokio::test]
    async fn secrets_are_sealed_below_and_plain_above() {
        let dir = tempfile::tempdir().unwrap();
        let inner = store(dir.path());
        let sealed = opened(dir.path(), &inner);
        let mut batches = sealed.watch(1).await.unwrap();
        for key in [SECRET, PLAIN] {
            sealed.txn(Txn::create(key, "hunter2")).await.unwrap();
            assert_eq!(sealed.get(key).await.unwrap().unwrap().value, "hunter2");
            let batch = batches.next().await.unwrap().unwrap();
            assert_eq!(batch.events[0].now.as_ref().unwrap().value, "hunter2");
        }
        let below = raw(&inner, SECRET).await;
        assert!(below.starts_with(MARK) && !below.windows(7).any(|w| w == b"hunter2"));
        assert_eq!(raw(&inner, PLAIN).await, b"hunter2");
        let mode = fs::metadata(dir.path().join("keys"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn plain_values_stay_readable_and_are_sealed_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let inner = store(dir.path());
        inner.txn(Txn::create(SECRET, "old")).await.unwrap();
        let sealed = opened(dir.path(), &inner);
        assert_eq!(sealed.get(SECRET).await.unwrap().unwrap().value, "old");
        sealed.reseal().await.unwrap();
        assert!(raw(&inner, SECRET).await.starts_with(MARK));
        assert_eq!(sealed.get(SECRET).await.unwrap().unwrap().value, "old");
        let revision = inner.revision().await.unwrap();
        sealed.reseal().await.unwrap();
        assert_eq!(inner.revision().await.unwrap(), revision);
    }

    #[tokio::test]
    async fn keys_rotate_and_a_lost_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (inner, keys) = (store(dir.path()), dir.path().join("keys"));
        opened(dir.path(), &inner)
            .txn(Txn::create(SECRET, "x"))
            .await
            .unwrap();
        let old = fs::read_to_string(&keys).unwrap();
        let new = format!("new {}\n", STANDARD.encode([7; KEY_BYTES]));
        fs::write(&keys, format!("{new}{old}")).unwrap();
        let both = opened(dir.path(), &inner);
        assert_eq!(both.get(SECRET).await.unwrap().unwrap().value, "x");
        both.reseal().await.unwrap();
        fs::write(&keys, new).unwrap();
        assert_eq!(
            opened(dir.path(), &inner)
                .get(SECRET)
                .await
                .unwrap()
                .unwrap()
                .value,
            "x"
        );
        fs::write(&keys, old).unwrap();
        let error = opened(dir.path(), &inner)
            .get(SECRET)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("sealed under the key new"), "{error}");
    }

    #[tokio::test]
    async fn a_value_cannot_be_moved_or_changed() {
        let dir = tempfile::tempdir().unwrap();
        let inner = store(dir.path());
        let sealed = opened(dir.path(), &inner);
        sealed.txn(Txn::create(SECRET, "x")).await.unwrap();
        let mut value = raw(&inner, SECRET).await;
        inner
            .txn(Txn::create("/registry/secrets/n/other", value.clone()))
            .await
            .unwrap();
        assert!(sealed.get("/registry/secrets/n/other").await.is_err());
        *value.last_mut().unwrap() ^= 1;
        inner
            .txn(Txn::create("/registry/secrets/n/third", value))
            .await
            .unwrap();
        assert!(sealed.get("/registry/secrets/n/third").await.is_err());
    }
}
