//! The second draft of `wasi:keyvalue`, which others offer too: the first one's interface to the same buckets, with
//! cursors that are text, numbers with a sign, and values swapped if they are still what they were.
//!
//! Owns what is different. Everything else is done as the first draft does it.

use super::keyvalue::{by_turns, draft1};
use super::state::State;
use crate::guest::bucket::{Bucket, Cas, Swapped};
use crate::guest::folder::{Refused, blocking};
use std::sync::Arc;
use wasmtime::component::{HasSelf, Linker, Resource};

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit/keyvalue-draft2",
        world: "wasi:keyvalue/imports",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/atomics.cas": crate::guest::bucket::Cas,
            "wasi:keyvalue/store.bucket": crate::guest::bucket::Bucket,
        },
        trappable_error_type: {
            "wasi:keyvalue/store.error" => crate::guest::folder::Refused,
        },
    });
}

use bindings::wasi::keyvalue::{atomics, batch, store};

/// Defines the interfaces.
///
/// # Errors
/// When a name is defined already, which would be a defect of this program.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    store::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    atomics::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    batch::add_to_linker::<State, HasSelf<State>>(linker, |state| state)
}

fn told(error: &Refused) -> store::Error {
    match error {
        Refused::NotThere => store::Error::NoSuchStore,
        Refused::AccessDenied => store::Error::AccessDenied,
        Refused::Busy | Refused::Other(_) => store::Error::Other(error.to_string()),
    }
}

impl store::Host for State {
    async fn open(&mut self, identifier: String) -> Result<Resource<Bucket>, Refused> {
        draft1::store::Host::open(self, identifier).await
    }

    fn convert_error(&mut self, error: Refused) -> wasmtime::Result<store::Error> {
        Ok(told(&error))
    }
}

impl store::HostBucket for State {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Option<Vec<u8>>, Refused> {
        draft1::store::HostBucket::get(self, bucket, key).await
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Result<(), Refused> {
        draft1::store::HostBucket::set(self, bucket, key, value).await
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Result<(), Refused> {
        draft1::store::HostBucket::delete(self, bucket, key).await
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Result<bool, Refused> {
        draft1::store::HostBucket::exists(self, bucket, key).await
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<String>,
    ) -> Result<store::KeyResponse, Refused> {
        let cursor = cursor.map(|cursor| cursor.parse()).transpose();
        let cursor = cursor.map_err(|_| Refused::Other("this is no cursor of this host's".to_owned()))?;
        let page = draft1::store::HostBucket::list_keys(self, bucket, cursor).await?;
        Ok(store::KeyResponse {
            keys: page.keys,
            cursor: page.cursor.map(|cursor| cursor.to_string()),
        })
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        draft1::store::HostBucket::drop(self, bucket).await
    }
}

impl atomics::Host for State {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: i64) -> Result<i64, Refused> {
        let bucket = self.bucket(&bucket)?;
        by_turns(move || bucket.increment(&key, |now: i64| now.checked_add(delta))).await
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), atomics::CasError>> {
        let (cas, value) = (self.table().delete(cas)?, Arc::new(value));
        Ok(match by_turns(move || cas.swap(&value)).await {
            Ok(Swapped::Done) => Ok(()),
            Ok(Swapped::Changed(now)) => Err(atomics::CasError::CasFailed(self.table().push(now)?)),
            Err(error) => Err(atomics::CasError::StoreError(told(&error))),
        })
    }
}

impl atomics::HostCas for State {
    async fn new(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Resource<Cas>, Refused> {
        let bucket = self.bucket(&bucket)?;
        let (cas, _) = blocking(move || bucket.look(key)).await?;
        Ok(self.table().push(cas)?)
    }

    /// What is read now is what a swap goes by.
    async fn current(&mut self, cas: Resource<Cas>) -> Result<Option<Vec<u8>>, Refused> {
        let known = self.table().get(&cas)?.clone();
        let (now, value) = blocking(move || known.again()).await?;
        *self.table().get_mut(&cas)? = now;
        Ok(value)
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.table().delete(cas)?;
        Ok(())
    }
}

impl batch::Host for State {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<(String, Vec<u8>)>>, Refused> {
        draft1::batch::Host::get_many(self, bucket, keys).await
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        key_values: Vec<(String, Vec<u8>)>,
    ) -> Result<(), Refused> {
        draft1::batch::Host::set_many(self, bucket, key_values).await
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Result<(), Refused> {
        draft1::batch::Host::delete_many(self, bucket, keys).await
    }
}
