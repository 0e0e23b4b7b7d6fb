//! What a failed `compile` of the Wasm shim is told as, to those who ran it: the agent, and the shim itself.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

/// How Rust's allocator ends a program whose limit of memory is reached.
const NO_MEMORY: &str = "memory allocation of ";

/// What it said of the module; when it did not come to saying that, how it ended.
pub fn complaint(status: ExitStatus, said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    match (said.trim(), status.signal()) {
        ("", _) => format!("the compiler ended with {status}"),
        (said, Some(_)) if said.contains(NO_MEMORY) => {
            format!("compiling it takes more memory than the compiler may have ({said})")
        }
        (said, Some(_)) => format!("the compiler ended with {status}: {said}"),
        (said, None) => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_is_told() {
        let told = |raw, said: &str| complaint(ExitStatus::from_raw(raw), said.as_bytes());
        assert_eq!(told(1 << 8, "invalid WebAssembly\n"), "invalid WebAssembly");
        assert_eq!(told(1 << 8, ""), "the compiler ended with exit status: 1");
        assert_eq!(told(9, " "), "the compiler ended with signal: 9 (SIGKILL)");
        assert_eq!(told(6, "odd"), "the compiler ended with signal: 6 (SIGABRT): odd");
        assert_eq!(
            told(6, "memory allocation of 8 bytes failed\n"),
            "compiling it takes more memory than the compiler may have (memory allocation of 8 bytes failed)"
        );
    }
}
