//! `wasi:keyvalue`: the interface in front of the buckets on a container's volume.
//!
//! Owns the interface. Refuses to know files. Each call does its work on the Pod's blocking threads.

use super::state::State;
use crate::guest::bucket::Bucket;
use crate::guest::folder::{Refused, blocking};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::{HasSelf, Linker, Resource, ResourceTableError};

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit/keyvalue",
        world: "wasi:keyvalue/imports",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/store.bucket": crate::guest::bucket::Bucket,
        },
        trappable_error_type: {
            "wasi:keyvalue/store.error" => crate::guest::folder::Refused,
        },
    });
}

use bindings::wasi::keyvalue::{atomics, batch, store};

/// What the second draft does as this one.
pub(super) use bindings::wasi::keyvalue as draft1;

/// Keys in one call, so that what the host holds for it has a bound.
const MAX_BATCH: usize = 16;

/// How often a change is tried while others make theirs, and how long it waits between.
const TURNS: usize = 1_000;
const TURN: Duration = Duration::from_millis(1);

/// Defines the interfaces.
///
/// # Errors
/// When a name is defined already, which would be a defect of this program.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    store::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    atomics::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    batch::add_to_linker::<State, HasSelf<State>>(linker, |state| state)
}

impl From<ResourceTableError> for Refused {
    fn from(error: ResourceTableError) -> Self {
        Self::Other(error.to_string())
    }
}

/// Does what only one may do at a time.
pub(super) async fn by_turns<T: Send + 'static>(
    work: impl Fn() -> Result<T, Refused> + Clone + Send + 'static,
) -> Result<T, Refused> {
    for _ in 0..TURNS {
        match blocking(work.clone()).await {
            Err(Refused::Busy) => tokio::time::sleep(TURN).await,
            done => return done,
        }
    }
    Err(Refused::Busy)
}

fn check_batch(length: usize) -> Result<(), Refused> {
    if length > MAX_BATCH {
        Err(Refused::Other(format!("more than {MAX_BATCH} keys in one call")))
    } else {
        Ok(())
    }
}

impl State {
    pub(super) fn bucket(&mut self, bucket: &Resource<Bucket>) -> Result<Bucket, Refused> {
        Ok(self.table().get(bucket)?.clone())
    }
}

impl store::Host for State {
    async fn open(&mut self, identifier: String) -> Result<Resource<Bucket>, Refused> {
        let buckets = self.buckets.clone().ok_or(Refused::NotThere)?;
        let bucket = blocking(move || buckets.open(&identifier)).await?;
        Ok(self.table().push(bucket)?)
    }

    fn convert_error(&mut self, error: Refused) -> wasmtime::Result<store::Error> {
        Ok(match error {
            Refused::NotThere => store::Error::NoSuchStore,
            Refused::AccessDenied => store::Error::AccessDenied,
            Refused::Busy | Refused::Other(_) => store::Error::Other(error.to_string()),
        })
    }
}

impl store::HostBucket for State {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Option<Vec<u8>>, Refused> {
        let bucket = self.bucket(&bucket)?;
        blocking(move || bucket.get(&key)).await
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Result<(), Refused> {
        let bucket = self.bucket(&bucket)?;
        let set = Arc::new((key, value));
        by_turns(move || bucket.set(&set.0, &set.1)).await
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Result<(), Refused> {
        let bucket = self.bucket(&bucket)?;
        by_turns(move || bucket.delete(&key)).await
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Result<bool, Refused> {
        let bucket = self.bucket(&bucket)?;
        blocking(move || bucket.exists(&key)).await
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> Result<store::KeyResponse, Refused> {
        let bucket = self.bucket(&bucket)?;
        let page = blocking(move || bucket.keys(cursor.unwrap_or(0))).await?;
        Ok(store::KeyResponse {
            keys: page.names,
            cursor: page.cursor,
        })
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table().delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for State {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: u64) -> Result<u64, Refused> {
        let bucket = self.bucket(&bucket)?;
        by_turns(move || bucket.increment(&key, |now: u64| now.checked_add(delta))).await
    }
}

impl batch::Host for State {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<(String, Vec<u8>)>>, Refused> {
        check_batch(keys.len())?;
        let bucket = self.bucket(&bucket)?;
        let get = move |key: String| Ok(bucket.get(&key)?.map(|value| (key, value)));
        blocking(move || keys.into_iter().map(get).collect()).await
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        key_values: Vec<(String, Vec<u8>)>,
    ) -> Result<(), Refused> {
        let bucket = self.bucket(&bucket)?;
        let all = Arc::new(key_values);
        by_turns(move || all.iter().try_for_each(|(key, value)| bucket.set(key, value))).await
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Result<(), Refused> {
        let bucket = self.bucket(&bucket)?;
        by_turns(move || keys.iter().try_for_each(|key| bucket.delete(key))).await
    }
}
