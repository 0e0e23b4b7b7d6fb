//! `amphipod linux-shim` as a program of its own, which a node prefers where it lies beside `amphipod`: it has a
//! fraction of the tables that the loader writes anew in every process of a large program.

fn main() -> std::process::ExitCode {
    amphipod_linux_shim::main(std::env::args_os().skip(1))
}
