//! The `amphipod` binary: parse, run, exit code. The only package that knows control, node and the shims together.

mod apply;
mod cli;
mod cluster;
mod commands;
mod identity;
mod image;
mod kubeconfig;
mod manifest;
mod prepare;
mod progress;
mod pulls;
mod ready;
mod shims;
mod signals;
mod sys;
mod text;
mod up;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;

/// Requests to the API server are many small allocations on all threads.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // Shims take containerd's command line, single-dashed, which clap does not speak; and they must stay small.
    let mut words = std::env::args_os().skip(1);
    match words.next() {
        Some(word) if word == "linux-shim" => amphipod_linux_shim::main(words),
        Some(word) if word == "wasm-shim" => amphipod_wasm_shim::main(words),
        _ => run(std::env::args_os()),
    }
}

fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = cli::Cli::parse_from(words);
    cli::init_log(&cli.log);
    amphipod_linux_shim::ask_built_in_services_only();
    // kube and the OCI client find their TLS provider here; a second call can only find the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outcome = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(commands::run(cli.command)),
        Err(why) => Err(anyhow::Error::new(why).context("starting the async runtime")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            progress::complain(&why);
            ExitCode::FAILURE
        }
    }
}
