//! What one store holds: the WASI world of one instance and its share of the container's budget.

use crate::engine::budget::Limiter;
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView, default_hooks};

/// Handles (descriptors, streams, pollables, bodies …) one instance may hold at once.
const MAX_HANDLES: usize = 10_000;

/// Bytes a guest may hand to the host in one call: larger lists and strings end it.
const HOSTCALL_BYTES: usize = 16 << 20;

/// The data of a store, for every kind of guest.
pub struct State {
    pub wasi: WasiP1Ctx,
    http: WasiHttpCtx,
    limiter: Limiter,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: default_hooks(),
            table: self.wasi.ctx().table,
            ctx: &mut self.http,
        }
    }
}

/// A store whose guest is limited by `limiter` and gives its thread away at every epoch.
pub fn store(engine: &Engine, mut wasi: WasiP1Ctx, limiter: Limiter) -> Store<State> {
    wasi.ctx().table.set_max_capacity(MAX_HANDLES);
    let mut store = Store::new(
        engine,
        State {
            wasi,
            http: WasiHttpCtx::new(),
            limiter,
        },
    );
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(HOSTCALL_BYTES);
    store.set_epoch_deadline(1);
    // tokio's own yield lets its driver see sockets and timers before this guest runs again; waking itself at once,
    // as `epoch_deadline_async_yield_and_update` does, would starve them on a runtime with one thread.
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))));
    store
}
