//! Finding and executing the container's program, as the container's user, inside its root.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::{AccessFlags, access};

use super::error::{InitError, plain};

/// The kernel reads this much of a script's first line (`BINPRM_BUF_SIZE`).
const SCRIPT_HEAD: u64 = 256;

/// Every WebAssembly module and component starts so (core spec §5.5.16).
const WASM: &[u8] = b"\0asm";
const WASM_ADVICE: &str = ": it is WebAssembly, and its image does not say so (platform wasi/wasm, or the manifest's \
                           annotation module.wasm.image/variant: compat)";

/// A program ready to be executed.
#[derive(Debug)]
pub struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    name: String,
    is_wasm: bool,
}

impl Program {
    /// Looks `args[0]` up and checks what can be checked; errors are worded as runc words them.
    pub fn find(args: &[String], env: &[String]) -> Result<Self, InitError> {
        let name = args
            .first()
            .ok_or_else(|| InitError::Refused("no command specified".into()))?;
        let refuse = |why: &str| InitError::Refused(format!("exec: {name:?}: {why}"));
        let path = look_up(name, env).map_err(|why| refuse(&format!("{why}{}", advice(Path::new(name)))))?;
        let head = refuse_magic(&path).map_err(|e| refuse(&plain(&e)))?;
        let text = |s: &[u8]| CString::new(s).map_err(|_| refuse("a NUL byte in the command or environment"));
        let all = |list: &[String]| {
            list.iter()
                .map(|s| text(s.as_bytes()))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            path: text(path.as_os_str().as_bytes())?,
            args: all(args)?,
            env: all(env)?,
            name: name.clone(),
            is_wasm: head.starts_with(WASM),
        })
    }

    /// Becomes the program; comes back only to say why not.
    pub fn execute(&self) -> InitError {
        match nix::unistd::execve(&self.path, &self.args, &self.env) {
            Ok(never) => match never {},
            Err(errno) => {
                let advice = if self.is_wasm { WASM_ADVICE } else { "" };
                InitError::Refused(format!("exec {}: {}{advice}", self.name, plain(&errno.into())))
            }
        }
    }
}

fn look_up(name: &str, env: &[String]) -> Result<PathBuf, String> {
    if name.is_empty() {
        return Err("executable file not found in $PATH".into());
    }
    if name.contains('/') {
        return executable(Path::new(name))
            .map(|()| name.into())
            .map_err(|e| format!("stat {name}: {}", plain(&e)));
    }
    let path = env
        .iter()
        .find_map(|e| e.strip_prefix("PATH="))
        .unwrap_or_default();
    let found = path
        .split(':')
        .filter(|d| !d.is_empty())
        .map(|dir| Path::new(dir).join(name));
    found
        .into_iter()
        .find(|p| executable(p).is_ok())
        .ok_or_else(|| "executable file not found in $PATH".into())
}

/// What to say of a file that cannot be executed: WebAssembly seldom has the permission.
fn advice(path: &Path) -> &'static str {
    let head = refuse_magic(path);
    match head.is_ok_and(|head| head.starts_with(WASM)) {
        true => WASM_ADVICE,
        false => "",
    }
}

fn executable(path: &Path) -> io::Result<()> {
    let meta = fs::metadata(path)?;
    if meta.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    access(path, AccessFlags::X_OK)?;
    Ok(())
}

/// A program behind `/proc/self/exe` would be the shim itself (CVE-2019-5736): refused, as the program and as the
/// interpreter of a script.
fn refuse_magic(path: &Path) -> io::Result<Vec<u8>> {
    plain_path(path)?;
    let mut head = Vec::new();
    // A program may be executable without being readable: then it is no script.
    if let Ok(file) = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
    {
        file.take(SCRIPT_HEAD).read_to_end(&mut head)?;
    }
    match interpreter(&head).map(plain_path) {
        Some(Err(e)) if e.raw_os_error() == Some(libc::ELOOP) => Err(e),
        _ => Ok(head),
    }
}

fn plain_path(path: &Path) -> io::Result<()> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(AT_FDCWD, path, how)?;
    Ok(())
}

fn interpreter(head: &[u8]) -> Option<&Path> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let word = line.trim_ascii().split(|b| *b == b' ' || *b == b'\t').next()?;
    (!word.is_empty()).then(|| Path::new(OsStr::from_bytes(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str) -> String {
        Program::find(&[name.to_owned()], &["PATH=/nowhere:/bin".to_owned()])
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn programs_are_found_on_the_path() {
        Program::find(&["sh".into()], &["PATH=/nowhere:/bin".into()]).unwrap();
        assert_eq!(
            error("nosuch"),
            r#"exec: "nosuch": executable file not found in $PATH"#
        );
        assert_eq!(
            error("/no/such"),
            r#"exec: "/no/such": stat /no/such: no such file or directory"#
        );
        assert_eq!(error("/etc"), r#"exec: "/etc": stat /etc: is a directory"#);
        assert!(error("/etc/passwd").contains("permission denied"));
    }

    #[test]
    fn the_shim_itself_is_no_program() {
        assert!(
            error("/proc/self/exe").contains("symbolic links"),
            "{}",
            error("/proc/self/exe")
        );
        let home = tempfile::tempdir().unwrap();
        let script = home.path().join("s");
        fs::write(&script, "#! /proc/self/exe arg\n").unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert!(error(script.to_str().unwrap()).contains("symbolic links"));
    }

    /// While a thread executes, no other that shares its working directory can start one (`EAGAIN`): those of other tests.
    fn refusal(program: Program) -> String {
        let apart = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
            program.execute().to_string()
        });
        apart.join().unwrap()
    }

    #[test]
    fn webassembly_is_told_from_other_files() {
        let home = tempfile::tempdir().unwrap();
        for (bytes, expected) in [
            (&b"\0asm\x01\0\0\0"[..], "exec format error: it is WebAssembly"),
            (b"\0odd", "exec format error"),
        ] {
            let path = home.path().join("app");
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            let words = [path.to_str().unwrap().to_owned()];
            let refused = refusal(Program::find(&words, &[]).unwrap());
            assert!(refused.contains(expected), "{refused}");
            let is_told = expected.contains("WebAssembly");
            assert_eq!(refused.contains("WebAssembly"), is_told, "{refused}");
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
            let refused = Program::find(&words, &[]).unwrap_err().to_string();
            assert!(refused.contains("permission denied"), "{refused}");
            assert_eq!(refused.contains("WebAssembly"), is_told, "{refused}");
        }
    }

    #[test]
    fn interpreters() {
        assert_eq!(interpreter(b"#! /bin/sh -e\nx"), Some(Path::new("/bin/sh")));
        assert_eq!(interpreter(b"\x7fELF"), None);
        assert_eq!(interpreter(b"#!\n"), None);
    }
}
