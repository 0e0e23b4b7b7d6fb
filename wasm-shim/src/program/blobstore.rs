//! `wasi:blobstore`: the interface in front of the containers on a container's volume.
//!
//! Owns the interface. Refuses to know files. Each call does its work on the Pod's blocking threads.

use super::state::State;
use crate::guest::blob_body::Writer;
use crate::guest::blobs::{Container, Containers, Incoming, Names, Outgoing};
use crate::guest::folder::{Refused, blocking};
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::p2::pipe::AsyncReadStream;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit/blobstore",
        world: "wasi:blobstore/imports",
        imports: { default: async | trappable },
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "wasi:blobstore/container.container": crate::guest::blobs::Container,
            "wasi:blobstore/container.stream-object-names": crate::guest::blobs::Names,
            "wasi:blobstore/types.incoming-value": crate::guest::blobs::Incoming,
            "wasi:blobstore/types.outgoing-value": crate::guest::blobs::Outgoing,
        },
    });
}

use bindings::wasi::blobstore::{blobstore, container, types};

/// Bytes of a stream that are read from the disk at once.
const CHUNK: usize = 64 << 10;

/// Names skipped in one call.
const MAX_SKIP: u64 = 100_000;

/// What a call answers: the error of the interface is text.
type Told<T> = wasmtime::Result<Result<T, String>>;

/// Defines the interfaces.
///
/// # Errors
/// When a name is defined already, which would be a defect of this program.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    types::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    container::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    blobstore::add_to_linker::<State, HasSelf<State>>(linker, |state| state)
}

/// Does work on the blocking threads and tells what came of it.
async fn tell<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refused> + Send + 'static) -> Told<T> {
    Ok(blocking(work).await.map_err(|error| error.to_string()))
}

impl State {
    /// Does work with all containers, if there are any.
    async fn with_containers<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Containers) -> Result<T, Refused> + Send + 'static,
    ) -> Told<T> {
        match self.containers.clone() {
            Some(containers) => tell(move || work(&containers)).await,
            None => Ok(Err("this container was given no place for blobs".to_owned())),
        }
    }

    /// Does work with one container.
    async fn with_container<T: Send + 'static>(
        &mut self,
        container: &Resource<Container>,
        work: impl FnOnce(&Container) -> Result<T, Refused> + Send + 'static,
    ) -> Told<T> {
        let container = self.table().get(container)?.clone();
        tell(move || work(&container)).await
    }

    /// Gives the guest a handle to what was found.
    fn handle<T: Send + 'static>(&mut self, told: Result<T, String>) -> Told<Resource<T>> {
        match told {
            Ok(found) => Ok(Ok(self.table().push(found)?)),
            Err(error) => Ok(Err(error)),
        }
    }
}

impl types::Host for State {}

impl types::HostOutgoingValue for State {
    async fn new_outgoing_value(&mut self) -> wasmtime::Result<Resource<Outgoing>> {
        Ok(self.table().push(Outgoing::default())?)
    }

    async fn outgoing_value_write_body(
        &mut self,
        value: Resource<Outgoing>,
    ) -> wasmtime::Result<Result<Resource<DynOutputStream>, ()>> {
        let outgoing = self.table().get(&value)?;
        if outgoing.body.is_some() {
            return Ok(Err(()));
        }
        let target = outgoing.place.as_ref().map(|(container, _)| container.clone());
        let begin = move |all: &Containers| all.begin(target.as_ref());
        let Ok(body) = self.with_containers(begin).await? else {
            return Ok(Err(()));
        };
        self.table().get_mut(&value)?.body = Some(Arc::clone(&body));
        let stream: DynOutputStream = Box::new(Writer::new(body));
        Ok(Ok(self.table().push_child(stream, &value)?))
    }

    /// Traps while the stream of its bytes is still there, as the interface says.
    async fn finish(&mut self, value: Resource<Outgoing>) -> Told<()> {
        let value = self.table().delete(value)?;
        let Some(containers) = self.containers.clone() else {
            return Ok(Err("this container was given no place for blobs".to_owned()));
        };
        Ok(value.finish(containers).await.map_err(|error| error.to_string()))
    }

    async fn drop(&mut self, value: Resource<Outgoing>) -> wasmtime::Result<()> {
        self.table().delete(value)?;
        Ok(())
    }
}

impl types::HostIncomingValue for State {
    async fn incoming_value_consume_sync(&mut self, value: Resource<Incoming>) -> Told<Vec<u8>> {
        let value = self.table().delete(value)?;
        let most = self.call_bytes();
        tell(move || value.read(most)).await
    }

    async fn incoming_value_consume_async(
        &mut self,
        value: Resource<Incoming>,
    ) -> Told<Resource<DynInputStream>> {
        let (file, length) = self.table().delete(value)?.into_parts();
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(CHUNK);
        let stream: DynInputStream = Box::new(AsyncReadStream::new(file.take(length)));
        self.handle(Ok(stream))
    }

    async fn size(&mut self, value: Resource<Incoming>) -> wasmtime::Result<u64> {
        Ok(self.table().get(&value)?.size())
    }

    async fn drop(&mut self, value: Resource<Incoming>) -> wasmtime::Result<()> {
        self.table().delete(value)?;
        Ok(())
    }
}

impl container::Host for State {}

impl container::HostContainer for State {
    async fn name(&mut self, container: Resource<Container>) -> Told<String> {
        Ok(Ok(self.table().get(&container)?.name.clone()))
    }

    async fn info(&mut self, container: Resource<Container>) -> Told<types::ContainerMetadata> {
        let info = |container: &Container| {
            Ok(types::ContainerMetadata {
                name: container.name.clone(),
                created_at: container.created_at()?,
            })
        };
        self.with_container(&container, info).await
    }

    async fn get_data(
        &mut self,
        container: Resource<Container>,
        name: String,
        start: u64,
        end: u64,
    ) -> Told<Resource<Incoming>> {
        let get = move |container: &Container| container.data(&name, start, end);
        let told = self.with_container(&container, get).await?;
        self.handle(told)
    }

    async fn write_data(
        &mut self,
        container: Resource<Container>,
        name: String,
        value: Resource<Outgoing>,
    ) -> Told<()> {
        let container = self.table().get(&container)?.clone();
        self.table().get_mut(&value)?.place = Some((container, name));
        Ok(Ok(()))
    }

    async fn list_objects(&mut self, container: Resource<Container>) -> Told<Resource<Names>> {
        let names = self.table().get(&container)?.names();
        self.handle(Ok(names))
    }

    async fn delete_object(&mut self, container: Resource<Container>, name: String) -> Told<()> {
        let delete = move |container: &Container| container.delete(&[name]);
        self.with_container(&container, delete).await
    }

    async fn delete_objects(&mut self, container: Resource<Container>, names: Vec<String>) -> Told<()> {
        let delete = move |container: &Container| container.delete(&names);
        self.with_container(&container, delete).await
    }

    async fn has_object(&mut self, container: Resource<Container>, name: String) -> Told<bool> {
        let has = move |container: &Container| container.has(&name);
        self.with_container(&container, has).await
    }

    async fn object_info(
        &mut self,
        container: Resource<Container>,
        name: String,
    ) -> Told<types::ObjectMetadata> {
        let info = move |container: &Container| {
            let info = container.info(&name)?.ok_or(Refused::NotThere)?;
            Ok(types::ObjectMetadata {
                name,
                container: container.name.clone(),
                created_at: info.created_at,
                size: info.size,
            })
        };
        self.with_container(&container, info).await
    }

    async fn clear(&mut self, container: Resource<Container>) -> Told<()> {
        self.with_container(&container, Container::clear).await
    }

    async fn drop(&mut self, container: Resource<Container>) -> wasmtime::Result<()> {
        self.table().delete(container)?;
        Ok(())
    }
}

impl container::HostStreamObjectNames for State {
    async fn read_stream_object_names(
        &mut self,
        names: Resource<Names>,
        most: u64,
    ) -> Told<(Vec<String>, bool)> {
        self.with_names(&names, move |names| names.next(most)).await
    }

    async fn skip_stream_object_names(&mut self, names: Resource<Names>, most: u64) -> Told<(u64, bool)> {
        self.with_names(&names, move |names| names.skip(most.min(MAX_SKIP)))
            .await
    }

    async fn drop(&mut self, names: Resource<Names>) -> wasmtime::Result<()> {
        self.table().delete(names)?;
        Ok(())
    }
}

impl State {
    /// Does work with names that are being read.
    async fn with_names<T: Send + 'static>(
        &mut self,
        names: &Resource<Names>,
        work: impl FnOnce(&mut Names) -> Result<T, Refused> + Send + 'static,
    ) -> Told<T> {
        let mut taken = self.table().get_mut(names)?.take();
        let (taken, result) = match blocking(move || Ok((work(&mut taken), taken))).await {
            Ok((result, taken)) => (taken, result),
            Err(error) => return Ok(Err(error.to_string())),
        };
        *self.table().get_mut(names)? = taken;
        Ok(result.map_err(|error| error.to_string()))
    }
}

impl blobstore::Host for State {
    async fn create_container(&mut self, name: String) -> Told<Resource<Container>> {
        let told = self.with_containers(move |all| all.create(name)).await?;
        self.handle(told)
    }

    async fn get_container(&mut self, name: String) -> Told<Resource<Container>> {
        let told = self.with_containers(move |all| all.get(name)).await?;
        self.handle(told)
    }

    async fn delete_container(&mut self, name: String) -> Told<()> {
        self.with_containers(move |all| all.delete(name)).await
    }

    async fn container_exists(&mut self, name: String) -> Told<bool> {
        self.with_containers(move |all| match all.get(name) {
            Ok(_) => Ok(true),
            Err(Refused::NotThere) => Ok(false),
            Err(error) => Err(error),
        })
        .await
    }

    async fn copy_object(&mut self, from: types::ObjectId, to: types::ObjectId) -> Told<()> {
        self.with_containers(move |all| {
            let (source, target) = (all.get(from.container)?, all.get(to.container)?);
            all.copy(&source, &from.object, &target, &to.object)
        })
        .await
    }

    async fn move_object(&mut self, from: types::ObjectId, to: types::ObjectId) -> Told<()> {
        self.with_containers(move |all| {
            let (source, target) = (all.get(from.container)?, all.get(to.container)?);
            source.rename(&from.object, &target, &to.object)
        })
        .await
    }
}
