//! The shim as a program of its own, for containerd (`--runtime io.containerd.amphipod.v1`).

fn main() -> std::process::ExitCode {
    amphipod_linux_shim::main(std::env::args_os().skip(1))
}
