//! Whose an image is: by which pull secrets it was pulled, or that nobody needed any (KEP-2535). A Pod that is not among
//! them has to show the registry its own. One file per image and in it one entry per repository, so that it outlives the agent.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use super::content::{Layout, write_atomically};
use super::error::StoreError;
use super::{Digest, Image, Images, PullError};

/// Secrets remembered without a pull; upstream's limit. More of them are only compared.
const MAX_HOLDERS: usize = 100;

/// A pull secret that was good for an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// Of user and password.
    pub hash: Digest,
}

impl Holder {
    fn is_same_secret(&self, other: &Holder) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

/// Who may use an image under one repository's name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Rights {
    everyone: bool,
    holders: Vec<Holder>,
}

/// By repository.
type Record = BTreeMap<String, Rights>;

/// What a Pod has to show for an image that is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Everyone,
    /// One of the secrets it was pulled with.
    Holders,
}

impl Images {
    /// Whether an image in the store is everyone's. One that nobody pulled for a Pod was put there for all.
    pub fn access(&self, image: &Image, name: &str) -> Result<Access, PullError> {
        let repository = self.repository(name)?;
        Ok(match read(&self.inner.layout, &image.id) {
            Ok(None) => Access::Everyone,
            Ok(Some(record)) if record.get(&repository).is_some_and(|rights| rights.everyone) => {
                Access::Everyone
            }
            Ok(Some(_)) => Access::Holders,
            Err(error) => {
                tracing::warn!(%error, "whose an image is cannot be read: it is pulled again");
                Access::Holders
            }
        })
    }

    /// Whether the image was pulled with one of `shown`: the same secret, or the same user and password in another, which
    /// is remembered.
    pub fn is_held(&self, image: &Image, name: &str, shown: &[Holder]) -> bool {
        let Ok(repository) = self.repository(name) else {
            return false;
        };
        let Ok(Some(record)) = read(&self.inner.layout, &image.id) else {
            return false;
        };
        let Some(rights) = record.get(&repository) else {
            return false;
        };
        let held = shown.iter().find(|shown| {
            let mut holders = rights.holders.iter();
            holders.any(|known| known.hash == shown.hash || known.is_same_secret(shown))
        });
        if let Some(holder) = held
            && rights.holders.len() < MAX_HOLDERS
        {
            self.admit(image, name, Some(holder));
        }
        held.is_some()
    }

    /// Remembers by whose credentials the image was pulled; by none, it is everyone's. When it cannot be written, the
    /// image is pulled again next time.
    pub fn admit(&self, image: &Image, name: &str, holder: Option<&Holder>) {
        let Ok(repository) = self.repository(name) else {
            return;
        };
        if let Err(error) = self.inner.admit(image, &repository, holder) {
            tracing::warn!(%error, image = name, "cannot record whose an image is");
        }
    }

    /// `registry/repository` of a name.
    ///
    /// # Errors
    /// It is no reference.
    pub fn repository(&self, name: &str) -> Result<String, PullError> {
        let reference = self.reference(name)?;
        Ok(format!("{}/{}", reference.registry(), reference.repository()))
    }
}

impl super::Inner {
    /// An image that a Pod has pulled is nobody's until it is said whose, also when the agent ends in between.
    pub(super) fn close(&self, image: &Image) -> Result<(), StoreError> {
        let _one_writer = self
            .access
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match self.layout.access(&image.id).exists() {
            true => Ok(()),
            false => write(&self.layout, &image.id, &Record::new()),
        }
    }

    fn admit(&self, image: &Image, repository: &str, holder: Option<&Holder>) -> Result<(), StoreError> {
        let _one_writer = self
            .access
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = read(&self.layout, &image.id).ok().flatten().unwrap_or_default();
        let mut record = known.clone();
        let rights = record.entry(repository.to_owned()).or_default();
        match holder {
            None => {
                *rights = Rights {
                    everyone: true,
                    holders: Vec::new(),
                }
            }
            Some(holder) if rights.everyone || rights.holders.contains(holder) => {}
            Some(holder) => {
                rights.holders.retain(|known| !known.is_same_secret(holder));
                rights.holders.push(holder.clone());
            }
        }
        match record == known {
            true => Ok(()),
            false => write(&self.layout, &image.id, &record),
        }
    }
}

fn read(layout: &Layout, id: &Digest) -> Result<Option<Record>, StoreError> {
    let path = layout.access(id);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| StoreError::Record { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::io("read", &path)(source)),
    }
}

fn write(layout: &Layout, id: &Digest, record: &Record) -> Result<(), StoreError> {
    let path = layout.access(id);
    let bytes = serde_json::to_vec_pretty(record).map_err(|source| StoreError::Record {
        path: path.clone(),
        source,
    })?;
    write_atomically(&path, &bytes).map_err(StoreError::io("write", &path))
}
