//! wasm-shim: runs WebAssembly containers in wasmtime, behind containerd's Task API.
//!
//! One process per Kubernetes namespace holds all Wasm containers of that namespace.
//!
//! - `cli`: the command line (start, delete, serve, compile)
//! - `task`: the Task API, containers and their phases
//! - `bundle`, `tree`: what an OCI bundle grants
//! - `program`: from a binary to something that can be instantiated; the compile cache
//! - `engine`: wasmtime's configuration, epochs, memory budgets, CPU meters, what a Pod's containers share of both
//! - `guest`: the WASI world, commands, HTTP handlers, the threads of a Pod
//! - `names`: hosts files and resolvers
//! - `sandbox`: what threads of guests may ask of the kernel
//!
//! Refuses to know Pods and Kubernetes. The only crate that names wasmtime.

mod bundle;
mod cgroup;
mod cli;
mod engine;
mod guest;
mod names;
mod program;
mod sandbox;
mod sys;
mod task;
mod tree;

/// The program: what `amphipod wasm-shim` and `containerd-shim-amphipod-wasm-v1` run, given the words after their name.
pub fn main(args: impl Iterator<Item = std::ffi::OsString>) -> std::process::ExitCode {
    cli::run(args)
}
