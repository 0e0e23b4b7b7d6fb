//! The stand-alone shim binary, for containerd.

fn main() -> std::process::ExitCode {
    amphipod_wasm_shim::main(std::env::args_os().skip(1))
}
