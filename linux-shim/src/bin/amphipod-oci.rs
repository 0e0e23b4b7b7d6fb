//! The OCI runtime command line as a program of its own, for whoever takes a path only (`podman --runtime`).

fn main() -> std::process::ExitCode {
    amphipod_linux_shim::oci(std::env::args_os().skip(1))
}
