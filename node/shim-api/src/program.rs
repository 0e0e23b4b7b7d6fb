//! Where the program is that the first word of a container's command line names, when it is a file of its image and may be
//! WebAssembly. The agent decides by what is there which runtime the container gets; wasm-shim opens the same file.
//!
//! Owns the order of places and the mark of WebAssembly. Refuses to open files.

use std::path::{Path, PathBuf};

/// Every WebAssembly module and component starts so (core spec §5.5.16).
pub const WASM_MAGIC: &[u8] = b"\0asm";

/// Where to look, first to last: a path is taken from the working directory, a bare name is looked for in the directories of
/// `PATH` (containerd's Wasm shims take the working directory after them) and in the root, where guests begin.
pub fn places(word: &str, cwd: &Path, path: Option<&str>) -> Vec<PathBuf> {
    let root = Path::new("/");
    let here = root.join(cwd).join(word);
    if word.is_empty() || word.starts_with('/') {
        return vec![here];
    }
    let on_path = |path: &str| -> Vec<PathBuf> {
        let directories = path.split(':').filter(|directory| directory.starts_with('/'));
        directories
            .map(|directory| Path::new(directory).join(word))
            .collect()
    };
    let mut all = match word.contains('/') {
        true => Vec::new(),
        false => path.map(on_path).unwrap_or_default(),
    };
    all.extend([here, root.join(word)]);
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_looked_for_as_a_native_program_is_and_in_the_root() {
        let path = Some("/bin::relative:/usr/bin");
        for (word, cwd, path, expected) in [
            ("/app.wasm", "/data", path, &["/app.wasm"][..]),
            ("./app.wasm", "/data", path, &["/data/./app.wasm", "/./app.wasm"]),
            (
                "app.wasm",
                "/data",
                path,
                &[
                    "/bin/app.wasm",
                    "/usr/bin/app.wasm",
                    "/data/app.wasm",
                    "/app.wasm",
                ],
            ),
            ("app.wasm", "/", None, &["/app.wasm"]),
            ("app.wasm", "", None, &["/app.wasm"]),
        ] {
            let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(places(word, Path::new(cwd), path), expected, "{word} {cwd}");
        }
    }
}
