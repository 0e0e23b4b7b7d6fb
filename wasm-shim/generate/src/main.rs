//! Writes modules made by wasm-smith, for `tests/all/generated.rs` of the shim to run.
//!
//! `cargo run --manifest-path wasm-shim/generate/Cargo.toml --target-dir target/generate -- DIR FIRST END` writes the modules
//! of these numbers. Each is made from its number alone. All are valid programs of any shape; every other one may call
//! functions of WASI preview 1 with which much can go wrong.

use anyhow::{Context as _, Result};
use arbitrary::Unstructured;
use sha2::{Digest as _, Sha256};
use std::path::Path;
use wasm_smith::{Config, Module};

/// Random bytes a module is made from: about so much code comes out of it.
const ENTROPY: usize = 4096;

/// Shapes that keep a module small enough to have many.
const MAX_FUNCTIONS: usize = 50;
const MAX_INSTRUCTIONS: usize = 200;

const PROGRAM: &str = r#"(module (func (export "_start")) (memory (export "memory") 1))"#;
const OFFERED: &str = r#"(module
    (import "wasi_snapshot_preview1" "args_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_time_get" (func (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_dir_name" (func (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_readdir" (func (param i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_renumber" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open" (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_readlink" (func (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_symlink" (func (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_unlink_file" (func (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
    (import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_accept" (func (param i32 i32 i32) (result i32))))"#;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [directory, first, end] = args.as_slice() else {
        anyhow::bail!("say: generate DIR FIRST END");
    };
    std::fs::create_dir_all(directory)?;
    for number in first.parse()?..end.parse()? {
        let path = Path::new(directory).join(format!("{number:06}.wasm"));
        std::fs::write(&path, module(number)?).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn module(number: u64) -> Result<Vec<u8>> {
    let offered = if number.is_multiple_of(2) {
        OFFERED
    } else {
        "(module)"
    };
    let config = Config {
        exports: Some(wat::parse_str(PROGRAM)?),
        available_imports: Some(wat::parse_str(offered)?),
        // What wasmtime has off, as proposals or because this host's features leave them out.
        compact_imports_enabled: false,
        exceptions_enabled: false,
        threads_enabled: false,
        wide_arithmetic_enabled: false,
        max_funcs: MAX_FUNCTIONS,
        max_instructions: MAX_INSTRUCTIONS,
        max_memories: 1,
        min_funcs: 1,
        ..Config::default()
    };
    let module = Module::new(config, &mut Unstructured::new(&entropy(number)))?;
    Ok(module.to_bytes())
}

/// Bytes that look random, by number.
fn entropy(number: u64) -> Vec<u8> {
    let block = |index: u64| Sha256::digest([number.to_le_bytes(), index.to_le_bytes()].concat());
    (0..).flat_map(block).take(ENTROPY).collect()
}
