//! From a Wasm binary to something that can be instantiated: digest, kind, world, compile cache, loading.

pub mod binary;
pub mod cache;
pub mod census;
pub mod compile;
pub mod digest;
pub mod keyvalue;
pub mod load;
mod lookup;
pub mod proposals;
pub mod state;
pub mod world;
