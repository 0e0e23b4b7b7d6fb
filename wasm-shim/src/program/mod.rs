//! From a Wasm binary to something that can be instantiated: digest, kind, world, compile cache, loading.

pub mod binary;
mod blobstore;
pub mod cache;
pub mod census;
pub mod compile;
pub mod digest;
mod files;
pub mod keyvalue;
mod keyvalue_draft2;
pub mod load;
mod lookup;
pub mod proposals;
mod sockets;
pub mod state;
pub mod world;
