//! The wasmtime engines of this process and how they are configured.
//!
//! Owns compilation settings, allocation pools and epochs. Refuses to know containers. The compiled code is the same
//! for every engine here: allocation strategy is no part of it.

pub mod budget;
pub mod commons;
pub mod meter;
pub mod pace;
pub mod ticker;
pub mod turns;

use std::hash::{Hash as _, Hasher};
use std::num::NonZeroUsize;
use ticker::Ticker;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Stack of a guest. The default of wasmtime (512 KiB) is what toolchains test with; twice that costs only address
/// space.
const MAX_WASM_STACK: usize = 1 << 20;

/// Stack of a guest and of the host functions it calls.
const FIBER_STACK: usize = 2 << 20;

/// Component instances alive at once in this process, and so concurrent requests plus running commands.
/// The kernel's `vm.max_map_count` (65,530) is the wall: a pooled instance takes about three mappings, a stack two.
const MAX_INSTANCES: u32 = 2_000;

/// Core instances in one component: a Rust component built through the preview 1 adapter has four.
const CORE_INSTANCES_PER_COMPONENT: u32 = 4;

/// Elements of one table. Large interpreters compiled to Wasm have some ten thousand functions in theirs.
const TABLE_ELEMENTS: usize = 100_000;

/// Memories and tables which one module may define and still come from the pool.
const MEMORIES_PER_MODULE: u32 = 1;
const TABLES_PER_MODULE: u32 = 4;

/// Slots kept warm (with the image of the module they last held) beyond those in use.
const WARM_SLOTS: u32 = 100;

/// Bytes of a linear memory and of a table reset by `memset` rather than by giving pages back.
const MEMORY_KEEP_RESIDENT: usize = 64 << 10;
const TABLE_KEEP_RESIDENT: usize = 16 << 10;

/// Stack frames in the backtrace of a guest that is debugged; others have wasmtime's own number.
pub const MAX_BACKTRACE: usize = 256;

/// Stores with a heap for garbage-collected objects; few toolchains need one.
const GC_HEAPS: u32 = 200;

/// Why the engines cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("configuring wasmtime: {0:#}")]
    Config(wasmtime::Error),
    #[error("starting the epoch thread: {0}")]
    Ticker(std::io::Error),
}

/// The engines: pooled for ordinary guests, on-demand for what does not fit the pool's shapes, and one for those that are
/// to leave core dumps or a profile.
pub struct Engines {
    pub pooled: Engine,
    pub on_demand: Engine,
    pub debugging: Engine,
    pub ticker: Ticker,
}

impl Engines {
    /// Makes the engines and starts their clock.
    ///
    /// # Errors
    /// When wasmtime refuses even the on-demand configuration, or no thread can be made.
    pub fn start() -> Result<Self, EngineError> {
        let on_demand = Engine::new(&base_config()).map_err(EngineError::Config)?;
        let pooled = pooled_engine().unwrap_or_else(|error| {
            tracing::warn!(
                error = format!("{error:#}"),
                "no instance pool here (address space limit?); allocating on demand"
            );
            on_demand.clone()
        });
        let debugging = Engine::new(&debugging_config()).map_err(EngineError::Config)?;
        let all = vec![pooled.clone(), on_demand.clone(), debugging.clone()];
        let ticker = Ticker::start(all).map_err(EngineError::Ticker)?;
        Ok(Self {
            pooled,
            on_demand,
            debugging,
            ticker,
        })
    }
}

/// An engine for compiling only: it never makes an instance.
///
/// # Errors
/// When wasmtime refuses the configuration.
pub fn compiler() -> Result<Engine, EngineError> {
    Engine::new(&base_config()).map_err(EngineError::Config)
}

/// What compiled code depends on: wasmtime's version, the target, its features and our settings, as hex.
pub fn compatibility(engine: &Engine) -> String {
    let mut digest = Digesting(sha2::Sha256::default());
    engine.precompile_compatibility_hash().hash(&mut digest);
    let full = sha2::Digest::finalize(digest.0);
    hex::encode(&full[..8])
}

/// Everything that decides what machine code comes out, and nothing that does not.
fn base_config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(MAX_WASM_STACK)
        .async_stack_size(FIBER_STACK)
        .wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable)
        .wasm_component_model(true);
    config
}

/// What a trap finds out, in full.
fn debugging_config() -> Config {
    let mut config = base_config();
    config
        .coredump_on_trap(true)
        .wasm_backtrace_max_frames(NonZeroUsize::new(MAX_BACKTRACE));
    config
}

fn pooled_engine() -> wasmtime::Result<Engine> {
    let mut pool = PoolingAllocationConfig::new();
    let core = MAX_INSTANCES * CORE_INSTANCES_PER_COMPONENT;
    pool.total_component_instances(MAX_INSTANCES)
        .total_core_instances(core)
        .total_memories(core)
        .total_tables(core)
        .total_stacks(MAX_INSTANCES)
        .total_gc_heaps(GC_HEAPS)
        .max_memories_per_module(MEMORIES_PER_MODULE)
        .max_tables_per_module(TABLES_PER_MODULE)
        .table_elements(TABLE_ELEMENTS)
        .max_unused_warm_slots(WARM_SLOTS)
        .linear_memory_keep_resident(MEMORY_KEEP_RESIDENT)
        .table_keep_resident(TABLE_KEEP_RESIDENT);
    let mut config = base_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// A hasher whose result does not change from one process to the next.
struct Digesting(sha2::Sha256);

impl Hasher for Digesting {
    fn write(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    /// Unused: the whole digest is taken instead.
    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_engines_take_the_same_code() {
        let engines = Engines::start().unwrap();
        for other in [&engines.on_demand, &engines.debugging, &compiler().unwrap()] {
            assert_eq!(compatibility(&engines.pooled), compatibility(other));
        }
    }

    #[test]
    fn the_pool_can_be_had_here() {
        pooled_engine().unwrap();
    }
}
