//! What one store holds: the WASI world of one instance and its share of the container's budget.

use crate::bundle::Command;
use crate::engine::budget::Limiter;
use crate::engine::meter;
use crate::guest::blobs::Containers;
use crate::guest::bucket::Buckets;
use crate::guest::narrowing::Narrowing;
use crate::guest::outgoing;
use crate::guest::output::Output;
use crate::guest::wasi::World;
use crate::names::Names;
use http::{Request, Response};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, GcHeapOutOfMemory, Store, UpdateDeadline};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

/// Handles (descriptors, streams, pollables, bodies …) one instance may hold at once.
const MAX_HANDLES: usize = 10_000;

/// Bytes a guest may hand to the host in one call: larger lists and strings end it. In a small container an eighth of
/// its memory limit, but never less than what toolchains write at once.
const HOSTCALL_BYTES: u64 = 16 << 20;
const HOSTCALL_BYTES_LEAST: u64 = 256 << 10;
const HOSTCALL_SHARE: u64 = 8;

/// Bytes of an outgoing body on their way between guest and client: part of what an instance is counted for.
const BODY_CHUNK: usize = 32 << 10;

/// The data of a store, for every kind of guest.
pub struct State {
    pub wasi: WasiP1Ctx,
    /// What the guest was run with: `wasi:config` shows its environment.
    pub command: Arc<Command>,
    /// Where `wasi:keyvalue` keeps its buckets.
    pub buckets: Option<Arc<Buckets>>,
    /// Where `wasi:blobstore` keeps its containers.
    pub containers: Option<Arc<Containers>>,
    /// How the guest knows others.
    pub names: Arc<Names>,
    /// Whom it may meet.
    pub narrowing: Arc<Narrowing>,
    /// At which port the datagrams of a stream arrive, by the stream's handle: no more of them than handles.
    pub arrivals: HashMap<u32, u16>,
    /// Where `wasi:logging` goes.
    pub log: Output,
    http: WasiHttpCtx,
    hooks: Hooks,
    limiter: Limiter,
}

impl State {
    /// The handles of the guest.
    pub fn table(&mut self) -> &mut ResourceTable {
        self.wasi.ctx().table
    }

    /// Bytes that are handed over in one call, at most.
    pub fn call_bytes(&self) -> usize {
        hostcall_bytes(self.limiter.limit())
    }

    /// The error that ended its guest, said as what it is: a heap of collected objects that may not grow is collected once
    /// more, and when that was not enough wasmtime knows only that it is full.
    pub fn explain(&self, error: wasmtime::Error) -> wasmtime::Error {
        match self.limiter.refused() {
            Some(over) if error.is::<GcHeapOutOfMemory<()>>() => over.into(),
            _ => error,
        }
    }

    /// Counts what the guest holds beside its memories.
    fn recount(&mut self) -> wasmtime::Result<()> {
        let handles = self.wasi.ctx().table.iter_mut().count();
        Ok(self.limiter.count_handles(handles)?)
    }
}

/// What this host decides about `wasi:http`: buffers of a known size, and others by the names of the Pod.
struct Hooks {
    names: Arc<Names>,
    narrowing: Arc<Narrowing>,
}

/// An answer under way, as wasmtime wants it.
type Answering = Box<dyn Future<Output = Result<(Response<WasiBody>, outgoing::Rest), Error>> + Send>;

impl WasiHttpHooks for Hooks {
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: outgoing::Rest,
    ) -> Answering {
        let (names, narrowing) = (Arc::clone(&self.names), Arc::clone(&self.narrowing));
        Box::new(outgoing::send(names, narrowing, request, options))
    }
}

/// Bytes of one call, for a guest with this memory limit.
fn hostcall_bytes(limit: Option<u64>) -> usize {
    let bytes = limit.map_or(HOSTCALL_BYTES, |limit| {
        (limit / HOSTCALL_SHARE).clamp(HOSTCALL_BYTES_LEAST, HOSTCALL_BYTES)
    });
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: self.wasi.ctx().table,
            ctx: &mut self.http,
        }
    }
}

/// A store whose guest is limited by `limiter` and gives its thread away at every epoch.
pub fn store(engine: &Engine, world: World, limiter: Limiter) -> Store<State> {
    let World {
        mut wasi,
        command,
        buckets,
        containers,
        names,
        narrowing,
        log,
        profile,
    } = world;
    wasi.ctx().table.set_max_capacity(MAX_HANDLES);
    let hostcall_bytes = hostcall_bytes(limiter.limit());
    let mut store = Store::new(
        engine,
        State {
            wasi,
            command,
            buckets,
            containers,
            log,
            http: WasiHttpCtx::new(),
            hooks: Hooks {
                names: Arc::clone(&names),
                narrowing: Arc::clone(&narrowing),
            },
            names,
            narrowing,
            arrivals: HashMap::new(),
            limiter,
        },
    );
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(hostcall_bytes);
    store.set_epoch_deadline(1);
    // tokio's own yield lets its driver see sockets and timers before this guest runs again; waking itself at once,
    // as `epoch_deadline_async_yield_and_update` does, would starve them on a runtime with one thread.
    store.epoch_deadline_callback(move |mut guest| {
        guest.data_mut().recount()?;
        if let Some(profile) = &profile {
            profile.sample(&guest);
        }
        meter::interrupted();
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    store
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_as_large_as_the_container_allows() {
        for (limit, bytes) in [
            (None, 16 << 20),
            (Some(1 << 30), 16 << 20),
            (Some(64 << 20), 8 << 20),
            (Some(1 << 20), 256 << 10),
        ] {
            assert_eq!(hostcall_bytes(limit), bytes);
        }
    }
}
